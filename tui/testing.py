"""A backend without models, for tests and benchmarks of the chat: it says what it was told to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kosent.available import Available
from kosent.errors import DataError
from kosent.settings import Settings
from kosent.testing import ScriptedChat
from kosent.tui.backend import OWN, Loaded, collection_of
from kosent.tui.collections import Collections

if TYPE_CHECKING:
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import Runnable

    from kosent.reply import Reply

NOTHING = Available("", (), "No Ollama answers.", {}, ())


class ScriptedCollections(Collections):
    """`there`: a retriever by name, or an exception that opening raises."""

    def __init__(self, there: Mapping[str, BaseRetriever | Exception]) -> None:
        super().__init__()
        self.there = there

    def names(self) -> list[str]:
        return sorted(self.there)

    def _opened(self, name: str) -> BaseRetriever:
        found = self.there.get(name, DataError(f"There is no collection {name!r}."))
        if isinstance(found, Exception):
            raise found
        return found

    def _is_here(self, name: str) -> bool:
        return name in self.there


class ScriptedBackend:
    """`replies` in turn, one character a chunk, `delay` seconds before each; an exception among them is raised. `problems` are
    raised by the first loads. `retriever` is asked where a conversation has no collection."""

    def __init__(
        self,
        *replies: Any,
        delay: float = 0.0,
        problems: tuple[Exception, ...] = (),
        there: Available = NOTHING,
        retriever: BaseRetriever | None = None,
        collections: Collections | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.model = ScriptedChat(replies=list(replies) or ["그랬군요."], delay=delay)
        self.problems, self.there, self.retriever = list(problems), there, retriever
        self._collections = collections or ScriptedCollections({})
        self.loads: list[str] = []
        self.owns: list[dict[str, Any]] = []
        """What each chain was made with."""

    def available(self) -> Available:
        return self.there

    def load(self, name: str) -> Loaded:
        self.loads.append(name)
        if self.problems:
            raise self.problems.pop(0)
        return Loaded(name or "scripted", 2048)

    def chain(self, own: Mapping[str, Any]) -> Runnable[Any, Reply]:
        from kosent.chain import build_chain

        self.owns.append(dict(own))
        collection = collection_of(own, self.settings)
        retriever = self._collections.retriever(collection) if collection else self.retriever
        return build_chain(self.model, system=own.get("system", ""), settings=self.settings, retriever=retriever, output="reply")

    def defaults(self) -> dict[str, Any]:
        return {name: getattr(self.settings, name) for name in OWN}

    def collections(self) -> list[str]:
        return self._collections.names()

    def prepare(self, collection: str) -> None:
        self._collections.retriever(collection)

    def close(self) -> None:
        self._collections.close()
