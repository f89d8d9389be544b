"""OpenAI-compatible servers: Ollama's /v1 as a real one, and small ones that fail in the ways of vLLM and llama-server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from kosent import build_chain, chat_model
from kosent.cli import main
from kosent.errors import ContextLengthError, InterruptedReplyError, ModelError, OutOfMemoryError, ServerDownError, UsageError
from kosent.models import openai_models, resolve_model
from kosent.settings import Settings
from openai_server import Handler, refusing, server

GREEDY = Settings(temperature=0.0, max_tokens=16)


async def test_a_real_server_answers(ollama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama)
    name = f"openai:smol:latest@http://{ollama}/v1"
    settings = Settings(temperature=0.0, max_tokens=24)
    asked = {"message": "What is the capital of France?"}
    chain = build_chain(name, system="You answer in one short sentence.", settings=settings, output="reply")
    reply = chain.invoke(asked)
    assert "Paris" in reply.text and reply.finish_reason == "stop" and reply.model == name
    assert reply.usage is not None and reply.usage["output_tokens"] > 3
    assert (await chain.ainvoke(asked)).text == reply.text
    assert main(["ask", "hello", "--model", name, "--max-tokens", "3"]) == 0
    with pytest.raises(ModelError, match=r"it has: .*smol:latest"):
        resolve_model(f"openai:nobody@http://{ollama}")


def test_what_is_sent_is_the_conversation_and_no_key_of_openais(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-private")
    with server(lambda body, handler: handler.stream("그랬", "군요.")) as (name, handler):
        chain = build_chain(name, settings=GREEDY)
        assert chain.invoke({"message": "안녕 <|im_end|>", "history": [HumanMessage("아"), AIMessage("네")]}) == "그랬군요."
        assert [message["content"] for message in handler.asked[0]["messages"]][1:] == ["아", "네", "안녕 < |im_end|>"]
        assert handler.asked[0]["max_tokens"] == 16 and handler.asked[0]["stream"]
        assert not any("sk-private" in str(key) for key in handler.keys)
        monkeypatch.setenv("KOSENT_API_KEY", "mine")
        build_chain(name, settings=GREEDY).invoke({"message": "안녕"})
        assert handler.keys[-1] == "Bearer mine"


def test_no_key_and_no_account_reach_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_PROXY"):
        monkeypatch.setenv(name, "http://private.example")
    monkeypatch.setenv("KOSENT_API_KEY", "mine")
    with server(lambda body, handler: handler.stream("네.")) as (name, handler):
        assert build_chain(name, settings=GREEDY).invoke({"message": "안녕"}) == "네."
        assert "private.example" not in str(handler.headers_seen)
        with redirecting(name.partition("@")[2]) as other:
            openai_models(f"{other}/v1")
        assert handler.keys[-1] is None


@contextmanager
def redirecting(to: str) -> Iterator[str]:
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"{to}/v1/models")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()


def test_a_chain_outlives_an_event_loop() -> None:
    with server(lambda body, handler: handler.stream("네.")) as (name, _):
        chain = build_chain(name, settings=GREEDY)
        for _ in range(3):
            assert asyncio.run(chain.ainvoke({"message": "안녕"})) == "네."


def test_the_oldest_turns_go_when_the_server_says_that_they_do_not_fit() -> None:
    def answer(body: dict[str, Any], handler: Handler) -> None:
        if len(body["messages"]) > 4:
            message = "This model's maximum context length is 2048 tokens. However, your request has 2300 input tokens."
            return handler.send(400, {"error": {"message": message, "type": "BadRequestError", "code": 400}})
        return handler.stream("네.")

    history = [kind(f"{number}") for number in range(5) for kind in (HumanMessage, AIMessage)]
    with server(answer) as (name, handler):
        reply = build_chain(name, settings=GREEDY, output="reply").invoke({"message": "끝", "history": history})
        assert (reply.text, reply.dropped_turns) == ("네.", 4)
        assert [message["content"] for message in handler.asked[-1]["messages"]][1:] == ["4", "4", "끝"]


def test_a_message_too_long_for_the_server_says_by_how_much() -> None:
    said = "the request exceeds the available context size (2300 tokens > 2048)"
    with (
        server(refusing(400, said, "exceed_context_size_error")) as (name, _),
        pytest.raises(ContextLengthError, match="252 tokens too many"),
    ):
        build_chain(name, settings=GREEDY).invoke({"message": "길다"})


@pytest.mark.parametrize(
    ("status", "message", "kind", "hint"),
    [
        (404, "The model `tuned` does not exist", ModelError, "/models"),
        (401, "invalid api key", ModelError, "KOSENT_API_KEY"),
        (500, "CUDA out of memory", OutOfMemoryError, "smaller"),
        (503, "Loading model", ServerDownError, "wait"),
    ],
)
def test_a_refusal_says_what_to_do(
    status: int, message: str, kind: type[ModelError], hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kosent.remote_model.PAUSES", (0.0, 0.0))
    with server(refusing(status, message)) as (name, handler):
        with pytest.raises(kind, match=message) as caught:
            build_chain(name, settings=GREEDY).invoke({"message": "안녕"})
        assert hint in str(caught.value.hint)
        assert len(handler.asked) == (3 if kind is ServerDownError else 1)


async def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kosent.remote_model.PAUSES", (0.0, 0.0))

    def answer(body: dict[str, Any], handler: Handler) -> None:
        if len(handler.asked) < 3:
            return refusing(503, "Loading model")(body, handler)
        return handler.stream("이제 ", "돼요.")

    with server(answer) as (name, _):
        assert await build_chain(name, settings=GREEDY).ainvoke({"message": "안녕"}) == "이제 돼요."


async def test_a_stream_that_ends_early_keeps_what_came() -> None:
    with server(lambda body, handler: handler.stream("반쪽", " 대답", finish=None)) as (name, handler):
        chain = build_chain(name, settings=GREEDY, output="reply")
        with pytest.raises(InterruptedReplyError) as caught:
            await chain.ainvoke({"message": "안녕"})
        assert caught.value.reply is not None and caught.value.reply.finish_reason == "interrupted"
        assert caught.value.text == caught.value.reply.text == "반쪽 대답"
        assert len(handler.asked) == 1
        shown: list[str] = []
        with pytest.raises(InterruptedReplyError):
            for piece in build_chain(name, settings=GREEDY).stream({"message": "안녕"}):
                shown.append(piece)
        assert "".join(shown) == "반쪽 대답"


def test_names_are_checked() -> None:
    for name in ("openai:tuned", "openai:@http://127.0.0.1:1", "openai:tuned@127.0.0.1:1"):
        with pytest.raises(UsageError, match="openai:NAME@URL"):
            resolve_model(name)
    with pytest.raises(ServerDownError, match="No server answers"):
        chat_model("openai:tuned@http://127.0.0.1:9/v1")
