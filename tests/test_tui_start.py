"""The chat where there is no model yet, and what it is to leave it: each test's docstring is what a person would notice."""

from __future__ import annotations

import subprocess
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from textual.widgets import Button, Static

from chat_helpers import bubbles, finished, opened, say, until, window
from kosent.available import Available
from kosent.conversations import ConversationStore
from kosent.errors import ModelError
from kosent.tui.model_dialog import ModelDialog
from kosent.tui.testing import NOTHING, ScriptedBackend
from kosent.tui.texts import TEXTS
from kosent.tui.welcome import Welcome

KO = TEXTS["ko"]
THERE = Available("ollama:kosent", ("ollama:kosent:latest", "ollama:smol:latest"), "", {}, (Path("/models/kosent-q8_0.gguf"),))
NO_MODEL = ModelError("No model is configured.", hint="kosent demo")


async def test_first_start_with_nothing_there(store: ConversationStore) -> None:
    """What is missing and what can be done now; never a traceback; when something is there, the chat goes on by itself."""
    backend = ScriptedBackend("이제 돼요.", problems=(NO_MODEL, NO_MODEL), there=NOTHING)
    async with opened(store, backend=backend) as (chat, pilot):
        await until(pilot, lambda: bool(chat.query(Welcome)))
        said = " ".join(str(one.content) for one in chat.query_one(Welcome).query(Static))
        assert KO["first_ollama_none"] in said and "10분" in said
        assert [button.id for button in chat.query_one(Welcome).query(Button)] == ["run_demo", "look_again"]
        chat.query_one("#look_again", Button).press()
        await until(pilot, lambda: len(backend.loads) == 2 and bool(chat.query(Welcome)))
        await pilot.pause(0.1)
        chat.query_one("#look_again", Button).press()
        await until(pilot, lambda: not chat.query(Welcome))
        await say(pilot, "안녕")
        await until(pilot, finished(chat))
        assert bubbles(chat)[1][1] == "이제 돼요."


async def test_what_is_said_before_there_is_a_model_is_not_lost(store: ConversationStore) -> None:
    """It is kept, the reason stands below it, and it can be answered once a model is there."""
    backend = ScriptedBackend("늦었지만, 네.", problems=(NO_MODEL, NO_MODEL))
    async with opened(store, backend=backend) as (chat, pilot):
        await until(pilot, lambda: bool(chat.query(Welcome)))
        await say(pilot, "들어 줄래?")
        await until(pilot, finished(chat))
        assert "kosent demo" in bubbles(chat)[1][2]
        await pilot.press("ctrl+r")
        await until(pilot, lambda: bubbles(chat)[-1][1] == "늦었지만, 네.")


async def test_first_start_with_ollama_there(store: ConversationStore) -> None:
    """Its models can be chosen at once."""
    backend = ScriptedBackend("네.", problems=(NO_MODEL,), there=THERE)
    async with opened(store, backend=backend) as (chat, pilot):
        await until(pilot, lambda: bool(chat.query(Welcome)))
        chat.query_one("#choose_model", Button).press()
        dialog = await window(pilot, ModelDialog)
        await until(pilot, lambda: bool(dialog.names))
        await pilot.press("enter")
        await until(pilot, lambda: not chat.query(Welcome) and backend.loads[-1] == "ollama:kosent:latest")


async def test_the_demo_is_given_the_terminal(store: ConversationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the chat takes the model that it made."""
    ran: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: ran.append(command))
    monkeypatch.setattr("builtins.input", lambda _: "")
    backend = ScriptedBackend("네.", problems=(NO_MODEL,))
    async with opened(store, backend=backend) as (chat, pilot):
        await until(pilot, lambda: bool(chat.query(Welcome)))
        monkeypatch.setattr(type(chat), "suspend", lambda self: nullcontext())
        chat.query_one("#run_demo", Button).press()
        await until(pilot, lambda: not chat.query(Welcome))
        assert ran and ran[0][1:] == ["-m", "kosent", "demo"]


async def test_leaving_does_not_wait_for_a_model(store: ConversationStore) -> None:
    """A large model may take a minute to load; Ctrl+Q does not."""
    backend = ScriptedBackend("네.")
    backend.load = lambda name: time.sleep(60)  # type: ignore[assignment, method-assign, return-value, misc]
    began = time.monotonic()
    async with opened(store, backend=backend) as (_, pilot):
        await pilot.press("ctrl+q")
    assert time.monotonic() - began < 50
