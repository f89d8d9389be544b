"""Several requests to a server at once, for replies and for judgements."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def together(jobs: Sequence[Job], work: Callable[[Job], Result], number: int) -> Iterator[tuple[Job, Result]]:
    """`work` of each job as it comes; `number` are under way. Raises the first thing that `work` raises.

    Whoever stops listening, by Ctrl-C too, waits for none of those under way: their threads end with the process.
    """
    if number == 1:
        for job in jobs:
            yield job, work(job)
        return
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    ready: queue.Queue[tuple[Job, Result] | BaseException] = queue.Queue()
    given_up = threading.Event()
    for job in jobs:
        waiting.put(job)

    def serve() -> None:
        while not given_up.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ready.put((job, work(job)))
            except BaseException as error:
                ready.put(error)
                return

    for _ in range(min(number, len(jobs))):
        threading.Thread(target=serve, daemon=True).start()
    try:
        for _ in jobs:
            found = ready.get()
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        given_up.set()
