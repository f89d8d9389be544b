"""llama.cpp's log, which it would write across the screen."""

from __future__ import annotations

import ctypes
from collections import deque

WARNING, ERROR, CONTINUED = 3, 4, 5
"""Levels of ggml; a CONTINUED text belongs to the line before it."""
_recent: deque[str] = deque(maxlen=8)
_level = 0


def _keep(level: int, text: bytes, data: None) -> None:
    global _level
    _level = _level if level == CONTINUED else level
    if _level == ERROR:
        _recent.append(text.decode(errors="replace").strip())


_KEEP = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_keep)


def silence() -> None:
    """Keeps it from the screen from now on."""
    from llama_cpp import llama_log_set

    llama_log_set(_KEEP, None)


def last_errors() -> str:
    """What llama.cpp last complained of, and forgets it."""
    said = " ".join(line for line in _recent if line)
    _recent.clear()
    return said
