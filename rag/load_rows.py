"""Tables and JSON, a section a row: `column: value` lines, or of a dialogue a line for everything that is said.

Rows come from the readers of `kosent.finetune`, which bound what a line, a row and an entry may hold. A dialogue is a row with
`messages` as the chat exports them, or with `conversations` as in ShareGPT; its system message is left out. Rows that cannot be
read are left out with a note.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kosent.finetune.chat_formats import RowError, read_messages, read_sharegpt
from kosent.finetune.containers import Container
from kosent.finetune.csv_table import CsvTable
from kosent.finetune.json_entries import JsonLines, open_json
from kosent.finetune.open_file import HEAD
from kosent.finetune.records import BrokenRow
from kosent.rag.document import Limits, Loaded, Refusal, Sections
from kosent.rag.load_markdown import ASSISTANT, USER
from kosent.rag.load_text import encoding_of

SHOWN = 3
"""Broken rows that are named in a note."""


def load_table(path: Path, limits: Limits) -> Loaded:
    table = CsvTable(path, encoding_of(path))
    seen: Counter[str] = Counter()
    for index, name in enumerate(table.names):  # a row is a dict, in which twins would be one
        seen[name] += 1
        table.names[index] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return _loaded(table, limits, _cells)


def load_json_lines(path: Path, limits: Limits) -> Loaded:
    return _loaded(JsonLines(path, encoding_of(path)), limits, _entry)


def load_json(path: Path, limits: Limits) -> Loaded:
    encoding = encoding_of(path)
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        head = file.read(HEAD).lstrip("\ufeff \t\r\n")
    return _loaded(open_json(path, encoding, head), limits, _entry)


def _loaded(container: Container, limits: Limits, lines: Callable[[str, int, dict[str, Any]], list[str]]) -> Loaded:
    sections = Sections(limits)
    broken: list[str] = []
    number = 0
    for row in container.rows():
        number += 1
        if isinstance(row, BrokenRow):
            broken.append(f"row {row.row}: {row.problem}" if len(broken) < SHOWN else "")
            continue
        try:
            found = lines(container.path.name, *row)
        except (RowError, RecursionError) as error:
            broken.append(f"row {row[0]}: {error}" if len(broken) < SHOWN else "")
            continue
        for line in found:
            sections.add(line, "row")
        sections.cut()
    notes = []
    if broken:
        named = "; ".join(broken[:SHOWN]) + ("; …" if len(broken) > SHOWN else "")
        notes.append(f"{len(broken):,} of {number:,} rows cannot be read and are left out ({named})")
    if broken and not sections.end():
        raise Refusal("damaged", notes[0])
    return Loaded(container.path.stem, sections.end(), notes)


def _cells(_file: str, _number: int, row: dict[str, Any]) -> list[str]:
    return [_line(name, str(value)) for name, value in row.items() if str(value or "").strip()]


def _entry(file: str, number: int, row: dict[str, Any]) -> list[str]:
    if isinstance(row.get("messages"), list):
        records = read_messages((file, number), row)
    elif isinstance(row.get("conversations"), list):
        records = read_sharegpt((file, number), row)
    else:
        return [_line(name, _value(value)) for name, value in row.items() if value not in (None, "", [], {})]
    names = {"user": USER, "assistant": ASSISTANT}
    said = [(names.get(message["role"]), message["content"].strip()) for record in records for message in record.messages]
    return [f"{name}: {text}" for name, text in said if name and text]


def _line(name: str, value: str) -> str:
    value = value.strip()
    return f"{name}: {value}" if name else value


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)
