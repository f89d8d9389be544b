"""Makes a collection anew, with another embedder or after a newer KoSent cuts documents otherwise.

Documents that are still where they were are read again; of the others the chunks are kept as they were cut. The collection stays
as it is until its successor is complete: stopped before, nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kosent.errors import DataError
from kosent.rag.adding import Count, Told, read
from kosent.rag.collection import Collection
from kosent.rag.document import Limits, UnreadableDocument
from kosent.rag.pipeline import Pipeline


@dataclass
class Rebuilt:
    collection: Collection
    """What it is now."""
    read: int = 0
    """Documents that were read again."""
    kept: int = 0
    """Documents that cannot be read any more, whose chunks were kept."""


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
    with collection.look() as (index, _):
        entries = index.documents()
    made = Rebuilt(collection.successor(embedder_name))
    count = Count(len(entries), told)
    with made.collection.writer() as writer, Pipeline(made.collection.embedder, writer, count.finished) as pipeline:
        for entry in entries:
            count.at(Path(entry.source).name)
            try:
                found = read(Path(entry.source), entry.source, entry.folder, "", limits or Limits())
            except UnreadableDocument:
                found = None
            if found is None:
                with collection.look() as (_, vectors):
                    found = entry, collection.chunks_of(entry, vectors)
                made.kept += 1
            else:
                made.read += 1
            pipeline.take(*found)
    collection.replace_by(made.collection)
    made.collection.close()
    made.collection = Collection.open(collection.name)
    return made
