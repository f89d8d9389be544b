"""What a corpus file is read into, before anything is cleaned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

SPLITS = ("train", "validation", "test")
Kind = Literal["dialogue", "preference", "prompt"]


@dataclass(frozen=True)
class Record:
    """One dialogue of a corpus as it stands there, nothing cleaned."""

    source: str
    """File name."""
    row: int
    """Row number in the file, from 1; the header of a table does not count."""
    messages: list[dict[str, str]]
    """`{"role": "system" | "user" | "assistant", "content": ...}` in the order of the file, possibly empty.
    Of a preference or a prompt: what stands before the reply."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What else the file says: 감정_대분류, 연령, category, label …"""
    kind: Kind = "dialogue"
    chosen: str = ""
    """The preferred reply; only of a preference."""
    rejected: str = ""


@dataclass(frozen=True)
class BrokenRow:
    """A row that could not be read at all."""

    source: str
    row: int
    problem: str
    raw: str
    """The beginning of what stands there, at most 500 characters."""
    rest_lost: bool = False
    """Whether nothing that comes after it in the file can be read either."""
