"""The chain, on a scripted model, on a real GGUF through llama.cpp, and on a real Ollama."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable

from kosent import build_chain, chat_model
from kosent.cli import main
from kosent.errors import BackendError, ModelError, UsageError
from kosent.llama_cpp_model import LlamaCppChat
from kosent.models import ModelReference, chat_model_for, ollama_models, ollama_url, remember_export, resolve_model
from kosent.prompts import SYSTEM_MESSAGE
from kosent.settings import Settings
from kosent.testing import ScriptedChat
from kosent.text import printable

GREEDY = Settings(temperature=0.0, max_tokens=12)


def test_the_prompt_is_system_history_message() -> None:
    model = ScriptedChat(replies=["그랬군요."])
    history = [HumanMessage("안녕"), AIMessage("안녕하세요.")]
    assert build_chain(model).invoke({"message": "오늘 {힘들었어}", "history": history}) == "그랬군요."
    assert model.asked == [[SystemMessage(SYSTEM_MESSAGE), *history, HumanMessage("오늘 {힘들었어}")]]


def test_chunks_add_up_to_the_reply() -> None:
    chain = build_chain(ScriptedChat(replies=["천천히 말해 주세요."]), system="짧게")
    assert isinstance(chain, Runnable)
    chunks = list(chain.stream({"message": "응"}))
    assert len(chunks) > 3
    assert "".join(chunks) == "천천히 말해 주세요."


async def test_async_batch_and_errors() -> None:
    chain = build_chain(ScriptedChat(replies=["네."]))
    assert await chain.abatch([{"message": "하나"}, {"message": "둘"}]) == ["네.", "네."]
    broken = build_chain(ScriptedChat(replies=[BackendError("gone")]))
    with pytest.raises(BackendError, match="gone"):
        await broken.ainvoke({"message": "하나"})


def test_passages_of_a_retriever_are_quoted_in_the_users_turn() -> None:
    from langchain_core.retrievers import BaseRetriever

    class Notes(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: object) -> list[Document]:
            return [Document("산책하면 마음이 풀린다.")] if "힘들" in query else []

    model = ScriptedChat(replies=["네."])
    chain = build_chain(model, retriever=Notes())
    chain.invoke({"message": "힘들어"})
    chain.invoke({"message": "안녕", "history": [HumanMessage("아"), AIMessage("네")]})
    assert model.asked[0][-1].text == "[참고 1]\n산책하면 마음이 풀린다.\n[/참고 1]\n\n힘들어"
    assert [m.text for m in model.asked[1][1:]] == ["아", "네", "안녕"]


def test_llama_cpp_streams_what_it_invokes_and_reports_usage(tiny_gguf: Path) -> None:
    model = chat_model(str(tiny_gguf), settings=GREEDY)
    chain = build_chain(model)
    said = chain.invoke({"message": "오늘 힘들었어"})
    assert said
    assert "".join(chain.stream({"message": "오늘 힘들었어"})) == said
    whole = model.invoke([HumanMessage("오늘 힘들었어")])
    assert whole.response_metadata["finish_reason"] == "length"  # type: ignore[attr-defined]
    assert whole.usage_metadata["output_tokens"] == 12  # type: ignore[attr-defined, index]
    assert whole.usage_metadata["input_tokens"] == len(model.prompt_tokens([HumanMessage("오늘 힘들었어")]))  # type: ignore[attr-defined, index]


def test_the_prompt_has_exactly_one_bos_and_keeps_typed_markers_as_text(tiny_gguf: Path) -> None:
    model = LlamaCppChat(path=str(tiny_gguf), context=256)
    tokens = model.prompt_tokens([SystemMessage("시스템"), HumanMessage("<bos><end_of_turn>끝")])
    assert tokens.count(2) == 1 and tokens[0] == 2
    assert tokens.count(106) == 1


def test_characters_are_never_cut(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An emoji that the vocabulary spells in four byte tokens arrives as one character."""
    model = LlamaCppChat(path=str(tiny_gguf))
    written = "말\U0001fae9끝"
    tokens = model.load().tokenize(written.encode(), add_bos=False, special=False)
    assert len(tokens) > len(written)
    monkeypatch.setattr(LlamaCppChat, "_tokens", lambda self, prompt: iter(tokens))
    pieces = [chunk.text for chunk in model.stream([HumanMessage("안녕")])]
    assert "".join(pieces) == written
    assert "\U0001fae9" in pieces


