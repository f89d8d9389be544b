"""Collections in the chat: chosen and switched off, named and remembered, opened anew; what cannot be opened; what is cited."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from chat_helpers import Shelf, bubbles, closed, finished, notices, opened, say, until, window
from kosent import chain, extras
from kosent.cli import main
from kosent.conversations import COMPLETE, FAILED, ConversationStore
from kosent.errors import ServerDownError
from kosent.rag import Collection
from kosent.rag.adding import add
from kosent.settings import Settings
from kosent.testing import ScriptedChat
from kosent.tui.backend import LocalBackend
from kosent.tui.bubble import Bubble
from kosent.tui.collection_dialog import CollectionDialog
from kosent.tui.collections import CollectionError, Collections
from kosent.tui.dialogs import PassageDialog
from kosent.tui.settings_dialog import SettingsDialog
from kosent.tui.testing import ScriptedBackend, ScriptedCollections
from kosent.tui.texts import TEXTS
from terminals import Pty, environment

KO = TEXTS["ko"]
GUIDE = "# 마음쉼터 안내\n\n## 여는 시간\n\n상담실은 평일 아침 아홉 시에 열고, 수요일에는 쉽니다.\n"
OTHERS = {
    "산책.txt": "하루에 이십 분만 걸어도 굳은 어깨가 풀리고 머리가 맑아집니다.\n",
    "국.txt": "된장찌개는 두부를 나중에 넣어야 부서지지 않고 국물이 깔끔합니다.\n",
}
ASKED = "상담실은 몇 시에 여나요?"


def shelves(**there: Any) -> ScriptedBackend:
    return ScriptedBackend("네.", collections=ScriptedCollections(there))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By the hour that its document names, the folder of a collection 안내."""
    found = {}
    for hour in ("아홉", "열"):
        folder = tmp_path_factory.mktemp("made")
        (folder / "documents").mkdir()
        for name, text in {"안내.md": GUIDE.replace("아홉", hour), **OTHERS}.items():
            (folder / "documents" / name).write_text(text, encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KOSENT_HOME", str(folder))
            collection = Collection.create("안내")
            add(collection, [str(folder / "documents")])
            collection.close()
        found[hour] = collection.folder
    return found


def put(home: Path, folder: Path) -> None:
    """As if it had been made there."""
    shutil.copytree(folder, home / "rag" / folder.name)


@pytest.fixture
def real(home: Path, made: dict[str, Path]) -> Iterator[Collections]:
    put(home, made["아홉"])
    collections = Collections()
    yield collections
    collections.close()


async def choose(pilot: Pilot[Any], *keys: str) -> Any:
    """Opens the list, waits until it is there, and presses."""
    await pilot.press("ctrl+l")
    dialog = await window(pilot, CollectionDialog)
    await until(pilot, lambda: bool(dialog.names) or "kosent" in str(dialog.query_one("#hint", Static).content))
    await pilot.press(*keys)
    return dialog


def facts(pilot: Pilot[Any]) -> str:
    return str(pilot.app.query_one("#facts", Static).content)


def own(store: ConversationStore) -> dict[str, Any]:
    found = store.conversation(store.latest() or 0)
    assert found is not None
    return dict(found.settings)


# --- choosing


async def test_a_collection_is_chosen_named_and_remembered(store: ConversationStore) -> None:
    """The next reply rests on it, also when the chat is opened again; Esc in the list changes nothing."""
    backend = shelves(일기=Shelf(documents=[Document("두 시에 잠들었다.", metadata={"source": "일기.txt"})]), 편지=Shelf())
    async with opened(store, backend=backend) as (chat, pilot):
        await until(pilot, lambda: KO["ready"] in facts(pilot))
        assert "자료" not in facts(pilot)
        dialog = await choose(pilot, "down", "escape")
        assert dialog.names == ["", "일기", "편지"]
        await closed(pilot)
        assert chat.pane.collection == ""
        await choose(pilot, "down", "enter")
        await until(pilot, lambda: "자료: 일기" in facts(pilot) and "‘일기’" in notices(chat))
        await say(pilot, "언제 잤어?")
        await until(pilot, finished(chat))
        assert chat.query(Bubble)[1].message.facts["citations"][0]["text"] == "두 시에 잠들었다."
    assert own(store) == {"collection": "일기"}
    async with opened(store, backend=shelves(일기=Shelf(), 편지=Shelf())) as (chat, pilot):
        await until(pilot, lambda: "자료: 일기" in facts(pilot))
        dialog = await choose(pilot)
        assert dialog.query_one(OptionList).highlighted == 1
        await pilot.press("escape")
        await closed(pilot)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "자료" not in facts(pilot))


