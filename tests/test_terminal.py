"""The chat in real terminals: every byte that it writes while hostile texts are shown, a person's evening under tmux with real
models, and what is left when the process is killed. `kosent ask` writes the same texts."""

from __future__ import annotations

import base64
import os
import random
import re
import shlex
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import pytest

from injections import INJECTIONS
from kosent.cli import main
from kosent.conversations import COMPLETE, STOPPED, WRITING, ConversationStore, StoredMessage
from kosent.safety import NOTICE
from kosent.text import printable
from kosent.tui.texts import TEXTS as SAID
from terminals import HALVES, PROMPT, TESTS, TEXT, TEXTS, Pty, Tmux, environment, left_over, places, sequences, until
from test_openai import refusing, server

KO = SAID["ko"]
HOSTILE, HARMLESS = TEXTS["hostile"], TEXTS["harmless"]
PLACES = (
    "draft_and_problem", "list_of_conversations", "stored_messages", "edited_messages", "passages", "found_messages",
    "lines_pasted_into", "messages_pasted", "names_of_conversations", "deleted_and_restored", "settings", "models", "collections",
    "files", "replies", "halves", "errors", "copied",
)  # fmt: skip
"""The functions of data/terminal_chat.py."""
ALONE = ("lines_pasted_into", "halves")
"""Places that get a process of their own: what goes wrong there must not hide the others."""
QUIET = tuple(name for name in PLACES if name != "halves")
"""Places that harmless texts are shown at."""
REMOVED = ("cm0gLXJmIH4K", "안전한 은행", "숨김", "Gf=100", "1$r0m")
"""What stands inside sequences that end, and so must not be seen."""
COPY = re.compile(r"\x1b\]52;c;([A-Za-z0-9+/=]*)\x07")
SLOW = 0.02
"""Seconds between two characters of the slow model."""


# --- every byte


@cache
def toured(home: Path, kind: str, *visits: str) -> tuple[int, dict[str, str], str]:
    """The exit code, what was written at each place, and all of it as text."""
    script = TESTS / "data" / "terminal_chat.py"
    terminal = Pty([sys.executable, str(script), kind, *visits], environment(home))
    try:
        return terminal.ended(), places(bytes(terminal.written)), terminal.text()
    finally:
        terminal.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("terminal")


def written(folder: Path, kind: str, place: str) -> str:
    alone = kind == "hostile" and place in ALONE
    visits = (place,) if alone else tuple(name for name in QUIET if kind == "harmless" or name not in ALONE)
    code, found, text = toured(folder / (place if alone else kind), kind, *visits)
    assert place in found and (code == 0 or place != visits[-1]), text[-3000:]
    return found[place]


def test_what_is_hostile_is_seen_as_such() -> None:
    """Else the tests below could not fail; what is harmless is let through."""
    assert [name for name, text in INJECTIONS if not left_over(text)] == ["joined emoji stay"]
    assert not any(left_over(text) for text in HARMLESS)


@pytest.mark.parametrize("place", PLACES)
def test_no_text_can_move_the_terminal(place: str, folder: Path) -> None:
    """Only what a run with harmless texts writes at the same place; the clipboard only where somebody copies."""
    allowed = sequences(written(folder, "harmless", "replies" if place == "halves" else place))
    hostile = written(folder, "hostile", place)
    copied = COPY.findall(hostile) if place == "copied" else []
    assert left_over(COPY.sub("", hostile) if copied else hostile, allowed) == []
    assert bool(copied) == (place == "copied")
    pasted = "".join(base64.b64decode(one).decode() for one in copied)
    assert left_over(pasted.replace("\t", " ")) == [], "what is copied will be pasted somewhere"
    shown = re.sub(r"\x1b\[[\d;]*[Hm]", "", COPY.sub("", hostile))
    assert [text for text in REMOVED if text in shown] == []
    assert "안녕" in shown


def test_harmless_texts_are_shown_without_links_titles_and_clipboard(folder: Path) -> None:
    found = {one for place in QUIET for one in sequences(written(folder, "harmless", place)) if one.startswith("\x1b]")}
    assert {one for one in found if not COPY.fullmatch(one)} <= {"\x1b]22;default\x07", "\x1b]22;pointer\x07", "\x1b]22;text\x07"}
    assert all(place == "copied" for place in QUIET if COPY.search(written(folder, "harmless", place)))