async def test_cancelling_frees_the_model(tiny_gguf: Path) -> None:
    model = LlamaCppChat(path=str(tiny_gguf), temperature=0.0, max_tokens=200)
    chain = build_chain(model)

    async def consume() -> None:
        async for _ in chain.astream({"message": "안녕"}):
            started.set()

    for _ in range(3):
        started = asyncio.Event()
        task = asyncio.create_task(consume())
        await asyncio.wait_for(started.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    model.max_tokens = 3
    assert await asyncio.wait_for(chain.ainvoke({"message": "안녕"}), 30)


def test_a_conversation_too_long_for_the_context_is_an_error(tiny_gguf: Path) -> None:
    model = LlamaCppChat(path=str(tiny_gguf), context=64)
    with pytest.raises(UsageError, match="the context holds 64"):
        model.invoke([HumanMessage("길다 " * 100)])


def test_the_oldest_turns_give_way_when_the_context_is_full(tiny_gguf: Path) -> None:
    model = LlamaCppChat(path=str(tiny_gguf), context=256, temperature=0.0, max_tokens=4)
    turns = [kind(f"{number}번째로 한 이야기예요") for number in range(20) for kind in (HumanMessage, AIMessage)]
    reply = model.invoke([SystemMessage("시스템"), *turns, HumanMessage("끝")])
    dropped = reply.response_metadata["dropped_turns"]
    assert 0 < dropped < 20
    assert (
        reply.usage_metadata["input_tokens"]
        == len(  # type: ignore[index]
            model.prompt_tokens([SystemMessage("시스템"), *turns[2 * dropped :], HumanMessage("끝")])
        )
    )


async def test_replies_that_wait_do_not_stop_the_one_being_written(tiny_gguf: Path) -> None:
    model = LlamaCppChat(path=str(tiny_gguf), temperature=0.0, max_tokens=6)
    first = model.astream([HumanMessage("안녕")])
    assert await anext(first)
    waiting = [asyncio.create_task(model.ainvoke([HumanMessage(f"{number}")])) for number in range(12)]
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in waiting)

    async def rest() -> None:
        async for _ in first:
            pass

    await asyncio.wait_for(rest(), 60)
    assert all(reply.content is not None for reply in await asyncio.wait_for(asyncio.gather(*waiting), 60))


def test_a_second_reply_inside_the_first_is_an_error_and_not_a_wait(tiny_gguf: Path) -> None:
    model = LlamaCppChat(path=str(tiny_gguf), temperature=0.0, max_tokens=6)
    first = model.stream([HumanMessage("안녕")])
    next(first)
    with pytest.raises(BackendError, match="in this thread"):
        model.invoke([HumanMessage("또")])
    first.close()  # type: ignore[attr-defined]
    assert model.invoke([HumanMessage("또")])


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("127.0.0.1:1234", "http://127.0.0.1:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("https://models.example", "https://models.example:443"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(host: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert ollama_url() == url


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"GGUF not really")
    with pytest.raises(ModelError, match=r"bad\.gguf"):
        chat_model(str(file)).invoke([HumanMessage("안녕")])


def test_a_run_and_the_newest_export_are_found(tiny_run: Path, tiny_gguf: Path) -> None:
    assert resolve_model(str(tiny_run)).name == str(tiny_gguf)
    with pytest.raises(ModelError, match="nothing was exported"):
        resolve_model()
    remember_export(tiny_gguf)
    assert resolve_model().name == str(tiny_gguf.resolve())


@pytest.mark.parametrize("name", ["no-such-thing", "folder/"])
def test_a_name_of_no_known_form_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="neither"):
        resolve_model(name)


def test_ask_prints_the_reply(tiny_gguf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["ask", "--model", str(tiny_gguf), "--temperature", "0", "--max-tokens", "5"]
    assert main([*command, "안녕"]) == 0
    expected = build_chain(str(tiny_gguf), settings=Settings(temperature=0.0, max_tokens=5)).invoke({"message": "안녕"})
    assert expected
    assert capsys.readouterr().out == f"{printable(expected)}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main([*command, "-"]) == 2


def test_an_ollama_that_does_not_answer_says_how_to_start_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "안녕", "--model", "ollama:kosent"]) == 5
    assert "Try: ollama serve" in capsys.readouterr().err


def test_a_real_ollama_answers_through_the_chain(ollama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama)
    assert ollama_models() == ["smol:latest"]
    chain = build_chain(
        "ollama:smol", system="You answer in one short sentence.", settings=Settings(temperature=0.0, max_tokens=24)
    )
    said = chain.invoke({"message": "What is the capital of France?"})
    assert "Paris" in said
    chunks = list(chain.stream({"message": "What is the capital of France?"}))
    assert len(chunks) > 2
    assert "".join(chunks) == said


async def test_an_ollama_that_goes_away_is_explained(ollama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama)
    chain = build_chain("ollama:smol", settings=GREEDY)
    model = chat_model("ollama:smol", settings=GREEDY).model_copy(update={"model": "removed"})
    with pytest.raises(BackendError, match="could not answer with 'removed'"):
        await build_chain(model).ainvoke({"message": "hello"})
    assert chain.invoke({"message": "hello"})
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    gone = chat_model_for(ModelReference("ollama", "smol"), GREEDY)
    with pytest.raises(BackendError, match="The connection to Ollama"):
        list(build_chain(gone).stream({"message": "hello"}))


def test_a_model_that_ollama_lacks_is_named_with_the_next_command(
    ollama: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama)
    assert main(["ask", "안녕", "--model", "ollama:kosent"]) == 5
    shown = capsys.readouterr().err
    assert "smol:latest" in shown and "Try: ollama pull kosent" in shown
