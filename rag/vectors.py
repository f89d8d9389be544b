"""The chunks of one collection in Chroma: text, unit vector, facts; in a folder, or in a Chroma server.

Only this file knows Chroma. Cosine distance, no embedding function (vectors come from `kosent.embedders`), telemetry off.
A folder is opened by one process at a time to write and by others between its writes (`kosent.rag.collection` sees to it).
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent.errors import DataError, ServerDownError

if TYPE_CHECKING:
    import numpy as np

HNSW = {"space": "cosine", "ef_construction": 128, "max_neighbors": 16, "ef_search": 128}
AT_ONCE = 2000
"""Chunks a call; Chroma takes some 5,000."""

Facts = Mapping[str, str | int | float]


class Vectors:
    """`where` is a folder or the address of a server. Raises `DataError`, `ServerDownError`."""

    def __init__(self, where: Path | str, name: str, facts: Facts | None = None) -> None:
        """Opens the Chroma collection `name`; where it is not there, makes it with `facts`."""
        import chromadb
        from chromadb.config import Settings
        from chromadb.errors import NotFoundError

        self.where = where
        settings = Settings(anonymized_telemetry=False)
        with self._telling():
            if isinstance(where, Path):
                where.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._client: Any = chromadb.PersistentClient(where, settings=settings)
            else:
                url = urllib.parse.urlsplit(where if "://" in where else f"http://{where}")
                port = url.port or (443 if url.scheme == "https" else 8000)
                secure = url.scheme == "https"
                self._client = chromadb.HttpClient(url.hostname or "", port, ssl=secure, settings=settings)
            try:
                self._collection: Any = self._client.get_collection(name, embedding_function=None)
            except NotFoundError:
                if facts is None:
                    raise
                self._collection = self._client.create_collection(
                    name, metadata=dict(facts), configuration={"hnsw": HNSW}, embedding_function=None
                )

    @contextmanager
    def _telling(self) -> Iterator[None]:
        from chromadb.errors import ChromaError, InternalError, NotFoundError

        try:
            yield
        except NotFoundError:
            raise DataError(f"{self.where} holds no such collection.", hint="kosent rag list") from None
        except (ChromaError, OSError, ValueError, RuntimeError) as error:
            if not isinstance(self.where, Path):
                raise ServerDownError(
                    f"The Chroma server at {self.where} does not answer as it should: {str(error).strip():.200}",
                    hint="chroma run --path FOLDER --port 8000",
                ) from error
            if isinstance(error, OSError | InternalError) and "full" in str(error):
                raise DataError(f"The disk that holds {self.where} is full: {error}", hint=f"df -h {self.where}") from error
            raise DataError(
                f"Chroma cannot use {self.where}: {str(error).strip():.200}", hint="kosent rag rebuild NAME"
            ) from error

    def close(self) -> None:
        self._client.close()

    @property
    def facts(self) -> dict[str, Any]:
        """What the collection carries about itself, read anew."""
        with self._telling():
            return dict(self._client.get_collection(self._collection.name, embedding_function=None).metadata or {})

    def note(self, **facts: str | int | float) -> None:
        """Changes what it carries about itself."""
        changed = self.facts | facts
        with self._telling():
            self._collection.modify(metadata=changed)

    def count(self) -> int:
        with self._telling():
            return int(self._collection.count())

    # --- chunks

    def put(self, ids: Sequence[str], vectors: np.ndarray[Any, Any], texts: Sequence[str], facts: Sequence[Facts]) -> None:
        """Adds chunks, or writes over those of the same id. Each call of `AT_ONCE` is there whole or not at all."""
        with self._telling():
            for start in range(0, len(ids), AT_ONCE):
                part = slice(start, start + AT_ONCE)
                self._collection.upsert(
                    ids=list(ids[part]),
                    embeddings=vectors[part],
                    documents=list(texts[part]),
                    metadatas=[dict(one) for one in facts[part]],
                )

    def delete(self, ids: Sequence[str]) -> None:
        with self._telling():
            for start in range(0, len(ids), AT_ONCE):
                self._collection.delete(ids=list(ids[start : start + AT_ONCE]))

    def nearest(self, vector: np.ndarray[Any, Any], most: int, where: Mapping[str, Any] | None = None) -> list[tuple[str, float]]:
        """Ids and cosines of the chunks nearest to a unit vector [dimension], best first. `where` filters as Chroma has it."""
        with self._telling():
            count = self._collection.count()
            if not count:
                return []
            found = self._collection.query(
                query_embeddings=vector[None], n_results=min(most, count), where=where, include=["distances"]
            )
        return [(name, 1.0 - float(distance)) for name, distance in zip(found["ids"][0], found["distances"][0], strict=True)]

    def matching(self, ids: Sequence[str], where: Mapping[str, Any]) -> set[str]:
        """Those of the ids that the filter lets through."""
        if not ids:  # Chroma takes that for a mistake
            return set()
        with self._telling():
            return set(self._collection.get(ids=list(ids), where=where, include=[])["ids"])

    def chunks(self, ids: Sequence[str]) -> dict[str, tuple[str, dict[str, Any]]]:
        """Text and facts of chunks; what is not there is left out."""
        if not ids:  # Chroma takes that for a mistake
            return {}
        with self._telling():
            found = self._collection.get(ids=list(ids), include=["documents", "metadatas"])
        triples = zip(found["ids"], found["documents"], found["metadatas"], strict=True)
        return {name: (text, dict(facts)) for name, text, facts in triples}

    def vectors(self, ids: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        if not ids:  # Chroma takes that for a mistake
            return {}
        with self._telling():
            found = self._collection.get(ids=list(ids), include=["embeddings"])
        return dict(zip(found["ids"], found["embeddings"], strict=True))

    def ids(self) -> list[str]:
        """Of every chunk that is stored, whosever it is."""
        with self._telling():
            return list(self._collection.get(include=[])["ids"])

    # --- the whole

    def drop(self) -> None:
        """Removes the collection."""
        with self._telling():
            self._client.delete_collection(self._collection.name)
