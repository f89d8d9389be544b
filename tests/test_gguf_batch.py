"""Many replies of a GGUF at a time against the chat's one after another, and log likelihoods against transformers."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from langchain_core.messages import convert_to_messages

from helpers import ROOT, load_benchmark
from kosent.errors import ModelError, OutOfMemoryError
from kosent.evaluation import gguf_sequences
from kosent.evaluation.folder import Answer
from kosent.evaluation.gguf_batch import GgufBatch, _nucleus, _Reply
from kosent.export.gguf_writer import Export
from kosent.llama_cpp_model import LlamaCppChat
from kosent.prompts import LAYOUTS, Message, render

LAYOUT = LAYOUTS["gemma"]
END_OF_TURN = 106
SYSTEM: Message = {"role": "system", "content": "당신은 감정을 공감해주는 챗봇입니다."}
SAID = [
    "오늘 너무 힘들었어", "응", "시험에 떨어졌어. 어떡하지?", "ㅠㅠ", "친구랑 싸웠는데 내가 먼저 사과해야 할까", "Hello 🙂",
    "회사에서 또 혼났어", "잠이 안 와", "고마워!", "엄마가 보고 싶다. 이번 주말에는 집에 다녀와야지.", "그냥", "비가 온다",
]  # fmt: skip
LENGTH = 24


def conversation(said: str) -> list[Message]:
    return [SYSTEM, {"role": "user", "content": said}]


@pytest.fixture(scope="module")
def folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base, with an end of turn that is likelier: most replies end, after 0 to 20 tokens."""
    import torch
    from transformers import Gemma3ForCausalLM

    target = tmp_path_factory.mktemp("ending") / "base"
    shutil.copytree(tiny_base, target)
    model = Gemma3ForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    with torch.no_grad():
        model.model.embed_tokens.weight[END_OF_TURN] *= 8
    model.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def gguf(folder: Path) -> Path:
    target = folder.parent / "f32.gguf"
    with Export(folder, None, LAYOUT.template, LAYOUT) as export:
        export.write(target, "f32", lambda done, note: None)
    return target


@pytest.fixture(scope="module")
def model(gguf: Path) -> Iterator[GgufBatch]:
    with GgufBatch(gguf, context=1024, threads=1, parallel=5) as batch:
        yield batch


def answered(model: GgufBatch, prompts: list[list[int]], *, sampling: tuple[float, float, int], **more: Any) -> list[Answer]:
    found: dict[int, Answer] = {}
    model.replies(prompts, max_tokens=LENGTH, sampling=sampling, done=found.__setitem__, **more)
    return [found[index] for index in range(len(prompts))]


def chats(chat: LlamaCppChat, messages: list[Message], **options: Any) -> Answer:
    said = chat.invoke(convert_to_messages([dict[str, Any](message) for message in messages]), max_tokens=LENGTH, **options)
    usage = said.usage_metadata
    assert usage
    return Answer(said.text.strip(), said.response_metadata["finish_reason"] == "stop", tokens=usage["output_tokens"])


@pytest.fixture(scope="module")
def chat(gguf: Path) -> LlamaCppChat:
    return LlamaCppChat(path=str(gguf), context=1024, threads=1)


def test_greedy_replies_are_those_of_the_chat(model: GgufBatch, chat: LlamaCppChat) -> None:
    """More prompts than places, replies that end early, and a prompt of several forward passes."""
    asked = [conversation(said) for said in [*SAID, "긴 이야기예요. " * 150]]
    prompts = [model.prompt(messages) for messages in asked]
    assert len(prompts[-1]) > gguf_sequences.BATCH
    answers = answered(model, prompts, sampling=(0.0, 1.0, 0))
    assert answers == [chats(chat, messages, temperature=0.0) for messages in asked]
    assert {answer.ended for answer in answers} == {True, False}
    assert len({answer.tokens for answer in answers}) > 5


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_a_sampled_reply_is_that_of_the_chat_with_its_seed(model: GgufBatch, chat: LlamaCppChat, top_p: float) -> None:
    asked = [conversation(said) for said in SAID[:6]]
    prompts = [model.prompt(messages) for messages in asked]
    answers = answered(model, prompts, sampling=(0.7, top_p, 40))
    assert answers == [chats(chat, messages, temperature=0.7, top_p=top_p, seed=40 + i) for i, messages in enumerate(asked)]
    rest = answered(model, prompts[3:], sampling=(0.7, top_p, 40), numbers=[3, 4, 5])
    assert rest == answers[3:], "as after an interruption, with other neighbours"
    assert answers != answered(model, prompts, sampling=(0.7, top_p, 50))


def test_the_nucleus_is_that_of_llama_cpp() -> None:
    random = np.random.default_rng(3)
    sampler = llama_cpp.llama_sampler_init_top_p(0.9, 1)
    for spread in (0.01, 1.0, 5.0, 30.0):
        logits = random.normal(0, spread, 20_000).astype(np.float32)
        candidates = np.zeros(len(logits), [("id", "i4"), ("logit", "f4"), ("p", "f4")])
        candidates["id"], candidates["logit"] = np.arange(len(logits)), logits
        data = ctypes.cast(candidates.ctypes.data, llama_cpp.llama_token_data_p)
        array = llama_cpp.llama_token_data_array(data, len(logits), -1, False)
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
        found = _nucleus(logits, 0.9)
        assert abs(len(found) - array.size) <= 1e-4 * len(logits), "its sum has 32 bits"
        both = min(len(found), array.size)
        assert np.array_equal(logits[found[:both]], candidates["logit"][:both])
    llama_cpp.llama_sampler_free(sampler)


