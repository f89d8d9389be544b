"""What of a collection is searched by words: its documents, its chunks' morphemes, BM25 by SQLite's FTS5.

It also says which documents are there at all: vectors whose chunk is not listed here belong to nobody (a document that was
being added, or replaced, when the process ended). What it holds can be derived again from Chroma (`Collection.derive`).
"""

from __future__ import annotations

import math
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

MOST_ROWS = 20_000
"""Rows that one query may score. The commonest morphemes are left out beyond: a word of every tenth chunk tells them apart
little and costs most of the time."""
TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO meta VALUES ('revision', '0'), ('writing', '0');
CREATE TABLE document (
    key TEXT PRIMARY KEY, source TEXT NOT NULL, title TEXT NOT NULL, kind TEXT NOT NULL, sha256 TEXT NOT NULL,
    bytes INTEGER NOT NULL, modified REAL NOT NULL, added REAL NOT NULL, chunks INTEGER NOT NULL, characters INTEGER NOT NULL,
    notes TEXT NOT NULL, folder TEXT NOT NULL
);
CREATE INDEX document_by_source ON document (source);
CREATE TABLE chunk (id INTEGER PRIMARY KEY, document TEXT NOT NULL, number INTEGER NOT NULL);
CREATE UNIQUE INDEX chunk_by_document ON chunk (document, number);
CREATE VIRTUAL TABLE keywords USING fts5 (morphemes, tokenize = "unicode61 remove_diacritics 0 tokenchars '/_'");
CREATE VIRTUAL TABLE vocabulary USING fts5vocab (keywords, row);
"""


@dataclass(frozen=True)
class Entry:
    """A document of a collection. `key` names this version of it; `modified` and `added` are seconds since 1970."""

    key: str
    source: str
    title: str
    kind: str
    sha256: str
    bytes: int
    modified: float
    added: float
    chunks: int
    characters: int
    notes: str = ""
    folder: str = ""
    """The folder by which it was named, "" where it was named itself."""


COLUMNS = ", ".join(field.name for field in fields(Entry))


class KeywordIndex:
    """Raises `sqlite3.DatabaseError` when the file is damaged."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        self._database = sqlite3.connect(path, timeout=10.0, check_same_thread=False, isolation_level=None)
        if not self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            with self.transaction():
                for statement in filter(str.strip, TABLES.split(";\n")):
                    self._database.execute(statement)

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is changed in it is there afterwards, or nothing."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._database.in_transaction:  # on a full disk SQLite ends it by itself
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    # --- what is known of the whole

    @property
    def revision(self) -> int:
        """Grows with every change."""
        return int(self._meta("revision"))

    @property
    def writing(self) -> bool:
        """Whether somebody is adding documents, or was when the process ended."""
        return self._meta("writing") == "1"

    def _meta(self, name: str) -> str:
        (value,) = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(value)

    def note(self, *, revision: int | None = None, writing: bool | None = None) -> None:
        changes = {"revision": revision, "writing": None if writing is None else int(writing)}
        for name, value in changes.items():
            if value is not None:
                self._database.execute("UPDATE meta SET value = ? WHERE name = ?", (str(value), name))

    def documents(self) -> list[Entry]:
        """In the order of their sources."""
        return [Entry(*row) for row in self._database.execute(f"SELECT {COLUMNS} FROM document ORDER BY source")]

    def documents_of(self, sources: Iterable[str]) -> list[Entry]:
        found = []
        for source in sources:
            found += self._database.execute(f"SELECT {COLUMNS} FROM document WHERE source = ?", (source,)).fetchall()
        return [Entry(*row) for row in found]

    def counts(self) -> tuple[int, int]:
        """Documents and chunks."""
        return (
            int(self._database.execute("SELECT count(*) FROM document").fetchone()[0]),
            int(self._database.execute("SELECT count(*) FROM chunk").fetchone()[0]),
        )

    def oldest(self) -> str:
        """The Chroma id of the chunk that has been there longest, "" where there is none."""
        row = self._database.execute("SELECT document, number FROM chunk ORDER BY id LIMIT 1").fetchone()
        return f"{row[0]}:{row[1]}" if row else ""

    def chunk_ids(self, keys: Iterable[str] | None = None) -> list[str]:
        """The Chroma ids of the chunks of these documents, else of all."""
        if keys is None:
            return [f"{key}:{n}" for key, n in self._database.execute("SELECT document, number FROM chunk")]
        numbers = "SELECT number FROM chunk WHERE document = ?"
        return [f"{key}:{n}" for key in keys for (n,) in self._database.execute(numbers, (key,))]

    # --- changes, inside a transaction

    def add(self, entry: Entry, morphemes: Sequence[Sequence[str]]) -> None:
        """`morphemes`: those of each chunk, in the chunks' order."""
        self._database.execute(f"INSERT INTO document ({COLUMNS}) VALUES ({','.join('?' * 12)})", tuple(asdict(entry).values()))
        for number, words in enumerate(morphemes):
            row = self._database.execute("INSERT INTO chunk (document, number) VALUES (?, ?)", (entry.key, number)).lastrowid
            self._database.execute("INSERT INTO keywords (rowid, morphemes) VALUES (?, ?)", (row, " ".join(map(_term, words))))

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            rows = "SELECT id FROM chunk WHERE document = ?"
            self._database.execute(f"DELETE FROM keywords WHERE rowid IN ({rows})", (key,))
            self._database.execute("DELETE FROM chunk WHERE document = ?", (key,))
            self._database.execute("DELETE FROM document WHERE key = ?", (key,))

    # --- search

    def search(self, words: Sequence[str], most: int) -> list[tuple[str, float]]:
        """Chroma ids of the chunks that hold any of the words, best first, with their BM25 (Robertson & Zaragoza 2009; k1 1.2,
        b 0.75, as FTS5 has it), larger is better."""
        wanted = self._rare_enough(words)
        if not wanted:
            return []
        found = self._database.execute(
            "SELECT chunk.document, chunk.number, -ranked.score FROM"
            " (SELECT rowid AS id, rank AS score FROM keywords WHERE keywords MATCH ? ORDER BY rank LIMIT ?) AS ranked"
            " JOIN chunk ON chunk.id = ranked.id ORDER BY ranked.score, chunk.id",
            (" OR ".join(f'"{word}"' for word in wanted), most),
        )
        return [(f"{document}:{number}", score) for document, number, score in found]

    def present(self, ids: Iterable[str]) -> set[str]:
        """Those of the Chroma ids that are chunks of documents that are there."""
        there = set()
        for name in ids:
            document, _, number = name.rpartition(":")
            row = self._database.execute("SELECT 1 FROM chunk WHERE document = ? AND number = ?", (document, int(number)))
            if row.fetchone():
                there.add(name)
        return there

    def coverage(self, words: Sequence[str], ids: Sequence[str]) -> dict[str, float]:
        """For each chunk the share of the words that it holds, each counted by its rarity: ln(1 + N / (n + 1)), N chunks in all,
        n with the word."""
        chunks = self.counts()[1]
        weights = {word: math.log(1 + chunks / (count + 1)) for word, count in self.rows_with(words).items()}
        whole = sum(weights.values())
        found = {}
        for name in ids if whole > 0 else ():
            document, _, number = name.rpartition(":")
            row = self._database.execute(
                "SELECT morphemes FROM keywords WHERE rowid = (SELECT id FROM chunk WHERE document = ? AND number = ?)",
                (document, int(number)),
            ).fetchone()
            held = set(row[0].split()) if row else set()
            found[name] = sum(weight for word, weight in weights.items() if word in held) / whole
        return found

    def rows_with(self, words: Iterable[str]) -> dict[str, int]:
        """In how many chunks each word stands."""
        found = {}
        for word in dict.fromkeys(map(_term, words)):
            row = self._database.execute("SELECT doc FROM vocabulary WHERE term = ?", (word,)).fetchone()
            found[word] = int(row[0]) if row else 0
        return found

    def _rare_enough(self, words: Sequence[str]) -> list[str]:
        wanted, rows = list[str](), 0
        for word, count in sorted(self.rows_with(words).items(), key=lambda one: one[1]):
            if count and (not wanted or rows + count <= MOST_ROWS):
                wanted.append(word)
                rows += count
        return wanted


def _term(word: str) -> str:
    """A morpheme as one word of FTS5: "3.5" would be two."""
    return re.sub(r"[^\w/]", "_", word.lower())