def test_half_a_character_costs_no_reply(folder: Path) -> None:
    """A server may send one; the reply is kept, with a mark in its place."""
    written(folder, "hostile", "halves")
    store = ConversationStore(folder / "halves" / "conversations.sqlite3")
    messages = store.messages(store.latest() or 0)
    store.close()
    assert messages[1].content == printable(HALVES)
    assert [one.status for one in messages] == [COMPLETE] * 4


# --- what a keyboard sends


def chat(folder: Path, home: Path, *, seconds: float = 0.0, count: int = 20) -> Pty:
    """With a model that says so many letters of `TEXT`, one every so many seconds."""
    script = TESTS / "data" / "slow_chat.py"
    terminal = Pty([sys.executable, str(script), str(folder / "log"), str(seconds), str(count)], environment(home))
    try:
        terminal.shows(KO["ready"])
    except AssertionError:
        terminal.close()
        raise
    return terminal


@pytest.fixture
def terminal(tmp_path: Path, home: Path) -> Iterator[Pty]:
    opened = chat(tmp_path, home)
    yield opened
    opened.close()


def test_hostile_bytes_from_the_keyboard_do_nothing(terminal: Pty, folder: Path, home: Path) -> None:
    """Typed, as in a terminal that does not mark what is pasted, and pasted; the chat can be used afterwards."""
    for text in (text for text in HOSTILE if len(text) < 60):
        terminal.send(text)
        terminal.send(f"\x1b[200~{text}\x1b[201~")
    terminal.rests()
    for _ in range(3):
        terminal.send("\x1b")
        time.sleep(0.2)  # what follows at once would belong to the escape
    terminal.send("\x0e")  # Ctrl+N
    terminal.rests()
    says_and_is_answered(terminal, home, "들리세요?")
    terminal.send("\x11")  # Ctrl+Q
    assert terminal.ended() == 0
    allowed = {one for place in (*QUIET, "end") for one in sequences(written(folder, "harmless", place))}
    assert left_over(bytes(terminal.written).decode(), allowed) == []


def test_bytes_that_are_no_text_do_not_end_the_chat(terminal: Pty, home: Path) -> None:
    """A terminal set to EUC-KR, or an old way of telling where the mouse is."""
    os.write(terminal.master, "한글".encode("euc-kr"))
    says_and_is_answered(terminal, home, "들리세요?")


def says_and_is_answered(terminal: Pty, home: Path, text: str) -> None:
    terminal.send(f"{text}\r")

    def answered() -> bool:
        assert terminal.process.poll() is None, terminal.text()[-3000:]
        return [one.status for one in kept(home)] == [COMPLETE] * 2 and kept(home)[0].content.endswith(text)

    until(answered, lambda: f"{kept(home)}\n{terminal.text()[-3000:]}")


# --- killed


def test_a_killed_chat_loses_half_a_second(tmp_path: Path, home: Path) -> None:
    """At five moments: the question is there, and the reply but for what came in the last moment before."""
    chance = random.Random(7)
    for number in range(5):
        log = tmp_path / str(number) / "log"
        log.parent.mkdir()
        terminal = chat(log.parent, home, seconds=SLOW, count=len(TEXT))
        try:
            terminal.send(f"{number}번째 이야기예요\r")
            until(partial(has_begun, log))
            time.sleep(chance.uniform(0.3, 2.5))
            killed = time.monotonic()
            terminal.process.send_signal(signal.SIGKILL)
            assert terminal.ended() == -signal.SIGKILL
        finally:
            terminal.close()
        given = [line.split() for line in log.read_text().splitlines()]
        early = sum(float(moment) < killed - 0.6 - SLOW for moment, _ in given)
        question, reply = kept(home)[-2:]
        assert (question.content, question.status) == (f"{number}번째 이야기예요", COMPLETE)
        assert reply.status == WRITING and TEXT.startswith(reply.content)
        assert early <= len(reply.content) <= len(given)
        with sqlite3.connect(home / "conversations.sqlite3") as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def has_begun(log: Path) -> bool:
    return log.exists() and log.stat().st_size > 0


def kept(home: Path) -> list[StoredMessage]:
    store = ConversationStore(home / "conversations.sqlite3")
    messages = store.messages(store.latest() or 0)
    store.close()
    return messages


