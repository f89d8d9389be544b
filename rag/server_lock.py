"""One writer at a time for a collection on a Chroma server that several machines use.

A collection can be made only once: whoever makes NAME-lock writes. It says until when; a writer moves that on while it works, and
after a writer that was killed others may write again two minutes later.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kosent.errors import DataError, KosentError
from kosent.rag.vectors import Vectors

SECONDS = 120.0


@contextmanager
def held(server: str, chroma_name: str, name: str) -> Iterator[None]:
    """Holds the lock for the block. Raises `DataError` when another machine or process has it."""
    me = f"{socket.gethostname()}, process {os.getpid()}, {time.time()}"
    lock = _taken(server, f"{chroma_name}-lock", me)
    if lock.facts.get("owner") != me:
        owner = str(lock.facts.get("owner", "?")).rpartition(", ")[0]
        raise DataError(
            f"The collection {name!r} is being changed on {owner}.",
            hint="wait until it has ended, then type this again: what is there already is not added twice",
        )
    done = threading.Event()
    keeper = threading.Thread(target=_keep, args=(lock, done), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        with suppress(KosentError):
            lock.drop()


def _taken(server: str, lock_name: str, me: str) -> Vectors:
    lock = Vectors(server, lock_name, {"owner": me, "until": time.time() + SECONDS})
    if lock.facts.get("owner") != me and float(lock.facts.get("until", 0)) < time.time():
        lock.drop()  # its writer was killed
        lock = Vectors(server, lock_name, {"owner": me, "until": time.time() + SECONDS})
    return lock


def _keep(lock: Vectors, done: threading.Event) -> None:
    while not done.wait(SECONDS / 4):
        with suppress(KosentError):
            lock.note(until=time.time() + SECONDS)
