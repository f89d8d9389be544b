"""How fast an evaluation is: replies a second, and all metrics over many pairs.

    .venv/bin/python benchmarks/evaluate.py --corpus ChatbotData.csv [--run .cache/base-against-tuned/run] [--part metrics]

    generation   a GGUF of the starter base, and of a tuned run, answers many prompts at once, against transformers one by one
                 with the same weights in the same precision
    metrics      every metric but perplexity and BERTScore over 18,000 pairs of replies, with the fast embedder; the intervals

`--corpus` is songys' Chatbot_data (github.com/songys/Chatbot_data, MIT): two of its answers, drawn at random, make a reply of
`metrics`, two others a reference, so that hardly any text comes twice (what does is analysed once).
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from pathlib import Path

from common import Result, report

PARTS = ("generation", "metrics")
PAIRS, MINUTES = 18_000, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="may be given several times; all without it")
    parser.add_argument("--corpus", type=Path, required=True, metavar="FILE", help="ChatbotData.csv")
    parser.add_argument("--run", type=Path, metavar="DIR", help="a run on the starter base")
    parser.add_argument("--prompts", type=int, default=100, help="of generation, for a trial")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of metrics, for a trial")
    args = parser.parse_args()
    results = []
    if "generation" in (args.part or PARTS):
        from evaluate_generation import generation

        results += generation(args.run, args.prompts)
    if "metrics" in (args.part or PARTS):
        results += metrics(args.corpus, args.pairs)
    report("evaluate", results)


def metrics(corpus: Path, number: int) -> list[Result]:
    import numpy as np

    from kosent.embedders import UniversalSentenceEncoder
    from kosent.evaluation.evaluate import score
    from kosent.evaluation.folder import Answer
    from kosent.evaluation.metrics import Scorer
    from kosent.evaluation.statistics import resamples

    with corpus.open(encoding="utf-8", newline="") as file:
        rows = [(row["Q"], row["A"]) for row in csv.DictReader(file)]
    draw = random.Random(0)
    users, references, replies = (
        [" ".join(draw.choice(rows)[column] for _ in range(2)) for _ in range(number)] for column in (0, 1, 1)
    )
    began = time.perf_counter()
    scorer = Scorer(users, references, UniversalSentenceEncoder())
    prepared = time.perf_counter() - began
    measured = scorer.measure(replies, [True] * number)
    measuring = time.perf_counter() - began - prepared
    draws = [np.array(drawn) for drawn in resamples(range(number))]
    before = time.perf_counter()
    scored = score("songys", [Answer(text, True) for text in replies], _Known(measured), draws, number)
    intervals = time.perf_counter() - before
    seconds = prepared + measuring
    holds = seconds <= 60 * MINUTES
    goal = f"<= {60 * MINUTES}" if number == PAIRS else ""
    return [
        Result(f"metrics: {len(measured.values)} metrics of {number:,} pairs", round(seconds), "s", goal, holds or not goal),
        Result("of that, the references, once for any number of models", round(prepared), "s", "", True),
        Result(f"besides, {len(scored.intervals)} intervals of 1,000 bootstraps", round(intervals), "s", "", True),
    ]


class _Known:
    """A scorer that has measured already, so that the intervals are timed alone."""

    def __init__(self, measured: object) -> None:
        self._measured = measured

    def measure(self, *replies: object) -> object:
        return self._measured


if __name__ == "__main__":
    main()
