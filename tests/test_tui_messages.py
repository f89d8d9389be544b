"""What can be done with messages in the chat: editing, other replies, going on, copying, sources; long conversations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from textual.pilot import Pilot
from textual.widgets import Static

from chat_helpers import bubbles, finished, notices, opened, say, stored, until
from kosent.conversations import COMPLETE, STOPPED, ConversationStore
from kosent.errors import ServerDownError
from kosent.tui import clipboard
from kosent.tui.bubble import Bubble, code_of
from kosent.tui.composer import Composer
from kosent.tui.dialogs import PassageDialog
from kosent.tui.pane import Pane
from kosent.tui.testing import ScriptedBackend
from kosent.tui.texts import TEXTS
from kosent.tui.transcript import MOST, WINDOW, Transcript

KO = TEXTS["ko"]


def texts(chat: Any) -> list[str]:
    return [text for _, text, _ in bubbles(chat)]


async def on_message(pilot: Pilot[Any], place: int, *keys: str) -> None:
    """Goes to a message as one does with the keys, and presses."""
    pilot.app.query(Bubble)[place].focus()
    await pilot.pause()
    await pilot.press(*keys)


async def test_an_edited_message_begins_a_branch(store: ConversationStore) -> None:
    """The old message and its reply stay a key away."""
    async with opened(store, "어제요?", "오늘이요?") as (chat, pilot):
        await say(pilot, "어제 일")
        await until(pilot, finished(chat))
        await on_message(pilot, 0, "e")
        assert chat.query_one(Composer).text == "어제 일" and chat.query_one("#editing").display
        chat.query_one(Composer).text = ""
        await say(pilot, "오늘 일")
        await until(pilot, lambda: texts(chat) == ["오늘 일", "오늘이요?"] and finished(chat)())
        assert not chat.query_one("#editing").display
        assert "2/2" in str(chat.query(Bubble)[0].query_one(".speaker", Static).content)
        await on_message(pilot, 0, "left")
        await until(pilot, lambda: texts(chat) == ["어제 일", "어제요?"])
        assert isinstance(chat.focused, Bubble)
        await pilot.press("right")
        await until(pilot, lambda: texts(chat) == ["오늘 일", "오늘이요?"])


async def test_editing_can_be_left(store: ConversationStore) -> None:
    """Esc leaves everything as it was, and what was being written before is not sent."""
    async with opened(store, "네.") as (chat, pilot):
        await say(pilot, "그대로")
        await until(pilot, finished(chat))
        await on_message(pilot, 0, "ㄷ")  # the key of e on a Korean keyboard
        await pilot.press("escape")
        assert chat.query_one(Composer).text == "" and isinstance(chat.focused, Composer)
        await pilot.press("enter")
        await pilot.pause(0.1)
        assert stored(store) == [("그대로", COMPLETE), ("네.", COMPLETE)]


async def test_another_reply_and_the_one_before(store: ConversationStore) -> None:
    """Ctrl+R asks again with the same question; arrows step between the replies; later turns follow the one that is shown."""
    backend = ScriptedBackend("하나", "둘", "셋")
    async with opened(store, backend=backend) as (chat, pilot):
        await say(pilot, "골라 줘")
        await until(pilot, finished(chat))
        await pilot.press("ctrl+r")
        await until(pilot, lambda: texts(chat) == ["골라 줘", "둘"] and finished(chat)())
        assert isinstance(chat.focused, Composer)
        assert [m.text for m in backend.model.asked[1][1:]] == ["골라 줘"]
        await on_message(pilot, 1, "left")
        await until(pilot, lambda: texts(chat)[1] == "하나")
        await pilot.press("escape")
        await say(pilot, "하나가 좋아")
        await until(pilot, lambda: texts(chat)[-1] == "셋" and finished(chat)())
        assert [m.text for m in backend.model.asked[2][1:]] == ["골라 줘", "하나", "하나가 좋아"]
    async with opened(store) as (chat, _):
        assert texts(chat) == ["골라 줘", "하나", "하나가 좋아", "셋"]


async def test_a_message_without_a_reply_can_be_answered_later(store: ConversationStore) -> None:
    """As after a crash before the first word."""
    store.add(store.new("m"), "user", "아무도 없나")
    async with opened(store, "여기 있어요.") as (chat, pilot):
        await pilot.press("ctrl+r")
        await until(pilot, lambda: texts(chat) == ["아무도 없나", "여기 있어요."] and finished(chat)())


async def test_a_stopped_reply_goes_on(store: ConversationStore) -> None:
    """The rest is added to the same message, and the model is told how it began."""
    backend = ScriptedBackend("이어지는 말이에요. " * 100, "그리고 끝.", delay=0.01)
    async with opened(store, backend=backend) as (chat, pilot):
        await say(pilot, "길게")
        await until(pilot, lambda: len(chat.query(Bubble).last().text) > 5)
        await pilot.press("escape")
        await until(pilot, finished(chat))
        begun = stored(store)[1][0]
        await on_message(pilot, 1, "x")
        await until(pilot, lambda: stored(store)[1][1] == COMPLETE)
        await until(pilot, finished(chat))
        assert stored(store)[1][0] == begun + "그리고 끝." == texts(chat)[1]
        assert backend.model.asked[1][-1].text.strip() == begun.strip()
        assert not chat.query(Bubble)[1].can("continue")


async def test_what_is_not_possible_has_no_key(store: ConversationStore) -> None:
    """A finished reply cannot go on, a user's message is not asked again, code is only copied where there is some."""
    async with opened(store, "```python\nprint(1)\n```", "네") as (chat, pilot):
        await say(pilot, "코드")
        await until(pilot, finished(chat))
        user, reply = chat.query(Bubble)
        assert [verb for verb in ("copy", "code", "edit", "again", "continue", "previous") if user.can(verb)] == ["copy", "edit"]
        assert [verb for verb in ("copy", "code", "edit", "again", "continue") if reply.can(verb)] == ["copy", "code", "again"]


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Windows clipboard that writes what it gets into a file."""
    target = tmp_path / "clip"
    program = tmp_path / "bin" / "clip.exe"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat > {target}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("WSL_DISTRO_NAME", "Ubuntu")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return target


async def test_copying_on_wsl(store: ConversationStore, clip: Path) -> None:
    """Windows gets the text, or only its code, in its own encoding."""
    async with opened(store, "보세요:\n```python\nprint('안녕 😢')\n```\n끝") as (chat, pilot):
        await say(pilot, "코드")
        await until(pilot, finished(chat))
        await on_message(pilot, 1, "b")
        await until(pilot, lambda: KO["copied"] in notices(chat))
        assert clip.read_bytes().decode("utf-16-le") == "print('안녕 😢')"
        await on_message(pilot, 1, "c")
        await until(pilot, lambda: clip.read_bytes().decode("utf-16-le").endswith("끝"))
        assert chat.clipboard.endswith("끝")  # and the terminal was asked


async def test_a_copy_that_failed_is_said(store: ConversationStore, clip: Path) -> None:
    """Not "copied" with an empty clipboard."""
    (clip.parent / "bin" / "clip.exe").write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    async with opened(store, "네.") as (chat, pilot):
        await say(pilot, "복사해 줘")
        await until(pilot, finished(chat))
        await on_message(pilot, 1, "ㅊ")
        await until(pilot, lambda: "clip.exe: exit code 3" in notices(chat))
        assert KO["copied"] not in notices(chat).splitlines()


def test_without_a_program_only_the_terminal_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WSL_DISTRO_NAME", "WAYLAND_DISPLAY", "DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert clipboard.copy("말") == "copied_by_terminal"


def test_a_program_that_hangs_is_given_up(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clip.parent / "bin" / "clip.exe").write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    monkeypatch.setattr(clipboard, "SECONDS", 0.2)
    with pytest.raises(OSError, match="no answer"):
        clipboard.copy("말")


class Shelf(BaseRetriever):
    """One passage with a hostile source."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [Document("병원은 아홉 시에 열어요.\x1b[2J", metadata={"source": "[red]안내\x1b]0;x\x07.md"})]


