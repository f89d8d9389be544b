"""Which model answers: from the text a user typed to a LangChain chat model.

    ollama:NAME     a model in a running Ollama (OLLAMA_HOST says where, else http://127.0.0.1:11434)
    FILE.gguf       llama.cpp in this process (kosent[embedded])
    RUN             a run directory: its newest exported GGUF

With none named: the configured one (KOSENT_MODEL or config.toml), else Ollama's `kosent`, else the newest exported GGUF.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent import extras
from kosent.errors import BackendError, ModelError, UsageError
from kosent.files import read_jsonl, write_jsonl
from kosent.locations import exports_file, private_home
from kosent.prompts import SYSTEM_MESSAGE
from kosent.run_directory import RunDirectory, is_run
from kosent.settings import Settings, load_settings

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

OLLAMA_MODEL = "kosent"
PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class ModelReference:
    """A model that was found: `kind` is "ollama" or "gguf"; `name` its Ollama name or file path."""

    kind: str
    name: str
    system_message: str = SYSTEM_MESSAGE

    def __str__(self) -> str:
        return f"ollama:{self.name}" if self.kind == "ollama" else self.name


def ollama_url() -> str:
    """Where Ollama listens: OLLAMA_HOST as Ollama reads it, with 11434 as the port when none is given."""
    host = os.environ.get("OLLAMA_HOST", "").strip() or "127.0.0.1"
    parts = urllib.parse.urlsplit(host if "://" in host else f"http://{host}")
    name = parts.hostname or "127.0.0.1"
    port = parts.port or (11434 if "://" not in host else {"http": 80, "https": 443}.get(parts.scheme, 11434))
    return f"{parts.scheme}://{'127.0.0.1' if name == '0.0.0.0' else name}:{port}"


def ollama_models(timeout: float = PROBE_SECONDS) -> list[str]:
    """Names of the models in the running Ollama. Raises `BackendError` when none answers within `timeout` seconds."""
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know this machine's 127.0.0.1
        with direct.open(f"{ollama_url()}/api/tags", timeout=timeout) as response:
            return [model["name"] for model in json.load(response)["models"]]
    except (urllib.error.URLError, OSError, ValueError, KeyError) as error:
        raise BackendError(f"No Ollama answers at {ollama_url()} ({error}).", hint="ollama serve") from error


def remember_export(path: Path) -> None:
    """Notes an exported GGUF, so that a chat without `--model` finds the newest."""
    private_home()
    known = [row for row in known_exports() if row != path.resolve()]
    write_jsonl(exports_file(), [{"path": str(row)} for row in [*known, path.resolve()]])


def known_exports() -> list[Path]:
    """Exported GGUF files that still exist, oldest first."""
    file = exports_file()
    rows = read_jsonl(file) if file.is_file() else []
    return [path for path in (Path(row["path"]) for row in rows) if path.is_file()]


def resolve_model(name: str = "") -> ModelReference:
    """Finds the model a user named, or the one to take when none is named.

    Raises `ModelError` when it is not there, `UsageError` when the name is of no known form.
    """
    if name.startswith("ollama:"):
        return _ollama(name.removeprefix("ollama:"))
    if name:
        return _local(Path(name).expanduser(), name)
    try:
        return _ollama(OLLAMA_MODEL)
    except ModelError:
        exports = known_exports()
    if not exports:
        raise ModelError(
            "No model is configured, Ollama has no model `kosent`, and nothing was exported yet.",
            hint="kosent demo     (makes one in about 15 minutes), or --model ollama:NAME",
        )
    return _local(exports[-1], str(exports[-1]))


def _ollama(name: str) -> ModelReference:
    wanted = name if ":" in name else f"{name}:latest"
    there = ollama_models()
    if wanted not in there:
        listed = ", ".join(there) or "none"
        raise ModelError(f"Ollama has no model {name!r}; it has: {listed}.", hint=f"ollama pull {name}")
    return ModelReference("ollama", name)


def _local(path: Path, name: str) -> ModelReference:
    if path.is_dir() and is_run(path):
        run = RunDirectory.open(path)
        return ModelReference("gguf", str(run.exported()), run.system_message)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"There is no file {path}.", hint="kosent models     (lists what is here)")
        system = RunDirectory.open(path.parent).system_message if is_run(path.parent) else SYSTEM_MESSAGE
        return ModelReference("gguf", str(path), system)
    raise UsageError(
        f"{name!r} is neither ollama:NAME, nor a .gguf file, nor a run directory.", hint="kosent models     (lists what is here)"
    )


def chat_model(model: str = "", *, settings: Settings | None = None) -> BaseChatModel:
    """A LangChain chat model for a name as above; weights are loaded at the first reply.

    Raises `ModelError`, `UsageError`, or `MissingExtraError` when a GGUF is named without `kosent[embedded]`.
    """
    settings = settings or load_settings()
    return chat_model_for(resolve_model(model or settings.model), settings)


def chat_model_for(reference: ModelReference, settings: Settings) -> BaseChatModel:
    """The chat model of a reference that was already found."""
    common: dict[str, Any] = {"temperature": settings.temperature, "top_p": settings.top_p, "seed": settings.seed}
    if reference.kind == "ollama":
        from kosent.ollama_model import OllamaChat

        return OllamaChat(
            model=reference.name,
            base_url=ollama_url(),
            num_ctx=settings.context,
            num_predict=settings.max_tokens,
            repeat_penalty=1.0,
            client_kwargs={"trust_env": False},
            **common,
        )
    extras.require("embedded", what=f"Answering from {Path(reference.name).name} in this process")
    from kosent.llama_cpp_model import LlamaCppChat

    return LlamaCppChat(path=reference.name, context=settings.context, max_tokens=settings.max_tokens, **common)
