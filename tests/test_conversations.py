"""Conversations on disk: durable, private, found again by any syllable, and honest about what is damaged."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from kosent.conversations import COMPLETE, FAILED, STOPPED, WRITING, ConversationStore
from kosent.conversations.database import MIGRATIONS, open_database
from kosent.conversations.store import FORGOTTEN_AFTER
from kosent.errors import KosentError
from kosent.locations import conversations_file


def shown(store: ConversationStore, conversation: int) -> list[str]:
    return [message.content for message in store.messages(conversation)]


def found(store: ConversationStore, words: str) -> list[str]:
    return [one.before + one.match + one.after for one in store.search(words)]


def test_messages_come_back_in_order_with_their_status(home: Path) -> None:
    store = ConversationStore()
    conversation = store.new("ollama:kosent")
    assert store.latest() is None
    store.add(conversation, "user", "안녕 \U0001f622")
    reply = store.add(conversation, "assistant", "", WRITING)
    store.update(reply, "안녕하세", STOPPED, {"model": "ollama:kosent", "tokens": 3})
    store.close()
    again = ConversationStore()
    assert again.latest() == conversation
    assert [(m.role, m.content, m.status) for m in again.messages(conversation)] == [
        ("user", "안녕 \U0001f622", COMPLETE),
        ("assistant", "안녕하세", STOPPED),
    ]
    assert again.messages(conversation)[1].facts == {"model": "ollama:kosent", "tokens": 3}
    again.update(reply, "안녕하세요", FAILED)
    assert again.messages(conversation)[1].facts["tokens"] == 3
    again.close()


def test_only_the_owner_can_read(home: Path) -> None:
    ConversationStore().close()
    assert stat.S_IMODE(conversations_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_two_windows_can_write(home: Path) -> None:
    one, two = ConversationStore(), ConversationStore()
    first, second = one.new("a"), two.new("b")
    assert one.changed_elsewhere() and not one.changed_elsewhere()
    for number in range(20):
        one.add(first, "user", f"하나 {number}")
        two.add(second, "user", f"둘 {number}")
    assert len(one.messages(second)) == len(two.messages(first)) == 20


def test_two_windows_in_one_conversation_lose_nothing(home: Path) -> None:
    one, two = ConversationStore(), ConversationStore()
    conversation = one.new("a")
    start = one.add(conversation, "user", "같이")
    one.add(conversation, "assistant", "여기", parent=start)
    two.add(conversation, "assistant", "저기", parent=start)
    assert shown(one, conversation) == ["같이", "저기"]
    assert len(one.messages(conversation)[1].versions) == 2


def test_a_removed_conversation_takes_no_more_messages(home: Path) -> None:
    one, two = ConversationStore(), ConversationStore()
    conversation = one.new("a")
    reply = one.add(conversation, "assistant", "", WRITING)
    two.delete(conversation)
    with pytest.raises(KosentError, match="deleted in another window"):
        one.add(conversation, "user", "아직")
    two.forget([conversation])
    one.update(reply, "늦은 답", COMPLETE)  # a reply that was under way
    with pytest.raises(KosentError, match="deleted in another window"):
        one.add(conversation, "user", "또")
    assert found(one, "늦은") == []


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


def test_a_reply_that_nobody_goes_on_writing_becomes_a_stopped_one(home: Path) -> None:
    store = ConversationStore()
    conversation = store.new("m")
    store.add(conversation, "assistant", "쓰다가 만", WRITING, facts={"card": True})
    store._db.execute("UPDATE message SET written = written - ?", (FORGOTTEN_AFTER + 1,))
    store.close()
    again = ConversationStore()
    assert [(m.status, m.facts) for m in again.messages(conversation)] == [(STOPPED, {"card": True, "cut_off": True})]
    assert found(again, "만") == ["쓰다가 만"]


def test_the_sidebar_lists_the_pinned_then_the_newest(home: Path) -> None:
    store = ConversationStore()
    first, second, third = store.new("a"), store.new("b", {"temperature": 0.2}), store.new("c")
    store.add(second, "user", "\n  회사에서   있었던 일  \n둘째 줄")
    store.add(third, "user", "가" * 200)
    store.pin(first, True)
    store.rename(first, "  고정한\x1b[31m 것 ")
    assert [one.id for one in store.conversations()] == [first, third, second]
    titles = [one.title for one in store.conversations()]
    assert titles[1:] == ["가" * 59 + "…", "회사에서   있었던 일"]
    assert store.conversations()[2].settings == {"temperature": 0.2}
    store.configure(second, model="d", settings={"system": "너는 친구야"})
    changed = store.conversation(second)
    assert changed is not None and (changed.model, changed.settings) == ("d", {"system": "너는 친구야"})


def test_an_edited_message_branches_and_both_branches_stay(home: Path) -> None:
    store = ConversationStore()
    conversation = store.new("m")
    first = store.add(conversation, "user", "어제 일")
    store.add(conversation, "assistant", "어제요?")
    tail = store.add(conversation, "user", "응, 어제")
    edited = store.add(conversation, "user", "오늘 일", parent=None)
    store.add(conversation, "assistant", "오늘이요?")
    assert shown(store, conversation) == ["오늘 일", "오늘이요?"]
    assert store.messages(conversation)[0].versions == (first, edited)
    store.choose(first)
    assert shown(store, conversation) == ["어제 일", "어제요?", "응, 어제"]
    another = store.add(conversation, "assistant", "네?", parent=first)
    assert shown(store, conversation) == ["어제 일", "네?"]
    store.choose(tail)  # as when a search finds it
    assert shown(store, conversation) == ["어제 일", "어제요?", "응, 어제"]
    assert another in store.messages(conversation)[1].versions


@pytest.mark.parametrize(
    ("words", "hits"),
    [
        ("길", 1), ("퇴근", 1), ("근길", 1), ("퇴근길에", 1), ("엄마", 2), ("엄마 병원", 1), ("ㅋㅋ", 1), ("hello", 1),
        ("HELLO w", 1), ("에 ", 2), ("마한테 화", 1), ("없는말", 0), ("", 0), ("   ", 0), ('"', 1), ("*", 0), ("😢", 1),
        ("AND", 0), ("50%", 1), ("마", 2),
    ],
)  # fmt: skip
def test_search_finds_any_part_of_a_text(home: Path, words: str, hits: int) -> None:
    store = ConversationStore()
    conversation = store.new("m")
    for text in ("퇴근길에 울었어 ㅋㅋㅋ", "엄마 때문에 병원 갔어", '엄마한테 화냈다 "진짜"', "Hello World 50% 😢"):
        store.add(conversation, "user", text)
    assert len(store.search(words)) == hits
    assert len(store.search(unicodedata.normalize("NFD", words))) == hits


def test_search_follows_what_becomes_of_a_message(home: Path) -> None:
    store = ConversationStore()
    kept, conversation = store.new("m"), store.new("m")
    store.add(kept, "user", "새벽에도 그대로")
    reply = store.add(conversation, "assistant", "", WRITING)
    store.update(reply, "새벽에는", WRITING)
    assert found(store, "새벽") == ["새벽에도 그대로"]  # not while it is being written
    store.update(reply, unicodedata.normalize("NFD", "새벽에는 마음이"), COMPLETE)
    assert found(store, "새벽") == ["새벽에는 마음이", "새벽에도 그대로"]
    store.update(reply, "아침에는", COMPLETE)
    assert found(store, "마음") == []
    store.delete(conversation)
    assert found(store, "아침") == []
    store.restore(conversation)
    assert found(store, "아침") == ["아침에는"]
    hit = store.search("그대로")[0]
    assert (hit.before, hit.match, hit.after, hit.conversation, hit.title) == ("새벽에도 ", "그대로", "", kept, "새벽에도 그대로")


def test_deleting_can_be_undone_until_it_is_for_good(home: Path) -> None:
    """And what is gone for good is in no byte of the file."""
    store = ConversationStore()
    kept, going = store.new("m"), store.new("m")
    store.add(kept, "user", "남는 이야기")
    for number in range(40):
        store.add(going, "user", f"zqxjkv 비밀스러운 이야기 {number}")
    store.delete(going)
    assert [one.id for one in store.conversations()] == [kept] and store.conversation(going) is None
    store.restore(going)
    store.forget([going])  # it was restored: it stays
    assert len(store.messages(going)) == 40
    store.delete(going)
    assert store.latest() == kept
    store.forget([going])
    store.close()
    raw = conversations_file().read_bytes()
    assert b"zqxjkv" not in raw and b"zq" not in raw and "비밀".encode() not in raw
    again = ConversationStore()
    assert shown(again, kept) == ["남는 이야기"] and again.messages(going) == []


def test_a_deleted_conversation_does_not_outlive_a_killed_window(home: Path) -> None:
    store = ConversationStore()
    conversation = store.new("m")
    store.add(conversation, "user", "지울 말")
    store.delete(conversation)
    store._db.execute("UPDATE conversation SET deleted = deleted - ?", (FORGOTTEN_AFTER + 1,))
    store.close()
    again = ConversationStore()
    again.restore(conversation)
    assert again.messages(conversation) == []


def test_everything_can_be_forgotten(home: Path) -> None:
    store = ConversationStore()
    store.add(store.new("m"), "user", "zqxjkv")
    store.prefer("theme", "kosent-light")
    copy = conversations_file().with_name(conversations_file().name + ".format-1")
    copy.write_bytes(b"zqxjkv")
    assert store.forget_everything() == [copy]
    store.close()
    assert not copy.exists() and b"zqxjkv" not in conversations_file().read_bytes()
    assert ConversationStore().preference("theme") == "kosent-light"


def test_the_first_format_is_brought_up_and_kept_beside(home: Path) -> None:
    home.mkdir()
    with sqlite3.connect(conversations_file()) as old:
        old.executescript(MIGRATIONS[0] + "PRAGMA user_version = 1;")
        old.executescript(
            "INSERT INTO conversation VALUES (1, 10.0, 'ollama:kosent');"
            "INSERT INTO message VALUES (1, 1, 'user', '예전 이야기', 'complete', 11.0);"
            "INSERT INTO message VALUES (2, 1, 'assistant', '네.', 'complete', 12.0);"
        )
    old.close()
    store = ConversationStore()
    assert [(one.title, one.touched) for one in store.conversations()] == [("예전 이야기", 12.0)]
    assert [(m.content, m.parent) for m in store.messages(1)] == [("예전 이야기", None), ("네.", 1)]
    assert found(store, "전 이") == ["예전 이야기"]
    copy = conversations_file().with_name(conversations_file().name + ".format-1")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with sqlite3.connect(copy) as kept:
        assert kept.execute("SELECT count(*) FROM message").fetchone() == (2,)
    kept.close()


def test_what_is_no_database_is_put_aside_and_the_chat_goes_on(home: Path) -> None:
    home.mkdir()
    rubbish = b"this is no database, it only looks like a long enough file" * 20
    conversations_file().write_bytes(rubbish)
    store = ConversationStore()
    assert store.damage is not None and store.damage.saved_messages == 0
    assert store.damage.moved_to.read_bytes() == rubbish
    store.add(store.new("m"), "user", "계속")
    store.close()
    assert ConversationStore().damage is None


def test_what_a_damaged_file_still_holds_is_taken_over(home: Path) -> None:
    """A page of rubbish in the middle: found at the start after a window that did not end well, and everything else is there."""
    store = ConversationStore()
    conversations = [store.new("m") for _ in range(2)]
    lines = [f"이야기 {line} " + "가나다라마바사 " * 150 for line in range(20)]
    for line in lines:
        store.add(conversations[0], "user", line)
        store.add(conversations[1], "user", f"다른 {line}")
    store.distrust(sqlite3.DatabaseError("malformed"))  # as where the window was killed
    store.close()
    raw = bytearray(conversations_file().read_bytes())
    size = int.from_bytes(raw[16:18], "big")
    page = raw.index("이야기 12 가나".encode()) // size
    raw[page * size : (page + 1) * size] = b"\xff" * size
    conversations_file().write_bytes(raw)
    again = ConversationStore()
    assert again.damage is not None and 30 <= again.damage.saved_messages < 40
    assert again.damage.moved_to.read_bytes() == raw
    assert len(again.conversations()) == 2
    saved = {row[0] for row in again._db.execute("SELECT content FROM message")}
    assert lines[0] in saved and lines[19] in saved and lines[12] not in saved
    assert len(again.search("이야기 19")) == 2
    for conversation, line in ((conversations[0], "이야기 19"), (conversations[1], "다른 이야기 19")):
        assert again.messages(conversation)[-1].content.startswith(line)
    again.close()
    assert ConversationStore().damage is None


def test_a_newer_format_is_left_alone(home: Path) -> None:
    ConversationStore().close()
    with sqlite3.connect(conversations_file()) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = conversations_file().read_bytes()
    with pytest.raises(KosentError, match="newer KoSent") as caught:
        ConversationStore()
    assert caught.value.hint and conversations_file().read_bytes() == before


def test_a_locked_file_is_no_damaged_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ConversationStore().close()
    monkeypatch.setattr("kosent.conversations.database.SECONDS_TO_WAIT", 0.1)
    monkeypatch.setattr("kosent.conversations.database.MIGRATIONS", (*MIGRATIONS, "CREATE TABLE later (id INTEGER)"))
    holder = sqlite3.connect(conversations_file(), isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(KosentError, match="cannot be opened now"):
        open_database(conversations_file())
    holder.execute("ROLLBACK")
    holder.close()
    assert not list(home.glob("*.damaged-*"))
