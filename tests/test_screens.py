"""How every screen of the chat looks: a picture of each, in both languages, on three sizes of terminal. Each test's docstring is
what a person sees; what happens when they do something is tested in test_tui*.py.

The pictures are in tests/__snapshots__/test_screens/ and can be opened in a browser. After a change that is meant, draw them anew
and look at what has changed:

    .venv/bin/python -m pytest -q -n 0 tests/test_screens.py --snapshot-update
"""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from time import gmtime, strftime, struct_time
from typing import Any

import pytest
from rich.cells import cell_len
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from textual.command import CommandPalette
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static, TextArea

from chat_helpers import Shelf, bubbles, finished, opened, say, until
from kosent.available import Available
from kosent.conversations import STOPPED, ConversationStore
from kosent.errors import ModelError, ServerDownError
from kosent.models import resolve_model
from kosent.settings import Settings
from kosent.tui import keeping, themes
from kosent.tui.app import ChatApp
from kosent.tui.bubble import Bubble
from kosent.tui.collection_dialog import CollectionDialog
from kosent.tui.dialogs import ConfirmDialog, Dialog, PassageDialog, SafetyDialog, TextDialog
from kosent.tui.export_dialog import ExportDialog
from kosent.tui.model_dialog import ModelDialog
from kosent.tui.search_dialog import SearchDialog
from kosent.tui.settings_dialog import SettingsDialog
from kosent.tui.testing import NOTHING, ScriptedBackend, ScriptedCollections
from kosent.tui.welcome import Welcome

SIZES = ((80, 24), (120, 40), (40, 20))
NOW, DAY = 1_772_485_800.0, 86_400.0
"""2026-03-02 21:10, which is the time of the clock on these screens."""
MODEL = "ollama:kosent"
THERE = Available(MODEL, (MODEL, "ollama:gemma3:1b"), "", {}, (Path("/data/mina/kosent-demo/run/kosent-q8_0.gguf"),))

WORDS = {
    "ko": {
        "mistake": "오늘 회사에서 실수를 해서 너무 속상해요.",
        "broke off": "실수한 장면이 자꾸 떠오르셨을 것",
        "sleep": "잠이 안 와요. 뭘 해 볼까요?",
        "other": "마음이 쉬지 못하셨군요.",
        "list": "오늘 밤에 해 볼 만한 일이에요 [참고 1].\n\n- **천천히** 숨 쉬기\n- 걱정을 종이에 적기\n\n"
        "```python\nfor 숨 in range(4):\n    쉬기(초=4)\n```",
        "title": "수면 안내서",
        "heading": "저녁 > 잠들기 전에",
        "source": "/data/mina/자료/상담 센터/수면 안내서 (2025년 개정판).pdf",
        "diary": "3월 1일.txt",
        "diary passage": "어젯밤에도 두 시가 넘어서야 잠들었다.\n내일 발표가 자꾸 생각났다.",
        "collections": "상담 자료\n일기\n회사 안내문",
        "passage": "잠들기 전에 걱정을 적어 보세요.",
        "crisis": "이제 다 정리했어. 다들 고마웠어",
        "beside": "그렇게까지 마음먹으셨다니 얼마나 힘드셨을까요. 지금 어디에 계세요?",
        "mother": "엄마한테 또 화를 냈어요",
        "friend": "친구가 요즘 연락이 없어서 내가 뭘 잘못했나 계속 생각하게 돼요",
        "sorry": "화를 내고 나니 마음이 더 무거우셨겠어요. 속상한 일이 있었나요?",
        "find": "속상",
        "persona": "너는 오래된 친구처럼 편하게 말하는 상담자야.",
        "hello": "들려요?",
    },
    "en": {
        "mistake": "I made a mistake at work today and feel awful.",
        "broke off": "That moment must keep coming",
        "sleep": "I cannot sleep. What could I try?",
        "other": "Your mind has had no rest.",
        "list": "Some things to try tonight [1].\n\n- Breathe **slowly**\n- Write your worries down\n\n"
        "```python\nfor breath in range(4):\n    rest(seconds=4)\n```",
        "title": "Sleep guide",
        "heading": "Evenings > Before going to bed",
        "source": "/data/mina/documents/counselling centre/sleep guide (revised 2025).pdf",
        "diary": "1 March.txt",
        "diary passage": "It was past two again before I slept.\nI kept thinking of the talk tomorrow.",
        "collections": "Counselling\nDiary\nOffice handbook",
        "passage": "Write your worries down before you go to bed.",
        "crisis": "Everything is settled now. Thank you all for everything",
        "beside": "It must have been so hard to come to this point. Where are you now?",
        "mother": "I was angry with my mother again",
        "friend": "My friend has not called for weeks and I keep asking myself what I did wrong",
        "sorry": "And then it felt even heavier. Had something awful happened?",
        "find": "awful",
        "persona": "You are a counsellor who talks like an old friend.",
        "hello": "Do you hear me?",
    },
}  # fmt: skip
"""What was said in the conversations: everything else on a screen is the chat's own."""
NAMES = (
    "KoSent AI CPU Ollama Markdown JSONL top_p https://ollama.com/download kosent-q8_0.gguf Enter Esc esc Ctrl Shift Alt Up Home "
    "End Delete kosent kosent-demo/run prepare rag add list ollama serve gemma .md "
    "/data/mina/.local/share/kosent/conversations.sqlite3"
)
"""Names, commands, keys and files, which are the same in Korean."""
KOREAN_NAMES = "마들랜 ㅊㅠㄷㄱㅌㅐㅔㅇ"
"""What is the same in English: an app, and where the keys lie on a Korean keyboard."""
_FOREIGN = {"ko": re.compile("[A-Za-z]{2,}"), "en": re.compile("[ㄱ-ㅎㅏ-ㅣ가-힣]+")}

