"""JSON files as rows, one entry a row: JSON Lines, and JSON documents of many entries or of one.

A document is read as a stream, one entry at a time. Of JSON Lines a broken line costs itself only; a broken document is
lost from there on. The values stay as they are; what the keys of an entry mean is the business of `formats`.
"""

from __future__ import annotations

import codecs
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from kosent import extras
from kosent.finetune.containers import Container, Line, Lines, Row, Unreadable
from kosent.finetune.records import BrokenRow

JSON_ENTRY = 16 * 1024 * 1024
"""Bytes of one entry, or characters of one line of JSON Lines."""
JSON_DEPTH = 100
"""Lists and objects inside one another."""

_CHUNK = 4096
_IN_ENTRY = frozenset({"messages", "conversations", "prompt", "chosen", "rejected", "history"})
"""Keys that hold lists inside one entry, so that an object with them is an entry and not a file of entries."""


def open_json(path: Path, encoding: str, head: str) -> Container:
    """`path`, whose text begins with `head` and so with a list or an object."""
    if head.startswith("["):
        return JsonDocument(path, encoding)
    layout, key = _layout(head)
    if layout == "lines":
        return JsonLines(path, encoding)
    return JsonDocument(path, encoding, whole=layout == "whole", key=key if layout == "list" else None)


def _layout(head: str) -> tuple[str, str]:
    """What a text that begins with an object is: ("lines", ""), ("list", key of the list) or ("whole", "") for one object."""
    first, _, rest = head.partition("\n")
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        if rest.lstrip().startswith("{") and not first.rstrip().endswith(("[", ",")):
            return "lines", ""  # the first line is broken
    else:
        lists = [key for key, found in value.items() if key not in _IN_ENTRY and isinstance(found, list) and _is_object(found)]
        return ("lines", "") if rest.strip() or not lists else ("list", lists[0])
    key = _key_of_list(head)
    if key is not None:
        return "list", key
    return ("whole", "") if "\n" in head else ("lines", "")


def _is_object(values: list[Any]) -> bool:
    return bool(values) and isinstance(values[0], dict)


def _key_of_list(head: str) -> str | None:
    """The key under which one object holds its entries, as far as its beginning shows."""
    extras.require("prepare", what="reading JSON")
    import ijson

    depth, key, before = 0, "", ""
    try:
        for event, value in ijson.basic_parse(head.encode("utf-8"), use_float=True):
            if depth == 1 and event == "map_key":
                key = value
            if depth == 2 and event == "start_map" and before == "start_array" and key not in _IN_ENTRY:
                return key
            depth += event.startswith("start") - event.startswith("end")
            before = event
    except ijson.JSONError:
        pass  # the head ends somewhere, and what is broken is reported when it is read
    return None


class _Entries(Container):
    """A file of entries, whose names are the keys of the first one."""

    nested = True

    def _first_entry(self) -> list[str]:
        """Keys of the first whole entry. Raises `DataError` when there is none."""
        problem = "it holds no entries"
        for row in self.rows():
            if not isinstance(row, BrokenRow):
                return list(row[1])
            if self.position > JSON_ENTRY:
                break
            problem = f"no entry can be read; entry {row.row}: {row.problem}" if row.row == 1 else problem
        raise self._bad(problem)


class JsonLines(_Entries):
    """One JSON object a line; row numbers are line numbers."""

    kind = "JSON Lines"

    def __init__(self, path: Path, encoding: str) -> None:
        super().__init__(path, encoding)
        self.names = self._first_entry()
        self.position = 0

    def rows(self) -> Iterator[Row | BrokenRow]:
        with self._text("\n") as file:
            lines = Lines(file, JSON_ENTRY)
            while line := lines.read():
                self.position = lines.position()
                text = line.text.strip("\ufeff \t\r\n")
                if text:
                    yield self._row(line, text)
        self.position = self.size

    def _row(self, line: Line, text: str) -> Row | BrokenRow:
        problem = line.problem
        if not problem:
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                problem = f"not JSON: {error}"
            else:
                if isinstance(value, dict):
                    return line.number, value
                problem = "not a JSON object"
        return self.broken(line.number, f"line {line.number}: {problem}", text)