async def test_sources_are_named_and_open(store: ConversationStore) -> None:
    """What the reply was given stands below it, and a key shows the passage."""
    async with opened(store, backend=ScriptedBackend("아홉 시예요.", retriever=Shelf())) as (chat, pilot):
        await say(pilot, "병원 몇 시에 열어?")
        await until(pilot, finished(chat))
        await pilot.pause()
        assert str(chat.query(Bubble)[1].query_one(".sources", Static).content) == f"{KO['sources']}: [1] [red]안내.md"
        await on_message(pilot, 1, "o")
        await until(pilot, lambda: isinstance(chat.screen, PassageDialog))
        assert "병원은 아홉 시에 열어요." in " ".join(str(one.content) for one in chat.screen.query(Static))
        assert "\x1b" not in " ".join(str(one.content) for one in chat.screen.query(Static))
        await pilot.press("escape")
    async with opened(store) as (chat, _):
        assert "안내.md" in str(chat.query(Bubble)[1].query_one(".sources", Static).content)


def filled(store: ConversationStore, number: int) -> int:
    conversation = store.new("m")
    store.import_conversation([("user" if place % 2 == 0 else "assistant", f"말 {place}") for place in range(number)])
    return store.latest() or conversation


async def test_a_long_conversation_opens_at_its_end_and_scrolls_to_its_beginning(store: ConversationStore) -> None:
    """Only a window of it is mounted, wherever one is."""
    filled(store, 130)
    async with opened(store) as (chat, pilot):
        transcript = chat.query_one(Transcript)
        assert texts(chat) == [f"말 {place}" for place in range(130 - WINDOW, 130)]
        seen = set(texts(chat))
        for _ in range(400):
            transcript.scroll_page_up(animate=False)
            await pilot.pause()
            seen |= set(texts(chat))
            assert len(chat.query(Bubble)) <= MOST
            if transcript.start == 0 and transcript.scroll_y == 0:
                break
        assert seen == {f"말 {place}" for place in range(130)}
        for _ in range(400):
            transcript.scroll_page_down(animate=False)
            await pilot.pause()
            if transcript.stop == 130 and transcript.scroll_y >= transcript.max_scroll_y:
                break
        assert texts(chat)[-1] == "말 129"
        await pilot.press("ctrl+home")
        await until(pilot, lambda: texts(chat)[0] == "말 0" and transcript.scroll_y == 0)
        await pilot.press("ctrl+end")
        await until(pilot, lambda: texts(chat)[-1] == "말 129")


