"""The chat model that runs a GGUF in this process, on a real file: streaming, waiting, cancelling, what it counts and reports."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel

from helpers import counted
from kosent import build_chain, chat_model, llama_cpp_memory
from kosent.context import SHORTEST_REPLY, fit
from kosent.errors import ContextLengthError, ModelError, OutOfMemoryError, UsageError
from kosent.gguf_prompt import as_plain
from kosent.llama_cpp_model import LlamaCppChat
from kosent.llama_cpp_writer import Writer
from kosent.settings import Settings

GREEDY = Settings(temperature=0.0, max_tokens=12)


def greedy(file: Path, **more: Any) -> LlamaCppChat:
    return LlamaCppChat(path=str(file), temperature=0.0, **more)


def said(model: LlamaCppChat, text: str, **more: Any) -> str:
    return str(model.invoke([HumanMessage(text)], **more).text)


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


async def test_cancelling_frees_the_model(tiny_gguf: Path) -> None:
    model = LlamaCppChat(path=str(tiny_gguf), temperature=0.0, max_tokens=1500)
    chain = build_chain(model)
    computed = counted(model)

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
    assert len(computed) < 400, "three replies of 1,500 tokens were given up"


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

    async def rest() -> None:
        async for _ in first:
            pass

    await asyncio.wait_for(rest(), 60)
    assert all(reply.content is not None for reply in await asyncio.wait_for(asyncio.gather(*waiting), 60))


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"GGUF not really")
    with pytest.raises(ModelError, match=r"bad\.gguf"):
        chat_model(str(file)).invoke([HumanMessage("안녕")])


def test_characters_are_never_cut(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An emoji that the vocabulary spells in four byte tokens arrives as one character."""
    model = LlamaCppChat(path=str(tiny_gguf))
    written = "말\U0001fae9끝"
    tokens = model.load().tokenize(written.encode(), add_bos=False, special=False)
    assert len(tokens) > len(written)
    monkeypatch.setattr(Writer, "_tokens", lambda self, prompt, options, order: iter(tokens))
    pieces = [chunk.text for chunk in model.stream([HumanMessage("안녕")])]
    assert "".join(pieces) == written
    assert "\U0001fae9" in pieces


def test_a_message_too_long_for_the_context_says_by_how_much(tiny_gguf: Path) -> None:
    model = LlamaCppChat(path=str(tiny_gguf), context=64)
    long = [HumanMessage("길다 " * 100)]
    tokens = len(model.prompt_tokens(long))
    with pytest.raises(ContextLengthError, match=rf"{tokens - 48} too many") as caught:
        model.invoke(long)
    assert (caught.value.tokens, caught.value.room) == (tokens, 48)


def test_the_fewest_turns_are_left_out() -> None:
    """A letter is a token here; turns of 10 letters, a system message of 5."""
    turns = [kind("x" * 5) for _ in range(10) for kind in (HumanMessage, AIMessage)]
    messages = [SystemMessage("s" * 5), *turns, HumanMessage("y" * 5)]

    def count(kept: Any) -> int:
        return sum(len(message.text) for message in kept)

    for context in range(20, 150, 7):
        fitted = fit(messages, count, context, 8)
        wanted = min(8, context // 4)
        fewest = min(number for number in range(11) if 110 - 10 * number + wanted <= context or number == 10)
        assert (fitted.dropped_turns, fitted.tokens) == (fewest, 110 - 10 * fewest)
        assert fitted.messages[0] == messages[0] and fitted.messages[-1] == messages[-1]
    with pytest.raises(ContextLengthError):
        fit(messages, count, 11, SHORTEST_REPLY)


def test_a_reply_may_be_asked_for_inside_another(tiny_gguf: Path) -> None:
    model = greedy(tiny_gguf, max_tokens=6)
    alone = [said(model, "안녕"), said(model, "또")]
    first = model.stream([HumanMessage("안녕")])
    begun = next(first).text
    assert said(model, "또") == alone[1]
    assert begun + "".join(chunk.text for chunk in first) == alone[0]


def test_threads_get_their_own_replies(tiny_gguf: Path) -> None:
    model = greedy(tiny_gguf, max_tokens=8)
    asked = [f"{number}번 이야기" for number in range(6)]
    alone = [said(model, text) for text in asked]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda text: said(model, text), asked)) == alone


