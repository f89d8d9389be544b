"""Adds documents to a collection: finds the files, leaves out what is there unchanged, reads, cuts, embeds and stores the rest.

Reading, embedding and the analysis of words go on side by side. Every second or so what is ready is stored, each document whole;
typed again after an interruption, the same command goes on where it was.
"""

from __future__ import annotations

import glob
import hashlib
import os
import time
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kosent.embedders import Embedder
from kosent.errors import DataError, UsageError
from kosent.morphemes import Morphemes
from kosent.rag.collection import Collection, Prepared, Writer, document_key, searched_text
from kosent.rag.document import Limits, Loaded, UnreadableDocument
from kosent.rag.keyword_index import Entry
from kosent.rag.loaders import kind_of, load, loadable
from kosent.rag.splitting import Chunk, split

CHUNKS_AT_ONCE = 128
"""So many are embedded together."""
WAITING = 3
"""Batches that may be under way; more would only take memory."""

Told = Callable[[int, str], None]
"""`told(done, note)`: so many of the files are finished; `note` is the one at hand."""


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
    notes: dict[str, list[str]] = field(default_factory=dict)
    chunks: int = 0
    characters: int = 0


def files_of(paths: Sequence[str], summary: Summary) -> tuple[list[Source], list[str]]:
    """The files that the paths name, each once, and the folders among the paths. Globs (also `**`) are filled in; hidden
    files and those of unknown kinds in folders are left out, the latter counted in `summary.ignored`. Links to folders are not followed.

    Raises `UsageError` for what is not there.
    """
    found: dict[str, Source] = {}
    folders, missing = [], []
    for given in paths:
        named = [given] if os.path.exists(given) else sorted(glob.glob(os.path.expanduser(given), recursive=True))
        if not named:
            missing.append(given)
        for one in map(Path, named):
            path = Path(os.path.abspath(one))
            if path.is_dir():
                folders.append(unicodedata.normalize("NFC", str(path)))
                for inside in _within(path, summary):
                    found.setdefault(str(inside), Source(inside, folders[-1]))
            else:
                found[str(path)] = Source(path)
    if missing:
        raise UsageError(f"There is no such file or folder: {', '.join(missing)}", hint="kosent rag add NAME FOLDER")
    return list(found.values()), folders


def _within(folder: Path, summary: Summary) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(root, name)
            if loadable(path):
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

    `told(total)` is asked once for the function that hears of the progress. Raises what `Collection.writer` raises.
    """
    summary = Summary()
    sources, folders = files_of(paths, summary)
    with collection.writer() as writer:
        with collection.look() as (index, _):
            known = {entry.source: entry for entry in index.documents()}
        tell = told(len(sources)) if told else lambda done, note: None
        with _Pipeline(collection.embedder, writer, summary) as pipeline:
            for number, source in enumerate(sources):
                tell(number, source.path.name)
                _take(source, known.get(source.name), pipeline, summary, limits or Limits())
            tell(len(sources), "")
        gone = _gone(known.values(), {source.name for source in sources}, folders)
        if sync:
            writer.remove(entry.key for entry in gone)
        (summary.removed if sync else summary.gone).extend(entry.source for entry in gone)
    return summary


def _gone(known: Any, there: set[str], folders: Sequence[str]) -> list[Entry]:
    """Documents that came from one of the folders and lie there no more."""
    inside = tuple(f"{folder.rstrip(os.sep)}{os.sep}" for folder in folders)
    return [
        one
        for one in known
        if inside and one.source.startswith(inside) and one.source not in there and not os.path.exists(one.source)
    ]


def _take(source: Source, before: Entry | None, pipeline: _Pipeline, summary: Summary, limits: Limits) -> None:
    try:
        status = source.path.stat()
        sha256 = _hash(source.path) if source.path.is_file() and status.st_size <= limits.megabytes << 20 else ""
        key = document_key(source.name, sha256)
        if sha256 and before is not None and before.key == key:
            summary.unchanged.append(source.name)
            return
        loaded = load(source.path, limits=limits)
    except UnreadableDocument as error:
        summary.skipped[source.name] = (error.reason, str(error))
        return
    except OSError as error:
        summary.skipped[source.name] = ("damaged", str(error))
        return
    chunks = list(split(loaded.sections))
    if not chunks:
        summary.skipped[source.name] = ("no_text", f"{source.path} holds no word")
        return
    entry = Entry(
        key, source.name, loaded.title, kind_of(source.path), sha256, status.st_size, status.st_mtime, time.time(), len(chunks),
        sum(len(section.text) for section in loaded.sections), "; ".join(loaded.notes), source.folder,
    )  # fmt: skip
    pipeline.take(entry, chunks)
    (summary.changed if before is not None else summary.added).append(source.name)
    _count(summary, loaded, entry)


def _count(summary: Summary, loaded: Loaded, entry: Entry) -> None:
    summary.chunks += entry.chunks
    summary.characters += entry.characters
    if loaded.notes:
        summary.notes[entry.source] = loaded.notes


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Pipeline:
    """Takes documents, embeds and analyses batches of them in two threads, and stores them in their order."""

    def __init__(self, embedder: Embedder, writer: Writer, summary: Summary) -> None:
        self._embedder, self._writer, self._summary = embedder, writer, summary
        self._analyser = Morphemes()
        self._embedding, self._analysing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._batch: list[tuple[Entry, list[Chunk]]] = []
        self._waiting: deque[tuple[list[tuple[Entry, list[Chunk]]], Future[Any], Future[Any]]] = deque()

    def __enter__(self) -> _Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._hand_on()
                while self._waiting:
                    self._store()
        finally:
            for pool in (self._embedding, self._analysing):
                pool.shutdown(cancel_futures=True)

    def take(self, entry: Entry, chunks: list[Chunk]) -> None:
        self._batch.append((entry, chunks))
        if sum(len(chunks) for _, chunks in self._batch) >= CHUNKS_AT_ONCE:
            self._hand_on()
        while len(self._waiting) > WAITING:
            self._store()

    def _hand_on(self) -> None:
        if self._batch:
            texts = [searched_text(entry, chunk) for entry, chunks in self._batch for chunk in chunks]
            vectors = self._embedding.submit(self._embedder.passages, texts)
            self._waiting.append((self._batch, vectors, self._analysing.submit(self._analyser.content, texts)))
            self._batch = []

    def _store(self) -> None:
        batch, embedded, analysed = self._waiting.popleft()
        vectors, morphemes = embedded.result(), analysed.result()
        if len(vectors) != len(morphemes):
            raise DataError(f"The embedder {self._embedder.name} gave {len(vectors)} vectors for {len(morphemes)} texts.")
        ready, start = [], 0
        for entry, chunks in batch:
            end = start + len(chunks)
            ready.append(Prepared(entry, chunks, vectors[start:end], morphemes[start:end]))
            start = end
        self._writer.put(ready)