async def test_what_is_read_stays_where_it_is_while_more_is_loaded(store: ConversationStore) -> None:
    """Scrolling up past the window does not jump."""
    filled(store, 200)
    async with opened(store) as (chat, pilot):
        transcript = chat.query_one(Transcript)
        first = chat.query(Bubble).first()
        transcript.scroll_to(y=1, animate=False)
        await until(pilot, lambda: transcript.start < 200 - WINDOW)
        await pilot.pause(0.1)
        assert abs((first.virtual_region.y - transcript.scroll_y) - (0 - 1)) <= 1


async def test_a_new_message_goes_to_the_end(store: ConversationStore) -> None:
    """Also where one has scrolled far up."""
    filled(store, 200)
    async with opened(store, "네.") as (chat, pilot):
        await pilot.press("ctrl+home")
        await until(pilot, lambda: texts(chat)[0] == "말 0")
        await say(pilot, "여기")
        await until(pilot, finished(chat))
        assert texts(chat)[-2:] == ["여기", "네."]
        await until(pilot, lambda: chat.query_one(Transcript).scroll_y >= chat.query_one(Transcript).max_scroll_y - 1)


async def test_reading_above_is_not_disturbed_by_a_reply(store: ConversationStore) -> None:
    """Who scrolls up while a reply streams stays there."""
    filled(store, 20)
    async with opened(store, "길게 이어지는 말이에요.\n\n" * 40, delay=0.001, size=(80, 24)) as (chat, pilot):
        await say(pilot, "길게")
        await until(pilot, lambda: len(chat.query(Bubble).last().text) > 100)
        transcript = chat.query_one(Transcript)
        await pilot.press("pageup", "pageup")
        await pilot.pause(0.05)
        place = transcript.scroll_y
        await until(pilot, finished(chat))
        assert transcript.scroll_y == place < transcript.max_scroll_y


async def test_messages_are_reached_and_left_with_the_arrows(store: ConversationStore) -> None:
    """Ctrl+Up goes to the last message, Up to the one before, Down past the last back to the input."""
    filled(store, 4)
    async with opened(store) as (chat, pilot):
        await pilot.press("ctrl+up", "up")
        assert chat.focused is chat.query(Bubble)[2]
        await pilot.press("down", "down")
        assert isinstance(chat.focused, Composer)


async def test_the_mouse_does_what_the_keys_do(store: ConversationStore) -> None:
    """The words below a message that is pointed at can be clicked."""
    async with opened(store, "하나", "둘") as (chat, pilot):
        await say(pilot, "골라 줘")
        await until(pilot, finished(chat))
        await pilot.hover(chat.query(Bubble)[1].query_one(".words, Markdown"))
        await pilot.pause()
        actions = chat.query(Bubble)[1].query_one(".actions", Static)
        assert actions.visible
        place = str(actions.content).index(KO["key_again"])
        await pilot.click(actions, offset=(2 * place, 0))
        await until(pilot, lambda: texts(chat) == ["골라 줘", "둘"])


async def test_a_stopped_reply_is_no_lost_one(store: ConversationStore) -> None:
    """Another conversation may be opened while a reply streams; it is there, marked, when one comes back."""
    async with opened(store, "오래. 이어지는 말이에요. " * 20, delay=0.01) as (chat, pilot):
        await say(pilot, "잠깐")
        await until(pilot, lambda: len(chat.query(Bubble).last().text) > 3)
        conversation = chat.query_one(Pane).conversation
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not chat.query(Bubble))
        await chat.query_one(Pane).open(conversation)
        assert bubbles(chat)[1][2] == KO["stopped"] and stored(store)[1][1] == STOPPED


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("1. 먼저\n   ```bash\n   ls\n   ```\n2. 다음 설명", "ls"),
        ("문장 속 ```ls``` 처럼\n다음 줄", ""),
        ("```\n하나\n```\n글\n~~~python\n둘\n~~~", "하나\n\n둘"),
        ("```python\n끝나지 않는", "끝나지 않는"),
        ("````\n```\n안\n```\n````", "```\n안\n```"),
    ],
)
def test_the_code_of_a_message_is_what_stands_between_fences(text: str, code: str) -> None:
    assert code_of(text) == code


