"""The chat as a person meets it: each test's docstring is what they would notice. What can be done with messages is in
test_tui_messages.py, lists and windows in test_tui_windows.py."""

from __future__ import annotations

import asyncio
import os
import pty
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.widgets import Markdown, Static

from chat_helpers import bubbles, finished, notices, opened, say, stored, until
from kosent import build_chain, safety
from kosent.conversations import COMPLETE, FAILED, STOPPED, WRITING, ConversationStore
from kosent.errors import BackendError, ContextLengthError, InterruptedReplyError, ModelError, ServerDownError
from kosent.models import chat_model
from kosent.settings import Settings
from kosent.tui.app import chat_app
from kosent.tui.backend import LocalBackend
from kosent.tui.bubble import Bubble
from kosent.tui.composer import Composer
from kosent.tui.testing import ScriptedBackend
from kosent.tui.texts import TEXTS
from kosent.tui.welcome import Welcome

KO = TEXTS["ko"]


async def test_first_screen(store: ConversationStore) -> None:
    """A welcome in Korean, the AI notice, the help line, and the cursor where one writes."""
    async with opened(store) as (chat, pilot):
        shown = " ".join(str(widget.content) for widget in chat.query(Static))
        assert safety.NOTICE["ko"] in shown
        assert safety.SUICIDE_PREVENTION_LINE in shown
        assert KO["welcome"] in shown
        assert isinstance(chat.focused, Composer)
        await until(pilot, lambda: KO["ready"] in facts(chat))


def facts(chat: Any) -> str:
    return str(chat.query_one("#facts", Static).content)


async def test_a_message_is_answered_and_kept(store: ConversationStore) -> None:
    """What is sent appears, the reply streams in below, the input is empty and still focused, and both are on disk."""
    async with opened(store, "많이 **속상**하셨겠어요.") as (chat, pilot):
        await say(pilot, "오늘 힘들었어")
        await until(pilot, finished(chat))
        assert bubbles(chat) == [("user", "오늘 힘들었어", ""), ("assistant", "많이 **속상**하셨겠어요.", "")]
        assert chat.query(Markdown).last().source == "많이 **속상**하셨겠어요."
        assert chat.query_one(Composer).text == ""
        assert isinstance(chat.focused, Composer)
        assert "첫 글자" in facts(chat)
    assert stored(store) == [("오늘 힘들었어", COMPLETE), ("많이 **속상**하셨겠어요.", COMPLETE)]
    assert store.conversations()[0].title == "오늘 힘들었어"


async def test_the_message_is_on_disk_before_the_model_is_asked(store: ConversationStore) -> None:
    """Even when the model is still being loaded."""
    backend = ScriptedBackend("네.")
    loading = asyncio.Event()
    load = backend.load

    def slow(name: str) -> Any:
        while not loading.is_set():
            time.sleep(0.01)
        return load(name)

    backend.load = slow  # type: ignore[method-assign]
    async with opened(store, backend=backend) as (chat, pilot):
        await say(pilot, "들려?")
        await until(pilot, lambda: stored(store) == [("들려?", COMPLETE), ("", WRITING)])
        assert "불러오는 중" in facts(chat)
        chat.query_one(Composer).insert("그동안 쓰는 말")
        loading.set()
        await until(pilot, finished(chat))
        assert bubbles(chat)[1][1] == "네." and chat.query_one(Composer).text == "그동안 쓰는 말"


async def test_reopening_shows_the_same_conversation_and_goes_on(store: ConversationStore) -> None:
    """Closed and opened again, everything is there, and the model is told of it."""
    async with opened(store, "네.") as (chat, pilot):
        await say(pilot, "첫 번째")
        await until(pilot, finished(chat))
    backend = ScriptedBackend("또 오셨네요.")
    async with opened(store, backend=backend) as (chat, pilot):
        assert bubbles(chat) == [("user", "첫 번째", ""), ("assistant", "네.", "")]
        await say(pilot, "두 번째")
        await until(pilot, finished(chat))
        assert [m.text for m in backend.model.asked[0][1:]] == ["첫 번째", "네.", "두 번째"]