class _Utf8:
    """A JSON text as UTF-8 without a byte order mark, in the way ijson reads files."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self.position = 0
        self.finished_at = 0
        """Position when the last entry was complete; set from outside."""
        self.last = ""

    def read(self, size: int = -1) -> bytes:
        text = ""
        while size and not text:
            data = self._file.read(_CHUNK)
            self.position += len(data)
            if self.position - self.finished_at > JSON_ENTRY:
                raise Unreadable(f"it is longer than {JSON_ENTRY:,} bytes")
            text = self._decoder.decode(data, final=not data)
            if self.position == len(data):
                text = text.lstrip("\ufeff")
            if not data:
                break
            self.last = text or self.last
        return text.encode("utf-8")


class JsonDocument(_Entries):
    """One JSON value: a list of entries, an object which holds such a list under `key`, or, when `whole`, one entry."""

    kind = "JSON"

    def __init__(self, path: Path, encoding: str, *, whole: bool = False, key: str | None = None) -> None:
        super().__init__(path, encoding)
        extras.require("prepare", what=f"reading {path.name}, which is JSON,")
        self._key = key
        self._depth = 0 if whole else 1 if key is None else 2
        self.kind = f"JSON, entries under {key}" if key is not None else "JSON"
        self.names = self._first_entry()
        self.position = 0

    def rows(self) -> Iterator[Row | BrokenRow]:
        import ijson

        number = 0
        with self.path.open("rb") as file:
            source = _Utf8(file, self.encoding)
            try:
                for number, value in enumerate(self._entries(source), start=1):
                    self.position = source.finished_at = source.position
                    if isinstance(value, dict):
                        yield number, value
                    else:
                        yield self.broken(number, "not a JSON object", json.dumps(value, ensure_ascii=False))
            except (ijson.JSONError, Unreadable) as error:
                yield self._lost(number + 1, source, error)
        self.position = self.size

    def _lost(self, entry: int, source: _Utf8, error: Exception) -> BrokenRow:
        cut = "premature EOF" in str(error)
        said = error.args[0].decode("utf-8", "replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        reason = "the file ends in the middle" if cut else said.partition("\n")[0].rstrip(".")
        problem = (
            f"entry {entry} cannot be read, before byte {source.position:,}: {reason}; the rest of the file "
            f"(from about byte {max(0, source.finished_at - _CHUNK):,} to {self.size:,}) is lost"
        )
        return self.broken(entry, problem, source.last, rest_lost=True)

    def _entries(self, source: _Utf8) -> Iterator[Any]:
        """The entries as they become complete. Raises `ijson.JSONError` and `Unreadable`."""
        import ijson

        builder, depth, here, in_list = None, 0, self._key is None, False
        for event, value in ijson.basic_parse(source, use_float=True, buf_size=_CHUNK):
            starts, ends = event.startswith("start"), event.startswith("end")
            if depth == 1 and self._key is not None and not ends:
                here = value == self._key if event == "map_key" else here
                in_list = event == "start_array"
            depth -= ends
            if (
                builder is None
                and depth == self._depth
                and here
                and not ends
                and event != "map_key"
                and (in_list or self._depth < 2)
            ):
                builder = ijson.ObjectBuilder()
            elif depth == 2 and in_list and not here and event == "start_map":
                raise self._bad(
                    "it holds more than one list of entries", hint=f"jq .{self._key} {shlex.quote(str(self.path))} > one.json"
                )
            if builder is not None:
                builder.event(event, value)
            depth += starts
            if depth > JSON_DEPTH:
                raise Unreadable(f"more than {JSON_DEPTH} lists and objects inside one another")
            if builder is not None and depth == self._depth:
                yield builder.value
                builder = None