CELL = 12.2
"""Width of a cell in a picture."""
_LEFT_OUT = re.compile(
    r'@font-face \{.*?\}\s*|<defs>.*?</defs>\s*|<!--.*?-->\s*| clip-path="[^"]*"| shape-rendering="\w+"|terminal-\d+-', re.DOTALL
)
_BACKS = re.compile(
    r'<rect fill="([^"]+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="24.65"/>'
    r'(?:<rect fill="\1" x="([\d.]+)" y="\3" width="([\d.]+)" height="24.65"/>)*'
)
"""Cells of one colour beside each other."""
_TEXT = re.compile(r'<text class="(\w+)" x="([\d.]+)" y="([\d.]+)" textLength="[\d.]+">([^<]*)</text>')


class Picture(SingleFileSnapshotExtension):
    _write_mode = WriteMode.TEXT
    file_extension = "svg"


class Clock:
    """Stands for the module `time`: the same moment in the same zone on every machine."""

    now = NOW
    strftime = staticmethod(strftime)

    def time(self) -> float:
        return self.now

    def localtime(self, seconds: float | None = None) -> struct_time:
        return gmtime(self.now if seconds is None else seconds)


@dataclass(repr=False)
class Stage:
    """One language and size of terminal."""

    lang: str
    size: tuple[int, int]
    store: ConversationStore
    clock: Clock
    snapshot: SnapshotAssertion

    @property
    def words(self) -> dict[str, str]:
        return WORDS[self.lang]

    @asynccontextmanager
    async def chat(self, *replies: object, **options: Any) -> AsyncIterator[tuple[ChatApp, Pilot[Any]]]:
        """The chat with what is in the store, its model ready or found missing."""
        options = {"model": MODEL, "lang": self.lang, "size": self.size} | options
        async with opened(self.store, *replies, **options) as (chat, pilot):
            chat.animation_level = "none"
            await until(pilot, lambda: not chat.models.loading and bool(chat.models.loaded or chat.models.problem))
            yield chat, pilot

    async def dialog(self, pilot: Pilot[Any], kind: type[Dialog[Any]]) -> Any:
        await until(pilot, lambda: isinstance(pilot.app.screen, kind) and pilot.app.screen.is_mounted)
        await pilot.pause()
        return pilot.app.screen

    async def is_as_drawn(self, pilot: Pilot[Any]) -> None:
        """The screen is the one in the picture, and speaks one language."""
        drawn = ""
        while drawn != (now := picture(pilot.app.export_screenshot(simplify=True))):
            drawn = now
            await pilot.pause()
        assert drawn == self.snapshot
        assert foreign(lines(drawn), self.lang) == set()


