"""`kosent ask`: what is asked, shown, printed for scripts and kept; interruptions; a real model through pipes and signals."""

from __future__ import annotations

import io
import json
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.retrievers import BaseRetriever

from injections import INJECTIONS
from kosent import chain
from kosent.cli import build_parser, main
from kosent.conversations import COMPLETE, FAILED, STOPPED, WRITING, Conversation, ConversationStore, StoredMessage
from kosent.conversations.database import transaction
from kosent.conversations.history import history_of
from kosent.errors import BackendError, InterruptedReplyError
from kosent.safety import CARD, NOTICE
from kosent.testing import ScriptedChat
from kosent.text import printable

Kosent = Callable[..., subprocess.CompletedProcess[str]]
Answering = Callable[..., ScriptedChat]
build_chain = chain.build_chain
DIRECT = "죽고 싶어"


class Breaking(ScriptedChat):
    """Says its reply, and then raises."""

    problem: Any

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        yield from super()._stream(*args, **kwargs)
        raise self.problem


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """Makes a model, or one with these replies, the one that answers."""

    def replace(*replies: Any, model: ScriptedChat | None = None, found: BaseRetriever | None = None) -> ScriptedChat:
        llm = model or ScriptedChat(replies=list(replies))

        def built(*, settings: Any, retriever: Any, output: Any) -> Any:
            return build_chain(llm, settings=settings, retriever=found or retriever, output=output)

        monkeypatch.setattr(chain, "build_chain", built)
        return llm

    return replace


def stored() -> list[tuple[Conversation, list[StoredMessage]]]:
    store = ConversationStore()
    found = [(one, store.messages(one.id)) for one in store.conversations()]
    store.close()
    return found


def reply_stored() -> StoredMessage:
    ((_, (_, reply)),) = stored()
    return reply


# --- what is asked


@pytest.mark.parametrize(
    ("words", "piped", "asked"),
    [
        (["안녕"], None, "안녕"),
        (["오늘", "너무", "힘들었어"], None, "오늘 너무 힘들었어"),
        ([], "잠이 안 와\n", "잠이 안 와"),
        (["-"], "\ufeff잠이 안 와\r\n둘째 줄\r\n", "잠이 안 와\n둘째 줄"),
        (["요약해", "줘:", "-"], "긴 글\n\n끝\n", "요약해 줘:\n\n긴 글\n\n끝"),
        (["-", "이 글은", "어때?"], "글", "글\n\n이 글은 어때?"),
        (["요약해 줘:", "-"], "", "요약해 줘:"),
        (["-"], "\x1b[31m빨강\x1b[0m", "빨강"),
        (["\u1112\u1161\u11ab글"], None, "한글"),
    ],
)
def test_the_message_is_words_and_what_is_piped_in(
    words: list[str], piped: str | None, asked: str, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no "-" stands beside words, standard input is not read: pytest's raises an error when it is."""
    model = answering("네.")
    if piped is not None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
    assert main(["ask", *words]) == 0
    assert model.asked[0][-1].text == asked


@pytest.mark.parametrize("words", [["  "], ["-"], []])
def test_an_empty_message_is_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert main(["ask", *words]) == 2
    said = capsys.readouterr().err
    assert "The message is empty" in said and "Try: kosent ask" in said


def test_without_a_message_a_terminal_is_not_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["ask"]) == 2
    assert "Try: kosent ask" in capsys.readouterr().err


def test_text_in_another_encoding_is_named_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("잠이 안 와".encode("cp949")), encoding="utf-8"))
    assert main(["ask", "-"]) == 2
    assert "Try: iconv -f cp949" in capsys.readouterr().err
    assert main(["ask", "\udcbe\udcc8"]) == 2
    assert "not UTF-8" in capsys.readouterr().err


# --- what is shown


