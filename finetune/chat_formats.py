"""Rows that are chats already: OpenAI messages, ShareGPT, Alpaca and preference pairs; and how every format reads text.

A row comes in as a dict under the names that `formats` knows and goes out as records. Which format a row is of is decided in
`formats`, and nothing is cleaned.
"""

from __future__ import annotations

import json
import math
from typing import Any

from kosent.finetune.records import Record

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", **ROLES}

Messages = list[dict[str, str]]
Place = tuple[str, int]
"""File name and row number."""


class RowError(Exception):
    """A row that cannot be read; `str()` says why."""


def text(value: Any, name: str) -> str:
    """A cell as text; None and NaN are "", 1.0 is "1". Raises `RowError` for lists, objects and text that is no Unicode."""
    if isinstance(value, str) and value.isascii():
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | tuple | dict | bytes):
        raise RowError(f"{name} is not text but {kind_of(value)}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    found = str(value)
    try:
        found.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError(f"{name} holds half of a character (a lone surrogate)") from None
    return found


def kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", tuple: "a list", bytes: "bytes", str: "text", type(None): "nothing"}
    return names.get(type(value), "a number")


def pair(user: str, assistant: str) -> Messages:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def read_preference(place: Place, row: dict[str, Any]) -> list[Record]:
    (before, chosen), (leading, rejected) = _reply(row["chosen"], "chosen"), _reply(row["rejected"], "rejected")
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        messages = _said(prompt, "prompt", ROLES)
    elif prompt is not None:
        messages = [{"role": "user", "content": text(prompt, "prompt")}]
    else:
        messages = []
        for one, other in zip(before, leading, strict=False):
            if one != other:
                break
            messages.append(one)
        if not messages:
            raise RowError("has no prompt, and chosen and rejected do not begin alike")
    return [Record(*place, messages=messages, kind="preference", chosen=chosen, rejected=rejected)]


def _reply(value: Any, name: str) -> tuple[Messages, str]:
    """What stands before the reply, and the reply."""
    if not isinstance(value, list):
        return [], text(value, name)
    messages = _said(value, name, ROLES)
    if not messages or messages[-1]["role"] != "assistant":
        raise RowError(f"{name} does not end with a message of the assistant")
    return messages[:-1], messages[-1]["content"]


def _said(value: Any, name: str, roles: dict[str, str]) -> Messages:
    """A list of messages, in OpenAI's words or ShareGPT's."""
    if not isinstance(value, list):
        raise RowError(f"{name} is not a list but {kind_of(value)}")
    messages = []
    for number, entry in enumerate(value, start=1):
        if not isinstance(entry, dict):
            raise RowError(f"message {number} is not an object but {kind_of(entry)}")
        role = next((entry[key] for key in ("role", "from") if entry.get(key) is not None), None)
        content = next((entry[key] for key in ("content", "value") if entry.get(key) is not None), None)
        role = role.lower() if isinstance(role, str) else role
        if not isinstance(role, str) or role not in roles:
            raise RowError(f"message {number} is of {str(role)[:40]!r}; known: {', '.join(roles)}")
        messages.append({"role": roles[role], "content": _content(content, number)})
    return messages


def _content(value: Any, number: int) -> str:
    if not isinstance(value, list):
        return text(value, f"message {number}")
    parts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise RowError(f"message {number} holds something that is not text")
        parts.append(text(part.get("text"), f"message {number}"))
    return "".join(parts)


def read_messages(place: Place, row: dict[str, Any]) -> list[Record]:
    meta = {name: value for name, value in row.items() if isinstance(value, str | int | float | list) and name != "messages"}
    if isinstance(row.get("meta"), dict):
        meta |= row["meta"]
    stored = text(json.dumps(meta, ensure_ascii=False, default=str), "meta")
    return [Record(*place, messages=_said(row["messages"], "messages", ROLES), meta=json.loads(stored))]


def _system(row: dict[str, Any]) -> Messages:
    system = text(row.get("system"), "system")
    return [{"role": "system", "content": system}] if system.strip() else []


def read_sharegpt(place: Place, row: dict[str, Any]) -> list[Record]:
    return [Record(*place, messages=_system(row) + _said(row["conversations"], "conversations", SPEAKERS))]


def read_alpaca(place: Place, row: dict[str, Any]) -> list[Record]:
    messages = _system(row)
    history = row.get("history") or []
    if not isinstance(history, list):
        raise RowError("history is not a list of [question, answer]")
    for turn in history:
        if not isinstance(turn, list) or len(turn) != 2:
            raise RowError("history is not a list of [question, answer]")
        messages += pair(text(turn[0], "history"), text(turn[1], "history"))
    asked = [text(row.get(name), name) for name in ("instruction", "input")]
    user = "\n\n".join(part for part in asked if part.strip())
    return [Record(*place, messages=messages + pair(user, text(row["output"], "output")))]
