"""Retrieval over documents: is the right passage found, how fast among 100,000 chunks, how fast are documents added.

    .venv/bin/python benchmarks/rag.py --corpus ChatbotData.csv                    everything; about an hour
    .venv/bin/python benchmarks/rag.py --part quality --embedder use               a minute

    quality     recall@5 and MRR on data/korean_passages.jsonl: meaning, words, their fusion; paired intervals over passages
    threshold   what everyday sentences bring along, and what questions still find
    latency     a question embedded, idle and while a model generates
    scale       100,000 chunks: opening, questions, memory, idle and while a model generates (the default embedder)
    adding      documents a second, beside the embedder alone

`--corpus` (songys' Chatbot_data, MIT) gives scale and adding more sentences to make texts of. The model that generates is
`--gguf`, in a process of its own on one thread; a loop of numpy where there is none. What is built once stays in `--cache`:
delete it after a change of how documents are stored.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from common import Result, report
from kosent.embedders import embedder
from rag_adding import DOCUMENTS, adding_speed, seconds
from rag_data import passages
from rag_generating import generating
from rag_quality import EVERYDAY, quality, threshold
from rag_scale import CHUNKS, QUESTIONS, asked, percentile, scale

PARTS = ("quality", "threshold", "latency", "scale", "adding")
CACHE = Path(__file__).resolve().parent.parent / ".cache"


def latency(embedders: Sequence[str], gguf: Path | None, number: int) -> list[Result]:
    """Each question alone, as a chat asks it."""
    questions, results = [one.text for one in asked(number)], list[Result]()
    for name in embedders:
        began = time.perf_counter()
        one = embedder(name)
        one.questions(["처음"])
        results.append(Result(f"{name}: loaded", round(time.perf_counter() - began, 2), "s", "", True))
        for when in ("idle", "a model generates"):
            with generating(gguf) if when != "idle" else nullcontext():
                times = [1000 * seconds(one, [question]) for question in questions]
            results.append(
                Result(f"{name}: a question embedded, {when}, median", round(statistics.median(times), 1), "ms", "", True)
            )
            results.append(Result(f"{name}: a question embedded, {when}, p95", round(percentile(times), 1), "ms", "", True))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="may be given several times; all without it")
    parser.add_argument("--embedder", action="append", metavar="NAME", help="may be given several times; use and e5 without it")
    parser.add_argument("--corpus", type=Path, metavar="FILE", help="ChatbotData.csv")
    parser.add_argument("--gguf", type=Path, default=CACHE / "starter-chat.gguf", metavar="FILE", help="a model that generates")
    parser.add_argument("--cache", type=Path, default=CACHE / "rag-benchmark", metavar="FOLDER")
    parser.add_argument("--passages", type=int, default=0, help="of each theme, for a trial")
    parser.add_argument("--everyday", type=int, default=EVERYDAY, help="sentences, for a trial")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="that are timed, for a trial")
    parser.add_argument("--chunks", type=int, default=CHUNKS, help="fewer for a trial, without a goal")
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help="fewer for a trial")
    args = parser.parse_args()
    folder = args.cache.absolute()
    os.environ["KOSENT_HOME"] = str(folder / "home")
    embedders, gguf = args.embedder or ["use", "e5"], args.gguf if args.gguf.is_file() else None
    chosen = passages(args.passages)
    measures: dict[str, Callable[[], list[Result]]] = {
        "quality": lambda: quality(chosen, embedders, folder / "passages"),
        "threshold": lambda: threshold(chosen, embedders, folder / "passages", args.everyday),
        "latency": lambda: latency(embedders, gguf, args.questions),
        "scale": lambda: scale(args.chunks, args.questions, args.corpus, gguf),
        "adding": lambda: adding_speed(embedders, args.corpus, args.documents),
    }
    results: list[Result] = []
    for part in args.part or PARTS:
        print(f"{part} …", file=sys.stderr, flush=True)
        results += measures[part]()
    report("rag", results)


if __name__ == "__main__":
    main()