async def test_it_is_switched_off(store: ConversationStore) -> None:
    """Also where the general settings name one, which a new conversation begins with."""
    backend = shelves(일기=Shelf(documents=[Document("글")]))
    backend.settings = Settings(collection="일기")
    async with opened(store, backend=backend) as (chat, pilot):
        await say(pilot, "하나")
        await until(pilot, finished(chat))
        assert own(store) == {"collection": "일기"} and chat.query(Bubble)[1].can("sources")
        await choose(pilot, "home", "enter")
        await until(pilot, lambda: KO["collection_off"] in notices(chat) and "자료" not in facts(pilot))
        await say(pilot, "둘")
        await until(pilot, lambda: len(bubbles(chat)) == 4 and finished(chat)())
        assert not chat.query(Bubble)[3].can("sources")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "자료: 일기" in facts(pilot))
    assert own(store) == {"collection": ""}


async def test_other_settings_leave_it_alone(store: ConversationStore) -> None:
    conversation = store.new("m", {"collection": "일기", "temperature": 0.2})
    store.add(conversation, "user", "안녕")
    async with opened(store, backend=shelves(일기=Shelf())) as (_, pilot):
        await pilot.press("ctrl+t")
        dialog = await window(pilot, SettingsDialog)
        dialog.query_one("#temperature").value = ""
        await pilot.click("#save")
        await closed(pilot)
        assert own(store) == {"collection": "일기"}
        assert "자료: 일기" in facts(pilot)


async def test_another_window_chose(store: ConversationStore) -> None:
    store.add(store.new("m"), "user", "안녕")
    async with opened(store, backend=shelves(일기=Shelf())) as (_, pilot):
        other = ConversationStore()
        other.configure(other.latest() or 0, model="m", settings={"collection": "일기"})
        other.close()
        await until(pilot, lambda: "자료: 일기" in facts(pilot))


@pytest.mark.parametrize("lang", ["ko", "en"])
async def test_without_any_it_is_said_how_to_make_one(lang: str, store: ConversationStore) -> None:
    async with opened(store, lang=lang) as (_, pilot):
        dialog = await choose(pilot)
        hint = str(dialog.query_one("#hint", Static).content)
        assert hint == TEXTS[lang]["collections_none"] and "kosent rag add" in hint
        assert not dialog.query_one(OptionList).display


