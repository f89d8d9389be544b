"""Search in conversations that finds Korean by any part of it: one syllable, two, or half a word.

The index (SQLite's FTS5) holds each text as its overlapping pairs of characters, so that "퇴근" is found in "퇴근길" and "길" in
both. A query of one character is a prefix of pairs, a longer one a phrase of them; several words must all be there.
"""

from __future__ import annotations

import sqlite3
import unicodedata
from dataclasses import dataclass

TABLE = (
    "CREATE VIRTUAL TABLE message_search USING fts5(grams, content='', columnsize=0, prefix='1', "
    "tokenize=\"unicode61 remove_diacritics 0 categories 'L* M* N* P* S* Co'\")"
)
SPACE = "␣"
"""Stands for white space inside a pair."""
AROUND = 24
"""Characters of context shown before a match."""


@dataclass(frozen=True)
class Found:
    """A message that holds what was searched for: `before`, `match` and `after` are one line of its text."""

    message: int
    conversation: int
    title: str
    role: str
    written: float
    """Seconds since 1970, UTC."""
    before: str
    match: str
    after: str


def folded(text: str) -> str:
    """NFC in lower case, character for character, so that places in it are places in the NFC text."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(lower if len(lower := character.casefold()) == 1 else character for character in composed)


def grams(text: str) -> str:
    """The pairs of characters of `text`, separated by spaces; the last character stands alone."""
    line = SPACE.join(folded(text).split())
    return " ".join(line[place : place + 2] for place in range(len(line)))


def query_of(words: str) -> str:
    """The FTS5 query for messages that hold every one of the words, or "" when there is no word."""
    return " AND ".join(_term(word) for word in folded(words).replace("\0", " ").split())


def _term(word: str) -> str:
    pairs = grams(word) if len(word) == 1 else grams(word).rpartition(" ")[0]
    quoted = pairs.replace('"', '""')
    return f'"{quoted}" *' if len(word) == 1 else f'"{quoted}"'


def search(database: sqlite3.Connection, words: str, limit: int) -> list[Found]:
    """The newest messages that hold every one of the words. Those of deleted conversations are left out."""
    query = query_of(words)
    if not query:
        return []
    rows = database.execute(
        "SELECT message.id, conversation.id, conversation.title, message.role, message.written, message.content "
        "FROM message_search JOIN message ON message.id = message_search.rowid "
        "JOIN conversation ON conversation.id = message.conversation_id "
        "WHERE message_search MATCH ? AND conversation.deleted IS NULL ORDER BY message_search.rowid DESC LIMIT ?",
        (query, limit),
    )
    first = folded(words).replace("\0", " ").split()[0]
    return [
        Found(message, conversation, title, role, written, *_excerpt(content, first))
        for message, conversation, title, role, written, content in rows
    ]


def _excerpt(content: str, word: str) -> tuple[str, str, str]:
    text = " ".join(unicodedata.normalize("NFC", content).split())
    place = max(folded(text).find(word), 0)
    start = max(place - AROUND, 0)
    end = place + len(word)
    return ("…" if start else "") + text[start:place], text[place:end], text[end : end + 4 * AROUND]


def remember(database: sqlite3.Connection, message: int, content: str) -> None:
    database.execute("INSERT INTO message_search (rowid, grams) VALUES (?, ?)", (message, grams(content)))


def forget(database: sqlite3.Connection, message: int, content: str) -> None:
    """`content` must be what was remembered: the index keeps no text of its own."""
    database.execute(
        "INSERT INTO message_search (message_search, rowid, grams) VALUES ('delete', ?, ?)", (message, grams(content))
    )
