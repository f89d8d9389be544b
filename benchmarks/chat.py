"""What the terminal chat costs: first paint, a long conversation, a long reply, memory, search.

    .venv/bin/python benchmarks/chat.py                                            all but the other programs; about 5 minutes
    .venv/bin/python benchmarks/chat.py --elia /tmp/elia/bin/elia --oterm /tmp/oterm/bin/oterm
    .venv/bin/python benchmarks/chat.py --only search,long

The other programs live in environments of their own: `python -m venv /tmp/elia && /tmp/elia/bin/pip install elia-chat==1.10.0`,
and the same for `oterm==0.26.1`. First paint is from the start of the process, its files warm, to the first frame on a
pseudo-terminal of 120 x 40 that shows the program's own main screen: the input's placeholder of KoSent (which then has one
conversation and no model) and of elia, the welcome of oterm, whose splash screen is switched off. The programs take turns. The
long reply and the memory are measured in a process on a pseudo-terminal whose output is read and thrown away; the fake model
runs in that process, and what it takes counts. Long conversation and search run the app without a terminal.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chat_child import CHUNKS, PER_SECOND, REPLIES, WARM_UP
from chat_terminal import Terminal
from common import Result, report
from kosent.conversations import ConversationStore
from kosent.conversations import search as search_index
from kosent.conversations.database import transaction
from kosent.starter import corpus_path
from kosent.tui.app import ChatApp, chat_app
from kosent.tui.search_dialog import SearchDialog
from kosent.tui.testing import ScriptedBackend
from kosent.tui.texts import TEXTS

RUNS, SEED = 10, 7
LONG, MANY = 10_000, 100_000
PAGES = 300
QUERIES = ("이", "가", "읔", "회사", "엄마", "퇴근길", "없는말임", "힘들", "요 ", "친구 회사", "ㅋㅋ", "?")
HERE = Path(__file__).resolve().parent


def sentences(number: int) -> Iterator[tuple[str, str]]:
    """Alternating messages: sentences of the starter corpus, one to three in each, in an order that is always the same."""
    with corpus_path().open(encoding="cp949", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = [text for row in rows for name, text in row.items() if text and name[:2] in ("사람", "시스")]
    draw = random.Random(SEED)
    for place in range(number):
        yield ("user", "assistant")[place % 2], " ".join(draw.choices(texts, k=draw.randint(1, 3)))


# --- first paint


def first_paint(others: dict[str, tuple[str, str]]) -> list[Result]:
    """`others`: name -> program and the text that its main screen shows."""
    kosent = str(Path(sys.executable).with_name("kosent"))
    contenders = {"kosent": ([kosent, "chat"], TEXTS["ko"]["placeholder"])}
    contenders |= {name: ([program], text) for name, (program, text) in others.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as home:
        places = {"HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home, "KOSENT_HOME": f"{home}/kosent"}
        places |= {"OLLAMA_HOST": "127.0.0.1:9"}
        store = ConversationStore(Path(home) / "kosent" / "conversations.sqlite3")
        store.import_conversation([("user", "안녕"), ("assistant", "안녕하세요.")])
        store.close()
        (Path(home) / "oterm").mkdir()
        (Path(home) / "oterm" / "config.json").write_text('{"splash-screen": false}', encoding="utf-8")
        for number in range(RUNS + 2):  # the first two warm the disk and let the others make their files
            for name, (command, text) in contenders.items():
                terminal = Terminal(command, places)
                try:
                    seconds = terminal.seconds_until(text)
                finally:
                    terminal.close()
                if number >= 2:
                    times[name].append(seconds)
    results = []
    for name, found in times.items():
        ours = name == "kosent"
        median = statistics.median(found)
        goal, holds = ("<= 0.8", median <= 0.8) if ours else ("", True)
        results.append(Result(f"first paint of {name}, median of {RUNS}", round(median, 2), "s", goal, holds))
        results.append(Result(f"first paint of {name}, slowest", round(max(found), 2), "s", "", True))
    return results


# --- a long conversation


async def _opened(chat: ChatApp, pilot: Any, conversation: int) -> float:
    began = time.perf_counter()
    await chat.pane.open(conversation)
    await pilot.pause()
    assert chat.pane.transcript.bubbles()[-1].message.id == chat.pane.transcript.messages[-1].id
    return time.perf_counter() - began


async def long_conversation(store: ConversationStore) -> list[Result]:
    conversation = store.import_conversation(sentences(LONG))
    chat = chat_app(ScriptedBackend(), store)
    async with chat.run_test(size=(120, 40)) as pilot:
        await chat.pane.open(None)
        seconds = await _opened(chat, pilot, conversation)
        transcript = chat.pane.transcript
        pages: list[float] = []
        for _ in range(PAGES):
            began = time.perf_counter()
            transcript.scroll_page_up(animate=False)
            await pilot.pause()
            pages.append(time.perf_counter() - began)
        above = LONG - transcript.start
        began = time.perf_counter()
        await transcript.to_start()
        await pilot.pause()
        to_start = time.perf_counter() - began
        reached = transcript.bubbles()[0].message.id == transcript.messages[0].id
    return [
        Result(f"{LONG:,} messages, opened", round(seconds, 2), "s", "<= 1.0", seconds <= 1.0),
        Result(f"{PAGES} pages up reach this many messages", above, "messages", "> 300", above > 300),
        Result("a page up, median", round(1000 * statistics.median(pages)), "ms", "", True),
        Result("a page up, slowest", round(1000 * max(pages)), "ms", "", True),
        Result("to the first message", round(to_start, 2), "s", "reached", reached),
    ]


# --- a long reply, memory: in processes of their own


def child(part: str, *arguments: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        target = Path(home) / "result.json"
        command = [sys.executable, str(HERE / "chat_child.py"), part, str(target), *arguments]
        terminal = Terminal(command, {"KOSENT_HOME": f"{home}/kosent", "OLLAMA_HOST": "127.0.0.1:9"})
        try:
            code = terminal.process.wait(1200)
            if code or not target.is_file():
                terminal.seconds_until("a result", timeout=0)
        finally:
            terminal.close()
        found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return found


def long_reply(chunks: int) -> list[Result]:
    found = child("reply", str(chunks))
    share = 100 * found["cpu"] / found["wall"]
    whole = chunks == CHUNKS
    name = f"{chunks:,} chunks at {PER_SECOND} a second, of one core"
    return [
        Result(name, round(share, 1), "%", "<= 15" if whole else "", share <= 15 or not whole),
        Result("chunks lost on the screen or on disk", found["lost"], "characters", "0", not found["lost"]),
        Result("wall time of the reply", round(found["wall"], 1), "s", "", True),
    ]


def memory() -> list[Result]:
    found = child("memory")
    grown = found["end"] - found["start"]
    return [
        Result(f"memory grown over {REPLIES} replies, after {WARM_UP}", round(grown, 1), "MB", "< 60", grown < 60),
        Result("memory before", round(found["start"], 1), "MB", "", True),
    ]


# --- search


async def search(store: ConversationStore) -> list[Result]:
    conversations = [store.new("m", title=f"대화 {number}") for number in range(MANY // 500)]
    last: int | None = None
    with transaction(store._db):  # as import does it, without a disk flush for each conversation
        for place, (role, text) in enumerate(sentences(MANY)):
            cursor = store._db.execute(
                "INSERT INTO message (conversation_id, role, content, status, written, parent_id) "
                "VALUES (?, ?, ?, 'complete', ?, ?)",
                (conversations[place // 500], role, text, place, last if place % 500 else None),
            )
            last = cursor.lastrowid
            search_index.remember(store._db, int(last or 0), text)
    slowest, which = 0.0, ""
    for query in QUERIES:
        median = statistics.median(_timed(lambda query=query: store.search(query)) for _ in range(5))  # type: ignore[misc]
        if median > slowest:
            slowest, which = median, query
    chat = chat_app(ScriptedBackend(), store)
    async with chat.run_test(size=(120, 40)) as pilot:
        await pilot.press("ctrl+f")
        while not isinstance(chat.screen, SearchDialog):
            await pilot.pause()
        began = time.perf_counter()
        await pilot.press("엄")
        while not chat.screen.found:
            await pilot.pause()
        shown = time.perf_counter() - began
    size = store.path.stat().st_size / 1e6
    return [
        Result(
            f"search in {MANY:,} messages, the slowest query ({which})", round(1000 * slowest, 1), "ms", "<= 100", slowest <= 0.1
        ),
        Result("a syllable typed, until its results are listed", round(1000 * shown), "ms", "", True),
        Result("file of the conversations", round(size), "MB", "", True),
    ]


def _timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def with_store(measure: Callable[[ConversationStore], Any]) -> list[Result]:
    with tempfile.TemporaryDirectory() as home:
        os.environ["KOSENT_HOME"] = home
        store = ConversationStore()
        try:
            found: list[Result] = asyncio.run(measure(store))
        finally:
            store.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="paint,long,search,memory,reply", help="parts, separated by commas")
    parser.add_argument("--elia", help="the program `elia`")
    parser.add_argument("--oterm", help="the program `oterm`")
    parser.add_argument("--chunks", type=int, default=CHUNKS, help="fewer for a trial, without a goal")
    args = parser.parse_args()
    others = {"elia": (args.elia, "Enter your message"), "oterm": (args.oterm, "Welcome to oterm")}
    measures: dict[str, Callable[[], list[Result]]] = {
        "paint": lambda: first_paint({name: (program, text) for name, (program, text) in others.items() if program}),
        "long": lambda: with_store(long_conversation),
        "search": lambda: with_store(search),
        "memory": memory,
        "reply": lambda: long_reply(args.chunks),
    }
    results: list[Result] = []
    for part in args.only.split(","):
        print(f"{part} …", file=sys.stderr, flush=True)
        results += measures[part]()
    report("chat", results)


if __name__ == "__main__":
    main()