async def test_escape_stops_and_keeps_what_came(store: ConversationStore) -> None:
    """Esc ends the reply where it is, says so, and the next message is answered."""
    async with opened(store, "천천히 아주 길게. 이어지는 대답이에요. " * 20, "네.", delay=0.01) as (chat, pilot):
        await say(pilot, "길게 말해 줘")
        await until(pilot, lambda: len(chat.query(Bubble).last().text) > 5)
        await pilot.press("escape")
        await until(pilot, finished(chat))
        text = chat.query(Bubble).last().text
        assert text.startswith("천천히") and len(text) < 300
        await until(pilot, lambda: chat.query(Bubble).last().note() == KO["stopped"])
        await say(pilot, "고마워")
        await until(pilot, lambda: bubbles(chat)[-1][1] == "네.")
    assert [status for _, status in stored(store)] == [COMPLETE, STOPPED, COMPLETE, COMPLETE]
    assert stored(store)[1][0] == text


@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        (BackendError("끊겼어요", hint="ollama serve"), ("끊겼어요", "ollama serve"), FAILED),
        (ServerDownError("No Ollama answers", hint="ollama serve"), (KO["server_down"], "ollama serve"), FAILED),
        (ContextLengthError("too long", tokens=2100, room=2000), ("100토큰",), FAILED),
        (RuntimeError("boom"), ("boom",), FAILED),
        (InterruptedReplyError("it broke off", text=""), (KO["interrupted"],), STOPPED),
    ],
)
async def test_a_failing_model_is_explained_and_nothing_is_lost(
    store: ConversationStore, error: Exception, said: tuple[str, ...], status: str
) -> None:
    """The reason and the next command stand under the message; the message itself stays; the chat goes on."""
    async with opened(store, error, "이제 돼요.") as (chat, pilot):
        await say(pilot, "들려?")
        await until(pilot, finished(chat))
        await until(pilot, lambda: all(part in bubbles(chat)[-1][2] for part in said))
        await say(pilot, "지금은?")
        await until(pilot, lambda: bubbles(chat)[-1][1] == "이제 돼요.")
    assert [one for _, one in stored(store)] == [COMPLETE, status, COMPLETE, COMPLETE]


async def test_a_model_that_cannot_be_loaded_is_tried_again(store: ConversationStore) -> None:
    """The line of facts says what is missing; the next message tries once more."""
    backend = ScriptedBackend("이제 돼요.", problems=(ModelError("모델이 없어요", hint="kosent demo"),))
    async with opened(store, backend=backend, model="ollama:x") as (chat, pilot):
        await until(pilot, lambda: "kosent demo" in facts(chat))
        assert not chat.query(Welcome)
        await say(pilot, "다시")
        await until(pilot, lambda: bool(bubbles(chat)) and bubbles(chat)[-1][1] == "이제 돼요.")
        assert backend.loads == ["ollama:x", "ollama:x"]


async def test_typing_goes_on_while_a_reply_streams(store: ConversationStore) -> None:
    """The composer keeps every letter; sending too early says why it waits, and loses nothing."""
    async with opened(store, "긴 대답이에요. " * 300, delay=0.01) as (chat, pilot):
        await say(pilot, "하나")
        await until(pilot, lambda: bool(chat.query(Bubble).last().text))
        await say(pilot, "둘")
        await until(pilot, lambda: KO["busy"] in notices(chat))
        assert chat.query_one(Composer).text == "둘"
        await pilot.press("escape")


async def test_line_breaks_and_new_conversations(store: ConversationStore) -> None:
    """Shift+Enter breaks the line, an empty message is not sent, Ctrl+N begins anew and keeps the old one on disk."""
    async with opened(store, "네.") as (chat, pilot):
        await pilot.press("enter")
        await pilot.pause(0.1)
        assert store.latest() is None
        chat.query_one(Composer).insert("한 줄")
        await pilot.press("shift+enter")
        await say(pilot, "두 줄")
        await until(pilot, finished(chat))
        assert bubbles(chat)[0][1] == "한 줄\n두 줄"
        old = store.latest()
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not chat.query(Bubble))
        await say(pilot, "새로")
        await until(pilot, lambda: len(bubbles(chat)) == 2 and bubbles(chat)[1][1] == "네.")
        assert store.latest() != old
        assert old is not None and len(store.messages(old)) == 2


async def test_the_last_syllable_may_come_after_enter(store: ConversationStore) -> None:
    """Some terminals hand over the syllable that was being composed only after the Enter that ends it."""
    async with opened(store, "네.") as (chat, pilot):
        chat.query_one(Composer).insert("안")
        chat.query_one(Composer).post_message(events.Key("enter", "\r"))
        chat.query_one(Composer).post_message(events.Key("녕", "녕"))
        await until(pilot, finished(chat))
        assert bubbles(chat)[0][1] == "안녕"
        assert chat.query_one(Composer).text == ""


