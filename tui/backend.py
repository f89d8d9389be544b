"""What the chat needs of models: which are there, one of them loaded, and a chain of it with a conversation's own settings.

Everything here may take long and is called in threads; nothing is imported from LangChain before it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from kosent.settings import Settings

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import Runnable

    from kosent.available import Available
    from kosent.reply import Reply

OWN = ("system", "temperature", "top_p", "max_tokens", "seed")
"""Settings that a conversation may have of its own."""


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
        """A chain of the loaded model with the settings of a conversation (`OWN`)."""

    def defaults(self) -> dict[str, Any]:
        """The values of `OWN` where a conversation has none."""


class LocalBackend:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._llm: BaseChatModel | None = None
        self._system = ""

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
        return build_chain(llm, system=settings.system or self._system, settings=settings, output="reply")

    def defaults(self) -> dict[str, Any]:
        return {name: getattr(self.settings, name) for name in OWN}
