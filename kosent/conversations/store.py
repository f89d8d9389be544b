"""`ConversationStore`: what the chat and `kosent ask` remember.

The user's message is stored before the model is asked; the reply is stored as it grows, with a status, so that a crash costs
at most what came since the last write.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kosent.conversations import search
from kosent.conversations.database import open_database, open_mark, title_of, transaction
from kosent.errors import KosentError
from kosent.locations import conversations_file, private_home

COMPLETE, WRITING, STOPPED, FAILED = "complete", "writing", "stopped", "failed"
"""Status of a message. `writing` on reopening means that the program ended in the middle of it."""
FORGOTTEN_AFTER = 3600.0
"""Seconds after which a deleted conversation is removed for good though nobody closed the window that deleted it."""

LAST = -1
"""As a parent: the last message of the path that is shown."""


@dataclass(frozen=True)
class Conversation:
    id: int
    title: str
    model: str
    started: float
    """Seconds since 1970, UTC, as every time here."""
    touched: float
    """When something was last written in it."""
    pinned: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Persona and parameters of this conversation alone, by the names of `kosent.settings`."""


@dataclass(frozen=True)
class StoredMessage:
    id: int
    role: str
    content: str
    status: str
    written: float = 0.0
    parent: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is known of a reply: `model`, `tokens`, `seconds`, `first_token`, `citations`, `card` and so on."""
    versions: tuple[int, ...] = ()
    """Ids of the messages that stand in this place, this one among them, the oldest first."""


class ConversationStore:
    """The conversations in one file. Use from one thread; several processes may share the file."""

    def __init__(self, path: Path | None = None) -> None:
        """Opens or makes the file. A damaged file is renamed and `damage` says so. Raises `KosentError` for a file that was
        written by a newer KoSent or cannot be opened."""
        if path is None:
            private_home()
        self.path = path or conversations_file()
        self._db, self.damage = open_database(self.path)
        self._mark = open_mark(self.path)
        os.close(os.open(self._mark, os.O_CREAT | os.O_RDWR, 0o600))
        self._trusted = True
        self._seen = self._data_version()
        self._remove(row[0] for row in self._old("SELECT id FROM conversation WHERE deleted < ?"))
        for message, content, facts in self._old(
            "SELECT id, content, facts FROM message WHERE status = 'writing' AND written < ?"
        ):
            self.update(message, content, STOPPED, {**json.loads(facts), "cut_off": True})

    def _old(self, question: str) -> list[tuple[Any, ...]]:
        return self._db.execute(question, (time.time() - FORGOTTEN_AFTER,)).fetchall()

    # --- conversations

    def new(self, model: str, settings: Mapping[str, Any] | None = None, *, title: str = "") -> int:
        """Begins a conversation and returns its id. Its title becomes the first line said in it."""
        now = time.time()
        with transaction(self._db):
            cursor = self._db.execute(
                "INSERT INTO conversation (started, touched, model, title, settings) VALUES (?, ?, ?, ?, ?)",
                (now, now, model, title, json.dumps(dict(settings or {}), ensure_ascii=False)),
            )
        return int(cursor.lastrowid or 0)

    def latest(self) -> int | None:
        """The conversation that was written to last, or None when there is none with a message."""
        row = self._db.execute(
            "SELECT id FROM conversation WHERE deleted IS NULL AND id IN (SELECT conversation_id FROM message) "
            "ORDER BY touched DESC, id DESC LIMIT 1"
        ).fetchone()
        return int(row[0]) if row else None

    def conversations(self) -> list[Conversation]:
        """All that are not deleted: the pinned first, then the last written to."""
        return self._conversations("deleted IS NULL ORDER BY pinned DESC, touched DESC, id DESC")

    def conversation(self, conversation: int) -> Conversation | None:
        """The one with this id, unless it is deleted."""
        return next(iter(self._conversations("deleted IS NULL AND id = ?", conversation)), None)

    def _conversations(self, where: str, *values: Any) -> list[Conversation]:
        rows = self._db.execute(
            f"SELECT id, title, model, started, touched, pinned, settings FROM conversation WHERE {where}", values
        )
        return [
            Conversation(number, title, model, started, touched, bool(pinned), json.loads(settings))
            for number, title, model, started, touched, pinned, settings in rows
        ]

    def rename(self, conversation: int, title: str) -> None:
        self._set(conversation, title=title_of(title))

    def pin(self, conversation: int, pinned: bool) -> None:
        self._set(conversation, pinned=int(pinned))

    def configure(self, conversation: int, *, model: str, settings: Mapping[str, Any]) -> None:
        """Sets the model, persona and parameters of one conversation."""
        self._set(conversation, model=model, settings=json.dumps(dict(settings), ensure_ascii=False))

    def delete(self, conversation: int) -> None:
        """Hides it; `restore` brings it back, `forget` removes it for good."""
        self._set(conversation, deleted=time.time())

    def restore(self, conversation: int) -> None:
        self._set(conversation, deleted=None)

    def _set(self, conversation: int, **values: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in values)
        with transaction(self._db):
            self._db.execute(f"UPDATE conversation SET {names} WHERE id = ?", (*values.values(), conversation))

    def forget(self, conversations: Iterable[int]) -> None:
        """Removes deleted conversations for good, their bytes overwritten. Those that were restored meanwhile stay."""
        marked = {row[0] for row in self._db.execute("SELECT id FROM conversation WHERE deleted IS NOT NULL")}
        self._remove(one for one in conversations if one in marked)

    def _remove(self, conversations: Iterable[int]) -> None:
        going = list(conversations)
        if not going:
            return
        with transaction(self._db):
            for one in going:
                self._unindex("SELECT id, content FROM message WHERE conversation_id = ? AND status <> 'writing'", one)
                self._db.execute("DELETE FROM conversation WHERE id = ?", (one,))
        self._db.execute("INSERT INTO message_search (message_search) VALUES ('optimize')")  # else the index keeps its words

    def _unindex(self, question: str, *values: Any) -> None:
        for message, content in self._db.execute(question, values).fetchall():
            search.forget(self._db, message, content)

    def forget_everything(self) -> list[Path]:
        """Removes every conversation, and KoSent's own copies of older or damaged files; returns the files that were removed."""
        with transaction(self._db):
            self._db.execute("INSERT INTO message_search (message_search) VALUES ('delete-all')")
            self._db.execute("DELETE FROM conversation")
        self._db.execute("VACUUM")
        copies = [one for kind in ("damaged", "format") for one in sorted(self.path.parent.glob(f"{self.path.name}.{kind}-*"))]
        for copy in copies:
            copy.unlink()
        return copies

    # --- messages

    def add(
        self,
        conversation: int,
        role: str,
        content: str,
        status: str = COMPLETE,
        *,
        parent: int | None = LAST,
        facts: Mapping[str, Any] | None = None,
    ) -> int:
        """Stores a message below `parent` (`LAST`, an id, or None for a first message), chooses it, and returns its id.

        Raises `KosentError` when the conversation was removed meanwhile.
        """
        now = time.time()
        with transaction(self._db):
            if not self._db.execute("SELECT 1 FROM conversation WHERE id = ? AND deleted IS NULL", (conversation,)).fetchone():
                raise KosentError("This conversation was deleted in another window.", hint="Ctrl+N begins another")
            if parent == LAST:
                parent = self._tip(conversation)
            self._db.execute(
                "UPDATE message SET chosen = 0 WHERE conversation_id = ? AND parent_id IS ? AND chosen", (conversation, parent)
            )
            cursor = self._db.execute(
                "INSERT INTO message (conversation_id, role, content, status, written, parent_id, facts) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (conversation, role, content, status, now, parent, _facts(facts)),
            )
            if status != WRITING:
                search.remember(self._db, int(cursor.lastrowid or 0), content)
            self._db.execute(
                "UPDATE conversation SET touched = ?, title = iif(title = '' AND ? = 'user', ?, title) WHERE id = ?",
                (now, role, title_of(content), conversation),
            )
        return int(cursor.lastrowid or 0)

    def update(self, message: int, content: str, status: str, facts: Mapping[str, Any] | None = None) -> None:
        """Stores what a message has become; `facts` are left as they were where none are given. A message that was removed
        meanwhile stays removed."""
        with transaction(self._db):
            self._unindex("SELECT id, content FROM message WHERE id = ? AND status <> 'writing'", message)
            cursor = self._db.execute(
                "UPDATE message SET content = ?, status = ?, written = ?, facts = coalesce(?, facts) WHERE id = ?",
                (content, status, time.time(), None if facts is None else _facts(facts), message),
            )
            if status != WRITING and cursor.rowcount:
                search.remember(self._db, message, content)

    def messages(self, conversation: int) -> list[StoredMessage]:
        """The chosen path, oldest first."""
        versions: dict[int | None, list[int]] = defaultdict(list)
        for message, parent in self._db.execute(
            "SELECT id, parent_id FROM message WHERE conversation_id = ? ORDER BY id", (conversation,)
        ):
            versions[parent].append(message)
        rows = self._db.execute(
            f"{_PATH} SELECT message.id, role, content, status, written, parent_id, facts FROM path JOIN message USING (id) "
            "ORDER BY depth",
            (conversation,),
        )
        return [
            StoredMessage(number, role, content, status, written, parent, json.loads(facts), tuple(versions[parent]))
            for number, role, content, status, written, parent, facts in rows
        ]

    def choose(self, message: int) -> None:
        """Makes the path go through `message`, and below it where it went before."""
        with transaction(self._db):
            above: int | None = message
            while above is not None:
                found = self._db.execute("SELECT conversation_id, parent_id FROM message WHERE id = ?", (above,)).fetchone()
                if found is None:
                    return
                self._db.execute(
                    "UPDATE message SET chosen = (id = ?) WHERE conversation_id = ? AND parent_id IS ?", (above, *found)
                )
                above = found[1]

    def _tip(self, conversation: int) -> int | None:
        row = self._db.execute(f"{_PATH} SELECT id FROM path ORDER BY depth DESC LIMIT 1", (conversation,)).fetchone()
        return int(row[0]) if row else None

    def search(self, words: str, limit: int = 50) -> list[search.Found]:
        """The newest messages that hold every one of `words`, each of which may be any part of the text."""
        return search.search(self._db, words, limit)

    def import_conversation(self, messages: Iterable[tuple[str, str]], settings: Mapping[str, Any] | None = None) -> int:
        """Stores a whole conversation of (role, text), or nothing of it, and returns its id. It has no model yet."""
        now, title, parent = time.time(), "", None
        with transaction(self._db):
            conversation = self._db.execute(
                "INSERT INTO conversation (started, touched, model, settings) VALUES (?, ?, '', ?)", (now, now, _facts(settings))
            ).lastrowid
            for role, content in messages:
                parent = self._db.execute(
                    "INSERT INTO message (conversation_id, role, content, status, written, parent_id) VALUES (?, ?, ?, ?, ?, ?)",
                    (conversation, role, content, COMPLETE, now, parent),
                ).lastrowid
                search.remember(self._db, int(parent or 0), content)
                title = title or (title_of(content) if role == "user" else "")
            self._db.execute("UPDATE conversation SET title = ? WHERE id = ?", (title, conversation))
        return int(conversation or 0)

    # --- the rest

    def preference(self, name: str, default: str = "") -> str:
        """How the chat was left: the theme and so on."""
        row = self._db.execute("SELECT value FROM preference WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else default

    def prefer(self, name: str, value: str) -> None:
        with transaction(self._db):
            self._db.execute("INSERT OR REPLACE INTO preference (name, value) VALUES (?, ?)", (name, value))

    def changed_elsewhere(self) -> bool:
        """Whether another window has written since this was last asked."""
        before, self._seen = self._seen, self._data_version()
        return before != self._seen

    def _data_version(self) -> int:
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def distrust(self, error: BaseException) -> None:
        """To be called after an error: where it may come from damage, the whole file is checked when it is next opened."""
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            self._trusted = False

    def close(self) -> None:
        self._db.close()
        if self._trusted:
            self._mark.unlink(missing_ok=True)


_PATH = """
WITH RECURSIVE path (id, depth) AS (
    SELECT id, 0 FROM message WHERE conversation_id = ? AND parent_id IS NULL AND chosen
    UNION ALL
    SELECT message.id, depth + 1 FROM path JOIN message ON message.parent_id = path.id WHERE message.chosen
)
"""


def _facts(facts: Mapping[str, Any] | None) -> str:
    return json.dumps(dict(facts or {}), ensure_ascii=False)
