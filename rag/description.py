"""What a collection is called and was made with: collection.json, and the same at a Chroma server."""

from __future__ import annotations

import hashlib
import json
import time
import unicodedata
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kosent.embedders import Embedder
from kosent.errors import DataError, UsageError
from kosent.files import read_json, write_json
from kosent.locations import collections_folder, private_home
from kosent.rag import splitting
from kosent.rag.vectors import Vectors
from kosent.text import printable

FORMAT = 1
LONGEST_NAME = 60


@dataclass(frozen=True)
class Fingerprint:
    """What must be the same for vectors to be comparable and chunks to be found again."""

    embedder: str
    dimension: int
    prefixes: tuple[str, str]
    splitter: str = splitting.NAME

    @classmethod
    def of(cls, one: Embedder) -> Fingerprint:
        return cls(one.name, one.dimension, one.prefixes)


@dataclass(frozen=True)
class Description:
    """collection.json"""

    name: str
    fingerprint: Fingerprint
    server: str = ""
    generation: int = 1
    created: float = 0.0


def spelled(name: str) -> str:
    """A collection's name as it is kept. Raises `UsageError`."""
    found = unicodedata.normalize("NFC", name).strip()
    if not found or len(found) > LONGEST_NAME or printable(found) != found or "\n" in found or found.startswith("-"):
        raise UsageError(
            f"{name!r:.80} cannot be the name of a collection: 1 to {LONGEST_NAME} letters on one line, no - at the beginning."
        )
    return found


def folder_of(name: str) -> Path:
    return collections_folder() / hashlib.sha256(spelled(name).encode()).hexdigest()[:16]


def described(folder: Path, name: str, server: str) -> Description:
    path = folder / "collection.json"
    if not path.exists() and server:
        return on_server(name, server, folder)
    if not path.exists():
        there = ", ".join(names())
        hint = f"kosent rag add {spelled(name)} FOLDER" + (f"   (there are: {there})" if there else "")
        raise DataError(f"There is no collection {spelled(name)!r}.", hint=hint)
    try:
        kept = read_json(path)
        if kept.pop("format") > FORMAT:
            raise DataError(f"The collection {name!r} was made by a newer KoSent.", hint="pip install -U kosent")
        fingerprint = kept.pop("fingerprint")
        return Description(fingerprint=Fingerprint(**fingerprint | {"prefixes": tuple(fingerprint["prefixes"])}), **kept)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}", hint=f"move {folder} away and add the documents again") from error


def on_server(name: str, server: str, folder: Path) -> Description:
    """A collection that another machine made there."""
    with closing(Vectors(server, f"kosent-{folder.name}")) as vectors:
        facts = vectors.facts
    fingerprint = json.loads(str(facts["kosent_fingerprint"]))
    found = Description(
        spelled(name), Fingerprint(**fingerprint | {"prefixes": tuple(fingerprint["prefixes"])}), server, created=time.time()
    )
    private_home()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(folder / "collection.json", {"format": FORMAT, **asdict(found)})
    return found


def other(description: Description, what: str, more: str = "") -> DataError:
    hint = f"kosent rag rebuild {description.name}{more}"
    return DataError(f"The collection {description.name!r} was made with {what}.", hint=hint)


def names() -> list[str]:
    """Of the collections that are here; one whose description is damaged has none."""
    found = []
    for path in collections_folder().glob("*/collection.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found.append(str(read_json(path)["name"]))
    return sorted(found)