async def test_what_waits_can_be_given_up_at_once(tiny_gguf: Path) -> None:
    """The first reply is long; the cancelled ones are gone before it ends, and the last one is still answered."""
    model = greedy(tiny_gguf, max_tokens=1900)
    computed = counted(model)
    first = asyncio.create_task(model.ainvoke([HumanMessage("길게")]))
    waiting = [asyncio.create_task(model.ainvoke([HumanMessage(f"{number}")], max_tokens=3)) for number in range(8)]
    await asyncio.sleep(0.1)
    for task in waiting[:7]:
        task.cancel()
    cancelled = await asyncio.gather(*waiting[:7], return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in cancelled) and not first.done()
    first.cancel()
    assert (await asyncio.wait_for(waiting[7], 30)).usage_metadata["output_tokens"] == 3  # type: ignore[index]
    assert len(computed) < 1000, "the long one was given up, and seven were never begun"


def test_a_long_prompt_is_given_up_in_the_middle(starter_gguf: Path) -> None:
    """In the middle of a batch of 512 tokens, and the model is whole afterwards."""
    model = greedy(starter_gguf, context=4096, max_tokens=4)
    before = said(model, "안녕")
    begun, ended = counted(model), []
    context = model.load()._ctx
    decode = context.decode
    context.decode = lambda batch: (decode(batch), ended.append(batch.n_tokens()))

    async def give_up() -> None:
        task = asyncio.create_task(model.ainvoke([HumanMessage("오늘 있었던 일을 다 이야기할게요. " * 220)]))
        while not begun:
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert said(model, "안녕") == before
    assert begun[0] == 512 and 512 not in ended, "the first batch was begun, and left"


