"""Locks between processes: one that writes a collection, and a turn for each look into it.

`flock` is given back by the system when a process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kosent.errors import DataError


@contextmanager
def turn(path: Path, name: str) -> Iterator[None]:
    """Waits until nobody else has the file's lock, and holds it for the block. Raises `DataError` where the collection `name` is
    gone."""
    while True:
        descriptor = _opened(path, name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _still(descriptor, path):
                continue  # the collection was removed while this waited
            yield
            return
        finally:
            os.close(descriptor)


@contextmanager
def only_writer(path: Path, name: str) -> Iterator[None]:
    """Holds the file's lock for the block. Raises `DataError` at once when another process has it."""
    descriptor = _opened(path, name)
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
        with suppress(OSError):  # a full disk takes no number
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def nobody_writes(path: Path) -> Iterator[bool]:
    """Whether nobody holds the file's lock, as `only_writer` does; where it is so, it stays so for the block."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _opened(path: Path, name: str) -> int:
    try:
        return os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except FileNotFoundError:
        raise DataError(f"There is no collection {name!r}.", hint="kosent rag list") from None


def _still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
