"""Conversations on disk: SQLite, readable by their owner alone, written before and while a reply is made.

The user's message is stored before the model is asked; the reply is stored as it grows, with a status, so that a crash costs
at most what came since the last write. A rollback journal is used, not WAL, so that two windows can share the file.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kosent.errors import KosentError
from kosent.locations import conversations_file, private_home

COMPLETE, WRITING, STOPPED, FAILED = "complete", "writing", "stopped", "failed"
"""Status of a message. `writing` on reopening means that the program ended in the middle of it."""

MIGRATIONS = (
    """
    CREATE TABLE conversation (id INTEGER PRIMARY KEY, started REAL NOT NULL, model TEXT NOT NULL);
    CREATE TABLE message (
        id INTEGER PRIMARY KEY,
        conversation_id INTEGER NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
        role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
        content TEXT NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('complete', 'writing', 'stopped', 'failed')),
        written REAL NOT NULL
    );
    CREATE INDEX message_by_conversation ON message (conversation_id, id);
    """,
)
"""Numbered by place; a database remembers in `user_version` how many it has had."""


@dataclass(frozen=True)
class StoredMessage:
    id: int
    role: str
    content: str
    status: str


class ConversationStore:
    """The conversations in one file. Times are seconds since 1970, UTC. Use from one thread."""

    def __init__(self, path: Path | None = None) -> None:
        """Opens or makes the file. Raises `KosentError` for a file that is damaged or was written by a newer KoSent."""
        if path is None:
            private_home()
        self.path = path or conversations_file()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        self._db = sqlite3.connect(self.path, timeout=10, isolation_level=None)
        try:
            self._db.execute("PRAGMA foreign_keys = ON")
            self._migrate()
        except sqlite3.OperationalError as error:
            self._db.close()
            raise KosentError(f"The conversations in {self.path} cannot be opened now: {error}.") from error
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> KosentError:
        copy = self.path.with_name(f"{self.path.name}.damaged-{int(time.time())}")
        shutil.copy2(self.path, copy)
        return KosentError(
            f"The conversations in {self.path} cannot be read ({error}). A copy was put at {copy}.",
            hint=f"mv {self.path} {self.path}.old     (the chat then starts with an empty file)",
        )

    def _migrate(self) -> None:
        with self._write():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise KosentError(
                    f"{self.path} was written by a newer KoSent (format {version}; this one knows {len(MIGRATIONS)}).",
                    hint="pip install --upgrade kosent",
                )
            for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
                for statement in filter(str.strip, script.split(";")):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {number}")

    @contextmanager
    def _write(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def new(self, model: str) -> int:
        """Begins a conversation and returns its id."""
        with self._write():
            cursor = self._db.execute("INSERT INTO conversation (started, model) VALUES (?, ?)", (time.time(), model))
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def latest(self) -> int | None:
        """The conversation that was written to last, or None when there is none with a message."""
        row = self._db.execute("SELECT conversation_id FROM message ORDER BY written DESC, id DESC LIMIT 1").fetchone()
        return int(row[0]) if row else None

    def add(self, conversation: int, role: str, content: str, status: str = COMPLETE) -> int:
        """Stores a message and returns its id."""
        with self._write():
            cursor = self._db.execute(
                "INSERT INTO message (conversation_id, role, content, status, written) VALUES (?, ?, ?, ?, ?)",
                (conversation, role, content, status, time.time()),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def update(self, message: int, content: str, status: str) -> None:
        with self._write():
            self._db.execute(
                "UPDATE message SET content = ?, status = ?, written = ? WHERE id = ?", (content, status, time.time(), message)
            )

    def messages(self, conversation: int) -> list[StoredMessage]:
        """All messages, oldest first."""
        rows = self._db.execute(
            "SELECT id, role, content, status FROM message WHERE conversation_id = ? ORDER BY id", (conversation,)
        )
        return [StoredMessage(*row) for row in rows]

    def close(self) -> None:
        self._db.close()
