"""The collections that replies may rest on: which there are, and a retriever of each that is used, made ready once.

What is called here may take seconds and is called in threads. Loading Chroma and the default embedder in one keeps the event loop
waiting 0.15 s at most at a time. The analysis of Korean would for 4 s: it has a process of its own, which begins with the first
collection, is shared by all and ends with the chat.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kosent import extras
from kosent.errors import KosentError

if TYPE_CHECKING:
    from langchain_core.retrievers import BaseRetriever

    from kosent.morphemes import MorphemeProcess


class CollectionError(KosentError):
    """The collection `name` cannot be used; why, is the text. `gone`: there is none of that name."""

    def __init__(self, name: str, why: BaseException, *, gone: bool = False) -> None:
        super().__init__(str(why) or type(why).__name__, hint="kosent rag list" if gone else getattr(why, "hint", None))
        self.name, self.gone = name, gone


class Collections:
    """May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opening: dict[str, threading.Lock] = {}
        self._ready: dict[str, Any] = {}
        """Retrievers that were opened, by collection."""
        self._analyser: MorphemeProcess | None = None
        self._closed = False

    def names(self) -> list[str]:
        """None where kosent[rag] is not installed."""
        if extras.missing("rag"):
            return []
        from kosent.rag.collection import Collection

        return Collection.names()

    def retriever(self, name: str) -> BaseRetriever:
        """Raises `CollectionError`, and so does the retriever."""
        from kosent.tui.passages import Passages

        self.ready(name)
        return Passages(collection=name, among=self)

    def ready(self, name: str) -> BaseRetriever:
        """The retriever behind it, opened once. Raises `CollectionError`."""
        with self._lock:
            opening = self._opening.setdefault(name, threading.Lock())
        with opening:
            if name not in self._ready:
                try:
                    self._ready[name] = self._opened(name)
                except Exception as error:  # whatever Chroma or an embedder raises must not end the chat
                    raise self._problem(name, error) from error
            found: BaseRetriever = self._ready[name]
            return found

    def _opened(self, name: str) -> BaseRetriever:
        extras.require("rag", what=f"The collection {name!r}")
        from kosent.rag.collection import Collection
        from kosent.rag.retriever import HybridRetriever

        collection = Collection.open(name)
        try:
            found = HybridRetriever(collection=collection, analyser=self._morphemes())
            with collection.look():
                pass
            collection.embedder.questions(["처음"])  # loads it
        except BaseException:
            collection.close()
            raise
        return found

    def _morphemes(self) -> MorphemeProcess:
        from kosent.morphemes import MorphemeProcess

        with self._lock:
            if self._closed:
                raise KosentError("The chat is being left.")
            if self._analyser is None:
                self._analyser = MorphemeProcess()
            return self._analyser

    def failed(self, name: str, why: Exception) -> CollectionError:
        """What to raise when a retriever raised `why`; the next one is opened anew."""
        with self._lock:
            found = self._ready.pop(name, None)
            if self._analyser is not None and self._analyser.ended:
                self._analyser.close()
                self._analyser = None
                self._ready.clear()
        with suppress(Exception):
            found.collection.close()
        return self._problem(name, why)

    def _problem(self, name: str, why: Exception) -> CollectionError:
        return CollectionError(name, why, gone=not extras.missing("rag") and not self._is_here(name))

    def _is_here(self, name: str) -> bool:
        from kosent.rag.collection import Collection

        return Collection.is_here(name)

    def close(self) -> None:
        """Ends the process; who waits for it gets an error."""
        with self._lock:
            self._closed = True
            if self._analyser is not None:
                self._analyser.close()
                self._analyser = None