# --- as a person uses it


@pytest.fixture
def shell(home: Path) -> Iterator[Tmux]:
    terminal = Tmux(environment(home, KOSENT_CONTEXT="512"))
    yield terminal
    terminal.close()


def opened(shell: Tmux, model: Path | str, tokens: int, *more: str, ready: str = KO["ready"]) -> None:
    command = [sys.executable, "-m", "kosent", "chat", "--model", str(model), "--temperature", "0", "--max-tokens", str(tokens)]
    shell.type(shlex.join([*command, *more]))
    shell.press("Enter")
    shell.shows(ready)


def left(shell: Tmux) -> None:
    """Quits; the shell is as it was."""
    shell.press("C-q")
    shell.shows(PROMPT.strip())
    shell.type("echo o''k; stty -a")
    shell.press("Enter")
    screen = shell.shows("ok\n", "echoctl")
    assert " echo " in screen and " icanon " in screen and "-icanon" not in screen
    flags = ("alternate_on", "cursor_flag", "mouse_any_flag", "keypad_flag")
    assert [shell.flag(name) for name in flags] == ["0", "1", "0", "0"]


def write(home: Path) -> str:
    """What of a reply is on disk while it is being written; "" before."""
    if not (home / "conversations.sqlite3").exists():
        return ""
    with sqlite3.connect(home / "conversations.sqlite3") as database:
        row = database.execute("SELECT content FROM message WHERE status = 'writing'").fetchone()
    return str(row[0]) if row else ""


def test_a_conversation_under_tmux(shell: Tmux, starter_gguf: Path, home: Path) -> None:
    """Two lines of Korean are answered, a reply is stopped, and the terminal is left clean."""
    opened(shell, starter_gguf, 24)
    shell.type("오늘 회사에서 실수를 했어요.")
    shell.press("M-Enter")
    time.sleep(0.2)  # what is sent by mistake would have gone
    shell.type("어떻게 해야 할까요?")
    shell.shows("어떻게 해야 할까요?")
    shell.press("Enter")
    shell.shows(KO["you"], "토큰/초")
    question, reply = kept(home)
    assert question.content == "오늘 회사에서 실수를 했어요.\n어떻게 해야 할까요?"
    assert reply.status == COMPLETE and reply.content.strip()
    left(shell)
    opened(shell, starter_gguf, 400, ready="어떻게 해야 할까요?")
    shell.type("길게 이야기해 주세요")
    shell.press("Enter")
    until(lambda: write(home), shell.screen)
    shell.press("Escape")
    shell.shows(KO["stopped"])
    assert kept(home)[-1].status == STOPPED and kept(home)[-1].content.strip()
    left(shell)


def test_a_killed_chat_shows_what_had_come(shell: Tmux, starter_gguf: Path, home: Path) -> None:
    opened(shell, starter_gguf, 400)
    shell.type("집에 오는 길에 고양이를 봤어요")
    shell.press("Enter")
    until(lambda: len(write(home)) > 5, shell.screen)
    os.kill(shell.child(), signal.SIGKILL)
    shell.fresh_shell()
    opened(shell, starter_gguf, 24)
    screen = shell.shows("집에 오는 길에 고양이를 봤어요", KO["cut_off"])
    words = re.findall(r"[가-힣]+", kept(home)[-1].content)
    assert words and words[0] in screen


