"""The chunks of one collection in Chroma: text, unit vector, facts; in a folder, or in a Chroma server.

Only this file and `hnsw_files` know Chroma. Cosine distance, no embedding function (vectors come from `kosent.embedders`),
telemetry off. A folder is opened by one process at a time to write and by others between its writes (`kosent.rag.collection`
sees to it).
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sqlite3
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent.errors import DataError, ServerDownError, UsageError
from kosent.rag.hnsw_files import HnswFiles

if TYPE_CHECKING:
    import numpy as np

HNSW = {"space": "cosine", "ef_construction": 128, "max_neighbors": 16, "ef_search": 128}
AT_ONCE = 2000
"""Chunks a call; Chroma takes some 5,000."""
ANSWER = 60.0
"""Seconds after which a server that does not answer is taken to be down."""
PATIENCE = (0.05, 0.1, 0.2, 0.4)
"""Seconds between questions to a server that is in the middle of a change."""
LITTLE = 1 << 20
"""Bytes that are free on a disk which is full."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Facts = Mapping[str, str | int | float]


_spellings: set[str] = set()
"""Folders that are open in this process: Chroma shares what it has open under one path, and would show it as it was when another
process has written. So each time a folder is opened it is spelled otherwise."""


class Vectors:
    """`where` is a folder or the address of a server. Raises `DataError`, `ServerDownError`."""

    def __init__(self, where: Path | str, name: str, facts: Facts | None = None, *, mend: bool = False) -> None:
        """Opens the Chroma collection `name`; where it is not there, makes it with `facts`. `mend`: nobody is writing, so what a
        process left behind that was killed may be put right."""
        import chromadb
        from chromadb.config import Settings
        from chromadb.errors import ChromaError, NotFoundError

        self.where, self._about = where, str((facts or {}).get("kosent_name", "NAME"))
        self._files: HnswFiles | None = None
        self._spelling = ""
        self._client: Any = None
        self._at_end = ExitStack()
        settings = Settings(anonymized_telemetry=False)
        try:
            with self._telling():
                if isinstance(where, Path):
                    self._prepare(where, mend)
                    try:
                        self._client = chromadb.PersistentClient(self._spelling, settings=settings)
                    except AttributeError:  # Chroma stumbles over what an attempt that failed has left, and clears it away
                        self._client = chromadb.PersistentClient(self._spelling, settings=settings)
                else:
                    self._connect(where, settings)
                try:
                    self._collection: Any = self._client.get_collection(name, embedding_function=None)
                except NotFoundError:
                    if facts is None:
                        raise
                    configuration: Any = {"hnsw": HNSW}
                    try:
                        self._collection = self._client.create_collection(
                            name, metadata=dict(facts), configuration=configuration, embedding_function=None
                        )
                    except ChromaError:  # another machine was quicker
                        self._collection = self._client.get_collection(name, embedding_function=None)
                if self._files is not None and self._files.kept:
                    self._collection.count()  # applies what stands in the log
                    self._settle()
        except BaseException:
            self.close()
            raise

    def _connect(self, where: str, settings: Any) -> None:
        """Chroma itself waits for ever, and leaves the connection open when it is closed."""
        import chromadb

        url = urllib.parse.urlsplit(where if "://" in where else f"http://{where}")
        host, secure = url.hostname or "", url.scheme == "https"
        port = url.port or (443 if secure else 8000)
        socket.create_connection((host, port), timeout=ANSWER).close()
        self._client = chromadb.HttpClient(host, port, ssl=secure, settings=settings)
        if session := getattr(self._client._server, "_session", None):
            session.timeout = ANSWER
            self._at_end.callback(session.close)

    def _prepare(self, where: Path, mend: bool) -> None:
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files = HnswFiles(where)
        if mend:
            self._files.put_back()
        if found := self._files.damage():
            raise DataError(f"{found[0].upper()}{found[1:]}.", hint=f"kosent rag rebuild {self._about}")
        self._spelling = str(where)
        while self._spelling in _spellings:
            self._spelling += f"{os.sep}."
        _spellings.add(self._spelling)

    @contextmanager
    def _telling(self, where: Mapping[str, Any] | None = None) -> Iterator[None]:
        from chromadb.errors import ChromaError, InvalidArgumentError, NotFoundError
        from httpx import HTTPError

        try:
            yield
        except NotFoundError:
            raise DataError(f"{self.where} holds no such collection.", hint="kosent rag list") from None
        except (ChromaError, HTTPError, OSError, ValueError, RuntimeError) as error:
            said = str(error).strip()[-200:]
            if where and isinstance(error, ValueError | InvalidArgumentError):
                raise UsageError(
                    f"Chroma does not understand the filter {where}: {said}", hint='{"page": {"$lte": 10}}'
                ) from error
            if not isinstance(self.where, Path):
                raise ServerDownError(
                    f"The Chroma server at {self.where} does not answer as it should: {said}",
                    hint="chroma run --path FOLDER --port 8000",
                ) from error
            if _full(error, self.where):
                raise DataError(
                    f"The disk that holds {self.where} takes no more: {said}",
                    hint=f"df -h {self.where}, then type this again: what was added before is there",
                ) from error
            raise DataError(f"Chroma cannot use {self.where}: {said}", hint=f"kosent rag rebuild {self._about}") from error

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._telling():
            if self._files is not None:
                self._files.keep()
            yield
            self._settle()

    def _settle(self) -> None:
        if self._files is not None and not self._files.changed():
            raise DataError(
                f"The disk that holds {self.where} did not take all of the vectors; the texts are there.",
                hint=f"make room, then: kosent rag rebuild {self._about}",
            )

    def close(self, *, whole: bool = True) -> None:
        """`whole`: the last change succeeded; else it is undone as far as it was not finished."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self._at_end.close()
        if self._files is not None and self._files.kept:
            if whole:
                self._files.forget()
            else:
                self._files.put_back()
        self._files = None
        _spellings.discard(self._spelling)

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

    def now(self) -> float:
        """The server's clock, in seconds since 1970, since those of the machines may differ."""
        with self._telling():
            return float(self._client.heartbeat()) / 1e9

    def count(self) -> int:
        with self._telling():
            return int(self._collection.count())

    # --- chunks

    def put(self, ids: Sequence[str], vectors: np.ndarray[Any, Any], texts: Sequence[str], facts: Sequence[Facts]) -> None:
        """Adds chunks, or writes over those of the same id. Each call of `AT_ONCE` is there whole or not at all."""
        with self._changing():
            for start in range(0, len(ids), AT_ONCE):
                part = slice(start, start + AT_ONCE)
                self._collection.upsert(
                    ids=list(ids[part]),
                    embeddings=vectors[part],
                    documents=list(texts[part]),
                    metadatas=[dict(one) for one in facts[part]],
                )

    def delete(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        with self._changing():
            for start in range(0, len(ids), AT_ONCE):
                self._collection.delete(ids=list(ids[start : start + AT_ONCE]))

    def nearest(self, vector: np.ndarray[Any, Any], most: int, where: Mapping[str, Any] | None = None) -> list[tuple[str, float]]:
        """Ids and cosines of the chunks nearest to a unit vector [dimension], best first. `where` filters as Chroma has it."""
        with self._telling(where):
            found = self._patiently(
                lambda: self._collection.query(query_embeddings=vector[None], n_results=most, where=where, include=["distances"])
            )
        return [(name, 1.0 - float(distance)) for name, distance in zip(found["ids"][0], found["distances"][0], strict=True)]

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """A server fails where it is asked for vectors between two steps of another machine's change."""
        from chromadb.errors import InternalError

        for wait in PATIENCE if not isinstance(self.where, Path) else ():
            try:
                return ask()
            except InternalError:
                time.sleep(wait)
        return ask()

    def matching(self, ids: Sequence[str], where: Mapping[str, Any]) -> set[str]:
        """Those of the ids that the filter lets through."""
        if not ids:  # Chroma takes that for a mistake
            return set()
        with self._telling(where):
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
            found = self._patiently(lambda: self._collection.get(ids=list(ids), include=["embeddings"]))
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


def _full(error: Exception, where: Path) -> bool:
    """Chroma does not always say so."""
    told = getattr(error, "errno", 0) in FULL or any(said in str(error) for said in ("is full", "disk I/O error"))
    return told or (where.exists() and shutil.disk_usage(where).free < LITTLE)


def stored(folder: Path, ids: Sequence[str] | None = None) -> dict[str, tuple[str, dict[str, Any]]]:
    """Text and facts of chunks, from Chroma's SQLite file alone, for when its vector index cannot be used; without `ids` only of
    the documents' first chunks. The folder must not be open. Raises `sqlite3.Error`."""
    if not (folder / "chroma.sqlite3").exists():
        return {}
    database = sqlite3.connect(folder / "chroma.sqlite3", timeout=10.0)
    try:
        names = ids if ids is not None else [one for (one,) in database.execute(FIRST)]
        return {name: found for name in names if (found := _stored_one(database, name))}
    finally:
        database.close()


FIRST = "SELECT embedding_id FROM embeddings WHERE embedding_id LIKE '%:0'"
VALUES = (
    "SELECT key, coalesce(string_value, int_value, float_value, bool_value) FROM embedding_metadata"
    " JOIN embeddings USING (id) WHERE segment_id = (SELECT id FROM segments WHERE scope = 'METADATA') AND embedding_id = ?"
)


def _stored_one(database: sqlite3.Connection, name: str) -> tuple[str, dict[str, Any]] | None:
    facts = dict(database.execute(VALUES, (name,)).fetchall())
    text = facts.pop("chroma:document", None)
    return None if text is None else (str(text), facts)
