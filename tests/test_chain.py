"""The chain, on a scripted model, on a real GGUF through llama.cpp, and on a real Ollama."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable

from kosent import build_chain
from kosent.cli import main
from kosent.errors import BackendError, ModelError, UsageError
from kosent.models import ollama_url, remember_export, resolve_model
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
