"""Which model answers: from the text a user typed to a LangChain chat model.

    ollama:NAME     a model in a running Ollama (OLLAMA_HOST says where, else http://127.0.0.1:11434)
    FILE.gguf       llama.cpp in this process (kosent[embedded])
    RUN             a run directory: its newest exported GGUF
    openai:NAME@URL any server that speaks OpenAI's protocol: vLLM, llama-server (kosent[openai]; a key in KOSENT_API_KEY)

With none named: the configured one (KOSENT_MODEL or config.toml), else Ollama's `kosent`, else the newest exported GGUF. Where
the setting `fallback` names others, they are tried in its order when a model cannot be used.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent import extras
from kosent.errors import ModelError, ServerDownError, UsageError
from kosent.files import read_jsonl, write_jsonl
from kosent.locations import exports_file, private_home
from kosent.prompts import SYSTEM_MESSAGE
from kosent.run_directory import RunDirectory, is_run
from kosent.settings import DEFAULT_CONTEXT, Settings, load_settings

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

OLLAMA_MODEL = "kosent"
PROBE_SECONDS, CONNECT_SECONDS = 2.0, 5.0


@dataclass(frozen=True)
class ModelReference:
    """A model that was found: `kind` is "ollama", "gguf" or "openai"; `name` its name there, or its file's path."""

    kind: str
    name: str
    system_message: str = SYSTEM_MESSAGE
    context: int = 0
    """Context window that it was made with, in tokens; 0 where that is not known."""
    url: str = ""

    def __str__(self) -> str:
        return {"ollama": f"ollama:{self.name}", "openai": f"openai:{self.name}@{self.url}"}.get(self.kind, self.name)


def ollama_url() -> str:
    """Where Ollama listens: OLLAMA_HOST as Ollama reads it, with 11434 as the port when none is given."""
    host = os.environ.get("OLLAMA_HOST", "").strip() or "127.0.0.1"
    parts = urllib.parse.urlsplit(host if "://" in host else f"http://{host}")
    name = parts.hostname or "127.0.0.1"
    try:
        port = parts.port or (11434 if "://" not in host else {"http": 80, "https": 443}.get(parts.scheme, 11434))
    except ValueError:
        raise UsageError(f"OLLAMA_HOST is {host!r}, whose port is no port.", hint="export OLLAMA_HOST=127.0.0.1:11434") from None
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
    return f"{parts.scheme}://{f'[{name}]' if ':' in name else name}:{port}{parts.path.rstrip('/')}"