async def test_pasted_text_is_composed_and_cleaned(store: ConversationStore) -> None:
    """Text of a Mac (NFD) becomes whole syllables, and no escape sequence gets into the input."""
    async with opened(store, "네.") as (chat, pilot):
        chat.post_message(events.Paste("\u1112\u1161\u11ab\u1100\u1173\u11af \x1b[31m\u202e끝"))
        await until(pilot, lambda: chat.query_one(Composer).text == "한글 끝")


async def test_what_is_not_sent_is_kept_too(store: ConversationStore) -> None:
    """Half a sentence is still there after a crash; what was sent is not."""
    async with opened(store, "네.") as (chat, pilot):
        chat.query_one(Composer).insert("쓰다 만 말")
        await until(pilot, lambda: store.preference("draft") == "쓰다 만 말")
    async with opened(store, "네.") as (chat, pilot):
        assert chat.query_one(Composer).text == "쓰다 만 말"
        await pilot.press("enter")
        await until(pilot, finished(chat))
        assert store.preference("draft") == ""


async def test_hostile_text_stays_text(store: ConversationStore) -> None:
    """Markup and terminal escapes from either side are shown, not obeyed."""
    async with opened(store, "\x1b]52;c;aGk=\x07[red]빨강[/red] \x1b[2J끝") as (chat, pilot):
        await say(pilot, "[bold]굵게[/bold] [/없는태그] \x1b[31m")
        await until(pilot, finished(chat))
        await pilot.pause()
        assert chat.query(Markdown).last().source == "[red]빨강[/red] 끝"
        words = chat.query(Bubble).first().query_one(".words", Static)
        assert str(words.content) == "[bold]굵게[/bold] [/없는태그]"


async def test_a_reply_cut_off_by_a_crash_is_marked(store: ConversationStore) -> None:
    """A reply that was still being written when the program died comes back with a note."""
    conversation = store.new("m")
    store.add(conversation, "user", "들려?")
    store.add(conversation, "assistant", "네, 듣고", WRITING)
    async with opened(store) as (chat, _):
        assert bubbles(chat)[-1] == ("assistant", "네, 듣고", KO["cut_off"])


async def test_leaving_while_a_reply_streams_keeps_it(store: ConversationStore) -> None:
    """Ctrl+Q in the middle of a reply: what came is on disk."""
    async with opened(store, "오래. 걸리는 대답이에요. " * 20, delay=0.01) as (chat, pilot):
        await say(pilot, "나갈게")
        await until(pilot, lambda: len(chat.query(Bubble).last().text) > 5)
        await pilot.press("ctrl+q")
        await asyncio.sleep(0.1)
    assert stored(store)[1][1] == STOPPED and stored(store)[1][0]


