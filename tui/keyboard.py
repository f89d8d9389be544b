"""What Textual 8.2 takes amiss from a terminal: bytes that are no UTF-8 would end the app, and Esc Enter is Alt+Enter."""

from __future__ import annotations

from codecs import getincrementaldecoder
from functools import partial
from types import SimpleNamespace
from typing import Any


def prepare() -> None:
    """Lets such bytes become U+FFFD, as a terminal set to EUC-KR sends them, and tells Alt+Enter from Enter."""
    from textual import _ansi_sequences
    from textual.drivers import linux_driver

    def decoder(name: str) -> Any:
        return partial(getincrementaldecoder(name), errors="replace")

    linux_driver.getincrementaldecoder = decoder  # type: ignore[attr-defined, assignment]
    keys: dict[str, Any] = _ansi_sequences.ANSI_SEQUENCES_KEYS  # type: ignore[assignment]
    keys["\x1b\r"] = (SimpleNamespace(value="alt+enter"),)