def picture(svg: str) -> str:
    """Without what is different each time, fetched from elsewhere or not seen; texts as wide as their cells, which Rich counts
    as one for a syllable."""

    def back(found: re.Match[str]) -> str:
        fill, x, y, width = found[1], float(found[2]), found[3], float(found[4])
        if found[5]:
            width = float(found[5]) + float(found[6]) - x
        return f'\n<rect fill="{fill}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="24.65"/>'

    def text(found: re.Match[str]) -> str:
        said = html.unescape(found[4]).rstrip("\n")
        width = f'textLength="{CELL * cell_len(said):.1f}" lengthAdjust="spacingAndGlyphs"'
        shown = f'\n<text class="{found[1]}" x="{found[2]}" y="{found[3]}" {width}>{html.escape(said, quote=False)}</text>'
        return shown if said.strip() else ""

    svg = _TEXT.sub(text, _BACKS.sub(back, _LEFT_OUT.sub("", svg)))
    svg = svg.replace("Fira Code,", "D2Coding, 'Noto Sans Mono CJK KR',").replace("font-variant-east-asian: full-width;", "")
    return re.sub(r"\n\s+", "\n", svg).strip() + "\n"


def lines(svg: str) -> list[str]:
    """The text of a picture, line by line."""
    rows = defaultdict(list)
    for x, y, text in re.findall(r'<text class="r\d+" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', svg):
        rows[float(y)].append((float(x), html.unescape(text).replace("\xa0", " ")))
    shown = []
    for _, parts in sorted(rows.items()):
        line = ""
        for x, text in sorted(parts):
            line += " " * (round(x / CELL) - cell_len(line)) + text
        shown.append(line)
    return shown


def foreign(shown: list[str], lang: str) -> set[str]:
    """Words that are neither of the language, nor said in the conversations, nor names; of a name that is cut or broken at the
    end of a line, a part is enough."""
    known = " ".join([*WORDS[lang].values(), NAMES, KOREAN_NAMES])
    return {word for word in _FOREIGN[lang].findall("\n".join(shown)) if word not in known}


@pytest.fixture(
    params=[(lang, size) for lang in WORDS for size in SIZES],
    ids=lambda param: f"{param[0]}-{param[1][0]}x{param[1][1]}",
)
def stage(
    request: pytest.FixtureRequest, store: ConversationStore, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch
) -> Stage:
    lang, size = request.param
    return staged(lang, size, store, snapshot, monkeypatch)