@pytest.mark.parametrize("text", [text for _, text in INJECTIONS if len(text) < 400], ids=lambda text: ascii(text)[:30])
def test_no_reply_can_move_the_terminal(text: str, answering: Answering, capsys: pytest.CaptureFixture[str]) -> None:
    expected = printable(build_chain(answering(text)).invoke({"message": "안녕"}))
    assert main(["ask", "안녕"]) == 0
    assert capsys.readouterr().out == f"{expected}\n"
    assert reply_stored().content == expected
    assert main(["ask", "안녕", "--json", "--no-history"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == expected


def test_notices_are_for_terminals(
    answering: Answering, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_gguf: Path
) -> None:
    command = ["ask", "안녕", "--model", str(tiny_gguf), "--max-tokens", "3"]
    assert main(command) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(command) == 0
    said = capsys.readouterr().err
    assert said.startswith(NOTICE["ko"]) and "--max-tokens를 늘리면" in said
    answering("Yes.")
    assert main(["ask", "hello", "--lang", "en"]) == 0
    assert capsys.readouterr().err == f"{NOTICE['en']}\n"


def test_help_shows_pipes() -> None:
    description = build_parser("ask")[0].format_help()
    for example in ("| jq -r .text", "- < notes.txt", "--continue", "| kosent ask", "141"):
        assert example in description


# --- for scripts


def test_one_object_says_all_that_is_known(answering: Answering, capsys: pytest.CaptureFixture[str]) -> None:
    class Notes(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: object) -> list[Document]:
            return [Document("산책하면 \x1b[1m풀린다.", metadata={"source": "산책\x07.md", "when": object()})]

    answering("그랬군요.", found=Notes())
    assert main(["ask", "힘들어", "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    said = json.loads(printed)
    seconds, first = said.pop("seconds"), said.pop("first_token_seconds")
    assert 0 <= first <= seconds
    assert said == {
        "text": "그랬군요.",
        "model": "kosent-scripted",
        "finish_reason": None,
        "usage": None,
        "safety": {"level": "none", "card": False, "replaced": 0},
        "citations": [{"number": 1, "text": "산책하면 풀린다.", "source": "산책.md"}],
        "dropped_turns": 0,
        "conversation": stored()[0][0].id,
    }
    assert reply_stored().facts["citations"] == said["citations"]


def test_an_error_prints_no_object(answering: Answering, capsys: pytest.CaptureFixture[str]) -> None:
    answering(BackendError("fell over", hint="again"))
    assert main(["ask", "안녕", "--json"]) == 5
    shown = capsys.readouterr()
    assert shown.out == "" and "fell over" in shown.err and "Try: again" in shown.err


@pytest.mark.parametrize(
    ("problem", "code", "status"),
    [
        (InterruptedReplyError("gone", text="반쪽", hint="again"), 5, STOPPED),
        (BackendError("fell over"), 5, STOPPED),
        (KeyboardInterrupt(), 130, STOPPED),
    ],
)
def test_what_came_of_a_reply_that_broke_off_is_shown_and_kept(
    problem: BaseException, code: int, status: str, answering: Answering, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also what was held back because it looked like the beginning of a sequence."""
    answering(model=Breaking(replies=["반쪽 \x1b]0;대"], problem=problem))
    assert main(["ask", "안녕"]) == code
    shown = capsys.readouterr()
    assert shown.out == "반쪽 0;대\n" and "Traceback" not in shown.err
    reply = reply_stored()
    assert (reply.content, reply.status) == ("반쪽 0;대", status)
    assert reply.facts.get("problem", "") == str(problem)
    assert main(["ask", "안녕", "--json", "--no-history"]) == code
    said = json.loads(capsys.readouterr().out)
    assert (said["text"], said["finish_reason"], said["conversation"]) == ("반쪽 0;대", "interrupted", None)


# --- what is kept


def test_the_exchange_is_kept_as_the_chat_keeps_it(answering: Answering) -> None:
    answering("그랬군요. 많이 힘드셨겠어요.")
    assert main(["ask", "오늘", "힘들었어", "--system", "짧게", "--temperature", "0", "--lang", "ko"]) == 0
    ((conversation, (question, reply)),) = stored()
    assert (conversation.title, conversation.model) == ("오늘 힘들었어", "kosent-scripted")
    assert conversation.settings == {"system": "짧게", "temperature": 0.0}
    assert (question.role, question.content, question.status) == ("user", "오늘 힘들었어", COMPLETE)
    assert (reply.role, reply.content, reply.status) == ("assistant", "그랬군요. 많이 힘드셨겠어요.", COMPLETE)
    assert reply.parent == question.id and "card" not in reply.facts
    assert reply.facts["model"] == "kosent-scripted" and "tokens" not in reply.facts  # nobody counted them
    assert 0 <= reply.facts["first_token"] <= reply.facts["seconds"]


def test_it_is_kept_before_the_model_is_asked_and_while_it_writes(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kosent.conversations.history.SECONDS_BETWEEN_SAVES", 0.0)
    seen: list[tuple[str, str, str]] = []

    class Watched(ScriptedChat):
        def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
            self.look()
            for chunk in super()._stream(*args, **kwargs):
                yield chunk
                self.look()

        def look(self) -> None:
            ((_, (question, reply)),) = stored()
            seen.append((question.content, reply.content, reply.status))

    answering(model=Watched(replies=["네. 그래요. 그럼요."]))
    assert main(["ask", "안녕"]) == 0
    assert seen[0] == ("안녕", "", WRITING)
    assert seen[-1][2] == WRITING and seen[-1][1].startswith("네. 그래요. ")
    assert reply_stored().status == COMPLETE


def test_the_card_is_shown_and_not_kept(answering: Answering, capsys: pytest.CaptureFixture[str]) -> None:
    answering("곁에 있을게요.", BackendError("fell over"))
    assert main(["ask", DIRECT, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["text"] == f"{CARD['ko']}\n\n곁에 있을게요."
    assert said["safety"] == {"level": "crisis", "card": True, "replaced": 0}
    reply = reply_stored()
    assert (reply.content, reply.facts["card"]) == ("곁에 있을게요.", True)
    assert main(["ask", DIRECT, "--json"]) == 5
    said = json.loads(capsys.readouterr().out)
    assert said["text"] == f"{CARD['ko']}\n\n" and said["finish_reason"] == "interrupted", "who needs it gets it"


def test_without_history_no_file_is_opened(home: Path, answering: Answering) -> None:
    answering("네.")
    assert main(["ask", "안녕", "--no-history"]) == 0
    assert not home.exists()
    with pytest.raises(SystemExit):
        main(["ask", "안녕", "--no-history", "--continue"])


def test_the_latest_conversation_goes_on(answering: Answering) -> None:
    model = answering("하나예요.", BackendError("fell over"), " ", "넷이에요.", "다른 거예요.")
    assert main(["ask", "하나", "--continue", "--system", "짧게"]) == 0
    assert main(["ask", "둘", "--continue"]) == 5
    assert main(["ask", "셋", "--continue"]) == 0
    assert main(["ask", "넷", "--continue", "--system", "길게"]) == 0
    assert main(["ask", "다섯"]) == 0
    assert [message.text for message in model.asked[2]] == ["짧게", "하나", "하나예요.", "셋"]
    assert [message.text for message in model.asked[3]] == ["길게", "하나", "하나예요.", "넷"]
    assert [message.text for message in model.asked[4]][1:] == ["다섯"]
    latest, first = stored()
    assert [message.content for message in latest[1]] == ["다섯", "다른 거예요."]
    assert [message.content for message in first[1]] == ["하나", "하나예요.", "둘", "", "셋", " ", "넷", "넷이에요."]
    assert first[0].settings == {"system": "짧게"}


def test_history_holds_what_was_answered() -> None:
    def message(role: str, content: str, status: str = COMPLETE) -> StoredMessage:
        return StoredMessage(0, role, content, status)

    path = [
        message("user", "하나"), message("assistant", "하나예요."),
        message("user", "답이 없음"),
        message("user", "실패"), message("assistant", "실패한 반쪽", FAILED),
        message("user", "빈 답"), message("assistant", " \n", STOPPED),
        message("user", "멈춤"), message("assistant", "멈춘 반쪽", STOPPED),
        message("assistant", "묻지 않은 답"),
        message("user", "꺼짐"), message("assistant", "꺼질 때까지", WRITING),
        message("user", "지금"),
    ]  # fmt: skip
    assert history_of(path) == [
        HumanMessage("하나"), AIMessage("하나예요."), HumanMessage("멈춤"), AIMessage("멈춘 반쪽"),
        HumanMessage("꺼짐"), AIMessage("꺼질 때까지"),
    ]  # fmt: skip
    assert history_of([]) == history_of(path[:1]) == []


@pytest.mark.parametrize("more", [[], ["--continue"]])
def test_a_reply_comes_though_the_store_cannot_be_opened(
    more: list[str], home: Path, answering: Answering, capsys: pytest.CaptureFixture[str]
) -> None:
    home.mkdir()
    (home / "conversations.sqlite3").mkdir()
    answering("네.")
    assert main(["ask", "안녕", *more]) == 0
    shown = capsys.readouterr()
    assert shown.out == "네.\n" and shown.err.count("이 대화는 저장하지 못했어요.") == 1 and str(home) in shown.err


@pytest.mark.parametrize("failing", ["add", "update"])
def test_a_reply_comes_though_the_disk_is_full(
    failing: str, answering: Answering, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("kosent.conversations.history.SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(ConversationStore, failing, full)
    answering("네. 그래요.")
    assert main(["ask", "안녕", "--lang", "en"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "네. 그래요.\n"
    assert shown.err == "kosent ask: this exchange could not be stored. database or disk is full\n"


def test_a_write_that_failed_on_the_way_is_made_good_at_the_end(
    answering: Answering, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update, problems = ConversationStore.update, [sqlite3.OperationalError("database is locked")]

    def locked_once(*args: Any) -> None:
        if problems:
            raise problems.pop()
        update(*args)

    monkeypatch.setattr("kosent.conversations.history.SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(ConversationStore, "update", locked_once)
    answering("네. 그래요.")
    assert main(["ask", "안녕"]) == 0
    assert capsys.readouterr().err == "" and not problems
    assert (reply_stored().content, reply_stored().status) == ("네. 그래요.", COMPLETE)


@pytest.mark.parametrize(("write", "came"), [(1, ""), (3, ""), (5, "네")])
def test_control_c_in_the_middle_of_a_write_breaks_nothing(
    write: int, came: str, answering: Answering, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the first statement of a transaction, where nothing is there yet to undo it. The third transaction makes place for
    the reply, the fifth stores the first of it."""
    calls = []

    @contextmanager
    def interrupted(database: sqlite3.Connection) -> Iterator[None]:
        calls.append(1)
        if len(calls) == write:
            database.execute("BEGIN IMMEDIATE")
            signal.raise_signal(signal.SIGINT)
            database.execute("ROLLBACK")
        with transaction(database):
            yield

    monkeypatch.setattr("kosent.conversations.history.SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr("kosent.conversations.store.transaction", interrupted)
    answering("네. 그래요.")
    assert main(["ask", "안녕"]) == 130
    shown = capsys.readouterr()
    assert shown.out == (f"{came}\n" if came else "") and "저장하지" not in shown.err
    assert (reply_stored().content, reply_stored().status) == (came, STOPPED)


def test_a_damaged_store_is_spoken_of_once(home: Path, answering: Answering, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "conversations.sqlite3").write_bytes(b"no database at all" * 100)
    answering("네.")
    assert main(["ask", "안녕"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "네.\n" and "대화 파일이 망가져" in shown.err and "damaged-" in shown.err
    assert main(["ask", "안녕"]) == 0
    assert capsys.readouterr().err == ""


# --- a real model in a process of its own


@pytest.fixture
def command(tiny_gguf: Path) -> list[str]:
    return ["ask", "--model", str(tiny_gguf), "--temperature", "1"]  # at 0 it says nothing but newlines


def test_a_real_model_answers_through_pipes(kosent: Kosent, command: list[str], tiny_gguf: Path) -> None:
    plain = kosent(*command, "--max-tokens", "6", input="오늘 힘들었어\n")
    assert (plain.returncode, plain.stderr) == (0, "") and len(plain.stdout) > 1
    done = kosent(*command, "--max-tokens", "6", "--json", "오늘", "-", input="힘들었어")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert (said["model"], said["finish_reason"], said["usage"]["output_tokens"]) == (str(tiny_gguf), "length", 6)
    assert 0 < said["first_token_seconds"] <= said["seconds"]
    (latest, (question, reply)), (_, (first, first_reply)) = stored()
    assert (question.content, first.content) == ("오늘\n\n힘들었어", "오늘 힘들었어")
    assert (reply.content, latest.id, latest.model) == (said["text"], said["conversation"], str(tiny_gguf))
    assert reply.facts["tokens"] == 6 and f"{first_reply.content}\n" == plain.stdout
    again = kosent(*command, "--max-tokens", "2", "--continue", "--json", "그래서?")
    assert json.loads(again.stdout)["usage"]["input_tokens"] > said["usage"]["input_tokens"]
    assert len(stored()[0][1]) == 4


def begun(command: list[str]) -> subprocess.Popen[bytes]:
    """A long reply that has begun. Its standard input stays open: what is not asked for must not be waited for."""

    def interruptible() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets what it runs in the background ignore it

    return subprocess.Popen(
        [sys.executable, "-m", "kosent", *command, "--max-tokens", "1800", "안녕"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        preexec_fn=interruptible,
    )


def test_control_c_keeps_what_came(command: list[str]) -> None:
    process = begun(command)
    assert process.stdout is not None
    came = process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"stopped" in said and b"Traceback" not in said
    reply = reply_stored()
    assert reply.status == STOPPED and (came + rest).decode() == f"{reply.content}\n"


def test_a_reader_that_leaves_ends_the_reply_quietly(command: list[str]) -> None:
    process = begun(command)
    assert process.stdout is not None and process.stderr is not None
    came = process.stdout.read(10)
    process.stdout.close()
    assert (process.wait(120), process.stderr.read()) == (141, b"")
    reply = reply_stored()
    assert reply.status == STOPPED and reply.content.encode().startswith(came)
    assert "finish_reason" not in reply.facts


def test_head_gets_its_part(command: list[str]) -> None:
    line = " ".join([sys.executable, "-m", "kosent", *command, "--max-tokens", "1800", "안녕", "| head -c 6"])
    done = subprocess.run(["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], capture_output=True, timeout=120)
    assert (done.returncode, len(done.stdout), done.stderr) == (141, 6, b"")


def test_a_full_disk_costs_no_reply(kosent: Kosent, command: list[str]) -> None:
    import resource

    def no_file_may_grow() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    done = kosent(*command, "--max-tokens", "3", "안녕", preexec_fn=no_file_may_grow)
    assert done.returncode == 0 and len(done.stdout) > 1
    assert re.fullmatch(r"kosent ask: 이 대화는 저장하지 못했어요\. .*\n", done.stderr)
