"""The chat as a person meets it: each test's docstring is what they would notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Markdown, Static

from kosent import build_chain, safety
from kosent.conversations import COMPLETE, FAILED, STOPPED, WRITING, ConversationStore
from kosent.errors import BackendError, ModelError
from kosent.models import chat_model
from kosent.settings import Settings
from kosent.testing import ScriptedChat
from kosent.tui.app import ChatApp, chat_app
from kosent.tui.bubble import Bubble
from kosent.tui.composer import Composer
from kosent.tui.texts import TEXTS


@pytest.fixture
def store(home: Path) -> Iterator[ConversationStore]:
    opened = ConversationStore()
    yield opened
    opened.close()


def app(store: ConversationStore, *replies: object, delay: float = 0.0, lang: str = "ko") -> ChatApp:
    model = ScriptedChat(replies=list(replies) or ["그랬군요."], delay=delay)
    return chat_app(lambda: build_chain(model), store, model="scripted", lang=lang)


async def until(pilot: Pilot[Any], holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        await pilot.pause(0.02)


def bubbles(chat: ChatApp) -> list[tuple[str, str, str]]:
    return [(b.role, b.text, b.note) for b in chat.query(Bubble)]


async def say(pilot: Pilot[Any], text: str) -> None:
    pilot.app.query_one(Composer).insert(text)
    await pilot.press("enter")


def finished(chat: ChatApp) -> Callable[[], bool]:
    return lambda: chat.reply is not None and chat.reply.is_finished


async def test_first_screen(store: ConversationStore) -> None:
    """A welcome in Korean, the AI notice, the help line, and the cursor where one writes."""
    chat = app(store)
    async with chat.run_test() as pilot:
        shown = " ".join(str(widget.content) for widget in chat.query(Static))
        assert safety.NOTICE["ko"] in shown
        assert safety.SUICIDE_PREVENTION_LINE in shown
        assert TEXTS["ko"]["welcome"] in shown
        assert isinstance(chat.focused, Composer)
        await until(pilot, lambda: TEXTS["ko"]["ready"] in str(chat.query_one("#status", Static).content))


async def test_a_message_is_answered_and_kept(store: ConversationStore) -> None:
    """What is sent appears, the reply streams in below, the input is empty and still focused, and both are on disk."""
    chat = app(store, "많이 **속상**하셨겠어요.")
    async with chat.run_test() as pilot:
        await say(pilot, "오늘 힘들었어")
        await until(pilot, finished(chat))
        assert bubbles(chat) == [("user", "오늘 힘들었어", ""), ("assistant", "많이 **속상**하셨겠어요.", "")]
        assert chat.query_one(Composer).text == ""
        assert isinstance(chat.focused, Composer)
    conversation = store.latest()
    assert conversation is not None
    assert [(m.content, m.status) for m in store.messages(conversation)] == [
        ("오늘 힘들었어", COMPLETE),
        ("많이 **속상**하셨겠어요.", COMPLETE),
    ]


async def test_reopening_shows_the_same_conversation_and_goes_on(store: ConversationStore) -> None:
    """Closed and opened again, everything is there, and the model is told of it."""
    first = app(store, "네.")
    async with first.run_test() as pilot:
        await say(pilot, "첫 번째")
        await until(pilot, finished(first))
    model = ScriptedChat(replies=["또 오셨네요."])
    second = ChatApp(lambda: build_chain(model), store, model="scripted")
    async with second.run_test() as pilot:
        assert bubbles(second) == [("user", "첫 번째", ""), ("assistant", "네.", "")]
        await say(pilot, "두 번째")
        await until(pilot, finished(second))
        assert [m.text for m in model.asked[0][1:]] == ["첫 번째", "네.", "두 번째"]


async def test_escape_stops_and_keeps_what_came(store: ConversationStore) -> None:
    """Esc ends the reply where it is, says so, and the next message is answered."""
    chat = app(store, "천천히 아주 길게 이어지는 대답이에요. " * 20, "네.", delay=0.01)
    async with chat.run_test() as pilot:
        await say(pilot, "길게 말해 줘")
        await until(pilot, lambda: len(chat.query(Bubble).last().text) > 5)
        await pilot.press("escape")
        await until(pilot, finished(chat))
        text = chat.query(Bubble).last().text
        assert "천천히".startswith(text[:3]) and len(text) < 200
        await until(pilot, lambda: chat.query(Bubble).last().note == TEXTS["ko"]["stopped"])
        await say(pilot, "고마워")
        await until(pilot, lambda: bubbles(chat)[-1][1] == "네.")
    conversation = store.latest()
    assert conversation is not None
    assert [m.status for m in store.messages(conversation)] == [COMPLETE, STOPPED, COMPLETE, COMPLETE]
    assert store.messages(conversation)[1].content == text


async def test_a_failing_model_is_explained_and_nothing_is_lost(store: ConversationStore) -> None:
    """The reason and the next command stand under the message; the message itself stays."""
    chat = app(store, BackendError("끊겼어요", hint="ollama serve"))
    async with chat.run_test() as pilot:
        await say(pilot, "들려?")
        await until(pilot, finished(chat))
        await until(pilot, lambda: "ollama serve" in bubbles(chat)[-1][2])
    conversation = store.latest()
    assert conversation is not None
    assert [m.status for m in store.messages(conversation)] == [COMPLETE, FAILED]


async def test_a_model_that_cannot_be_loaded_is_tried_again(store: ConversationStore) -> None:
    """The status line says what is missing; the next message tries once more."""
    tries = []

    def make() -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise ModelError("모델이 없어요", hint="kosent demo")
        return build_chain(ScriptedChat(replies=["이제 돼요."]))

    chat = ChatApp(make, store, model="scripted")
    async with chat.run_test() as pilot:
        await until(pilot, lambda: "kosent demo" in str(chat.query_one("#status", Static).content))
        await say(pilot, "다시")
        await until(pilot, lambda: bubbles(chat)[-1][1] == "이제 돼요.")


async def test_typing_goes_on_while_a_reply_streams(store: ConversationStore) -> None:
    """The composer keeps every letter; sending too early says why it waits, and loses nothing."""
    chat = app(store, "긴 대답이에요. " * 300, delay=0.01)
    async with chat.run_test() as pilot:
        await say(pilot, "하나")
        await until(pilot, lambda: bool(chat.query(Bubble).last().text))
        await say(pilot, "둘")
        await until(pilot, lambda: TEXTS["ko"]["busy"] in str(chat.query_one("#status", Static).content))
        assert chat.query_one(Composer).text == "둘"
        await pilot.press("escape")


async def test_line_breaks_and_new_conversations(store: ConversationStore) -> None:
    """Shift+Enter breaks the line, an empty message is not sent, Ctrl+N begins anew and keeps the old one on disk."""
    chat = app(store, "네.")
    async with chat.run_test() as pilot:
        await pilot.press("enter")
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


async def test_hostile_text_stays_text(store: ConversationStore) -> None:
    """Markup and terminal escapes from either side are shown, not obeyed."""
    chat = app(store, "\x1b]52;c;aGk=\x07[red]빨강[/red] \x1b[2J끝")
    async with chat.run_test() as pilot:
        await say(pilot, "[bold]굵게[/bold] [/없는태그] \x1b[31m")
        await until(pilot, finished(chat))
        await pilot.pause()
        assert "\x1b" not in chat.query(Markdown).last().source
        assert "[red]빨강[/red]" in chat.query(Markdown).last().source
        words = chat.query(Bubble).first().query_one(".words", Static)
        assert str(words.content) == "[bold]굵게[/bold] [/없는태그] "


async def test_a_reply_cut_off_by_a_crash_is_marked(store: ConversationStore) -> None:
    """A reply that was still being written when the program died comes back with a note."""
    conversation = store.new("m")
    store.add(conversation, "user", "들려?")
    store.add(conversation, "assistant", "네, 듣고", WRITING)
    chat = app(store, "계속할게요.")
    async with chat.run_test():
        assert bubbles(chat)[-1] == ("assistant", "네, 듣고", TEXTS["ko"]["cut_off"])


async def test_leaving_while_a_reply_streams_keeps_it(store: ConversationStore) -> None:
    """Ctrl+Q in the middle of a reply: what came is on disk."""
    chat = app(store, "오래 걸리는 대답이에요. " * 20, delay=0.01)
    async with chat.run_test() as pilot:
        await say(pilot, "나갈게")
        await until(pilot, lambda: len(chat.query(Bubble).last().text) > 5)
        await pilot.press("ctrl+q")
        await asyncio.sleep(0.1)
    conversation = store.latest()
    assert conversation is not None
    assert store.messages(conversation)[1].status == STOPPED
    assert store.messages(conversation)[1].content


async def test_english_interface(store: ConversationStore) -> None:
    """With --lang en no Korean is left in the interface."""
    chat = app(store, lang="en")
    async with chat.run_test():
        shown = " ".join(str(widget.content) for widget in chat.query(Static))
        assert safety.NOTICE["en"] in shown
        keys = " ".join(active.binding.description for active in chat.active_bindings.values() if active.binding.show)
        assert {"Stop", "New", "Quit"} <= set(keys.split())
        assert not any("가" <= c <= "힣" for c in shown + keys)


def test_every_text_exists_in_both_languages() -> None:
    assert TEXTS["ko"].keys() == TEXTS["en"].keys()


async def test_the_chat_runs_on_a_real_model(store: ConversationStore, tiny_gguf: Path) -> None:
    """The same app on a real GGUF through llama.cpp."""
    settings = Settings(temperature=0.0, max_tokens=8)
    chat = ChatApp(lambda: build_chain(chat_model(str(tiny_gguf), settings=settings)), store, model="tiny")
    async with chat.run_test() as pilot:
        await say(pilot, "안녕")
        await until(pilot, finished(chat))
        assert bubbles(chat)[1][1]
        assert bubbles(chat)[1][2] == ""
