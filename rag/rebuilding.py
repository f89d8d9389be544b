"""Makes a collection anew, with another embedder or after a newer KoSent cuts documents otherwise.

Documents that are still where they were are read again; of the others the chunks are kept as they were cut. The collection stays
as it is until its successor is complete: stopped before, nothing has changed. It is also what makes good a damaged collection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kosent.errors import DataError
from kosent.rag.adding import Count, Told, read
from kosent.rag.collection import Collection
from kosent.rag.document import Limits, UnreadableDocument
from kosent.rag.keyword_index import Entry
from kosent.rag.pipeline import Pipeline
from kosent.rag.splitting import Chunk
from kosent.rag.stored import chunk_of, entry_of
from kosent.rag.vectors import stored


@dataclass
class Rebuilt:
    collection: Collection
    """What it is now."""
    read: int = 0
    """Documents that were read again."""
    kept: int = 0
    """Documents that cannot be read any more, whose chunks were kept."""
    lost: list[str] = field(default_factory=list)
    """Sources that are no longer there, and neither are their chunks."""


def rebuild(
    collection: Collection, embedder_name: str = "", *, limits: Limits | None = None, told: Callable[[int], Told] | None = None
) -> Rebuilt:
    """Rebuilds with the embedder of that name, or with its own; `told` as in `kosent.rag.adding.add`.

    Raises `DataError` where the collection's texts cannot be read and where it is kept on a server.
    """
    if collection.description.server:
        name, server = collection.name, collection.description.server
        raise DataError(
            f"The collection {name!r} is on a server, where others may be reading it.",
            hint=f"kosent rag remove {name}, then kosent rag add {name} FOLDER --chroma {server}",
        )
    made = Rebuilt(collection.successor(embedder_name))
    with made.collection.writer() as writer:
        entries, chunks_of = _what_is_there(collection)
        count = Count(len(entries), told)
        with Pipeline(made.collection.embedder, writer, count.finished) as pipeline:
            for entry in entries:
                count.at(Path(entry.source).name)
                try:
                    found = read(Path(entry.source), entry.source, entry.folder, "", limits or Limits())
                except UnreadableDocument:
                    found = None
                if found is not None:
                    made.read += 1
                elif chunks := chunks_of(entry):
                    found = entry, chunks
                    made.kept += 1
                else:
                    made.lost.append(entry.source)
                    count.finished()
                    continue
                pipeline.take(*found)
        collection.replace_by(made.collection)
    made.collection = Collection.open(collection.name)
    return made


def _what_is_there(collection: Collection) -> tuple[Sequence[Entry], Callable[[Entry], list[Chunk]]]:
    """The documents, and what gives a document's chunks; where Chroma's vectors or the index cannot be used, by the others."""
    try:
        with collection.look() as (index, _):
            entries = index.documents()
    except DataError as error:
        collection.close()
        return _salvaged(collection, error)

    def chunks_of(entry: Entry) -> list[Chunk]:
        with collection.look() as (_, vectors):
            return collection.chunks_of(entry, vectors)

    return entries, chunks_of


def _salvaged(collection: Collection, trouble: DataError) -> tuple[Sequence[Entry], Callable[[Entry], list[Chunk]]]:
    def chunks_of(entry: Entry) -> list[Chunk]:
        ids = [f"{entry.key}:{number}" for number in range(entry.chunks)]
        with suppress(sqlite3.Error):
            found = stored(collection.chroma_folder, ids)
            if len(found) == len(ids):
                return [chunk_of(*found[name]) for name in ids]
        return []

    try:
        entries = collection.listed()
    except sqlite3.Error:
        entries = []
    with suppress(sqlite3.Error):
        firsts = [entry_of(facts) for _, facts in stored(collection.chroma_folder).values()] if not entries else []
        newest = {entry.source: entry for entry in sorted(firsts, key=lambda one: one.added) if chunks_of(entry)}
        entries = entries or list(newest.values())
    if not entries:
        raise DataError(
            f"Nothing of {collection.name!r} can be read any more: {trouble}",
            hint=f"kosent rag remove {collection.name}, then add the documents again",
        ) from trouble
    return entries, chunks_of
