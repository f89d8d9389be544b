"""What the chain costs over the bare clients, and what its in-process model does for many callers at once.

    .venv/bin/python benchmarks/chain.py --gguf kosent-demo/run/kosent-q8_0.gguf          llama.cpp in this process
    .venv/bin/python benchmarks/chain.py --gguf ... --ollama kosent                      and a running Ollama

`bare` is `llama_cpp.Llama.create_chat_completion` and `ollama.Client.chat`, streaming, with the same messages and settings;
`chain` is `build_chain` with its safety on. Pairs alternate in who is first; each request begins with words of its own, so
that no prompt cache helps. Time to the first token is up to the first text that is handed out. Tokens per second are those after
it, and tokens are counted in the text. Medians of the paired differences and ratios, with 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common import Result, report
from kosent import build_chain
from kosent.llama_cpp_model import LlamaCppChat
from kosent.models import chat_model, ollama_url
from kosent.prompts import SYSTEM_MESSAGE
from kosent.settings import Settings

PAIRS, WARM_UP, SEED, CONTEXT = 30, 2, 7, 4096
REPLY, PARALLEL, PARALLEL_REPLY, HISTORY = 32, 50, 32, 1500
SETTINGS = Settings(temperature=0.0, max_tokens=REPLY, context=CONTEXT)
WORDS = [
    "비",
    "봄",
    "밤",
    "산",
    "강",
    "별",
    "집",
    "꿈",
    "길",
    "빛",
    "눈",
    "꽃",
    "새",
    "달",
    "물",
    "손",
    "말",
    "글",
    "노래",
    "편지",
    "시장",
    "학교",
    "회사",
    "친구",
    "동생",
    "엄마",
    "아빠",
    "저녁",
    "아침",
    "주말",
]
Request = Callable[[str, str], Iterator[str]]
"""Pieces of the reply to a system message and a message."""


def unique(draw: random.Random) -> tuple[str, str]:
    """A system message and a message whose first words nobody has used."""
    words = " ".join(draw.sample(WORDS, 6))
    return (
        f"{words}. {SYSTEM_MESSAGE}",
        f"{draw.choice(WORDS)} 이야기예요. 오늘 회사에서 발표를 망쳤어요. 팀장님 표정이 자꾸 생각나요.",
    )


def timed(request: Request, system: str, message: str, tokens: Callable[[str], int]) -> tuple[float, float]:
    """Milliseconds to the first text, and tokens per second after it."""
    began = time.perf_counter()
    pieces = [(time.perf_counter(), piece) for piece in request(system, message) if piece]
    first, last = pieces[0][0], pieces[-1][0]
    count = tokens("".join(piece for _, piece in pieces[1:]))
    return 1000 * (first - began), count / (last - first) if last > first else 0.0


def interval(values: Sequence[float]) -> tuple[float, float]:
    draw = random.Random(SEED)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[1949]


def paired(name: str, bare: Request, chain: Request, tokens: Callable[[str], int]) -> list[Result]:
    draw = random.Random(SEED)
    late, ratios, firsts = [], [], []
    for number in range(WARM_UP + PAIRS):
        both = {}
        for which in ("bare", "chain") if number % 2 else ("chain", "bare"):
            both[which] = timed(bare if which == "bare" else chain, *unique(draw), tokens)
        if number >= WARM_UP:
            late.append(both["chain"][0] - both["bare"][0])
            ratios.append(both["chain"][1] / both["bare"][1])
            firsts.append(both["bare"][0])
    (low, high), (least, most) = interval(late), interval(ratios)
    return [
        Result(f"{name}: first token of the bare client, median of {PAIRS}", round(statistics.median(firsts), 1), "ms", "", True),
        Result(f"{name}: chain later by ({low:.1f} to {high:.1f})", round(statistics.median(late), 1), "ms", "<= 30",
               statistics.median(late) <= 30),
        Result(f"{name}: tokens/s, chain / bare ({least:.3f} to {most:.3f})", round(statistics.median(ratios), 3), "ratio",
               ">= 0.97", statistics.median(ratios) >= 0.97),
    ]  # fmt: skip


def through_chain(model: Any) -> Request:
    chains: dict[str, Any] = {}

    def request(system: str, message: str) -> Iterator[str]:
        return chains.setdefault(system, build_chain(model, system=system, settings=SETTINGS)).stream({"message": message})

    return request


def bare_llama(file: Path) -> Request:
    from llama_cpp import Llama

    llama = Llama(str(file), n_ctx=CONTEXT, swa_full=True, verbose=False)

    def request(system: str, message: str) -> Iterator[str]:
        asked = [{"role": "system", "content": system}, {"role": "user", "content": message}]
        for chunk in llama.create_chat_completion(asked, stream=True, temperature=0.0, max_tokens=REPLY, repeat_penalty=1.0):
            yield chunk["choices"][0]["delta"].get("content") or ""

    return request


def bare_ollama(name: str) -> Request:
    from ollama import Client

    client = Client(host=ollama_url(), trust_env=False)
    options = {"temperature": 0.0, "num_predict": REPLY, "num_ctx": CONTEXT, "repeat_penalty": 1.0, "top_p": 0.9, "seed": 0}

    def request(system: str, message: str) -> Iterator[str]:
        asked = [{"role": "system", "content": system}, {"role": "user", "content": message}]
        for chunk in client.chat(name, asked, stream=True, options=options):
            yield chunk.message.content or ""

    return request


def second_turn(name: str, model: Any, tokens: Callable[[str], int]) -> Result:
    """First tokens of two turns of one conversation whose history has 1,500 tokens; of five conversations."""
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

    draw = random.Random(SEED)
    ratios = []
    for _ in range(5):
        history: list[BaseMessage] = []
        while sum(tokens(message.text) for message in history) < HISTORY:
            history += [
                HumanMessage(unique(draw)[1]),
                AIMessage("그랬군요. 마음이 많이 쓰이셨겠어요. 조금 더 이야기해 주시겠어요?"),
            ]
        chain = build_chain(model, system=unique(draw)[0], settings=SETTINGS)
        took = []
        for message in ("그래서 오늘은 일찍 들어왔어요.", "그런데 잠이 안 와요."):
            began, reply = time.perf_counter(), ""
            for piece in chain.stream({"message": message, "history": history}):
                if not reply:
                    took.append(time.perf_counter() - began)
                reply += piece
            history += [HumanMessage(message), AIMessage(reply)]
        ratios.append(took[1] / took[0])
    worst = max(ratios)
    return Result(f"{name}: first token of turn 2 / of turn 1, 1,500 tokens of history, worst of 5", round(worst, 3), "ratio",
                  "<= 0.25", worst <= 0.25)  # fmt: skip


async def many_at_once(model: LlamaCppChat) -> list[Result]:
    chain = build_chain(model.model_copy(update={"max_tokens": PARALLEL_REPLY}), settings=SETTINGS)
    asked = [f"{number}번째 사람이에요. 오늘 하루가 길었어요." for number in range(PARALLEL)]
    alone = [await chain.ainvoke({"message": message}) for message in asked]
    lag, ended = [0.0], []

    async def clock() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.002)
            lag[0] = max(lag[0], time.perf_counter() - before - 0.002)

    async def one(number: int) -> str:
        reply = "".join([piece async for piece in chain.astream({"message": asked[number]})])
        ended.append(number)
        return reply

    watch = asyncio.create_task(clock())
    together = await asyncio.gather(*(one(number) for number in range(PARALLEL)))
    order, longest = ended == sorted(ended), 1000 * lag[0]
    ended.clear()
    tasks = [asyncio.create_task(one(number)) for number in range(PARALLEL)]
    await asyncio.sleep(0.3)
    began = time.perf_counter()
    for task in tasks[10:]:
        task.cancel()
    gone = await asyncio.gather(*tasks[10:], return_exceptions=True)
    took = 1000 * (time.perf_counter() - began)
    left = await asyncio.gather(*tasks[:10])
    watch.cancel()
    same = sum(one == other for one, other in zip(together, alone, strict=True))
    cancelled = sum(isinstance(one, asyncio.CancelledError) for one in gone)
    return [
        Result(f"{PARALLEL} at once: replies that end in order", int(order), "yes/no", "1", order),
        Result(f"{PARALLEL} at once: equal to the reply alone", same, f"of {PARALLEL}", f"{PARALLEL}", same == PARALLEL),
        Result(f"{PARALLEL} at once: longest lag of the event loop", round(longest, 1), "ms", "<= 50", longest <= 50),
        Result("waiting ones cancelled", cancelled, "of 40", "40", cancelled == 40),
        Result("time to cancel them", round(took, 1), "ms", "", True),
        Result("those that were not are answered as before", int(left == alone[:10]), "yes/no", "1", left == alone[:10]),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True, metavar="FILE", help="a GGUF with a chat template")
    parser.add_argument("--ollama", metavar="NAME", help="a model of the Ollama that runs at OLLAMA_HOST")
    args = parser.parse_args()
    model = LlamaCppChat(path=str(args.gguf), context=CONTEXT, temperature=0.0, max_tokens=REPLY)
    rows = paired("llama.cpp", bare_llama(args.gguf), through_chain(model), model.get_num_tokens)
    rows.append(second_turn("llama.cpp", model, model.get_num_tokens))
    rows += asyncio.run(many_at_once(model))
    if args.ollama:
        served = chat_model(f"ollama:{args.ollama}", settings=SETTINGS)
        rows += paired("Ollama", bare_ollama(args.ollama), through_chain(served), model.get_num_tokens)
        rows.append(second_turn("Ollama", served, model.get_num_tokens))
    report("chain", rows)


if __name__ == "__main__":
    main()
