"""Progress on standard error: a bar with time left on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, str], None]
"""`advance(done, note)`: `done` of the total is finished; `note` is a few words shown behind the bar."""

SECONDS_BETWEEN_LINES = 15.0


def clock(seconds: float) -> str:
    """83 -> 1:23, 5000 -> 1:23:20"""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def is_silent() -> bool:
    """Whether this is not the first of several processes that `accelerate launch` started: only that one speaks."""
    return os.environ.get("RANK", "0") != "0"


@contextmanager
def progress(what: str, total: int, *, start: int = 0) -> Iterator[Advance]:
    """Shows how far `what` is. `start` steps were done earlier (a resumed run) and do not count for the speed."""
    if is_silent():
        yield lambda done, note: None
    elif sys.stderr.isatty():
        with _bar(what, total, start) as advance:
            yield advance
    else:
        yield _lines(what, total, start)


@contextmanager
def _bar(what: str, total: int, start: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<12}", markup=False), BarColumn(bar_width=28), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=start, note="")
        yield lambda done, note: bar.update(task, completed=done, note=note)


def _lines(what: str, total: int, start: int) -> Advance:
    began = last = time.monotonic()

    def advance(done: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES and done < total:
            return
        last = now
        left = (now - began) / max(done - start, 1) * (total - done)
        print(f"{what}: {done}/{total}, {clock(now - began)} so far, {clock(left)} left. {note}", file=sys.stderr)

    return advance


def say(text: str) -> None:
    """One line for the person watching, on standard error, so that standard output stays for results."""
    if not is_silent():
        print(text, file=sys.stderr, flush=True)
