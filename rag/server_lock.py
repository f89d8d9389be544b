"""One writer at a time for a collection on a Chroma server that several machines use.

A collection can be made only once: whoever makes NAME-lock writes. It says until when, by the server's clock; a writer moves that
on while it works, and after a writer that was killed others may write again two minutes later.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kosent.errors import DataError, KosentError
from kosent.rag.vectors import Vectors

SECONDS = 120.0
SETTLING = 1.0
"""Seconds after which two machines that found the same lock run out know which of them has the new one."""


@contextmanager
def held(server: str, chroma_name: str, name: str) -> Iterator[None]:
    """Holds the lock for the block. Raises `DataError` when another machine or process has it."""
    me = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4()}"
    lock, owner = _taken(server, f"{chroma_name}-lock", me)
    try:
        if owner != me:
            raise DataError(
                f"The collection {name!r} is being changed on {owner.rpartition(', ')[0]}.",
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
                if lock.facts.get("owner") == me:
                    lock.drop()
    finally:
        lock.close()


def _taken(server: str, lock_name: str, me: str) -> tuple[Vectors, str]:
    """The lock and whose it is."""
    while True:
        lock = Vectors(server, lock_name, {"owner": me, "until": time.time() + SECONDS})
        try:
            facts = lock.facts
            if facts["owner"] != me and float(facts["until"]) < lock.now():
                lock.drop()  # its writer was killed
                lock.close()
                lock = Vectors(server, lock_name, {"owner": me, "until": time.time() + SECONDS})
                time.sleep(SETTLING)
                facts = lock.facts
            if facts["owner"] == me:
                lock.note(until=lock.now() + SECONDS)
            return lock, str(facts["owner"])
        except DataError:
            lock.close()  # its writer has ended just now
        except BaseException:
            lock.close()
            raise


def _keep(lock: Vectors, done: threading.Event) -> None:
    while not done.wait(SECONDS / 4):
        with suppress(KosentError):
            lock.note(until=lock.now() + SECONDS)