def test_searching_branching_and_writing_out(shell: Tmux, starter_gguf: Path, home: Path, tmp_path: Path) -> None:
    """A syllable finds an older conversation; its question is put anew; both versions stay; the file holds the chosen one."""
    store = ConversationStore()
    for question, reply in (("흙길을 걸었어요", "걷고 나니 어떠셨어요?"), ("비가 와요", "우산은 챙기셨어요?")):
        conversation = store.new("starter")
        store.add(conversation, "user", question)
        store.add(conversation, "assistant", reply)
    store.close()
    opened(shell, starter_gguf, 12, ready="우산은 챙기셨어요?")
    shell.press("C-f")
    shell.shows(KO["search_title"])
    shell.type("흙")
    shell.shows(f"{KO['you']}: 흙길을 걸었어요")
    shell.press("Enter")
    shell.is_without(KO["search_title"])
    shell.shows("걷고 나니 어떠셨어요?")
    selects_the_question(shell)
    shell.press("e")
    shell.shows(KO["editing"][:12])
    shell.type(" 오랜만에")
    shell.shows("흙길을 걸었어요 오랜만에")
    shell.press("Enter")
    shell.shows("‹ 2/2 ›")
    shell.is_without("걷고 나니 어떠셨어요?")
    selects_the_question(shell)
    shell.press("Left")
    shell.shows("‹ 1/2 ›", "걷고 나니 어떠셨어요?")
    shell.press("Right")
    shell.shows("‹ 2/2 ›", "오랜만에")
    shell.press("C-s")
    shell.shows(KO["export_title"])
    shell.press("Tab", "Tab", "Tab", "End", "C-u")
    shell.is_without("kosent-20")  # the name that was proposed
    shell.type(str(tmp_path / "내 대화.md"))
    shell.press("Enter")
    shell.is_without(KO["export_title"])
    until((tmp_path / "내 대화.md").exists, shell.screen)
    text = (tmp_path / "내 대화.md").read_text(encoding="utf-8")
    assert "> 흙길을 걸었어요 오랜만에\n" in text and "걷고 나니" not in text and "비가 와요" not in text
    left(shell)


def selects_the_question(shell: Tmux) -> None:
    shell.press("C-Up")
    shell.shows(f"r {KO['key_again']}")
    shell.press("Up")
    shell.shows(f"e {KO['key_edit']}")


def test_ollama_under_tmux(ollama: str, home: Path) -> None:
    shell = Tmux(environment(home, OLLAMA_HOST=ollama, KOSENT_CONTEXT="512"))
    try:
        opened(shell, "ollama:smol", 60)
        shell.type("What is the capital of France?")
        shell.press("Enter")
        shell.shows("Paris", "smol · ", "토큰/초")
        left(shell)
        opened(shell, "ollama:smol", 400, ready="Paris")
        shell.type("Write a long story about a river.")
        shell.press("Enter")
        until(lambda: write(home), shell.screen)
        shell.press("Escape")
        shell.shows(KO["stopped"])
        left(shell)
    finally:
        shell.close()


def test_without_ollama_the_chat_says_so_and_can_be_used(shell: Tmux, home: Path) -> None:
    opened(shell, "ollama:smol", 20, ready=KO["server_down"])
    shell.shows("ollama serve")
    shell.type("그래도 적어 둘게요")
    shell.press("Enter")
    shell.shows("그래도 적어 둘게요", KO["failed"].partition(":")[0])
    assert kept(home)[0].content == "그래도 적어 둘게요"
    shell.type("다시 적어요")
    shell.shows("다시 적어요")
    left(shell)


# --- kosent ask


def test_ask_writes_no_text_that_can_move_the_terminal(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Every text from a server, in pieces that cut its sequences."""
    pieces = []
    for _, text in INJECTIONS:
        size = 7 if len(text) < 400 else 97
        pieces += [*(text[start : start + size] for start in range(0, len(text), size)), "\n\n"]
    with server(lambda body, handler: handler.stream(*pieces)) as (name, _):
        assert main(["ask", "안녕", "--model", name]) == 0
    shown = capfdbinary.readouterr().out.decode()
    assert left_over(shown.replace("\t", " ")) == [] and [one for one in REMOVED if one in shown] == []
    assert shown.count("안녕") > 40


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_ask_says_errors_that_cannot_move_the_terminal(status: int, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    said = " ".join(text for text in HOSTILE if len(text) < 60)
    with server(refusing(status, said)) as (name, _):
        assert main(["ask", "안녕", "--no-history", "--model", name]) != 0
    shown = capfdbinary.readouterr().err.decode()
    assert "안녕" in shown and left_over(shown.replace("\t", " ")) == []


def test_ask_in_a_terminal(home: Path, folder: Path) -> None:
    said = "\n\n".join(text for text in HOSTILE if len(text) < 400)
    with server(lambda body, handler: handler.stream(said)) as (name, _):
        terminal = Pty([sys.executable, "-m", "kosent", "ask", "안녕", "--model", f"{name}"], environment(home))
        try:
            assert terminal.ended() == 0
        finally:
            terminal.close()
    shown = bytes(terminal.written).decode()
    assert NOTICE["ko"] in shown and "안녕" in shown and left_over(shown.replace("\t", " ")) == []
