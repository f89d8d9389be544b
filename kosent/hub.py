"""Bases on the Hugging Face hub: which of their files KoSent takes, where they lie, and what went wrong, in words.

A hub base is ORG/NAME or ORG/NAME@REVISION (a branch, a tag or a commit). Its files go into the cache that other tools use too
(HF_HOME), fetched with the token that huggingface_hub finds by itself: HF_TOKEN, else what `hf auth login` stored. Of a
repository only config, tokenizer and safetensors are taken; pickled weights and remote code are not.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent.errors import ModelError
from kosent.files import read_json
from kosent.progress import Advance, progress
from kosent.starter import GGUF_TOKENIZER

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors")
REST = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", GGUF_TOKENIZER,
)  # fmt: skip
"""Config and tokenizer: a few tens of MB at most, enough for a dry run."""


def split(name: str) -> tuple[str, str]:
    """(ORG/NAME, REVISION) of a hub base's name; the revision is empty where none is given."""
    repository, _, revision = name.partition("@")
    return repository, revision


def commit(name: str) -> str:
    """The commit that a hub base's name means; the same one for as long as this process lives. Raises `ModelError`."""
    with explained(name):
        return _commit(*split(name))


@lru_cache
def _commit(repository: str, revision: str) -> str:
    from huggingface_hub import HfApi

    return HfApi().resolve_revision(repository, revision=revision or None).resolved