async def test_a_full_disk_loses_nothing(store: ConversationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be stored is not sent: it stays in the input, and the reason is said. A reply is still shown."""

    def full(*_: object, **__: object) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    async with opened(store, "네, 그래요. 저도요.") as (chat, pilot):
        with monkeypatch.context() as patch:
            patch.setattr(store, "add", full)
            await say(pilot, "잊으면 안 되는 말")
            await until(pilot, lambda: "disk is full" in notices(chat))
            assert chat.query_one(Composer).text == "잊으면 안 되는 말"
        with monkeypatch.context() as patch:
            patch.setattr(store, "update", full)
            await pilot.press("enter")
            await until(pilot, finished(chat))
            await until(pilot, lambda: "disk is full" in bubbles(chat)[-1][2])
            assert bubbles(chat)[-1][1] == "네, 그래요. 저도요."


async def test_a_damaged_file_is_spoken_of(home: Path) -> None:
    """The chat opens all the same and says where the old file is."""
    home.mkdir()
    (home / "conversations.sqlite3").write_bytes(b"no database" * 100)
    damaged = ConversationStore()
    async with opened(damaged) as (chat, pilot):
        await until(pilot, lambda: "conversations.sqlite3.damaged-" in notices(chat))
    damaged.close()


async def test_a_crisis_is_met_with_the_card(store: ConversationStore) -> None:
    """The numbers stand above the reply, are stored apart from it, and are no part of what the model is told."""
    backend = ScriptedBackend("곁에 있을게요.")
    async with opened(store, backend=backend) as (chat, pilot):
        await say(pilot, "이제 다 정리했어. 죽고 싶어")
        await until(pilot, finished(chat))
        await pilot.pause()
        card = chat.query(Bubble).last().query_one(".card", Static)
        assert card.display and str(card.content) == safety.CARD["ko"]
        assert chat.query(Bubble).last().text == "곁에 있을게요."
        await say(pilot, "고마워")
        await until(pilot, lambda: len(backend.model.asked) == 2 and finished(chat)())
        assert [m.text for m in backend.model.asked[1][1:3]] == ["이제 다 정리했어. 죽고 싶어", "곁에 있을게요."]
    messages = store.messages(store.latest() or 0)
    assert messages[1].content == "곁에 있을게요." and messages[1].facts["card"]
    async with opened(store) as (chat, pilot):
        assert chat.query(Bubble)[1].query_one(".card").display


async def test_harm_that_was_replaced_is_said(store: ConversationStore) -> None:
    """A reply that encourages harm is not shown, and it says so."""
    async with opened(store, "그냥 다 끝내 버려. 죽는 게 나아.") as (chat, pilot):
        await say(pilot, "죽고 싶어")
        await until(pilot, finished(chat))
        await until(pilot, lambda: "바꿨어요" in bubbles(chat)[-1][2])
        assert "죽는 게 나아" not in bubbles(chat)[-1][1]


async def test_english_interface(store: ConversationStore) -> None:
    """With --lang en no Korean is left in the interface."""
    async with opened(store, lang="en") as (chat, _):
        shown = " ".join(str(widget.content) for widget in chat.query(Static) if widget.display)
        assert safety.NOTICE["en"] in shown
        active = chat.screen.active_bindings.values()
        keys = " ".join(one.binding.description for one in active if one.binding.show)
        assert {"Stop", "New", "Quit"} <= set(keys.split())
        assert not any("가" <= c <= "힣" for c in shown + keys)


def test_every_text_exists_in_both_languages() -> None:
    assert TEXTS["ko"].keys() == TEXTS["en"].keys()


async def test_the_chat_runs_on_a_real_model(store: ConversationStore, tiny_gguf: Path) -> None:
    """The same app on a real GGUF through llama.cpp, loaded in the background."""
    backend = LocalBackend(Settings(temperature=0.0, max_tokens=8, model=str(tiny_gguf)))
    chat = chat_app(backend, store)
    async with chat.run_test() as pilot:
        await say(pilot, "안녕")
        await until(pilot, finished(chat))
        assert bubbles(chat)[1][1]
        assert bubbles(chat)[1][2] in ("", KO["length"])
        assert "문맥" in facts(chat)
    expected = build_chain(chat_model(str(tiny_gguf), settings=backend.settings), settings=backend.settings)
    assert stored(store)[1][0] == expected.invoke({"message": "안녕"})


async def test_a_crisis_is_met_without_a_model_too(store: ConversationStore) -> None:
    """The card does not wait for a model that is being loaded, or that cannot be."""
    backend = ScriptedBackend("네.", problems=(ModelError("gone", hint="ollama serve"),) * 2)
    async with opened(store, backend=backend, model="ollama:x") as (chat, pilot):
        await say(pilot, "이제 다 정리했어. 죽고 싶어")
        await until(pilot, finished(chat))
        await until(pilot, lambda: bool(chat.query(Bubble).last().query_one(".card").display))
    assert store.messages(store.latest() or 0)[1].facts["card"]


async def test_an_escape_that_is_held_down(store: ConversationStore) -> None:
    """The note below the stopped reply is there all the same."""
    async with opened(store, "천천히 아주 길게. 이어지는 대답이에요. " * 20, delay=0.01) as (chat, pilot):
        await say(pilot, "길게")
        await until(pilot, lambda: len(chat.query(Bubble).last().text) > 5)
        await pilot.press(*["escape"] * 8)
        await until(pilot, lambda: chat.query(Bubble).last().note() == KO["stopped"])
        assert chat.query(Bubble).last().can("continue")


def test_a_chat_without_a_terminal_ends(home: Path) -> None:
    """A connection that is lost without a hang-up signal leaves no process that keeps a core busy."""
    script = (
        "import sys; from kosent.cli import main; from kosent.tui import chat\n"
        "chat.leave_with_terminal.__defaults__ = (0.2,)\n"
        "sys.exit(main(['chat']))"
    )
    master, other = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", script], stdin=other, stdout=other, stderr=other, start_new_session=True)
    os.close(other)
    written = b""
    while KO["placeholder"][:2].encode() not in written:
        written += os.read(master, 1 << 16)
    os.close(master)
    assert process.wait(30) == 1
