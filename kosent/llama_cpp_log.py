"""llama.cpp's log, which it would write across the screen."""

from __future__ import annotations

import ctypes

_IGNORE = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda level, text, data: None)


def silence() -> None:
    """Drops it from now on; llama.cpp's errors come back as exceptions."""
    from llama_cpp import llama_log_set

    llama_log_set(_IGNORE, None)
