"""A collection: documents of the user, cut into chunks, in Chroma and in a keyword index beside it.

    KOSENT_HOME/rag/NAME'S HASH/
        collection.json     its name and its fingerprint (embedder, dimension, prefixes, splitter), its Chroma server if any
        writer.lock         held by the process that adds or removes
        turn.lock           held for each look and each change, so that nobody reads what is half written
        GENERATION/chroma   texts, vectors, facts; in the server instead where there is one
        GENERATION/index.sqlite3

A change goes to Chroma first, then in one transaction to the index, which decides what is there; then what was replaced leaves
Chroma. Killed in between, a document is there as it was before or as it is afterwards; the next writer removes what is left over.
Between looks another process may have written: then Chroma's files are opened anew.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kosent import extras
from kosent.embedders import DEFAULT, Embedder, embedder
from kosent.errors import DataError, UsageError
from kosent.files import write_json
from kosent.locations import collections_folder, private_home
from kosent.morphemes import Analyser, shared
from kosent.rag import locks, server_lock, splitting
from kosent.rag.description import FORMAT, Description, Fingerprint, described, folder_of, names, other, spelled
from kosent.rag.keyword_index import Entry, KeywordIndex
from kosent.rag.splitting import Chunk
from kosent.rag.stored import Prepared, chunk_of, entry_of, facts_of, parts, searched_text
from kosent.rag.vectors import Vectors


class Collection:
    """One that is there already: `Collection.open`, `Collection.create`. May be used by several threads."""

    def __init__(self, description: Description) -> None:
        self.description = description
        self.folder = folder_of(description.name)
        self._index: KeywordIndex | None = None
        self._vectors: Vectors | None = None
        self._revision = -1
        self._mutex = threading.RLock()
        self._looking = 0
        self._writing = False

    # --- which there are

    @classmethod
    def create(cls, name: str, *, embedder_name: str = DEFAULT, server: str = "") -> Collection:
        """An empty one; a collection of that name on the server is taken as it is. Raises `UsageError` where one is here."""
        extras.require("rag", what="A collection")
        folder = folder_of(name)
        if (folder / "collection.json").exists():
            raise UsageError(f"There is a collection {spelled(name)!r} already.", hint=f"kosent rag show {spelled(name)}")
        fingerprint = Fingerprint.of(embedder(embedder_name))
        private_home()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        collections_folder().chmod(0o700)
        made = cls(Description(spelled(name), fingerprint, server, created=time.time()))
        if server:
            with closing(Vectors(server, made._chroma_name, made._chroma_facts())) as vectors:
                made._check(vectors.facts)
        write_json(folder / "collection.json", {"format": FORMAT, **asdict(made.description)})
        return made

    @classmethod
    def open(cls, name: str, *, embedder_name: str = "", server: str = "", old: bool = False) -> Collection:
        """Raises `DataError` where there is none, where it was made with another embedder or splitter (but `old` opens what an
        older KoSent cut), or where a newer KoSent made it."""
        extras.require("rag", what="A collection")
        description = described(folder_of(name), name, server)
        kept = description.fingerprint
        if embedder_name and embedder_name != kept.embedder:
            raise other(description, f"the embedder {kept.embedder}, not {embedder_name}", f" --embedder {embedder_name}")
        if kept.splitter != splitting.NAME and not old:
            raise other(description, f"chunks as {kept.splitter}, and this KoSent cuts them as {splitting.NAME}")
        if server and server != description.server:
            where = f"in the Chroma server {description.server}" if description.server else "in a folder of its own"
            raise DataError(f"The collection {description.name!r} is kept {where}.", hint=f"kosent rag show {description.name}")
        return cls(description)

    @classmethod
    def is_here(cls, name: str) -> bool:
        return (folder_of(name) / "collection.json").exists()

    @classmethod
    def names(cls) -> list[str]:
        """Of the collections that are here."""
        return names()

    @property
    def name(self) -> str:
        return self.description.name

    @cached_property
    def embedder(self) -> Embedder:
        """The one that the collection was made with. Raises what `kosent.embedders.embedder` raises, and `DataError` where it is
        no longer the same."""
        found = embedder(self.description.fingerprint.embedder)
        now, kept = Fingerprint.of(found), self.description.fingerprint
        if now != kept:
            raise other(
                self.description, f"{kept.dimension} dimensions and the prefixes {kept.prefixes}; {found.name} has changed"
            )
        return found

    # --- looking

    @contextmanager
    def look(self) -> Iterator[tuple[KeywordIndex, Vectors]]:
        """The index and the vectors as they are now; nobody changes them meanwhile."""
        with self._mutex, ExitStack() as stack:
            if not self._looking:
                stack.enter_context(locks.turn(self.folder / "turn.lock", self.name))
            self._looking += 1
            try:
                if self._looking == 1:
                    self._refresh()
                assert self._index is not None and self._vectors is not None
                yield self._index, self._vectors
            except sqlite3.DatabaseError as error:
                raise self._unusable(error) from error
            finally:
                self._looking -= 1

    def _refresh(self) -> None:
        now = described(self.folder, self.name, "")
        if now.fingerprint != self.description.fingerprint:
            raise DataError(f"The collection {self.name!r} was rebuilt with another embedder.", hint="start again")
        if (now.generation, now.created) != (self.description.generation, self.description.created):
            self.close()
            self.description = now
        if self._index is None:
            self._index = self._opened()
        if self._vectors is not None and not self.description.server and self._index.revision != self._revision:
            self._close_vectors()  # another process wrote
        if self._vectors is None:
            self._vectors = self._opened_vectors()
            if not self.description.server and not self._index.counts()[0] and self._vectors.count():
                self.derive()  # the index was lost
        if self.description.server and int(self._vectors.facts.get("revision", 0)) != self._index.revision:
            self.derive()
        self._revision = self._index.revision

    def _opened_vectors(self) -> Vectors:
        if self.description.server:
            found = Vectors(self.description.server, self._chroma_name)
        else:
            with locks.nobody_writes(self.folder / "writer.lock") as nobody:
                mend = nobody or self._writing
                found = Vectors(self.chroma_folder, self._chroma_name, self._chroma_facts(), mend=mend)
        try:
            self._check(found.facts)
            if self._index is not None and not self.description.server:
                self._check_all_there(self._index, found)
        except BaseException:
            found.close()
            raise
        return found

    def _check_all_there(self, index: KeywordIndex, vectors: Vectors) -> None:
        """Raises `DataError` where Chroma's files, or some of them, were lost."""
        known, there, oldest = index.counts()[1], vectors.count(), index.oldest()
        if there < known or (oldest and oldest not in vectors.vectors([oldest])):
            raise DataError(
                f"Chroma has lost some of the {known:,} passages of {self.name!r} (it holds {there:,}).",
                hint=f"kosent rag rebuild {self.name}",
            )

    def _unusable(self, error: sqlite3.DatabaseError) -> DataError:
        path = self._data / "index.sqlite3"
        if isinstance(error, sqlite3.OperationalError | sqlite3.IntegrityError):
            hint = f"df -h {self.folder}, then type this again: what was added before is there"
            return DataError(f"{path} cannot be used: {error}", hint=hint)
        self.close()
        if path.exists():
            _set_aside(path)
        return DataError(
            f"The keyword index of {self.name!r} is damaged: {error}", hint="type this again: it is made anew from Chroma"
        )

    def _close_vectors(self, *, whole: bool = True) -> None:
        if self._vectors is not None:
            self._vectors.close(whole=whole)
            self._vectors = None

    def _opened(self) -> KeywordIndex:
        self._data.mkdir(exist_ok=True, mode=0o700)
        path = self._data / "index.sqlite3"
        try:
            return KeywordIndex(path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            _set_aside(path)
            return KeywordIndex(path)

    def close(self) -> None:
        with self._mutex:
            self._close_vectors()
            if self._index is not None:
                self._index.close()
                self._index = None

    @property
    def _data(self) -> Path:
        return self.folder / str(self.description.generation)

    @property
    def chroma_folder(self) -> Path:
        """Where there is no server."""
        return self._data / "chroma"

    def listed(self) -> list[Entry]:
        """The documents as the index has them, whatever is wrong with Chroma. Raises `sqlite3.Error`."""
        path = self._data / "index.sqlite3"
        if not path.exists():
            return []
        index = KeywordIndex(path)
        try:
            return index.documents()
        finally:
            index.close()

    @property
    def _chroma_name(self) -> str:
        return f"kosent-{self.folder.name}"

    def _chroma_facts(self) -> dict[str, str | int | float]:
        kept = json.dumps(asdict(self.description.fingerprint), ensure_ascii=False)
        return {"kosent_name": self.name, "kosent_fingerprint": kept, "revision": 0}

    def _check(self, facts: dict[str, Any]) -> None:
        there = json.loads(str(facts.get("kosent_fingerprint", "{}")))
        if there != json.loads(json.dumps(asdict(self.description.fingerprint))):
            raise other(self.description, f"another embedder or splitter in Chroma ({there.get('embedder', 'unknown')})")

    # --- changing

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Raises `DataError` when another process is writing."""
        with ExitStack() as stack:
            self._take_writer_lock(stack)
            if self.description.server:
                stack.enter_context(server_lock.held(self.description.server, self._chroma_name, self.name))
            self._writing = True
            stack.callback(setattr, self, "_writing", False)
            with self.look() as (index, vectors):
                self._remove_generations_but(self.description.generation)
                killed = index.writing or bool(self.description.server and vectors.facts.get("writing"))
                if killed:  # what this process has open may be older than the files
                    self._close_vectors()
            with self.look() as (index, vectors):
                if killed:
                    self._remove_leftovers(index, vectors)
                self._note_writing(index, vectors, True)
            yield Writer(self)
            with self.look() as (index, vectors):
                self._note_writing(index, vectors, False)

    def _take_writer_lock(self, stack: ExitStack) -> None:
        """In turn, since whoever opens Chroma looks whether the lock is free."""
        with self._mutex, locks.turn(self.folder / "turn.lock", self.name):
            stack.enter_context(locks.only_writer(self.folder / "writer.lock", self.name))

    def _remove_generations_but(self, kept: int) -> None:
        """What a rebuilding that was stopped has left."""
        for path in self.folder.iterdir():
            if path.name.isdecimal() and path.name != str(kept):
                shutil.rmtree(path)

    def _note_writing(self, index: KeywordIndex, vectors: Vectors, writing: bool) -> None:
        index.note(writing=writing)
        if self.description.server:
            vectors.note(writing=int(writing))

    def _remove_leftovers(self, index: KeywordIndex, vectors: Vectors) -> None:
        if self.description.server:
            self.derive()
        stored, known = set(vectors.ids()), set(index.chunk_ids())
        vectors.delete(sorted(stored - known))
        with index.transaction():
            index.remove({name.rpartition(":")[0] for name in known - stored})
            index.note(revision=index.revision + 1)
        if self.description.server:
            vectors.note(revision=index.revision)

    def derive(self, analyser: Analyser | None = None) -> None:
        """Brings the index to what Chroma holds: whole documents only, of each source the newest."""
        with self.look() as (index, vectors):
            server = self.description.server
            revision = int(vectors.facts.get("revision", 0)) if server else index.revision + 1
            stored = vectors.ids()  # after the revision: what another machine writes meanwhile has a later one
            known = {entry.key: entry for entry in index.documents()}
            numbers: dict[str, int] = {}
            for name in stored:
                numbers[name.rpartition(":")[0]] = numbers.get(name.rpartition(":")[0], 0) + 1
            firsts = [f"{key}:0" for key in numbers if key not in known]
            new = [entry_of(facts) for part in parts(firsts) for _, facts in vectors.chunks(part).values()]
            whole = [one for one in new if numbers[one.key] == one.chunks] + [one for one in known.values() if one.key in numbers]
            newest = {one.source: one for one in sorted(whole, key=lambda one: one.added)}
            wanted = {one.key for one in newest.values()}
            with index.transaction():
                index.remove(set(known) - wanted)
                for entry in newest.values():
                    if entry.key not in known:
                        with suppress(Removed):
                            index.add(entry, (analyser or shared()).content(self._texts(entry, vectors)))
                index.note(revision=revision)

    def _texts(self, entry: Entry, vectors: Vectors) -> list[str]:
        return [searched_text(entry, chunk) for chunk in self.chunks_of(entry, vectors)]

    def chunks_of(self, entry: Entry, vectors: Vectors) -> list[Chunk]:
        """The chunks of a document, in their order. Raises `Removed`."""
        found: dict[str, tuple[str, dict[str, Any]]] = {}
        ids = [f"{entry.key}:{number}" for number in range(entry.chunks)]
        for part in parts(ids):
            found |= vectors.chunks(part)
        if len(found) < len(ids):
            raise Removed(f"{entry.source} was removed from {self.name!r} meanwhile.", hint=f"kosent rag show {self.name}")
        return [chunk_of(*found[name]) for name in ids]

    def delete(self) -> None:
        """Removes the collection and all that it holds; documents themselves stay where they are."""
        with ExitStack() as stack:
            self._take_writer_lock(stack)
            if self.description.server:
                stack.enter_context(server_lock.held(self.description.server, self._chroma_name, self.name))
                with suppress(DataError), closing(Vectors(self.description.server, self._chroma_name)) as vectors:
                    vectors.drop()
            stack.enter_context(locks.turn(self.folder / "turn.lock", self.name))
            self.close()
            (self.folder / "collection.json").unlink()
            shutil.rmtree(self.folder)

    def successor(self, embedder_name: str = "") -> Collection:
        """An empty one, to be filled and then put in this one's place by `replace_by`. Only for collections in a folder."""
        fingerprint = Fingerprint.of(embedder(embedder_name or self.description.fingerprint.embedder))
        return _Successor(replace(self.description, fingerprint=fingerprint))

    def replace_by(self, successor: Collection) -> None:
        """From now on the successor is the collection; in one step. To be called while the successor's writer is held."""
        successor.close()
        with locks.turn(self.folder / "turn.lock", self.name):
            write_json(self.folder / "collection.json", {"format": FORMAT, **asdict(successor.description)})
        old = self._data
        self.close()
        shutil.rmtree(old, ignore_errors=True)
        self.description = successor.description
        self.__dict__.pop("embedder", None)


class Removed(DataError):
    """Another machine took the document out between two looks at the server."""


class _Successor(Collection):
    """Not yet the one that collection.json describes."""

    def _refresh(self) -> None:
        if self._index is None:
            self._index = self._opened()
        if self._vectors is None:
            self._vectors = Vectors(self.chroma_folder, self._chroma_name, self._chroma_facts(), mend=True)

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        with ExitStack() as stack:
            self._take_writer_lock(stack)
            now = described(self.folder, self.name, "").generation
            self.description = replace(self.description, generation=now + 1)
            self._remove_generations_but(now)
            yield Writer(self)


class Writer:
    """Changes a collection; each call is there whole, or not at all."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection

    def put(self, documents: Sequence[Prepared]) -> None:
        """Adds documents; each takes the place of what there is of its source."""
        with self._changing() as (index, vectors):
            sources = {one.entry.source for one in documents}
            old = [entry.key for entry in index.documents_of(sources)]
            ids = [f"{one.entry.key}:{number}" for one in documents for number in range(len(one.chunks))]
            texts = [chunk.text for one in documents for chunk in one.chunks]
            facts = [facts_of(one.entry, number, chunk) for one in documents for number, chunk in enumerate(one.chunks)]
            if ids:
                import numpy as np

                vectors.put(ids, np.concatenate([one.vectors for one in documents if len(one.chunks)]), texts, facts)
            self._commit(index, vectors, set(old) - {one.entry.key for one in documents}, documents)

    def remove(self, keys: Iterable[str]) -> None:
        with self._changing() as (index, vectors):
            self._commit(index, vectors, set(keys), ())

    @contextmanager
    def _changing(self) -> Iterator[tuple[KeywordIndex, Vectors]]:
        with self.collection.look() as parts:
            try:
                yield parts
            except BaseException:
                self.collection._close_vectors(whole=False)
                raise

    def _commit(self, index: KeywordIndex, vectors: Vectors, old: set[str], new: Sequence[Prepared]) -> None:
        left = index.chunk_ids(old)
        revision = index.revision + 1
        with index.transaction():
            index.remove(old | {one.entry.key for one in new})
            for one in new:
                index.add(one.entry, one.morphemes)
            index.note(revision=revision)
        server = bool(self.collection.description.server)
        if server and new:
            vectors.note(revision=revision)  # other machines take the new version before the old one goes
        vectors.delete(left)
        if server and left:
            revision += 1
            index.note(revision=revision)
            vectors.note(revision=revision)
        self.collection._revision = revision


def _set_aside(path: Path) -> None:
    """A damaged index is kept under another name; its journal belongs to it and to no new one."""
    damaged = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    for end in ("-journal", ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + end).replace(damaged.with_name(damaged.name + end))
