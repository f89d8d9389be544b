"""What the chat needs of models and collections: which are there, a model loaded, a chain of it with a conversation's own
settings.

Everything here may take long and is called in threads; nothing is imported from LangChain before it is needed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from kosent.settings import Settings
from kosent.tui.collections import Collections

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import Runnable

    from kosent.available import Available
    from kosent.reply import Reply

OWN = ("system", "temperature", "top_p", "max_tokens", "seed")
"""Settings that a conversation may have of its own, besides its collection."""


@dataclass(frozen=True)
class Loaded:
    """A model that is ready."""

    name: str
    context: int
    """Its window in tokens; 0 where that is not known."""


class Backend(Protocol):
    """`LocalBackend` in the chat; tests and benchmarks bring their own."""

    settings: Settings

    def available(self) -> Available:
        """What is there."""

    def load(self, name: str) -> Loaded:
        """Makes a model ready ("" is the configured one) in place of the one before. Raises what `kosent.models` raises."""

    def chain(self, own: Mapping[str, Any]) -> Runnable[Any, Reply]:
        """A chain of the loaded model with the settings of a conversation (`OWN`, `collection`). Raises `CollectionError`."""

    def defaults(self) -> dict[str, Any]:
        """The values of `OWN` where a conversation has none."""

    def collections(self) -> list[str]:
        """The names of those that are there."""

    def prepare(self, collection: str) -> None:
        """Makes a collection ready, so that the first reply need not wait for it. Raises `CollectionError`."""

    def close(self) -> None:
        """Ends what runs for the chat."""


def collection_of(own: Mapping[str, Any], settings: Settings) -> str:
    """The collection of a conversation with the settings `own`; "" is none, also where the general settings name one."""
    return unicodedata.normalize("NFC", str(own.get("collection", settings.collection))).strip()


class LocalBackend:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._llm: BaseChatModel | None = None
        self._system = ""
        self._collections = Collections()

    def available(self) -> Available:
        from kosent.available import available

        return available(self.settings)

    def load(self, name: str) -> Loaded:
        from kosent.llama_cpp_model import LlamaCppChat
        from kosent.models import chat_model_for, resolve_model

        reference = resolve_model(
            name or self.settings.model, self.settings.fallback if name in ("", self.settings.model) else ""
        )
        self._llm = None  # two large models would not fit into memory beside each other
        llm = chat_model_for(reference, self.settings)
        if isinstance(llm, LlamaCppChat):
            llm.load()
        self._llm, self._system = llm, self.settings.system or reference.system_message
        window = getattr(llm, "context", 0) or getattr(llm, "num_ctx", 0) or self.settings.context
        return Loaded(str(reference), int(window))

    def chain(self, own: Mapping[str, Any]) -> Runnable[Any, Reply]:
        from kosent.chain import build_chain

        assert self._llm is not None
        settings = replace(self.settings, **{name: own[name] for name in OWN if name in own})
        changed: dict[str, Any] = {name: getattr(settings, name) for name in ("temperature", "top_p", "seed")}
        changed["num_predict" if hasattr(self._llm, "num_predict") else "max_tokens"] = settings.max_tokens
        llm = self._llm.model_copy(update=changed)  # shares the weights
        collection = collection_of(own, self.settings)
        retriever = self._collections.retriever(collection) if collection else None
        system = settings.system or self._system
        return build_chain(llm, retriever=retriever, system=system, settings=settings, output="reply")

    def defaults(self) -> dict[str, Any]:
        return {name: getattr(self.settings, name) for name in OWN}

    def collections(self) -> list[str]:
        return self._collections.names()

    def prepare(self, collection: str) -> None:
        self._collections.retriever(collection)

    def close(self) -> None:
        self._collections.close()
