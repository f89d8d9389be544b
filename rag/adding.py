"""Adds documents to a collection: finds the files, leaves out what is there unchanged, reads, cuts, embeds and stores the rest.

What is ready is stored every second or so, each document whole: typed again after an interruption, the same command goes on
where it was.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shlex
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kosent.errors import DataError, UsageError
from kosent.rag.collection import Collection
from kosent.rag.document import Limits, UnreadableDocument
from kosent.rag.keyword_index import Entry
from kosent.rag.loaders import kind_of, load, loadable
from kosent.rag.pipeline import Pipeline
from kosent.rag.splitting import Chunk, split
from kosent.rag.stored import document_key

Told = Callable[[int, str], None]
"""`told(done, note)`: so many of the files are finished; `note` is the one at hand."""


class Count:
    """Files that are finished: stored, or looked at and left."""

    def __init__(self, total: int, told: Callable[[int], Told] | None) -> None:
        self._tell = told(total) if told else lambda done, note: None
        self._done, self._note = 0, ""

    def at(self, name: str) -> None:
        """The file of that name is at hand."""
        self._note = name
        self.finished(0)

    def finished(self, files: int = 1) -> None:
        self._done += files
        self._tell(self._done, self._note)


@dataclass(frozen=True)
class Source:
    """A file to be added; `folder` is the folder it was found in, "" when it was named itself."""

    path: Path
    folder: str = ""

    @property
    def name(self) -> str:
        """How the collection calls it: its absolute path, composed."""
        return unicodedata.normalize("NFC", str(self.path))


@dataclass
class Summary:
    """What became of the files: their sources by kind of outcome."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    """No longer in the folder (`--sync`)."""
    gone: list[str] = field(default_factory=list)
    """No longer in the folder, and kept."""
    skipped: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Source -> reason (`UnreadableDocument.reason`) and what was said."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Suffix -> how many files of an unknown kind lay in the folders."""
    notes: dict[str, str] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    """Sources that were in the collection before."""
    closed: list[str] = field(default_factory=list)
    """Folders that could not be read: what came from there before is neither there nor gone."""
    chunks: int = 0
    characters: int = 0


def files_of(paths: Sequence[str], summary: Summary) -> tuple[list[Source], list[str]]:
    """The files that the paths name, each once, and the folders among the paths.

    Globs (also `**`) are filled in; hidden files and those of unknown kinds in folders are left out, the latter counted in
    `summary.ignored`. Links to folders are not followed, nor links to files outside the folder in which they lie. A path that is
    no longer there stands among the folders where `summary.known` has documents of it.

    Raises `UsageError` for what is not there.
    """
    found: dict[str, Source] = {}
    folders, missing = list[str](), list[str]()
    for given in paths:
        named = [given] if os.path.lexists(given) else sorted(glob.glob(os.path.expanduser(given), recursive=True))
        if not named:
            gone = Source(Path(os.path.abspath(os.path.expanduser(given)))).name
            if any(map(_inside([gone]), summary.known)):
                folders.append(gone)
            else:
                missing.append(given)
        for one in map(Path, named):
            path = Path(os.path.abspath(one))
            if path.is_dir():
                folders.append(unicodedata.normalize("NFC", str(path)))
                for inside in _within(path, summary):
                    _find(Source(inside, folders[-1]), found, summary)
            else:
                _find(Source(path), found, summary)
    if missing:
        raise UsageError(f"There is no such file or folder: {', '.join(missing)}", hint="ls     (what is there?)")
    return list(found.values()), folders


def _find(source: Source, found: dict[str, Source], summary: Summary) -> None:
    """Two files whose names differ only in how their letters are composed would be one document: the composed one is."""
    other = found.get(source.name)
    if other is None or (source.path == other.path and not source.folder) or str(source.path) == source.name != str(other.path):
        found[source.name] = source
    if other is not None and source.path != other.path:
        left = other if found[source.name] is source else source
        said = f"{left.path}: a file of the same name, its letters composed otherwise, lies beside it."
        summary.skipped[str(left.path)] = ("unsafe", said)


