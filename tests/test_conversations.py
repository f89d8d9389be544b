"""Conversations on disk: durable, private, and honest about what is damaged."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kosent.conversations import COMPLETE, MIGRATIONS, STOPPED, WRITING, ConversationStore
from kosent.errors import KosentError
from kosent.locations import conversations_file


def test_messages_come_back_in_order_with_their_status(home: Path) -> None:
    store = ConversationStore()
    conversation = store.new("ollama:kosent")
    assert store.latest() is None
    store.add(conversation, "user", "안녕 \U0001f622")
    reply = store.add(conversation, "assistant", "", WRITING)
    store.update(reply, "안녕하세", STOPPED)
    store.close()
    again = ConversationStore()
    assert again.latest() == conversation
    assert [(m.role, m.content, m.status) for m in again.messages(conversation)] == [
        ("user", "안녕 \U0001f622", COMPLETE),
        ("assistant", "안녕하세", STOPPED),
    ]
    again.close()


def test_only_the_owner_can_read(home: Path) -> None:
    ConversationStore().close()
    assert stat.S_IMODE(conversations_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_two_windows_can_write(home: Path) -> None:
    one, two = ConversationStore(), ConversationStore()
    first, second = one.new("a"), two.new("b")
    for number in range(20):
        one.add(first, "user", f"하나 {number}")
        two.add(second, "user", f"둘 {number}")
    assert len(one.messages(second)) == len(two.messages(first)) == 20


def test_a_killed_program_leaves_what_it_had_written(home: Path) -> None:
    script = (
        "from kosent.conversations import *\nimport os, signal\n"
        "s = ConversationStore(); c = s.new('m'); s.add(c, 'user', '들려?'); r = s.add(c, 'assistant', '', WRITING)\n"
        "s.update(r, '네, 듣', WRITING); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    store = ConversationStore()
    conversation = store.latest()
    assert conversation is not None
    assert [(m.content, m.status) for m in store.messages(conversation)] == [("들려?", COMPLETE), ("네, 듣", WRITING)]


def test_a_damaged_file_is_copied_and_named(home: Path) -> None:
    home.mkdir()
    conversations_file().write_bytes(b"this is no database, it only looks like a long enough file" * 20)
    with pytest.raises(KosentError, match="cannot be read") as caught:
        ConversationStore()
    assert caught.value.hint and caught.value.hint.startswith("mv ")
    assert len(list(home.glob("*.damaged-*"))) == 1


def test_a_newer_format_is_left_alone(home: Path) -> None:
    ConversationStore().close()
    with sqlite3.connect(conversations_file()) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(KosentError, match="newer KoSent"):
        ConversationStore()
