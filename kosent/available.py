"""The models that can answer here: Ollama's, those of the servers that the settings name, exported GGUF files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kosent.errors import KosentError, ModelError
from kosent.models import fallback_names, known_exports, ollama_models, openai_models, openai_url, resolve_model
from kosent.settings import Settings


@dataclass(frozen=True)
class Available:
    default: str
    """The one that answers when none is named; "" when there is none."""
    ollama: tuple[str, ...]
    """Names as a user types them: `ollama:NAME`."""
    ollama_problem: str
    """Why Ollama cannot be asked; "" when it answered."""
    servers: dict[str, tuple[str, ...] | str]
    """For each server that the settings name: its models as a user types them, or why it cannot be asked."""
    exports: tuple[Path, ...]
    """GGUF files that `kosent export` wrote, the newest first."""

    def names(self) -> list[str]:
        """All of them, as a user types them."""
        served = [name for names in self.servers.values() if not isinstance(names, str) for name in names]
        return [*self.ollama, *served, *(str(path) for path in self.exports)]

    def is_default(self, name: str) -> bool:
        return name in (self.default, f"{self.default}:latest")


def available(settings: Settings) -> Available:
    """Asks every server that may have models; takes up to some seconds where one does not answer."""
    try:
        default = str(resolve_model(settings.model, settings.fallback))
    except KosentError:
        default = ""
    problem = ""
    try:
        ollama = tuple(f"ollama:{name}" for name in ollama_models())
    except ModelError as error:
        ollama, problem = (), str(error)
    named = [name for name in [settings.model, *fallback_names(settings.fallback)] if name.startswith("openai:")]
    servers = {url: _served(url) for url in sorted({openai_url(name.partition("@")[2]) for name in named})}
    return Available(default, ollama, problem, servers, tuple(reversed(known_exports())))


def _served(url: str) -> tuple[str, ...] | str:
    try:
        return tuple(f"openai:{name}@{url}" for name in openai_models(url))
    except ModelError as error:
        return str(error)
