"""Conversations on disk: SQLite, readable by their owner alone, written before and while a reply is made.

A conversation is a tree: an edited message or another reply is a further child of the same parent, and the chosen children make
the path that is shown. `database` opens the file, `store` reads and writes it, `search` finds Korean text by any part of it,
`history` says what a model is told of it, `exchange` writes conversations to files, `importing` reads them.
"""

from __future__ import annotations

from kosent.conversations.search import Found
from kosent.conversations.store import (
    COMPLETE,
    FAILED,
    LAST,
    STOPPED,
    WRITING,
    Conversation,
    ConversationStore,
    StoredMessage,
)

__all__ = ["COMPLETE", "FAILED", "LAST", "STOPPED", "WRITING", "Conversation", "ConversationStore", "Found", "StoredMessage"]
