"""Conversations read from JSON Lines: OpenAI's `messages`, as the chat exports them, or ShareGPT's `conversations`.

Each line becomes a conversation of its own, stored whole or not at all.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from kosent.conversations.store import ConversationStore
from kosent.errors import DataError, KosentError, UsageError
from kosent.text import printable

LONGEST_LINE = 10_000_000
"""Bytes of a line that is read."""

_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
}  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """How many conversations and messages came in, and the number of each line that did not, with the reason."""

    conversations: int = 0
    messages: int = 0
    rejected: list[tuple[int, str]] = field(default_factory=list)


class _BadLine(Exception):
    """`str()` says why."""


def import_conversations(store: ConversationStore, source: Path) -> Imported:
    """Stores each line of a JSON Lines file as a conversation: OpenAI's `messages` or ShareGPT's `conversations`.

    System messages become the persona of the conversation. Raises `UsageError` for a file that is not there, `DataError` for
    one in another encoding than UTF-8 (before anything is stored), `KosentError` when the store cannot be written.
    """
    _check_encoding(source)
    conversations = messages = 0
    rejected: list[tuple[int, str]] = []
    with source.open("rb") as file:
        for number, line in _lines(file):
            try:
                system, said = _conversation(line)
            except _BadLine as error:
                rejected.append((number, str(error)))
                continue
            try:
                store.import_conversation(said, {"system": system} if system else {})
            except sqlite3.Error as error:
                store.distrust(error)
                raise KosentError(
                    f"Line {number} of {source} could not be stored: {error}. The {conversations} conversations before it were.",
                    hint=f"df -h {shlex.quote(str(store.path.parent))}",
                ) from error
            conversations += 1
            messages += len(said)
    return Imported(conversations, messages, rejected)


def _check_encoding(source: Path) -> None:
    name = shlex.quote(str(source))
    if not source.is_file():  # reading a pipe twice would wait for ever
        raise UsageError(f"{source} is no file.", hint=f"ls -l {shlex.quote(str(source.parent))}")
    try:
        with source.open(encoding="utf-8") as file:
            while file.read(1 << 20):
                pass
    except UnicodeDecodeError:
        raise DataError(
            f"{source} is not written in UTF-8, or is damaged. Nothing was imported.",
            hint=f"iconv -f cp949 -t utf-8 {name} > utf-8.jsonl     (or -f utf-16)",
        ) from None
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror or error}.", hint=f"ls -l {name}") from error


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank with their numbers; of one that is too long, enough to see that it is."""
    for number in count(1):
        line = file.readline(LONGEST_LINE + 1)
        if not line:
            return
        if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
            while (more := file.readline(LONGEST_LINE)) and not more.endswith(b"\n"):
                pass
        if line.strip(b"\xef\xbb\xbf \t\r\n"):
            yield number, line


def _conversation(line: bytes) -> tuple[str, list[tuple[str, str]]]:
    """Persona, and role and text of each message. Raises `_BadLine`."""
    if len(line.rstrip(b"\r\n")) > LONGEST_LINE:
        raise _BadLine(f"longer than {LONGEST_LINE:,} bytes")
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _BadLine(f"not JSON: {error}") from None
    entries = row.get("messages", row.get("conversations")) if isinstance(row, dict) else None
    if not isinstance(entries, list):
        raise _BadLine("no list named messages, or conversations as in ShareGPT")
    found = [_message(number, entry) for number, entry in enumerate(entries, start=1)]
    if row.get("system"):
        found.insert(0, ("system", _text("system", row["system"])))
    said = [(role, text) for role, text in found if role != "system"]
    if not said:
        raise _BadLine("nobody says anything")
    return "\n\n".join(text for role, text in found if role == "system" and text.strip()), said


def _message(number: int, entry: Any) -> tuple[str, str]:
    if not isinstance(entry, dict):
        raise _BadLine(f"message {number} is no object")
    named = entry.get("role", entry.get("from"))
    role = _ROLES.get(named.lower()) if isinstance(named, str) else None
    if role is None:
        raise _BadLine(f"message {number} is of {str(named)[:40]!r}; known: {', '.join(_ROLES)}")
    text = _text(f"message {number}", entry.get("content", entry.get("value")))
    if not text.strip() and role != "system":
        raise _BadLine(f"message {number} is empty")
    return role, text


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _BadLine(f"{name} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _BadLine(f"{name} holds half of a character (a lone surrogate)") from None
    return unicodedata.normalize("NFC", printable(value))