def staged(
    lang: str, size: tuple[int, int], store: ConversationStore, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch
) -> Stage:
    clock = Clock()
    monkeypatch.setattr("kosent.tui.sidebar.time", clock)
    monkeypatch.setattr("kosent.conversations.store.time", clock)
    for field in (Input, TextArea):
        monkeypatch.setattr(field, "cursor_blink", False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Stage(lang, size, store, clock, snapshot.use_extension(Picture))


def conversation(stage: Stage) -> None:
    """A reply with a list, code and a source; below it the second of three replies, which was stopped."""
    store, words = stage.store, stage.words
    one = store.new(MODEL)
    store.add(one, "user", words["sleep"])
    facts = {"model": MODEL, "tokens": 61, "prompt_tokens": 212, "first_token": 0.4, "seconds": 3.4}
    place = {"title": words["title"], "heading": words["heading"], "page": 3}
    cited = [
        {"number": 1, "text": words["passage"], "source": words["source"], **place},
        {"number": 2, "text": words["diary passage"], "source": words["diary"]},
    ]
    store.add(one, "assistant", words["list"], facts=facts | {"citations": cited})
    question = store.add(one, "user", words["mistake"])
    store.add(one, "assistant", words["other"], parent=question)
    chosen = store.add(one, "assistant", words["broke off"], STOPPED, parent=question)
    store.add(one, "assistant", words["sorry"], parent=question)
    store.choose(chosen)


def several(stage: Stage) -> None:
    """Four conversations of different days, the oldest pinned, the one of today open."""
    store, words = stage.store, stage.words
    for days, said, answered in ((40, "mother", "sorry"), (9, "friend", "other"), (1, "sleep", "list")):
        stage.clock.now = NOW - days * DAY
        one = store.new(MODEL)
        store.add(one, "user", words[said])
        store.add(one, "assistant", words[answered])
        store.pin(one, days == 40)
    stage.clock.now = NOW
    one = store.new(MODEL)
    store.add(one, "user", words["mistake"])
    store.add(one, "assistant", words["other"])


# --- the conversation


async def test_first(stage: Stage) -> None:
    """Nothing was said yet: a welcome, that an AI writes, whom to call, the model that is ready, and where to write."""
    async with stage.chat() as (_, pilot):
        await stage.is_as_drawn(pilot)


async def test_conversation(stage: Stage) -> None:
    """The end of a conversation: a reply with a list, code and its sources; below it the second of three, which was stopped and
    says so; how fast the last whole one came stands above the input."""
    conversation(stage)
    async with stage.chat() as (_, pilot):
        await stage.is_as_drawn(pilot)


@pytest.mark.parametrize("theme", themes.NAMES)
async def test_theme(theme: str, store: ConversationStore, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same conversation in the colours of each theme."""
    stage = staged("ko", SIZES[0], store, snapshot, monkeypatch)
    store.prefer("theme", theme)
    conversation(stage)
    async with stage.chat() as (_, pilot):
        await stage.is_as_drawn(pilot)


async def test_crisis(stage: Stage) -> None:
    """The card with the numbers to call stands between the message and the reply."""
    one = stage.store.new(MODEL)
    stage.store.add(one, "user", stage.words["crisis"])
    stage.store.add(one, "assistant", stage.words["beside"], facts={"card": True})
    async with stage.chat() as (_, pilot):
        await stage.is_as_drawn(pilot)


async def test_message(stage: Stage) -> None:
    """A message is selected: it stands out, and below it is what can be done with it; the footer has the keys for that."""
    conversation(stage)
    async with stage.chat() as (chat, pilot):
        await pilot.press("ctrl+up")
        await until(pilot, lambda: isinstance(chat.focused, Bubble))
        await stage.is_as_drawn(pilot)


async def test_sources(stage: Stage) -> None:
    """What the reply was given, each passage with its title and page, where in the document it stands, and the file."""
    conversation(stage)
    async with stage.chat() as (_, pilot):
        await pilot.press("ctrl+up", "up", "up", "o")
        await stage.dialog(pilot, PassageDialog)
        await stage.is_as_drawn(pilot)


async def test_editing(stage: Stage) -> None:
    """What was sent is in the input again; a line above says what Enter and Esc will do."""
    conversation(stage)
    async with stage.chat() as (chat, pilot):
        await pilot.press("ctrl+up", "up", "e")
        await until(pilot, lambda: chat.pane.composer.text == stage.words["mistake"])
        await stage.is_as_drawn(pilot)


async def test_failed(stage: Stage) -> None:
    """The model's server is not running: the reason and the command to type stand below the message."""
    error = ServerDownError("No Ollama answers at http://127.0.0.1:11434.", hint="ollama serve")
    async with stage.chat(error) as (chat, pilot):
        await say(pilot, stage.words["hello"])
        await until(pilot, finished(chat))
        await until(pilot, lambda: "ollama serve" in bubbles(chat)[-1][2])
        await stage.is_as_drawn(pilot)


# --- no model


async def no_model(stage: Stage, there: Available) -> None:
    with pytest.raises(ModelError) as nothing:
        resolve_model()
    async with stage.chat(backend=ScriptedBackend(problems=(nothing.value,), there=there), model="") as (chat, pilot):
        await until(pilot, lambda: bool(chat.query(Welcome)))
        await stage.is_as_drawn(pilot)


async def test_no_model(stage: Stage) -> None:
    """The first start with neither a model nor Ollama: what is missing, and a button that makes a model."""
    await no_model(stage, NOTHING)


async def test_no_model_but_ollama(stage: Stage) -> None:
    """The first start where Ollama has models: one can be chosen."""
    await no_model(stage, THERE)


# --- the list and the windows


async def test_list(stage: Stage) -> None:
    """The conversations, the pinned first, then the newest, each with when it was; long titles are cut."""
    several(stage)
    async with stage.chat() as (chat, pilot):
        await pilot.press("ctrl+b")
        await until(pilot, lambda: isinstance(chat.focused, OptionList))
        await stage.is_as_drawn(pilot)


async def test_search(stage: Stage) -> None:
    """What was found: of each message the conversation, the day, who said it, and the place with the words marked."""
    several(stage)
    async with stage.chat() as (_, pilot):
        await pilot.press("ctrl+f")
        dialog = await stage.dialog(pilot, SearchDialog)
        dialog.query_one(Input).insert_text_at_cursor(stage.words["find"])
        await until(pilot, lambda: len(dialog.found) == 2)
        await stage.is_as_drawn(pilot)


async def test_models(stage: Stage) -> None:
    """The models that are there, the one in use marked."""
    async with stage.chat(backend=ScriptedBackend(there=THERE)) as (_, pilot):
        await pilot.press("ctrl+o")
        dialog = await stage.dialog(pilot, ModelDialog)
        await until(pilot, lambda: dialog.names == THERE.names())
        await stage.is_as_drawn(pilot)


async def test_collections(stage: Stage) -> None:
    """The collections that are there, and none of them; the one that this conversation answers from is marked, and stands below
    the conversation too."""
    there = stage.words["collections"].split("\n")
    conversation(stage)
    stage.store.configure(stage.store.latest() or 0, model=MODEL, settings={"collection": there[1]})
    backend = ScriptedBackend(collections=ScriptedCollections(dict.fromkeys(there, Shelf())))
    async with stage.chat(backend=backend) as (_, pilot):
        await pilot.press("ctrl+l")
        dialog = await stage.dialog(pilot, CollectionDialog)
        await until(pilot, lambda: sorted(dialog.names) == sorted(["", *there]))
        await stage.is_as_drawn(pilot)


async def test_no_collections(stage: Stage) -> None:
    """There is none yet: the command that makes one."""
    async with stage.chat() as (_, pilot):
        await pilot.press("ctrl+l")
        dialog = await stage.dialog(pilot, CollectionDialog)
        await until(pilot, lambda: "kosent rag add" in str(dialog.query_one("#hint", Static).content))
        await stage.is_as_drawn(pilot)


async def test_collection_is_gone(stage: Stage) -> None:
    """The collection of this conversation was removed: the reply says so, and how to go on without it."""
    collection = stage.words["collections"].split("\n")[1]
    backend = ScriptedBackend(settings=Settings(collection=collection))
    async with stage.chat(backend=backend) as (chat, pilot):
        await until(pilot, lambda: bool(chat._notifications))
        chat.clear_notifications()
        await say(pilot, stage.words["hello"])
        await until(pilot, finished(chat))
        await until(pilot, lambda: "kosent rag list" in bubbles(chat)[-1][2])
        await stage.is_as_drawn(pilot)


async def test_settings(stage: Stage) -> None:
    """Persona and parameters of this conversation; where it has none of its own, the default is shown faintly."""
    several(stage)
    newest = stage.store.latest() or 0
    stage.store.configure(newest, model=MODEL, settings={"system": stage.words["persona"], "temperature": 0.2})
    async with stage.chat() as (_, pilot):
        await pilot.press("ctrl+t")
        await stage.dialog(pilot, SettingsDialog)
        await stage.is_as_drawn(pilot)


async def test_export(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """In which form, what, whether numbers are masked, and the name of the file that is proposed."""

    class Home(PurePosixPath):
        @classmethod
        def cwd(cls) -> Home:
            return cls("/data/mina")

    class Then(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Then:
            return cls(2026, 3, 2, 21, 10)

    monkeypatch.setattr(keeping, "Path", Home)
    monkeypatch.setattr(keeping, "datetime", Then)
    several(stage)
    async with stage.chat() as (_, pilot):
        await pilot.press("ctrl+s")
        await stage.dialog(pilot, ExportDialog)
        await stage.is_as_drawn(pilot)


async def test_forget(stage: Stage) -> None:
    """Before everything is deleted: how much, what goes, what stays; the button that does nothing has the focus."""
    several(stage)
    stage.store.path = Path("/data/mina/.local/share/kosent/conversations.sqlite3")
    async with stage.chat() as (chat, pilot):
        chat.action_forget()
        await stage.dialog(pilot, ConfirmDialog)
        await stage.is_as_drawn(pilot)


async def test_keys(stage: Stage) -> None:
    """Every key and what it does: anywhere, on a message, in the list."""
    async with stage.chat() as (_, pilot):
        await pilot.press("f1")
        await stage.dialog(pilot, TextDialog)
        await stage.is_as_drawn(pilot)


async def test_safety(stage: Stage) -> None:
    """Whom to call, how to write instead, and that an AI writes the replies."""
    async with stage.chat() as (_, pilot):
        await pilot.press("f2")
        await stage.dialog(pilot, SafetyDialog)
        await stage.is_as_drawn(pilot)


async def test_palette(stage: Stage) -> None:
    """Everything that can be done, each with its key, and a line to look for it."""
    async with stage.chat() as (chat, pilot):
        commands = len(list(chat.get_system_commands(chat.screen)))
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(chat.screen, CommandPalette))
        await until(pilot, lambda: chat.screen.query_one("CommandList", OptionList).option_count == commands)
        await stage.is_as_drawn(pilot)