def _asked(url: str, timeout: float = PROBE_SECONDS, *, body: dict[str, Any] | None = None, key: str = "") -> Any:
    """The JSON that a server on this machine or network answers. Raises what `UNANSWERED` lists."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know this machine's 127.0.0.1
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    if key:
        request.add_unredirected_header("Authorization", f"Bearer {key}")  # another host must not see it
    with direct.open(request, timeout=timeout) as response:
        return json.load(response)


UNANSWERED = (OSError, ValueError, KeyError, TypeError, HTTPException)
"""What `_asked` and reading its answer may raise."""


def ollama_models(timeout: float = PROBE_SECONDS) -> list[str]:
    """Names of the models in the running Ollama. Raises `ServerDownError` when none answers within `timeout` seconds."""
    try:
        return [model["name"] for model in _asked(f"{ollama_url()}/api/tags", timeout)["models"]]
    except UNANSWERED as error:
        raise ServerDownError(f"No Ollama answers at {ollama_url()} ({error}).", hint="ollama serve") from error


def ollama_digest(name: str) -> str:
    """Of weights, template and parameters that Ollama has under `name`; "" where it does not say. Raises `ServerDownError`."""
    try:
        models = _asked(f"{ollama_url()}/api/tags")["models"]
        return next((str(model["digest"]) for model in models if model["name"] in (name, f"{name}:latest")), "")
    except UNANSWERED as error:
        raise ServerDownError(f"No Ollama answers at {ollama_url()} ({error}).", hint="ollama serve") from error


def openai_models(url: str, timeout: float = PROBE_SECONDS) -> list[str]:
    """Names of the models of an OpenAI-compatible server. Raises `ServerDownError`, or `ModelError` when it wants another key."""
    try:
        return [model["id"] for model in _asked(f"{url}/models", timeout, key=api_key())["data"]]
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise ModelError(f"{url} wants another key ({error}).", hint="export KOSENT_API_KEY=...") from error
        raise ServerDownError(f"{url} does not list its models ({error}).", hint=f"curl {url}/models") from error
    except UNANSWERED as error:
        raise ServerDownError(f"No server answers at {url} ({error}).", hint=f"curl {url}/models     (is it running?)") from error


def api_key() -> str:
    """The key for OpenAI-compatible servers, KOSENT_API_KEY; OPENAI_API_KEY is never sent to a server that somebody named."""
    return os.environ.get("KOSENT_API_KEY", "")


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


def resolve_model(name: str = "", fallback: str = "") -> ModelReference:
    """Finds the model a user named, or the one to take when none is named; `fallback` names others, separated by commas, to be
    tried in turn when it cannot be used.

    Raises `ModelError` when none is there, `UsageError` when a name is of no known form.
    """
    first: ModelError | None = None
    for one in [name, *fallback_names(fallback)]:
        try:
            return _resolved(one)
        except ModelError as error:
            first = first or error
    assert first is not None
    raise first


def fallback_names(fallback: str) -> list[str]:
    """The models of the setting `fallback`, in its order."""
    return [name.strip() for name in fallback.split(",") if name.strip()]


def _resolved(name: str) -> ModelReference:
    if name.startswith("ollama:"):
        return _ollama(name.removeprefix("ollama:"))
    if name.startswith("openai:"):
        return _openai(name)
    if name:
        return _local(Path(name).expanduser(), name)
    try:
        return _ollama(OLLAMA_MODEL)
    except ModelError:
        exports = known_exports()
    if not exports:
        raise ModelError(
            "No model is configured, Ollama has no model `kosent`, and nothing was exported yet.",
            hint="kosent demo     (makes one in about 10 minutes), or --model ollama:NAME",
        )
    return _local(exports[-1], str(exports[-1]))


def _ollama(name: str) -> ModelReference:
    wanted = name if ":" in name else f"{name}:latest"
    there = ollama_models()
    if wanted not in there:
        listed = ", ".join(there) or "none"
        raise ModelError(
            f"Ollama has no model {name!r}; it has: {listed}.",
            hint=f"ollama pull {name}     or kosent export RUN --ollama {name}",
        )
    try:
        facts = _asked(f"{ollama_url()}/api/show", body={"model": name})
    except UNANSWERED as error:
        raise ServerDownError(
            f"Ollama at {ollama_url()} does not show {name!r} ({error}).", hint=f"ollama show {name}"
        ) from error
    context = re.search(r"^num_ctx\s+(\d+)", facts.get("parameters") or "", re.MULTILINE)
    return ModelReference("ollama", name, facts.get("system") or SYSTEM_MESSAGE, int(context.group(1)) if context else 0)


def openai_url(url: str) -> str:
    """The base address of an OpenAI-compatible server: with /v1 where `url` has no path."""
    url = url.rstrip("/")
    return url if urllib.parse.urlsplit(url).path else f"{url}/v1"


def _openai(text: str) -> ModelReference:
    name, at, rest = text.removeprefix("openai:").partition("@http")
    if not (name and at):
        raise UsageError(f"{text!r} is not openai:NAME@URL.", hint="--model openai:NAME@http://127.0.0.1:8000/v1")
    url = openai_url(f"http{rest}")
    there = openai_models(url)
    if name not in there:
        raise ModelError(f"{url} has no model {name!r}; it has: {', '.join(there) or 'none'}.", hint=f"--model openai:NAME@{url}")
    return ModelReference("openai", name, url=url)


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
        f"{name!r} is neither ollama:NAME, nor openai:NAME@URL, nor a .gguf file, nor a run directory.",
        hint="kosent models     (lists what is here)",
    )


def chat_model(model: str = "", *, settings: Settings | None = None) -> BaseChatModel:
    """A LangChain chat model for a name as above; weights are loaded at the first reply.

    Raises `ModelError`, `UsageError`, or `MissingExtraError` when a GGUF is named without `kosent[embedded]`, or a server without
    `kosent[openai]`.
    """
    settings = settings or load_settings()
    return chat_model_for(resolve_model(model or settings.model, settings.fallback), settings)


def chat_model_for(reference: ModelReference, settings: Settings) -> BaseChatModel:
    """The chat model of a reference that was already found."""
    common: dict[str, Any] = {"temperature": settings.temperature, "top_p": settings.top_p, "seed": settings.seed}
    context = settings.context or reference.context or DEFAULT_CONTEXT
    if reference.kind in ("ollama", "openai"):
        import httpx
    if reference.kind == "ollama":
        from kosent.ollama_model import OllamaChat

        return OllamaChat(
            model=reference.name,
            base_url=ollama_url(),
            num_ctx=context,
            num_predict=settings.max_tokens,
            repeat_penalty=1.0,
            client_kwargs={"trust_env": False, "timeout": httpx.Timeout(settings.timeout, connect=CONNECT_SECONDS)},
            async_client_kwargs={"limits": httpx.Limits(max_keepalive_connections=0)},  # one kept belongs to one event loop
            **common,
        )
    if reference.kind == "openai":
        extras.require("openai", what=f"Asking {reference.url}")
        from kosent.openai_model import openai_chat

        waits = httpx.Timeout(settings.timeout, connect=CONNECT_SECONDS)
        return openai_chat(reference.name, reference.url, api_key(), waits, max_tokens=settings.max_tokens, **common)
    extras.require("embedded", what=f"Answering from {Path(reference.name).name} in this process")
    from kosent.llama_cpp_model import LlamaCppChat

    return LlamaCppChat(path=reference.name, context=context, max_tokens=settings.max_tokens, **common)
