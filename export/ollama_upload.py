"""Puts an exported file into a running Ollama and asks it one question.

The file is sent as a blob named by its hash: what Ollama has already is not sent again, and a broken connection is tried again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from ollama import Client

from kosent.errors import BackendError, UsageError, VerificationError
from kosent.export.modelfile import OllamaSettings
from kosent.files import sha256
from kosent.models import ollama_models, ollama_url
from kosent.ollama_model import explained
from kosent.progress import Advance, progress

OLDEST = (0, 6, 0)
"""Its `create` takes uploaded files (since 0.5.5), and its templates can go through a text (Go 1.24)."""
TRIES = 3
CHUNK = 2**20
QUESTION = "오늘 하루가 너무 길게 느껴졌어."


def check_ollama(name: str, *, replace: bool) -> None:
    """Raises `BackendError` when no Ollama answers or it is too old, `UsageError` when it has `name` already."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*(:[A-Za-z0-9][A-Za-z0-9._-]*)?", name):
        raise UsageError(
            f"Ollama takes no model name like {name!r}.", hint="letters a-z, digits, and . _ - between: --ollama kosent"
        )
    taken = [_full(there) for there in ollama_models()]
    with explained(ollama_url(), "say its version"):
        version = httpx.get(f"{ollama_url()}/api/version", trust_env=False, timeout=10).json()["version"]
    numbers = tuple(int(part) for part in version.split("-")[0].split("+")[0].split("."))
    if (0, 0, 0) != numbers < OLDEST:  # 0.0.0 is one that somebody built
        least = ".".join(map(str, OLDEST))
        raise BackendError(
            f"The Ollama at {ollama_url()} is {version}; {least} or newer is needed.", hint="https://ollama.com/download"
        )
    if _full(name) in taken and not replace:
        raise UsageError(
            f"Ollama has a model {name!r} already.", hint=f"another --ollama NAME, or --replace, or: ollama rm {name}"
        )


def _full(name: str) -> str:
    """As Ollama compares names: the tag written out, without case, without where its own library is."""
    return (name if ":" in name else f"{name}:latest").casefold().removeprefix("registry.ollama.ai/").removeprefix("library/")


@contextmanager
def created(file: Path, name: str, settings: OllamaSettings) -> Iterator[str]:
    """Uploads `file` and creates a model from it, under another name, which is given; `name` is its own when the block ends well.

    After a `VerificationError` it stays under the other name, to be looked at; after anything else it is removed. Raises
    `BackendError`.
    """
    digest = f"sha256:{sha256(file)}"
    with progress("uploading MB", file.stat().st_size // 10**6 + 1) as advance:
        upload(file, digest, advance)
    client = Client(host=ollama_url(), trust_env=False, timeout=600)
    start, colon, tag = name.partition(":")
    other = f"{start}-unverified{colon}{tag}"

    def create(called: str) -> None:
        with explained(ollama_url(), f"make the model {name!r}"):
            client.create(
                called, files={file.name: digest}, template=settings.template, system=settings.system,
                parameters=settings.parameters, license=settings.licence or None,
            )  # fmt: skip

    create(other)
    try:
        yield other
        create(name)  # not a copy: Ollama would keep the blob of a model that is replaced
    except VerificationError:
        raise
    except BaseException:
        with suppress(Exception):
            client.delete(other)
        raise
    with explained(ollama_url(), f"remove the model {other!r}"):
        client.delete(other)


def ask(name: str) -> str:
    """Its reply to one question. Raises `BackendError`."""
    client = Client(host=ollama_url(), trust_env=False, timeout=600)
    with explained(ollama_url(), f"answer with {name!r}"):
        answer = client.chat(
            name, messages=[{"role": "user", "content": QUESTION}], options={"temperature": 0, "num_predict": 64}
        )
    return str(answer.message.content)


def upload(file: Path, digest: str, advance: Advance) -> None:
    """Sends `file` unless Ollama has it, up to `TRIES` times. Raises `BackendError`."""
    address = f"{ollama_url()}/api/blobs/{digest}"
    size = file.stat().st_size
    for attempt in range(1, TRIES + 1):
        try:
            with httpx.Client(trust_env=False, timeout=httpx.Timeout(30, read=600)) as client:
                if client.head(address).status_code != 200:
                    client.post(address, content=_pieces(file, advance), headers={"Content-Length": str(size)}).raise_for_status()
            advance(size // 10**6 + 1, "")
            return
        except httpx.HTTPError as error:
            if attempt == TRIES:
                raise BackendError(
                    f"The upload to Ollama at {ollama_url()} broke {TRIES} times: {error}",
                    hint="ollama serve, then the same command",
                ) from error
            advance(0, f"connection lost, trying again ({attempt + 1} of {TRIES})")
            time.sleep(attempt)


def _pieces(file: Path, advance: Advance) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(CHUNK):
            yield piece
            advance(opened.tell() // 10**6, "")
