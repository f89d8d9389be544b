"""Locks between processes: one that writes a collection, and a turn for each look into it.

`flock` is given back by the system when a process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kosent.errors import DataError


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Waits until nobody else has the file's lock, and holds it for the block."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def only_writer(path: Path, name: str) -> Iterator[None]:
    """Holds the file's lock for the block. Raises `DataError` at once when another process has it."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "?"
            raise DataError(
                f"The collection {name!r} is being changed by another kosent (process {who}).",
                hint="wait until it has ended, then type this again: what is there already is not added twice",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
