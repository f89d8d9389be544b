"""The file that holds conversations: opened, brought to the newest format, set aside when it is damaged.

A rollback journal is used, not WAL: two windows write the same file, and SQLite before 3.51.3 can corrupt a WAL with two writers.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kosent.conversations.search import TABLE, grams
from kosent.errors import KosentError

SECONDS_TO_WAIT = 10.0
"""How long a write waits for another window's."""

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
    f"""
    ALTER TABLE conversation ADD COLUMN title TEXT NOT NULL DEFAULT '';
    ALTER TABLE conversation ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE conversation ADD COLUMN deleted REAL;
    ALTER TABLE conversation ADD COLUMN touched REAL NOT NULL DEFAULT 0;
    ALTER TABLE conversation ADD COLUMN settings TEXT NOT NULL DEFAULT '{{}}';
    ALTER TABLE message ADD COLUMN parent_id INTEGER REFERENCES message (id);
    ALTER TABLE message ADD COLUMN chosen INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE message ADD COLUMN facts TEXT NOT NULL DEFAULT '{{}}';
    UPDATE message SET parent_id = (
        SELECT max(earlier.id) FROM message AS earlier
        WHERE earlier.conversation_id = message.conversation_id AND earlier.id < message.id
    );
    UPDATE conversation SET
        touched = coalesce((SELECT max(written) FROM message WHERE conversation_id = conversation.id), started),
        title = coalesce((
            SELECT kosent_title(content) FROM message
            WHERE conversation_id = conversation.id AND role = 'user' ORDER BY id LIMIT 1
        ), '');
    CREATE INDEX message_by_parent ON message (parent_id);
    CREATE INDEX message_being_written ON message (written) WHERE status = 'writing';
    CREATE INDEX conversation_deleted ON conversation (deleted) WHERE deleted IS NOT NULL;
    CREATE TABLE preference (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    {TABLE};
    INSERT INTO message_search (rowid, grams) SELECT id, kosent_grams(content) FROM message WHERE status <> 'writing';
    """,
)
"""Numbered by place; a database remembers in `user_version` how many it has had. Never change one that was released."""

LONGEST_TITLE = 60
"""Characters of a title."""


@dataclass(frozen=True)
class Damage:
    """What was found when a file could not be read: where it is now, and how many messages could be taken over."""

    moved_to: Path
    saved_messages: int


def title_of(text: str) -> str:
    """The title of a conversation that begins with `text`: its first line, shortened."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= LONGEST_TITLE else f"{line[: LONGEST_TITLE - 1].rstrip()}…"


def open_database(path: Path) -> tuple[sqlite3.Connection, Damage | None]:
    """Opens or makes the file at `path` in the newest format. A damaged file is renamed, never overwritten; what can still be
    read of it is taken over.

    Raises `KosentError` for a file of a newer KoSent, or one that another program holds locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    try:
        return _opened(path, check=open_mark(path).exists()), None
    except sqlite3.OperationalError as error:
        if not _is_damage(error):
            raise KosentError(
                f"The conversations in {path} cannot be opened now: {error}.", hint=f"ls -l {path}     (is the disk full?)"
            ) from error
    except sqlite3.DatabaseError:
        pass
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    for ending in ("", "-journal"):
        if (old := path.with_name(path.name + ending)).exists():
            old.rename(aside.with_name(aside.name + ending))
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    database = _opened(path)
    return database, Damage(aside, _salvage(aside, database))


def open_mark(path: Path) -> Path:
    """A file that stands beside `path` while a window has it open: found at the start, the last one did not end well, and the
    whole file is checked."""
    return path.with_name(f"{path.name}.open")


def _is_damage(error: sqlite3.OperationalError) -> bool:
    return any(word in str(error) for word in ("malformed", "no such table", "no such column", "already exists", "disk image"))


def _opened(path: Path, check: bool = False) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=SECONDS_TO_WAIT, isolation_level=None)
    try:
        database.create_function("kosent_grams", 1, grams, deterministic=True)
        database.create_function("kosent_title", 1, title_of, deterministic=True)
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("PRAGMA secure_delete = ON")
        _migrate(database, path)
        if check and (problem := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(problem)
    except BaseException:
        database.close()
        raise
    return database


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _migrate(database: sqlite3.Connection, path: Path) -> None:
    version = _version(database)
    if version > len(MIGRATIONS):
        raise KosentError(
            f"{path} was written by a newer KoSent (format {version}; this one knows {len(MIGRATIONS)}). It was left as it is.",
            hint="pip install --upgrade kosent",
        )
    if version == len(MIGRATIONS):
        return
    if version:
        _copy(database, path.with_name(f"{path.name}.format-{version}"))
    with transaction(database):
        for number in range(_version(database), len(MIGRATIONS)):  # another window may have been first
            for statement in filter(str.strip, MIGRATIONS[number].split(";\n")):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {number + 1}")


def _copy(database: sqlite3.Connection, target: Path) -> None:
    """A copy of the file before it is changed to a newer format."""
    os.close(os.open(target, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600))
    with closing(sqlite3.connect(target)) as copy:
        database.backup(copy)


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of the writes inside, or none."""
    try:
        database.execute("BEGIN IMMEDIATE")  # inside, for Ctrl-C may come right after it
        yield
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _salvage(damaged: Path, database: sqlite3.Connection) -> int:
    """Takes over the rows that can still be read, from both ends of each table; returns the number of messages."""
    saved = 0
    with closing(sqlite3.connect(f"{damaged.as_uri()}?mode=ro", uri=True)) as old:
        old.row_factory = sqlite3.Row
        with transaction(database):
            database.execute("PRAGMA defer_foreign_keys = ON")
            for table in ("conversation", "message"):
                known = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
                for row in sorted(_readable(old, table).values(), key=lambda row: int(row["id"])):
                    names = [name for name in row if name in known]
                    try:
                        database.execute(
                            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
                            [row[name] for name in names],
                        )
                    except sqlite3.DatabaseError:  # a row whose own bytes are wrong
                        continue
                    saved += table == "message"
            for statement in _MENDED:
                database.execute(statement)
    return saved


_MENDED = (
    """INSERT OR IGNORE INTO conversation (id, started, touched, model)
    SELECT conversation_id, min(written), max(written), '' FROM message GROUP BY conversation_id""",
    """UPDATE message SET parent_id = (
        SELECT max(earlier.id) FROM message AS earlier
        WHERE earlier.conversation_id = message.conversation_id AND earlier.id < message.id
    ) WHERE parent_id NOT IN (SELECT id FROM message)""",
    """UPDATE message SET chosen = 0 WHERE chosen AND EXISTS (
        SELECT 1 FROM message AS other WHERE other.conversation_id = message.conversation_id
        AND other.parent_id IS message.parent_id AND other.chosen AND other.id > message.id
    )""",
    "INSERT INTO message_search (rowid, grams) SELECT id, kosent_grams(content) FROM message WHERE status <> 'writing'",
)
"""Messages whose parent is lost go on below the one before them; one child of each is chosen."""


def _readable(old: sqlite3.Connection, table: str) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    for order in ("ASC", "DESC"):
        try:
            for row in old.execute(f"SELECT * FROM {table} ORDER BY id {order}"):
                found[row["id"]] = dict(row)
        except sqlite3.DatabaseError:
            continue
    return found