async def test_what_is_copied_cannot_type_into_a_shell(store: ConversationStore, clip: Path) -> None:
    """A sequence that ends pasting would let the next line run."""
    store.add(store.new("m"), "user", "rm -rf 하나\x1b[201~\n")
    async with opened(store) as (chat, pilot):
        await on_message(pilot, 0, "c")
        await until(pilot, lambda: KO["copied"] in notices(chat))
        assert clip.read_bytes().decode("utf-16-le") == "rm -rf 하나\n"


async def test_what_was_being_written_is_there_again_after_editing(store: ConversationStore) -> None:
    """Whether the edited message is sent or left."""
    async with opened(store, "네.") as (chat, pilot):
        await say(pilot, "하나")
        await until(pilot, finished(chat))
        chat.query_one(Composer).insert("쓰던 말")
        await on_message(pilot, 0, "e", "escape")
        assert chat.query_one(Composer).text == "쓰던 말"
        await on_message(pilot, 0, "e")
        await pilot.press("enter")
        await until(pilot, lambda: chat.query(Bubble)[0].message.versions[1:] != () and finished(chat)())
        assert chat.query_one(Composer).text == "쓰던 말"


async def test_another_window_may_change_everything(store: ConversationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It branches, finishes or deletes what is open here, before anybody looks: nothing is overwritten, and the chat goes on."""
    monkeypatch.setattr("kosent.tui.app.SECONDS_BETWEEN_LOOKS", 3600.0)
    async with opened(store, "네.") as (chat, pilot):
        await say(pilot, "하나")
        await until(pilot, finished(chat))
        other = ConversationStore()
        other.add(store.latest() or 0, "user", "다른 창에서 고친 말", parent=None)
        await pilot.press("ctrl+r")
        await until(pilot, lambda: texts(chat) == ["하나", "네."] and finished(chat)())
        assert len(chat.query(Bubble)[1].message.versions) == 2
        other.delete(store.latest() or 0)
        other.forget([chat.query_one(Pane).conversation or 0])
        other.close()
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "다른 창에서" in notices(chat) or "another window" in notices(chat))
        await pilot.press("ctrl+n")
        await say(pilot, "새로")
        await until(pilot, lambda: bool(texts(chat)) and texts(chat)[-1] == "네." and finished(chat)())


async def test_a_reply_that_another_window_finished_is_not_written_over(store: ConversationStore) -> None:
    """Going on with it shows what has become of it."""
    conversation = store.new("m")
    store.add(conversation, "user", "길게")
    reply = store.add(conversation, "assistant", "앞부분", STOPPED)
    async with opened(store, "나중") as (chat, pilot):
        other = ConversationStore()
        other.update(reply, "앞부분과 뒷부분.", COMPLETE)
        other.close()
        await on_message(pilot, 1, "x")
        await until(pilot, lambda: texts(chat)[1] == "앞부분과 뒷부분.")
        assert stored(store)[1] == ("앞부분과 뒷부분.", COMPLETE)


async def test_going_on_without_a_server_keeps_what_there_was(store: ConversationStore) -> None:
    """It stays a stopped reply, with its card and sources, and says why it did not go on."""
    conversation = store.new("m")
    store.add(conversation, "user", "길게")
    store.add(conversation, "assistant", "앞부분", STOPPED, facts={"card": True, "safety": "crisis"})
    async with opened(store, ServerDownError("gone", hint="ollama serve")) as (chat, pilot):
        await on_message(pilot, 1, "x")
        await until(pilot, lambda: "ollama serve" in bubbles(chat)[1][2])
    message = store.messages(conversation)[1]
    assert (message.content, message.status, message.facts["card"]) == ("앞부분", STOPPED, True)


async def test_a_conversation_of_one_reply_alone(store: ConversationStore) -> None:
    """As some imported files have them: there is nothing to answer again."""
    store.import_conversation([("assistant", "안녕하세요")])
    async with opened(store, "네.") as (chat, pilot):
        await pilot.press("ctrl+r")
        await until(pilot, lambda: KO["nothing_to_do"] in notices(chat))
        assert not chat.query(Bubble)[0].can("again") and not chat.query(Bubble)[0].can("continue")
