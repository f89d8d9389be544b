"""The list of conversations and the windows of the chat: search, models, settings, export, deleting, themes, first start."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from textual.command import CommandPalette
from textual.widgets import Button, Checkbox, Input, OptionList, Static, TextArea

from chat_helpers import bubbles, closed, finished, notices, opened, say, until, window
from kosent import safety
from kosent.available import Available
from kosent.conversations import ConversationStore
from kosent.errors import ModelError
from kosent.tui.app import ChatApp, keys_of
from kosent.tui.bubble import Bubble
from kosent.tui.composer import Composer
from kosent.tui.dialogs import ConfirmDialog, LineDialog, SafetyDialog, TextDialog
from kosent.tui.export_dialog import ExportDialog
from kosent.tui.model_dialog import ModelDialog
from kosent.tui.pane import Pane
from kosent.tui.search_dialog import SearchDialog
from kosent.tui.settings_dialog import SettingsDialog
from kosent.tui.sidebar import Sidebar
from kosent.tui.testing import ScriptedBackend
from kosent.tui.texts import TEXTS
from kosent.tui.welcome import Welcome

KO = TEXTS["ko"]
THERE = Available("ollama:kosent", ("ollama:kosent:latest", "ollama:smol:latest"), "", {}, (Path("/models/kosent-q8_0.gguf"),))


def labels(chat: ChatApp) -> list[str]:
    entries = chat.sidebar.entries
    return [str(entries.get_option_at_index(place).prompt).split("\n")[0] for place in range(entries.option_count)]


def three(store: ConversationStore) -> list[int]:
    made = []
    for title in ("하나", "둘", "셋"):
        made.append(store.new("m"))
        store.add(made[-1], "user", title)
    return made


# --- the list


async def test_the_list_opens_renames_and_pins(store: ConversationStore) -> None:
    """The newest first; the pinned above all; the open one is remembered."""
    three(store)
    async with opened(store) as (chat, pilot):
        assert labels(chat) == ["셋", "둘", "하나"]
        await pilot.press("ctrl+b", "down", "down", "enter")
        await until(pilot, lambda: [text for _, text, _ in bubbles(chat)] == ["하나"])
        assert isinstance(chat.focused, Composer)
        await pilot.press("ctrl+b", "p")
        assert labels(chat) == ["★ 하나", "셋", "둘"]
        await pilot.press("ㄱ")
        dialog = await window(pilot, LineDialog)
        dialog.query_one(Input).value = "[b]첫[/b] 이야기\x1b[2J"
        await pilot.press("enter")
        await closed(pilot)
        assert labels(chat)[0] == "★ [b]첫[/b] 이야기"
        await pilot.press("p")
        assert labels(chat) == ["셋", "둘", "[b]첫[/b] 이야기"]


async def test_deleting_says_so_and_can_be_undone(store: ConversationStore) -> None:
    """Also for the conversation that is open; when the chat closes it is gone."""
    three(store)
    async with opened(store) as (chat, pilot):
        await pilot.press("ctrl+b", "delete")
        await until(pilot, lambda: labels(chat) == ["둘", "하나"])
        assert "‘셋’" in notices(chat) and not chat.query(Bubble) and chat.query_one(Pane).conversation is None
        await pilot.press("ctrl+z")
        await until(pilot, lambda: labels(chat) == ["셋", "둘", "하나"])
        await pilot.press("ctrl+z")
        assert KO["nothing_to_undo"] in notices(chat)
        await pilot.press("d")
        await until(pilot, lambda: len(labels(chat)) == 2)
        await pilot.press("ctrl+q")
    assert [one.title for one in store.conversations()] == ["둘", "하나"]
    assert store._db.execute("SELECT count(*) FROM conversation").fetchone() == (2,)


async def test_what_another_window_writes_appears(store: ConversationStore) -> None:
    """The list of this one grows."""
    async with opened(store) as (chat, pilot):
        other = ConversationStore()
        three(other)
        await until(pilot, lambda: labels(chat) == ["셋", "둘", "하나"])
        other.close()


@pytest.mark.parametrize(("width", "there"), [(120, True), (80, False), (40, False)])
async def test_the_list_takes_no_room_that_is_not_there(store: ConversationStore, width: int, there: bool) -> None:
    """Beside the conversation on a wide screen; on a narrow one it comes and goes with Ctrl+B."""
    three(store)
    async with opened(store, size=(width, 30)) as (chat, pilot):
        assert chat.query_one(Sidebar).display == there
        await pilot.press("ctrl+b")
        assert chat.query_one(Sidebar).display and isinstance(chat.focused, OptionList)
        await pilot.press("ctrl+b")
        assert chat.query_one(Sidebar).display == there and isinstance(chat.focused, Composer)
        await pilot.press("ctrl+b", "down", "enter")
        await until(pilot, lambda: [text for _, text, _ in bubbles(chat)] == ["둘"])
        assert chat.query_one(Sidebar).display == (width >= 60) and isinstance(chat.focused, Composer)


# --- search


async def test_search_finds_a_syllable_and_opens_there(store: ConversationStore) -> None:
    """In every conversation and every branch; the message that was found is selected."""
    conversation = store.new("m")
    first = store.add(conversation, "user", "퇴근길에 울었어")
    store.add(conversation, "assistant", "많이 속상하셨군요")
    store.add(conversation, "user", "다르게 말할게", parent=None)
    three(store)
    async with opened(store) as (chat, pilot):
        await pilot.press("ctrl+f")
        dialog = await window(pilot, SearchDialog)
        await pilot.press("길")
        await until(pilot, lambda: len(dialog.found) == 1)
        assert "퇴근길에" in str(dialog.query_one(OptionList).get_option_at_index(0).prompt)
        await pilot.press("enter")
        await closed(pilot)
        await until(pilot, lambda: [text for _, text, _ in bubbles(chat)] == ["퇴근길에 울었어", "많이 속상하셨군요"])
        await until(pilot, lambda: isinstance(chat.focused, Bubble))
        assert chat.focused.message.id == first  # type: ignore[union-attr]


async def test_search_says_when_nothing_is_there(store: ConversationStore) -> None:
    """And Esc leaves everything as it was."""
    three(store)
    async with opened(store) as (chat, pilot):
        await pilot.press("ctrl+f")
        dialog = await window(pilot, SearchDialog)
        await pilot.press("없", "음")
        await until(pilot, lambda: str(dialog.query_one("#hint", Static).content) == KO["search_none"])
        await pilot.press("enter", "escape")
        await closed(pilot)
        assert [text for _, text, _ in bubbles(chat)] == ["셋"] and isinstance(chat.focused, Composer)


# --- models and settings


async def test_a_model_is_chosen_and_loads_in_the_background(store: ConversationStore) -> None:
    """What is there is listed; a model that cannot be loaded is explained; typing goes on."""
    backend = ScriptedBackend("네.", there=THERE)
    async with opened(store, backend=backend) as (chat, pilot):
        await pilot.press("ctrl+o")
        dialog = await window(pilot, ModelDialog)
        await until(pilot, lambda: dialog.names == THERE.names())
        await pilot.press("down", "enter")
        await closed(pilot)
        await until(pilot, lambda: backend.loads == ["", "ollama:smol:latest"])
        await until(pilot, lambda: "ollama:smol:latest" in str(chat.query_one("#facts", Static).content))
        backend.problems.append(ModelError("It broke.", hint="kosent models"))
        await pilot.press("ctrl+o")
        await window(pilot, ModelDialog)
        await until(pilot, lambda: isinstance(chat.focused, OptionList))
        await pilot.press("end", "enter")
        await until(pilot, lambda: "kosent models" in str(chat.query_one("#facts", Static).content))
        chat.query_one(Composer).insert("그래도 쓴다")
        assert not chat.query(Welcome)


async def test_without_models_the_window_says_why(store: ConversationStore) -> None:
    """Rather than showing an empty list."""
    async with opened(store) as (_, pilot):
        await pilot.press("ctrl+o")
        dialog = await window(pilot, ModelDialog)
        await until(pilot, lambda: KO["ollama_down"] in str(dialog.query_one("#hint", Static).content))


async def test_a_conversation_has_a_persona_and_parameters_of_its_own(store: ConversationStore) -> None:
    """They reach the model, are kept with the conversation, and another conversation has none of them."""
    backend = ScriptedBackend("네.")
    async with opened(store, backend=backend) as (chat, pilot):
        await pilot.press("ctrl+t")
        dialog = await window(pilot, SettingsDialog)
        dialog.query_one("#system", TextArea).text = "너는 오래된 친구야."
        dialog.query_one("#temperature", Input).value = "0.2"
        dialog.query_one("#top_p", Input).value = "1.5"
        dialog.query_one("#save", Button).press()
        await until(pilot, lambda: "1.5" in str(dialog.query_one(".problem", Static).content))
        dialog.query_one("#top_p", Input).value = ""
        dialog.query_one("#save", Button).press()
        await closed(pilot)
        await say(pilot, "안녕")
        await until(pilot, finished(chat))
        assert backend.owns == [{"system": "너는 오래된 친구야.", "temperature": 0.2}]
        assert backend.model.asked[0][0].text == "너는 오래된 친구야."
        await pilot.press("ctrl+n")
        await say(pilot, "누구세요")
        await until(pilot, lambda: len(backend.owns) == 2 and finished(chat)())
        assert backend.owns[1] == {}
    async with opened(store, backend=backend) as (chat, pilot):
        await chat.query_one(Pane).open(store.conversations()[1].id)
        await pilot.press("ctrl+t")
        dialog = await window(pilot, SettingsDialog)
        assert dialog.query_one("#temperature", Input).value == "0.2"


# --- export, import, deleting


@pytest.mark.parametrize("form", ["markdown", "jsonl"])
async def test_a_conversation_is_exported_and_masked(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """The name that is proposed can be changed; a file that is there is never overwritten."""
    monkeypatch.chdir(tmp_path)
    conversation = store.new("m")
    store.add(conversation, "user", "내 번호는 010-1234-5678이야")
    store.add(conversation, "assistant", "그렇군요.")
    async with opened(store) as (chat, pilot):
        await pilot.press("ctrl+s")
        dialog = await window(pilot, ExportDialog)
        dialog.query_one(f"#{form}").value = True
        dialog.query_one("#mask", Checkbox).value = True
        await pilot.pause()
        proposed = Path(dialog.query_one("#path", Input).value)
        assert proposed.parent == tmp_path and proposed.suffix == {"markdown": ".md", "jsonl": ".jsonl"}[form]
        target = tmp_path / f"out{proposed.suffix}"
        dialog.query_one("#path", Input).value = str(target)
        dialog.query_one("#save", Button).press()
        await closed(pilot)
        await until(pilot, lambda: str(target) in notices(chat))
        text = target.read_text(encoding="utf-8")
        assert "1234" not in text and "그렇군요." in text
        await pilot.press("ctrl+s")
        dialog = await window(pilot, ExportDialog)
        dialog.query_one("#path", Input).value = str(target)
        dialog.query_one("#save", Button).press()
        await closed(pilot)
        await until(pilot, lambda: len(notices(chat).splitlines()) == 2)
        assert target.read_text(encoding="utf-8") == text


async def test_conversations_are_imported(store: ConversationStore, tmp_path: Path) -> None:
    """From the palette; lines that cannot be read are counted and the first is explained."""
    source = tmp_path / "in.jsonl"
    turns = [{"role": "user", "content": "예전 이야기"}, {"role": "assistant", "content": "네."}]
    source.write_text(json.dumps({"messages": turns}, ensure_ascii=False) + "\nnonsense\n", encoding="utf-8")
    async with opened(store) as (chat, pilot):
        chat.action_import()
        dialog = await window(pilot, LineDialog)
        dialog.query_one(Input).value = str(source)
        await pilot.press("enter")
        await until(pilot, lambda: labels(chat) == ["예전 이야기"])
        assert "2번째 줄" in notices(chat)


async def test_everything_is_deleted_only_when_it_is_said_twice(store: ConversationStore) -> None:
    """The button that changes nothing has the focus; what stays on disk is said before and after."""
    three(store)
    async with opened(store) as (chat, pilot):
        chat.query_one(Composer).insert("쓰던 말")
        chat.action_forget()
        dialog = await window(pilot, ConfirmDialog)
        said = " ".join(str(one.content) for one in dialog.query(Static))
        assert "3개" in said and str(store.path) in said and "내보낸 파일" in said
        await pilot.press("enter")
        await closed(pilot)
        assert len(labels(chat)) == 3
        chat.action_forget()
        dialog = await window(pilot, ConfirmDialog)
        dialog.query_one("#delete_all", Button).press()
        await closed(pilot)
        await until(pilot, lambda: labels(chat) == [KO["no_conversations"]])
        await until(pilot, lambda: KO["forgotten"] in notices(chat) and not chat.query(Bubble))
    assert store.conversations() == [] and store.preference("draft") == ""


# --- help, themes, palette


async def test_one_key_shows_where_to_get_help(store: ConversationStore) -> None:
    """From anywhere, also while another window is open."""
    async with opened(store) as (_, pilot):
        await pilot.press("ctrl+f")
        await window(pilot, SearchDialog)
        await pilot.press("f2")
        dialog = await window(pilot, SafetyDialog)
        said = " ".join(str(one.content) for one in dialog.query(Static))
        for number in ("109", "1577-0199", "1388", "112", "119", "마들랜"):
            assert number in said
        assert safety.NOTICE["ko"] in said
        await pilot.press("f2", "escape", "escape")
        await closed(pilot)


async def test_the_keys_are_listed(store: ConversationStore) -> None:
    """All of them, by what has the focus."""
    async with opened(store) as (_, pilot):
        await pilot.press("f1")
        dialog = await window(pilot, TextDialog)
        said = " ".join(str(one.content) for one in dialog.query(Static))
        for name in ("key_send", "key_stop", "key_search", "key_copy", "key_continue", "key_rename", "key_undo", "key_quit"):
            assert KO[name] in said


async def test_ctrl_c_says_how_to_leave(store: ConversationStore) -> None:
    """It copies a selection, and it does not end the chat."""
    async with opened(store) as (chat, pilot):
        await pilot.press("ctrl+c")
        await until(pilot, lambda: KO["quit_hint"] in notices(chat))


async def test_everything_is_in_the_palette(store: ConversationStore) -> None:
    """In the language of the chat; what was typed there happens."""
    async with opened(store) as (chat, pilot):
        commands = {one.title for one in chat.get_system_commands(chat.screen)}
        assert {KO["key_import"], KO["forget_title"], KO["theme_contrast"], KO["key_search"]} <= commands
        assert keys_of("search") == "Ctrl+F"
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(chat.screen, CommandPalette))
        for letter in "고대비":
            await pilot.press(letter)
        await until(pilot, lambda: chat.screen.query_one("CommandList", OptionList).option_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: chat.theme == "kosent-contrast")
    async with opened(store) as (chat, _):
        assert chat.theme == "kosent-contrast"


async def test_every_command_of_the_palette_can_be_run(store: ConversationStore) -> None:
    """None of them ends in an error."""
    three(store)
    async with opened(store, "네.") as (chat, pilot):
        for command in list(chat.get_system_commands(chat.screen)):
            if command.title == KO["key_quit"]:
                continue
            done = command.callback()
            if asyncio.iscoroutine(done):
                await done
            await pilot.pause()
            while len(chat.screen_stack) > 1:
                await pilot.press("escape")
        await until(pilot, lambda: not chat.query_one(Pane).busy)


async def test_what_cannot_be_stored_does_not_end_the_chat(store: ConversationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, a locked file: it is said, in the list, the settings, the search and the theme."""

    def full(*_: object, **__: object) -> Any:
        raise sqlite3.OperationalError("database or disk is full")

    three(store)
    async with opened(store) as (chat, pilot):
        for name in ("pin", "delete", "configure", "search", "prefer", "changed_elsewhere", "choose"):
            monkeypatch.setattr(store, name, full)
        await pilot.press("ctrl+b", "p", "d")
        await until(pilot, lambda: notices(chat).count("disk is full") >= 2)
        chat.query_one(Pane).configure({"temperature": 0.1})
        chat.action_theme("kosent-light")
        await pilot.press("ctrl+f", "가")
        await until(pilot, lambda: notices(chat).count("disk is full") >= 5)
        await pilot.press("escape")
        assert chat.is_running