def fetch(name: str, *, weights: bool) -> Path:
    """The cached snapshot of a hub base with all its files in it, or all but the weights; what lacks is downloaded.

    A snapshot that is whole needs no network. Raises `ModelError`.
    """
    from huggingface_hub import snapshot_download

    missing, asked = downloads(name, weights=weights), _asked(name, weights=weights)
    with explained(name):
        if missing:
            with _shown(f"downloading {split(name)[0]}, MB", sum(missing.values()) // 10**6) as bar:
                snapshot_download(**asked, tqdm_class=bar)
        return Path(snapshot_download(**asked, local_files_only=True))


def downloads(name: str, *, weights: bool = True) -> dict[str, int]:
    """What `fetch` would download, as {file: bytes}; asks for access to it, downloads nothing. Raises `ModelError`."""
    from huggingface_hub import HfApi, snapshot_download

    asked = _asked(name, weights=weights)
    with explained(name):
        if _is_cached(asked, ("tokenizer.json", "tokenizer_config.json"), weights=weights):
            return {}
        try:
            HfApi().model_info(split(name)[0], revision=commit(name))  # fails at once; the list of files is tried for 23 s
        except Exception:
            if _is_cached(asked, (), weights=weights):
                return {}
            raise
        with _shown("", 0) as bar:
            found = snapshot_download(**asked, tqdm_class=bar, dry_run=True)
    names = {file.filename for file in found}
    lacks = "config.json" if "config.json" not in names else "safetensors weights"
    if lacks == "config.json" or (weights and not any(file.endswith(".safetensors") for file in names)):
        raise ModelError(
            f"{name} has no {lacks} on the hub, and KoSent loads nothing else.",
            hint="name another model, or a folder with config.json, tokenizer.json and model.safetensors",
        )
    return {file.filename: file.file_size or 0 for file in found if file.will_download}


def _asked(name: str, *, weights: bool) -> dict[str, Any]:
    """Which files of which snapshot, in the words of `snapshot_download`."""
    return {"repo_id": split(name)[0], "revision": commit(name), "allow_patterns": [*REST, *(WEIGHTS if weights else ())]}


def _is_cached(asked: dict[str, Any], tokenizer: tuple[str, ...], *, weights: bool) -> bool:
    """Whether the cache holds config, the named tokenizer files and the weights, and whatever else huggingface_hub knows of.

    It knows the list of files only of what it downloaded as a snapshot; another tool may have cached a few files only.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(**asked, local_files_only=True))
    except LocalEntryNotFoundError:
        return False
    wanted = [folder / "config.json", *(folder / file for file in tokenizer), *(weight_files(folder) if weights else ())]
    return all(path.is_file() for path in wanted)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a model folder, whether they are all there or not: one file, or the shards that the index names."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return [folder / "model.safetensors"]
    return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]


@contextmanager
def _shown(what: str, megabytes: int) -> Iterator[type]:
    """A tqdm class for huggingface_hub that draws nothing and tells KoSent's own progress how many bytes have come."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    def bar(advance: Advance | None) -> type:
        class Bar(tqdm):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs | {"file": io.StringIO()})

            def display(self, *args: Any, **kwargs: Any) -> None:
                if advance and self.unit == "B":
                    advance(min(int(self.n) // 10**6, megabytes - 1), "")

        return Bar

    if megabytes:
        with progress(what, megabytes) as advance:
            yield bar(advance)
            advance(megabytes, "")
    else:
        yield bar(None)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns whatever huggingface_hub raises inside into a `ModelError` that says what to do about it."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # its own errors, httpx's, the file system's: to the user all of them mean "no model"
        what, hint = _meaning(error, name)
        raise ModelError(what, hint=hint) from error


def _meaning(error: BaseException, name: str) -> tuple[str, str]:
    """What an error of huggingface_hub means for the user of base `name`, and what to do about it."""
    from huggingface_hub import constants, errors

    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    if any(isinstance(e, errors.HFValidationError) for e in chain):
        return f"There is no folder {name}, and a model on the hub is called ORG/NAME.", "name a folder, ORG/NAME or `starter`"
    if any(isinstance(e, errors.OfflineModeIsEnabled) for e in chain):
        return (
            f"{name} is no folder here and is not whole in the cache; HF_HUB_OFFLINE=1 forbids asking the hub for it.",
            "unset HF_HUB_OFFLINE     (then try again); or name a folder, or `starter`",
        )
    for link in chain:
        if isinstance(link, errors.HfHubHTTPError):
            return _refusal(link, name)
    if isinstance(error, OSError) and error.errno is not None:
        return f"{name} could not be stored: {error}.", "export HF_HOME=FOLDER     (moves the cache to another disk)"
    return (
        f"{name} is no folder here and is not whole in the cache, and the hub ({constants.ENDPOINT}) cannot be reached.",
        "look at the network, then try again; or name a folder, or `starter`",
    )


def _refusal(answer: HfHubHTTPError, name: str) -> tuple[str, str]:
    """As `_meaning`, for an answer of the hub: it says 401 without a token it knows, 403 when the account may not."""
    from huggingface_hub import errors, get_token

    repository, revision = split(name)
    page = f"https://huggingface.co/{repository}"
    status = answer.response.status_code
    if status == 401 and get_token():
        if os.environ.get("HF_TOKEN"):
            return f"{name}: the hub does not accept the token in HF_TOKEN.", "unset HF_TOKEN     (then: hf auth login)"
        return f"{name}: the hub does not accept the token that is stored here.", "hf auth login"
    if isinstance(answer, errors.GatedRepoError):
        if status == 401:
            return f"{name} is gated: it is for people who were given access, and nobody is logged in.", "hf auth login"
        return f"{name} is gated, and your account has no access to it.", f"ask for access on {page}, then try again"
    if isinstance(answer, errors.RepositoryNotFoundError):
        return (
            f"There is no folder {name} here and no model {repository} on the hub that you may see.",
            "look for it on https://huggingface.co/models     (private: hf auth login)",
        )
    if isinstance(answer, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision!r}.", f"look for it on {page}/commits/main"
    if status == 403:
        return (
            f"{name}: the hub refuses your token: {answer.server_message or answer}",
            "let the token read gated repositories (https://huggingface.co/settings/tokens), then try again",
        )
    return f"{name}: the hub answers {status}, and the cache does not hold all of it.", "try again later"