async def test_without_the_extra_it_is_said_what_to_install(
    store: ConversationStore, real: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(extras.MODULES, "rag", ("no_such_module",))
    async with opened(store, backend=ScriptedBackend(collections=real)) as (_, pilot):
        dialog = await choose(pilot)
        assert dialog.names == [] and "pip install 'kosent[rag]'" in str(dialog.query_one("#hint", Static).content)
    with pytest.raises(CollectionError, match="no_such_module") as raised:
        real.retriever("안내")
    assert raised.value.hint == "pip install 'kosent[rag]'" and not raised.value.gone


# --- what cannot be used


async def test_a_collection_that_is_gone_fails_the_reply_and_can_be_left(store: ConversationStore) -> None:
    """The list has it, marked as not there; after another choice the same question is answered."""
    conversation = store.new("m", {"collection": "옛날"})
    store.add(conversation, "user", "안녕")
    async with opened(store, backend=shelves(일기=Shelf())) as (chat, pilot):
        await until(pilot, lambda: "‘옛날’ 자료가 없어요" in notices(chat))
        await say(pilot, "들려?")
        await until(pilot, finished(chat))
        assert chat.query(Bubble).last().message.status == FAILED
        assert bubbles(chat)[-1][2].splitlines()[-2:] == [KO["try"].format(hint="kosent rag list"), KO["collection_switch"]]
        dialog = await choose(pilot)
        assert dialog.names == ["", "일기", "옛날"] and dialog.query_one(OptionList).highlighted == 2
        assert "지금은 없어요" in str(dialog.query_one(OptionList).get_option_at_index(2).prompt)
        await pilot.press("home", "enter")
        await closed(pilot)
        await pilot.press("ctrl+r")
        await until(pilot, lambda: bubbles(chat)[-1][1] == "네." and finished(chat)())


async def test_a_server_that_is_down_is_not_taken_for_the_models(store: ConversationStore) -> None:
    down = ServerDownError("The Chroma server at http://here:8000 does not answer.", hint="chroma run --path FOLDER")
    async with opened(store, backend=shelves(일기=down)) as (chat, pilot):
        await choose(pilot, "down", "enter")
        await until(pilot, lambda: "Chroma server" in notices(chat))
        assert KO["server_down"] not in notices(chat)
        await say(pilot, "안녕")
        await until(pilot, finished(chat))
        said = bubbles(chat)[-1][2]
        assert "‘일기’" in said and "chroma run" in said and KO["collection_switch"] in said


def test_a_mistyped_name_is_said_before_there_is_a_screen(real: Collections, home: Path) -> None:
    terminal = Pty([sys.executable, "-m", "kosent", "chat", "--collection", "안네"], environment(home))
    try:
        assert terminal.ended() == 3
        assert "'안네'" in terminal.text() and "안내" in terminal.text() and "\x1b[?1049h" not in terminal.text()
    finally:
        terminal.close()


# --- real ones


async def test_a_reply_rests_on_a_real_collection(store: ConversationStore, real: Collections) -> None:
    """One process analyses Korean, from the choice to the end of the chat; the citation names title and heading, and opens."""
    backend = ScriptedBackend("아홉 시에 열어요 [참고 1].", collections=real)
    async with opened(store, backend=backend) as (chat, pilot):
        await choose(pilot, "down", "enter")
        await until(pilot, lambda: real._analyser is not None)
        process = real._analyser._process  # type: ignore[union-attr]
        await say(pilot, ASKED)
        await until(pilot, finished(chat))
        assert chat.query(Bubble)[1].message.status == COMPLETE
        assert "아침 아홉 시에 열고" in str(backend.model.asked[0][-1].text)
        sources = str(chat.query(Bubble)[1].query_one(".sources", Static).content)
        assert sources.startswith(f"{KO['sources']}: [1] 마음쉼터 안내 · 여는 시간")
        await pilot.press("ctrl+up", "o")
        dialog = await window(pilot, PassageDialog)
        said = [str(one.content) for one in dialog.query(Static)]
        path = next(one for one in said if one.endswith("documents/안내.md"))
        assert said.index("[1] 마음쉼터 안내") + 2 == said.index("마음쉼터 안내 > 여는 시간") + 1 == said.index(path)
        assert any("아침 아홉 시에 열고" in one for one in said)
        assert process.poll() is None
    assert process.poll() is not None


def test_what_has_changed_meanwhile_is_opened_anew(real: Collections, home: Path, made: dict[str, Path]) -> None:
    """Removed and made again under the same name; and where the process of the analysis was killed."""
    retriever = real.retriever("안내")
    assert "아홉 시" in retriever.invoke(ASKED)[0].page_content
    Collection.open("안내").delete()
    with pytest.raises(CollectionError) as raised:
        retriever.invoke(ASKED)
    assert raised.value.gone and raised.value.hint == "kosent rag list"
    put(home, made["열"])
    assert "열 시" in retriever.invoke(ASKED)[0].page_content
    Collection.open("안내").delete()
    put(home, made["아홉"])  # nobody asked while it was away
    assert "아홉 시" in retriever.invoke(ASKED)[0].page_content
    assert real._analyser is not None
    os.kill(real._analyser._process.pid, signal.SIGKILL)
    real._analyser._process.wait()
    assert "아홉 시" in retriever.invoke(ASKED)[0].page_content


def test_nothing_is_begun_when_the_chat_has_ended(real: Collections) -> None:
    real.close()
    with pytest.raises(CollectionError, match="being left"):
        real.retriever("안내")
    assert real._analyser is None


def test_a_damaged_description_hides_no_other(real: Collections, home: Path) -> None:
    broken = home / "rag" / "0123456789abcdef"
    broken.mkdir()
    (broken / "collection.json").write_text("{", encoding="utf-8")
    assert real.names() == ["안내"]


def test_the_chats_own_backend_asks_the_collection_of_the_conversation(real: Collections) -> None:
    """Its own, none where it says so, else the one of the settings."""
    backend = LocalBackend(Settings(collection="안내"))
    backend._llm, backend._collections = ScriptedChat(replies=["네."]), real
    assert backend.collections() == ["안내"]
    backend.prepare("안내")
    assert "아홉 시" in backend.chain({}).invoke({"message": ASKED}).citations[0].text
    assert backend.chain({"collection": ""}).invoke({"message": ASKED}).citations == ()
    with pytest.raises(CollectionError):
        backend.chain({"collection": "없음"})
    backend.close()


# --- kosent ask, and other people's chains


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedChat:
    model = ScriptedChat(replies=["아홉 시에 열어요."])
    build_chain = chain.build_chain
    monkeypatch.setattr(chain, "build_chain", lambda **options: build_chain(model, **options))
    return model


def test_ask_answers_from_a_collection(
    real: Collections, scripted: ScriptedChat, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal its sources come after the reply, a line each; the conversation keeps it and may go on without."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["ask", "--collection", "안내", ASKED]) == 0
    shown = capsys.readouterr()
    assert shown.out == "아홉 시에 열어요.\n" and "아침 아홉 시에 열고" in scripted.asked[0][-1].text
    sources = [line for line in shown.err.splitlines() if line.startswith("[")]
    assert sources[0].startswith("[1] 마음쉼터 안내 · 여는 시간  ") and sources[0].endswith("documents/안내.md")
    for more, cited in ((["--collection", ""], 0), ([], 1)):
        assert main(["ask", "--continue", *more, ASKED]) == 0
        assert capsys.readouterr().err.count("[1]") == cited


def test_ask_prints_where_a_citation_stands(
    real: Collections, scripted: ScriptedChat, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    monkeypatch.setenv("KOSENT_COLLECTION", "안내")
    assert main(["ask", "--json", "--no-history", ASKED]) == 0
    shown = capsys.readouterr()
    first = json.loads(shown.out)["citations"][0]
    assert shown.err == ""
    assert {name: first[name] for name in ("number", "title", "heading", "collection")} == {
        "number": 1, "title": "마음쉼터 안내", "heading": "마음쉼터 안내 > 여는 시간", "collection": "안내",
    }  # fmt: skip
    assert first["end"] - first["start"] == len(first["text"])


def test_ask_for_an_unknown_collection_keeps_nothing(
    real: Collections, scripted: ScriptedChat, store: ConversationStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", "--collection", "안네", ASKED]) == 3
    shown = capsys.readouterr()
    assert shown.out == "" and "'안네'" in shown.err and "there are: 안내" in shown.err
    assert store.conversations() == [] and scripted.asked == []


def test_a_chain_takes_the_name_of_a_collection(real: Collections) -> None:
    model = ScriptedChat(replies=["네."])
    found = chain.build_chain(model, retriever="안내", output="reply").invoke({"message": ASKED})
    assert "아홉 시" in found.citations[0].text and found.citations[0].metadata["title"] == "마음쉼터 안내"
    assert chain.build_chain(model, retriever="", output="reply").invoke({"message": ASKED}).citations == ()


def test_ask_without_a_collection_loads_no_chroma(home: Path) -> None:
    code = (
        "import sys\nfrom kosent.cli import main\nmain(['ask', '--model', 'ollama:none', '--no-history', '안녕'])\n"
        "print([name for name in ('chromadb', 'kiwipiepy', 'kosent.rag') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(home), check=True)
    assert done.stdout.splitlines()[-1] == "[]"