async def test_a_path_of_nobody(store: ConversationStore) -> None:
    """`~name` of a user who is not there is an error like any other."""
    three(store)
    async with opened(store) as (chat, pilot):
        await pilot.press("ctrl+s")
        dialog = await window(pilot, ExportDialog)
        dialog.query_one("#path", Input).value = "~nobody-of-this-name/x.md"
        dialog.query_one("#save", Button).press()
        await closed(pilot)
        await until(pilot, lambda: "home" in notices(chat))


async def test_keys_of_the_chat_do_nothing_under_a_window(store: ConversationStore) -> None:
    """A second Ctrl+F opens no second search, Ctrl+N begins nothing behind it."""
    three(store)
    async with opened(store, "네.") as (chat, pilot):
        await pilot.press("ctrl+f")
        await window(pilot, SearchDialog)
        await pilot.press("ctrl+f", "ctrl+n", "ctrl+r", "ctrl+s")
        await pilot.pause(0.1)
        assert len(chat.screen_stack) == 2 and [text for _, text, _ in bubbles_below(chat)] == ["셋"]


def bubbles_below(chat: ChatApp) -> list[tuple[str, str, str]]:
    return [(one.message.role, one.text, one.note()) for one in chat.screen_stack[0].query(Bubble)]


async def test_a_window_that_becomes_narrow_shows_the_conversation(store: ConversationStore) -> None:
    """The list leaves when there is no room beside it, and comes back when there is."""
    three(store)
    async with opened(store) as (chat, pilot):
        for width, there in ((50, False), (120, True), (90, False)):
            await pilot.resize_terminal(width, 30)
            await until(pilot, lambda there=there: chat.query_one(Sidebar).display == there)  # type: ignore[misc]


async def test_choosing_the_open_conversation_does_not_stop_its_reply(store: ConversationStore) -> None:
    """Ctrl+B and Enter is a way back to the input."""
    async with opened(store, "오래. 이어지는 말이에요. " * 100, delay=0.005) as (chat, pilot):
        await say(pilot, "잠깐")
        await until(pilot, lambda: len(chat.query(Bubble).last().text) > 3)
        await pilot.press("ctrl+b", "enter")
        assert chat.query_one(Pane).busy and isinstance(chat.focused, Composer)
        await pilot.press("escape")