def test_a_reply_cut_at_its_limit_ends_with_a_whole_character(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = greedy(tiny_gguf)
    tokens = model.load().tokenize("말\U0001fae9".encode(), add_bos=False, special=False)
    monkeypatch.setattr(Writer, "_tokens", lambda self, prompt, options, order: iter(tokens))
    assert said(model, "안녕", max_tokens=len(tokens) - 1) == "말"


def test_a_copy_with_another_file_has_its_own_writer(tiny_gguf: Path) -> None:
    model = greedy(tiny_gguf, max_tokens=2)
    assert said(model, "안녕")
    assert model.model_copy(update={"max_tokens": 3}).writer is model.writer
    assert model.model_copy(update={"context": 512}).load().n_ctx() == 512 != model.load().n_ctx()


def test_conversations_as_people_keep_them_are_taken(tiny_gguf: Path) -> None:
    """A greeting first, a summary as a system message in the middle, chunks of a stream."""
    model = greedy(tiny_gguf, max_tokens=2)
    kept = [
        AIMessage("어서 오세요."),
        HumanMessage("안녕"),
        AIMessageChunk("네"),
        SystemMessage("요약: 인사했다."),
        HumanMessage("응"),
    ]
    assert as_plain([SystemMessage("다정하게"), *kept]) == [
        {"role": "system", "content": "다정하게\n\n요약: 인사했다."},
        {"role": "user", "content": "안녕"},
        {"role": "assistant", "content": "네"},
        {"role": "user", "content": "응"},
    ]
    assert model.invoke(kept).text is not None


def test_the_prefix_of_a_conversation_is_read_once(tiny_gguf: Path) -> None:
    model = greedy(tiny_gguf, max_tokens=4)
    history = [HumanMessage("오늘은 비가 왔어요. " * 30), AIMessage("그랬군요.")]
    model.invoke([*history, HumanMessage("우산이 없었어요")])
    read: list[int] = []
    llama = model.load()
    evaluate = llama.eval
    llama.eval = lambda tokens: (read.append(len(tokens)), evaluate(tokens))
    answer = model.invoke([*history, HumanMessage("우산을 샀어요")])
    assert answer.usage_metadata["input_tokens"] > 150 and read[0] < 20  # type: ignore[attr-defined, index]


def test_a_stop_text_ends_the_reply_and_is_not_part_of_it(tiny_gguf: Path) -> None:
    model = greedy(tiny_gguf, max_tokens=12)
    whole = said(model, "안녕")
    middle = whole[len(whole) // 2 : len(whole) // 2 + 2]
    reply = model.invoke([HumanMessage("안녕")], stop=[middle, "그런 글은 없다"])
    assert reply.text == whole[: whole.index(middle)]
    assert reply.response_metadata["finish_reason"] == "stop"
    assert "".join(chunk.text for chunk in model.stream([HumanMessage("안녕")], stop=["그런 글은 없다"])) == whole


def test_log_probabilities_are_those_of_the_tokens(tiny_gguf: Path) -> None:
    model = greedy(tiny_gguf, max_tokens=5)
    reply = model.invoke([HumanMessage("안녕")], logprobs=True, top_logprobs=3)
    content = reply.response_metadata["logprobs"]["content"]
    assert len(content) == 5 == reply.usage_metadata["output_tokens"]  # type: ignore[attr-defined, index]
    for one in content:
        likeliest = [other["logprob"] for other in one["top_logprobs"]]
        assert one["logprob"] == likeliest[0] == max(likeliest) <= 0 and len(likeliest) == 3  # greedy takes the likeliest
    assert b"".join(bytes(one["bytes"]) for one in content).decode(errors="ignore") == reply.text
    assert "logprobs" not in model.invoke([HumanMessage("안녕")]).response_metadata


def test_a_schema_binds_the_reply(starter_gguf: Path) -> None:
    schema = {"title": "마음", "type": "object", "properties": {"grade": {"enum": [1, 2, 3]}}, "required": ["grade"]}
    model = greedy(starter_gguf, max_tokens=40)
    assert model.with_structured_output(schema).invoke("오늘 기분은?")["grade"] in (1, 2, 3)
    raw = model.with_structured_output(schema, include_raw=True).invoke("오늘 기분은?")
    assert json.loads(raw["raw"].text) == raw["parsed"] and raw["parsing_error"] is None


def test_json_that_was_cut_off_is_an_error_that_can_be_had(starter_gguf: Path) -> None:
    class Mood(BaseModel):
        grade: int

    model = greedy(starter_gguf, max_tokens=3).with_structured_output(Mood, include_raw=True)
    failed = model.invoke("오늘 기분은?")
    assert failed["parsed"] is None and isinstance(failed["parsing_error"], OutputParserException)


def test_what_it_does_not_know_is_refused(tiny_gguf: Path) -> None:
    model = greedy(tiny_gguf)
    with pytest.raises(UsageError, match="does not know frequency_penalty"):
        model.invoke([HumanMessage("안녕")], frequency_penalty=1)
    with pytest.raises(UsageError, match="'tool'"):
        model.invoke([HumanMessage("안녕"), ToolMessage("x", tool_call_id="1")])
    with pytest.raises(UsageError, match="needs a schema"):
        model.with_structured_output(None)


def test_what_does_not_fit_into_memory_says_so(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="for a context of 32,768 tokens, not 2,000,000,000"):
        LlamaCppChat(path=str(tiny_gguf), context=2_000_000_000).invoke([HumanMessage("안녕")])
    monkeypatch.setattr(llama_cpp_memory, "free_memory", lambda: tiny_gguf.stat().st_size + 1_000_000)
    with pytest.raises(OutOfMemoryError, match=r"GB for the context, and .* are free") as caught:
        LlamaCppChat(path=str(tiny_gguf), context=16_384).invoke([HumanMessage("안녕")])
    assert "KOSENT_CONTEXT" in str(caught.value.hint)
    assert said(greedy(tiny_gguf, context=512, max_tokens=2), "안녕")


def test_a_model_that_nobody_holds_leaves_no_thread(tiny_gguf: Path) -> None:
    model = greedy(tiny_gguf, max_tokens=2)
    said(model, "안녕")
    assert any(thread.name.startswith("kosent-reply") for thread in threading.enumerate())
    before = sum(thread.name.startswith("kosent-reply") for thread in threading.enumerate())
    del model
    gc.collect()
    time.sleep(0.2)
    assert sum(thread.name.startswith("kosent-reply") for thread in threading.enumerate()) < before