def _within(folder: Path, summary: Summary) -> Iterator[Path]:
    def closed(error: OSError) -> None:
        name = unicodedata.normalize("NFC", str(error.filename))
        summary.closed.append(name)
        summary.skipped[name] = ("damaged", f"{name}: the folder cannot be read: {error.strerror or error}.")

    home = os.path.realpath(folder)
    for root, folders, names in os.walk(folder, onerror=closed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(root, name)
            if loadable(path) and path.is_symlink() and not _inside([home])(os.path.realpath(path)):
                said = f"{path}: it is a link that leads out of the folder; name the file itself to add it."
                summary.skipped[str(path)] = ("unsafe", said)
            elif loadable(path):
                yield path
            else:
                summary.ignored[path.suffix.lower() or name] += 1


def add(
    collection: Collection,
    paths: Sequence[str],
    *,
    sync: bool = False,
    limits: Limits | None = None,
    told: Callable[[int], Told] | None = None,
) -> Summary:
    """Adds what is at the paths. With `sync`, what came from those folders and is no longer there is removed.

    `told(total)` is asked once for the function that hears of the progress. Raises what `Collection.writer` raises, and
    `DataError` where `sync` would remove all of a folder that has gone or is empty: a drive that is not there looks like that.
    """
    summary = Summary()
    with collection.look() as (index, _):
        summary.known = {entry.source for entry in index.documents()}
    sources, folders = files_of(paths, summary)
    if sync:
        _check_there(collection, folders, summary)
    with collection.writer() as writer:
        with collection.look() as (index, _):
            known = {entry.source: entry for entry in index.documents()}
        summary.known = set(known)
        count = Count(len(sources), told)
        with Pipeline(collection.embedder, writer, count.finished) as pipeline:
            for source in sources:
                count.at(source.path.name)
                if not _take(source, known.get(source.name), pipeline, summary, limits or Limits()):
                    count.finished()
        gone = _gone(known.values(), {source.name for source in sources}, folders, summary.closed)
        if sync:
            writer.remove(entry.key for entry in gone)
        (summary.removed if sync else summary.gone).extend(entry.source for entry in gone)
    return summary


def _check_there(collection: Collection, folders: Sequence[str], summary: Summary) -> None:
    for folder in folders:
        inside = [source for source in summary.known if source != folder and _inside([folder])(source)]
        if inside and folder not in summary.closed and not (os.path.isdir(folder) and os.listdir(folder)):
            what = "is empty" if os.path.isdir(folder) else "is no longer there"
            raise DataError(
                f"{folder} {what}; --sync would remove all of its {len(inside)} documents, and nothing was changed.",
                hint=f"kosent rag remove {shlex.quote(collection.name)} {shlex.quote(folder)}     (if that is what you want)",
            )


def _gone(known: Iterable[Entry], there: set[str], folders: Sequence[str], closed: Sequence[str]) -> list[Entry]:
    """Documents that came from one of the folders and lie there no more."""
    inside, unknown = _inside(folders), _inside(closed)
    missing = [one for one in known if inside(one.source) and one.source not in there and not unknown(one.source)]
    return [one for one in missing if not os.path.exists(one.source)]


def _inside(folders: Iterable[str]) -> Callable[[str], bool]:
    """Whether a source is one of the paths, or lies in one of them."""
    exactly = set(folders)
    starts = tuple(f"{folder.rstrip(os.sep)}{os.sep}" for folder in exactly)
    return lambda source: source in exactly or source.startswith(starts)


def _take(source: Source, before: Entry | None, pipeline: Pipeline, summary: Summary, limits: Limits) -> bool:
    """Whether the document will be stored."""
    try:
        found = read(source.path, source.name, source.folder, before.key if before else "", limits)
    except UnreadableDocument as error:
        summary.skipped[source.name] = (error.reason, str(error))
        return False
    if found is None:
        summary.unchanged.append(source.name)
        return False
    entry, chunks = found
    pipeline.take(entry, chunks)
    (summary.changed if before is not None else summary.added).append(source.name)
    summary.chunks += entry.chunks
    summary.characters += entry.characters
    if entry.notes:
        summary.notes[entry.source] = entry.notes
    return True


def read(path: Path, name: str, folder: str, known: str, limits: Limits) -> tuple[Entry, list[Chunk]] | None:
    """The document at `path`, which the collection calls `name`, cut into chunks; None when it is still the version `known`.

    Raises `UnreadableDocument`.
    """
    try:
        status = path.stat()
        sha256 = _hash(path) if path.is_file() and status.st_size <= limits.megabytes << 20 else ""
        key = document_key(name, sha256)
        if sha256 and known == key:
            return None
        loaded = load(path, limits=limits)
        if _version(path.stat()) != _version(status):
            said = f"{path}: it was changed while it was read."
            raise UnreadableDocument(said, reason="damaged", path=path, hint="add it again")
    except OSError as error:
        raise UnreadableDocument(f"{path}: {error.strerror or error}", reason="damaged", path=path) from error
    chunks = list(split(loaded.sections))
    if not chunks:
        raise UnreadableDocument(f"{path} holds no word.", reason="no_text", path=path)
    entry = Entry(
        key, name, loaded.title, kind_of(path), sha256, status.st_size, status.st_mtime, time.time(), len(chunks),
        sum(len(section.text) for section in loaded.sections), "; ".join(loaded.notes), folder,
    )  # fmt: skip
    return entry, chunks


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