def test_log_likelihoods_are_those_of_transformers(model: GgufBatch, folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, Gemma3ForCausalLM

    tokenizer, reference = AutoTokenizer.from_pretrained(folder), Gemma3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    pairs = [(conversation(said), reply) for said, reply in zip(SAID, [*SAID[1:], "아주 긴 이야기예요. " * 30], strict=True)]
    conversations = [model.conversation(messages, reply) for messages, reply in pairs]
    counts: list[int] = []
    found = model.log_likelihood([*conversations, ([2, 5], []), ([2] * 1000, [5] * 100)], counts.append)
    assert found[-2:] == [(0.0, 0), (0.0, 0)], "an empty reply, and one that does not fit"
    assert counts[-1] == len(found) and counts == sorted(counts)
    for (messages, reply), (prompt, written), (logs, count) in zip(pairs, conversations, found, strict=False):
        whole = render([*messages, {"role": "assistant", "content": reply}], LAYOUT.template, LAYOUT, bos_token="<bos>")
        ids = tokenizer(whole.removesuffix("\n"), add_special_tokens=False)["input_ids"]
        assert prompt + written == ids and written[-1] == END_OF_TURN and count == len(written)
        with torch.inference_mode():
            rows = reference(torch.tensor([ids]), logits_to_keep=len(written) + 1).logits[0].log_softmax(-1)
        expected = sum(float(rows[place, token]) for place, token in enumerate(written))
        assert math.isclose(logs, expected, rel_tol=1e-3), "keys and values have 16 bits in llama.cpp"


def test_a_prompt_without_room_is_an_error_of_its_own(model: GgufBatch) -> None:
    prompts = [[2] * 1024, model.prompt(conversation("응")), [], [2] * 1020]
    answers = answered(model, prompts, sampling=(0.0, 1.0, 0))
    assert "1,024 tokens" in answers[0].error and answers[2].error
    assert answers[1] == answered(model, [prompts[1]], sampling=(0.0, 1.0, 0))[0] and not answers[1].error
    assert not answers[3].error and answers[3].tokens is not None and answers[3].tokens <= 4
    assert answered(model, [[]], sampling=(0.0, 1.0, 0))[0].error


def test_ctrl_c_stops_and_keeps_what_is_done(model: GgufBatch) -> None:
    prompts = [model.prompt(conversation(said)) for said in SAID]
    whole = answered(model, prompts, sampling=(0.0, 1.0, 0))
    found: dict[int, Answer] = {}
    sent = threading.Event()

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        sent.set()

    def done(index: int, answer: Answer) -> None:
        found[index] = answer
        if len(found) == 3:
            threading.Timer(0.005, interrupt).start()  # while the next tokens are computed

    with pytest.raises(KeyboardInterrupt):
        model.replies(prompts * 20, max_tokens=LENGTH, sampling=(0.0, 1.0, 0), done=done)
        sent.wait(10)
    assert 3 <= len(found) < len(prompts) * 20
    assert all(answer == whole[index % len(prompts)] for index, answer in found.items())
    assert answered(model, prompts, sampling=(0.0, 1.0, 0)) == whole


def test_a_cut_character_is_left_out(model: GgufBatch) -> None:
    """The vocabulary spells it in four byte tokens."""
    tokens = model.llama.tokenize(" 말\U0001fae9".encode(), add_bos=False, special=False)
    assert model._answer(_Reply(0, [2], 9, tokens=tokens)).text == "말\U0001fae9"
    assert model._answer(_Reply(0, [2], 9, tokens=tokens[:-1])).text == "말"


def test_little_memory_means_fewer_at_a_time(gguf: Path, model: GgufBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [model.prompt(conversation(said)) for said in SAID[:4]]
    whole = answered(model, prompts, sampling=(0.0, 1.0, 0))
    cells = gguf_sequences.CELLS * 2 * 2 * 2 * 32  # bytes: keys and values of 16 bits, two layers, one head of 32
    with GgufBatch(str(gguf), context=256, threads=1) as small:
        monkeypatch.setattr(gguf_sequences, "free_memory", lambda: 5 * cells)
        assert small._sequences.begin([2], 4, 100) == 1
        assert answered(small, prompts, sampling=(0.0, 1.0, 0)) == whole
    with GgufBatch(str(gguf), context=256, threads=1) as smaller:
        monkeypatch.setattr(gguf_sequences, "free_memory", lambda: cells)
        with pytest.raises(OutOfMemoryError, match=r"f32\.gguf does not fit"):
            answered(smaller, prompts, sampling=(0.0, 1.0, 0))


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"GGUF not really")
    with pytest.raises(ModelError, match=r"bad\.gguf"):
        GgufBatch(file)


def test_the_benchmark_compares_equal_text(
    folder: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring = load_benchmark(ROOT / "benchmarks" / "evaluate_generation.py", monkeypatch)
    results = measuring.generation(
        None, 2, base=str(folder), data=small_data, kinds=["f32"], max_tokens=4, threads=1, folder=tmp_path
    )
    values = {result.name: result.value for result in results}
    others = ("llama.cpp one by one", "transformers one by one", "transformers in kosent's batches")
    assert [values[f"base f32: text of {other}"] for other in others] == [1.0, 1.0, 1.0]
    assert values["base f32: faster than transformers one by one"] == pytest.approx(
        values["base f32: GGUF in batches"] / values["base f32: transformers one by one"], rel=0.05, abs=0.05
    )
    (goal,) = [result for result in results if result.goal == ">= 4"]
    assert goal.holds == (goal.value >= 4)
