"""The model of the chat: which one is wanted, loading it in the background, a chain of it once it is there."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from kosent.errors import KosentError
from kosent.tui.backend import Backend, Loaded

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

    from kosent.reply import Reply

T = TypeVar("T")


class Models:
    """`changed` is called in the event loop whenever something here has become another."""

    def __init__(self, backend: Backend, wanted: str, changed: Callable[[], None]) -> None:
        self.backend, self.wanted, self.changed = backend, wanted, changed
        self.loaded: Loaded | None = None
        self.problem: BaseException | None = None
        self._loading: asyncio.Task[None] | None = None
        self._since = 0.0
        self._ever = False
        self.loading = False

    @property
    def loading_seconds(self) -> float:
        return time.monotonic() - self._since

    @property
    def nothing_there(self) -> bool:
        """Whether no model was ever ready: then there is nothing that could answer."""
        return not self._ever and self.problem is not None

    def load(self, name: str) -> None:
        """Begins to load; a loading that is under way ends first."""
        before = self._loading
        self.wanted, self._since, self.loading = name, time.monotonic(), True
        self._loading = asyncio.create_task(self._load(name, before))
        self.changed()

    async def _load(self, name: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        self.loaded = self.problem = None
        try:
            self.loaded = await in_thread(self.backend.load, name)
            self._ever = True
            gc.freeze()  # what was imported and loaded lives as long as the chat, and need not be looked at again
        except Exception as error:  # whatever a backend raises must not end the chat
            self.problem = error
        self.loading = self._loading is not asyncio.current_task()  # another may be waiting for this one
        self.changed()

    async def chain(self, own: Mapping[str, Any]) -> Runnable[Any, Reply]:
        """A chain, once the model is loaded; loading is tried again when it failed before. Raises what loading raised."""
        if self.loaded is None and not self.loading:
            self.load(self.wanted)
        while self.loading:
            assert self._loading is not None
            await asyncio.shield(asyncio.gather(self._loading, return_exceptions=True))
        if self.loaded is None:
            raise self.problem or KosentError("The model was not loaded.")
        return await in_thread(self.backend.chain, own)


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """What `function` returns or raises. Leaving the chat does not wait for it, as it would with asyncio's own threads."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, problem: BaseException | None) -> None:
        if future.done():
            return
        if problem is not None:
            future.set_exception(problem)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, problem = None, None
        try:
            result = function(*arguments)
        except Exception as error:
            problem = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, problem)

    threading.Thread(target=run, daemon=True).start()
    return await future
