"""The files of judgements: appended line by line, locked, mended after a crash.

    judgements/JUDGE.jsonl          what a judge said, one judgement a line, on disk at once: `kosent judge`
    judgements/people-NAME.jsonl    the same of a person, readable by its owner alone: `kosent rate`
    judgements/outdated/            judgements of replies that have changed since, or by another prompt: kept, and not counted

A line about a pair is {judge, kind, prompt, turn, a, b, outcome, text, replies}: `prompt` the version of what was asked, `turn`
an index into turns.jsonl, `a` the model shown first, `outcome` a, b, tie, error or (people) skip, `text` what the judge wrote,
`replies` the fingerprint of what was shown. A line of a rubric has `model` and `scores` in place of a, b and outcome. `failed`
says why a request brought nothing; such a one is asked again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kosent.errors import DataError
from kosent.evaluation.folder import replies_file
from kosent.files import atomic_path

Row = dict[str, Any]
_ALWAYS = {"judge", "kind", "prompt", "turn", "replies"}


def judgements_file(folder: Path, name: str) -> Path:
    """Named as the files of replies are."""
    return folder / "judgements" / replies_file(folder, name).name


class Judgements:
    """One file, open for appending: `rows` is what it holds. A half-written last line is dropped.

    Raises `DataError` while another process writes it.
    """

    def __init__(self, file: Path, *, private: bool = False) -> None:
        self.file, self._mode = file, 0o600 if private else 0o666
        self.rows: list[Row] = []
        self._ends: list[int] = []  # where each row ends, in bytes

    def __enter__(self) -> Self:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(_lock_file(self.file), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise DataError(
                f"{self.file} is being written by another command.", hint="wait until it has ended, or choose another name"
            ) from None
        try:
            mend(self.file)
            self._open()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)
        os.close(self._lock)

    def _open(self) -> None:
        self._descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_APPEND, self._mode)
        if self._mode == 0o600:
            os.fchmod(self._descriptor, 0o600)
        self.rows, self._ends = [], []
        with self.file.open("rb") as file:
            for line in file:
                self.rows.append(_row(line, self.file))
                self._ends.append((self._ends[-1] if self._ends else 0) + len(line))

    def append(self, row: Row) -> None:
        """One write, so that whoever reads meanwhile sees the line or does not."""
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
        os.write(self._descriptor, line)
        self.rows.append(row)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(line))

    def take_back(self) -> Row:
        """Removes the last row, and returns it."""
        self._ends.pop()
        os.ftruncate(self._descriptor, self._ends[-1] if self._ends else 0)
        return self.rows.pop()

    def keep(self, holds: Callable[[Row], bool]) -> int:
        """Puts the rows for which `holds` is false into `outdated/`; returns their number."""
        kept = [row for row in self.rows if holds(row)]
        others = [row for row in self.rows if not holds(row)]
        if others:
            with Judgements(self.file.parent / "outdated" / self.file.name, private=self._mode == 0o600) as outdated:
                for row in others:
                    outdated.append(row)
            self._rewrite(kept)
        return len(others)

    def drop_failed(self) -> None:
        """Forgets the requests that brought nothing, so that they are asked again."""
        if any("failed" in row for row in self.rows):
            self._rewrite([row for row in self.rows if "failed" not in row])

    def _rewrite(self, rows: list[Row]) -> None:
        with atomic_path(self.file) as temporary:
            temporary.touch(mode=self._mode)
            lines = (json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n" for row in rows)
            temporary.write_bytes(b"".join(lines))
        os.close(self._descriptor)
        self._open()


def _lock_file(file: Path) -> Path:
    return file.with_name(f".{file.stem}.lock")


def _row(line: bytes, file: Path) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not (isinstance(row, dict) and row.keys() >= _ALWAYS):
        raise DataError(f"{file} holds a line that is no judgement: {line[:60]!r}", hint=f"remove the line, or move {file} away")
    return row


def mend(file: Path) -> None:
    """Cuts off what a killed process wrote of its last line. The caller holds the lock."""
    if not file.is_file():
        return
    with file.open("r+b") as opened:
        text = opened.read()
        if text and not text.endswith(b"\n"):
            opened.truncate(text.rfind(b"\n") + 1)


def mend_all(folder: Path) -> None:
    """`mend` for the files of an evaluation that nobody writes at this moment. Raises `DataError` for what cannot be read."""
    for file in sorted(folder.glob("judgements/*.jsonl")):
        with _locked(_lock_file(file), wait=False) as held:
            if held:
                mend(file)
        with file.open("rb") as opened:
            for line in opened:
                _row(line, file)


@contextmanager
def _locked(file: Path, *, wait: bool) -> Iterator[bool]:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        held = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held = False
        yield held
    finally:
        os.close(descriptor)


@contextmanager
def results_locked(folder: Path) -> Iterator[None]:
    """Two commands that end at once rewrite the results one after the other."""
    (folder / "judgements").mkdir(exist_ok=True)
    with _locked(folder / "judgements" / ".results.lock", wait=True):
        yield
