"""Greedy replies of one GGUF in batches beside `transformers.generate` one by one: the same weights, prompts and threads.

    .venv/bin/python benchmarks/evaluate_generation.py                       the starter base; about twenty minutes on two cores
    .venv/bin/python benchmarks/evaluate_generation.py --run run             and a tuned model
    .venv/bin/python benchmarks/evaluate_generation.py --prompts 12 --precision f32       a trial

The prompts are held-out turns of the starter corpus. Of each precision the weights stand in both files with the same bits: f32 is
the bfloat16 weights widened. What is computed with differs: transformers adds up and rounds to the precision after each step;
llama.cpp rounds what goes into a product of matrices to it and adds up in float32, and keeps keys and values in 16 bits. In f32
that is almost the same, and the text should be; in bf16 each side rounds in its own places, and the text shows how far apart
two equally good roundings end. q8_0 has no counterpart in transformers: its row is its speed.

All in one process and one after another, ours before, between and after the others; loading and a first reply are not counted.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from common import Result, report

KINDS = {"f32": "float32", "bf16": "bfloat16", "q8_0": ""}
"""Type of the GGUF -> of transformers."""
PROMPTS, MAX_TOKENS = 75, 64
SPEED_GOAL, TEXT_GOAL = 4.0, 0.95
ROOT = Path(__file__).resolve().parent.parent


def generation(
    run: Path | None = None,
    prompts: int = PROMPTS,
    *,
    base: str = "starter",
    data: Path | None = None,
    kinds: Sequence[str] = tuple(KINDS),
    max_tokens: int = MAX_TOKENS,
    threads: int = 0,
    folder: Path | None = None,
) -> list[Result]:
    """Of the base, and of `run`. `data` is prepared data, the starter corpus without; `threads` all cores for 0; `folder` keeps
    the files that are made, which are removed without."""
    from kosent import hf

    hf.quiet()
    import torch

    from kosent.evaluation.prompts import held_out_turns

    threads = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    results = []
    with tempfile.TemporaryDirectory(prefix="kosent-generation-") as temporary:
        kept = folder or Path(temporary)
        turns = held_out_turns(data or starter_data(kept), prompts)
        for name, model in [("base", base), *([("tuned", str(run))] if run else [])]:
            for kind in kinds:
                print(f"{name} {kind} …", file=sys.stderr, flush=True)
                gguf = gguf_of(model, kind, kept / f"{name}-{kind}.gguf")
                results += compared(f"{name} {kind}", model, gguf, turns, max_tokens, threads)
                if not folder:
                    gguf.unlink()
    return results


def starter_data(folder: Path) -> Path:
    from kosent.cli import main

    data = folder / "data"
    if not (data / "test.jsonl").is_file():
        with redirect_stdout(sys.stderr):  # the results alone are standard output
            if main(["prepare", "starter", "--output", str(data)]):
                sys.exit("The starter corpus could not be prepared.")
    return data


def gguf_of(model: str, kind: str, target: Path) -> Path:
    """The file of a run or a base; made anew where the model is newer."""
    from kosent import hf
    from kosent.export.base import base_of
    from kosent.export.gguf_writer import Export
    from kosent.files import atomic_path
    from kosent.prompts import layout_for_vocabulary
    from kosent.run_directory import RunDirectory

    made_from = Path(model) / "run.json"
    if target.is_file() and not (made_from.is_file() and made_from.stat().st_mtime > target.stat().st_mtime):
        return target
    if made_from.is_file():
        trained, folder = base_of(RunDirectory.open(Path(model)), None)
        adapter = None if trained.weights else trained.adapter
        template, layout = trained.template, trained.layout
    else:
        folder, adapter = Path(hf.resolve_base(model)), None
        layout = layout_for_vocabulary(hf.load_tokenizer(model).get_vocab())
        template = layout.template
    with Export(folder, adapter, template, layout) as export, atomic_path(target) as part:
        export.write(part, kind, lambda done, note: None)
    return target


def compared(name: str, model: str, gguf: Path, turns: Sequence[Any], max_tokens: int, threads: int) -> list[Result]:
    from kosent import hf
    from kosent.evaluation.generate import generate
    from kosent.evaluation.gguf_batch import GgufBatch
    from kosent.llama_cpp_model import LlamaCppChat

    dtype = KINDS[name.split()[1]]
    chat = LlamaCppChat(path=str(gguf), threads=threads, temperature=0.0, max_tokens=max_tokens)
    with GgufBatch(gguf, threads=threads) as batch:

        def ours(some: Sequence[Any]) -> list[str]:
            found: dict[int, str] = {}
            prompts = [batch.prompt(turn.messages) for turn in some]
            batch.replies(
                prompts, max_tokens=max_tokens, sampling=(0.0, 1.0, 0), done=lambda i, answer: found.update({i: answer.text})
            )
            return [found[i] for i in range(len(some))]

        contenders: dict[str, Callable[[Sequence[Any]], list[str]]] = {"llama.cpp one by one": lambda some: alone(chat, some)}
        if dtype:
            trained = hf.load_for_inference(model, dtype=dtype)
            contenders["transformers one by one"] = lambda some: one_by_one(trained, some, max_tokens)
            contenders["transformers in kosent's batches"] = lambda some: [
                answer.text for answer in generate(trained, some, max_tokens=max_tokens)
            ]
        for way in (ours, *contenders.values()):
            way(turns[:1])
        rounds = [timed(ours, turns)]
        others: dict[str, tuple[list[str], float]] = {}
        for other, way in contenders.items():
            others[other] = timed(way, turns)
            rounds.append(timed(ours, turns))
    speed = len(turns) * len(rounds) / sum(seconds for _, seconds in rounds)
    rows = [Result(f"{name}: GGUF in batches", round(speed, 3), "replies/s", "", True)]
    for other, (texts, seconds) in others.items():
        rows.append(Result(f"{name}: {other}", round(len(turns) / seconds, 3), "replies/s", "", True))
        faster = speed * seconds / len(turns)
        goal = SPEED_GOAL if other == "transformers one by one" else 0.0
        rows.append(
            Result(f"{name}: faster than {other}", round(faster, 2), "times", f">= {goal:g}" if goal else "", faster >= goal)
        )
        same = sum(a.rstrip("\ufffd") == b.rstrip("\ufffd") for a, b in zip(texts, rounds[0][0], strict=True)) / len(turns)
        goal = TEXT_GOAL if goal and dtype == "float32" else 0.0
        rows.append(Result(f"{name}: text of {other}", round(same, 3), "share", f">= {goal:g}" if goal else "", same >= goal))
    return rows


def timed(way: Callable[[Sequence[Any]], list[str]], turns: Sequence[Any]) -> tuple[list[str], float]:
    began = time.perf_counter()
    return way(turns), time.perf_counter() - began


def one_by_one(trained: Any, turns: Sequence[Any], max_tokens: int) -> list[str]:
    """As a careful user of transformers writes it: no gradients, the cache of keys and values, both ends of a reply."""
    import torch

    from kosent.prompts import render

    tokenizer, texts = trained.tokenizer, []
    ends = [tokenizer.get_vocab()[trained.layout.end_of_turn], tokenizer.eos_token_id]
    for turn in turns:
        text = render(
            turn.messages, trained.template, trained.layout, bos_token=tokenizer.bos_token or "", add_generation_prompt=True
        )
        prompt = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            output = trained.model.generate(
                **prompt, do_sample=False, max_new_tokens=max_tokens, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
            )
        texts.append(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return texts


def alone(chat: Any, turns: Sequence[Any]) -> list[str]:
    """As people chat."""
    from langchain_core.messages import convert_to_messages

    return [str(chat.invoke(convert_to_messages([dict(m) for m in turn.messages])).text).strip() for turn in turns]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, metavar="RUN", help="a tuned model")
    parser.add_argument("--data", type=Path, metavar="DIR", help="prepared data, whose held-out turns are asked")
    parser.add_argument("--precision", action="append", choices=KINDS, help="may be given several times; all without it")
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS)
    parser.add_argument("--threads", type=int, default=0, help="all cores without it")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keeps the files that are made; else they are removed")
    args = parser.parse_args()
    results = generation(
        args.run, args.prompts, data=args.data, kinds=args.precision or tuple(KINDS), max_tokens=args.max_tokens,
        threads=args.threads, folder=args.folder,
    )  # fmt: skip
    report("evaluate_generation", results)


if __name__ == "__main__":
    main()
