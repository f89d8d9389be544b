"""Compares models on the held-out dialogues of prepared data, with bootstrap intervals.

    kosent evaluate --data data --model base=starter --model tuned=run --report report

MODEL is a run directory (base with its adapter), `starter`, a Hugging Face folder or id; a name and = before it is its label.
Every model answers every held-out turn greedily, given the true turns before it. Two straw men stand in the table: the best
constant reply (the training reply closest on average to all training replies) and a random training reply. Writes
results.json, report.md, replies.csv (opens in Excel) and comparison.png into the report folder. docs/evaluation.md says what is
measured.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kosent import extras
from kosent.embedders import Embedder, UniversalSentenceEncoder, embedder
from kosent.errors import DataError, UsageError
from kosent.evaluation.metrics import Measured, Scorer
from kosent.evaluation.table import all_metrics, table
from kosent.files import read_jsonl, write_json, write_text
from kosent.progress import progress
from kosent.settings import Settings

CONSTANT, RANDOM = "best constant reply", "random training reply"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder written by `kosent prepare`")
    parser.add_argument("--model", required=True, action="append", help="a model; give it several times")
    parser.add_argument(
        "--max-tokens", type=int, default=Settings().max_tokens, help="longest reply in tokens (as in the chat, 256)"
    )
    parser.add_argument("--embedder", default="use", metavar="NAME", help="for the cosine: use, e5, hf:MODEL, ollama:MODEL (use)")
    parser.add_argument("--bertscore", metavar="MODEL", help="also BERTScore, by this encoder: klue/roberta-large or MODEL@LAYER")
    parser.add_argument("--report", required=True, type=Path, metavar="DIR", help="folder for the report")


@dataclass(frozen=True)
class Scored:
    """One model: its replies, what they are worth, and the 95 % intervals of it."""

    name: str
    replies: list[str]
    measured: Measured
    intervals: dict[str, tuple[float, float]]


def run(args: argparse.Namespace) -> int:
    extras.require("evaluate", what="`kosent evaluate`")
    import numpy as np

    from kosent import hf
    from kosent.evaluation.bertscore import BertScore
    from kosent.evaluation.comparisons import compare
    from kosent.evaluation.generate import Generated, generate, held_out_turns
    from kosent.evaluation.statistics import resamples

    hf.quiet()
    encoder = sentence_embedder(args.embedder)
    bertscore = BertScore(args.bertscore) if args.bertscore else None
    turns = held_out_turns(args.data)
    if not turns:
        raise DataError(f"{args.data}/test.jsonl has no reply to compare with.")
    precision = "bfloat16" if hf.cpu_has_bf16() else "float32"
    answers: dict[str, list[Generated]] = {}
    for label, name in labelled(args.model).items():
        with progress(f"asking {label}", len(turns)) as advance:
            answers[label] = generate(hf.load_for_inference(name, dtype=precision), turns, advance, max_tokens=args.max_tokens)
    training = training_replies(args.data)
    best = central_reply(training, encoder)
    picker = random.Random(0)
    answers[CONSTANT] = [Generated(best, True)] * len(turns)
    answers[RANDOM] = [Generated(picker.choice(training), True) for _ in turns]
    users, references = [turn.messages[-1]["content"] for turn in turns], [turn.reference for turn in turns]
    draws = [np.array(drawn) for drawn in resamples([turn.dialogue for turn in turns])]
    scorer = Scorer(users, references, encoder, bertscore=bertscore)
    scored: list[Scored] = []
    with progress("measuring", len(answers)) as advance:
        for name, generated in answers.items():
            scored.append(score(name, generated, scorer, draws))
            advance(len(scored), name)
    differences = {f"{row.name} - {other.name}": _difference(row, other, draws)
                   for row in scored[1 : len(answers) - 2] for other in scored if other is not row}  # fmt: skip
    results = {
        "replies": len(turns),
        "dialogues": len({turn.dialogue for turn in turns}),
        "decoding": {"greedy": True, "max_tokens": args.max_tokens, "precision": precision},
        "embedder": encoder.name,
        "signatures": scored[0].measured.signatures,
        "models": {row.name: {"values": row.measured.values, "intervals": row.intervals} for row in scored},
        "cosine_differences": differences,
        "comparisons": compare(
            {row.name: row.measured.each | {name: sums.rows for name, sums in row.measured.sums.items()} for row in scored},
            [turn.dialogue for turn in turns],
            straw_men=(CONSTANT, RANDOM),
            functions={name: sums.function for name, sums in scored[0].measured.sums.items()},
        ),
    }
    write_report(args.report, results, scored, list(zip(users, references, strict=True)))
    print(table(results))
    print(f"Written to {args.report}.")
    return 0


def labelled(models: Sequence[str]) -> dict[str, str]:
    """`LABEL=MODEL` texts as {label: model}; without a label the last part of the name. Raises `UsageError` for a label twice."""
    found: dict[str, str] = {}
    for text in models:
        label, separator, name = text.partition("=")
        if not separator or "/" in label:
            label, name = Path(text).name, text
        if label in (*found, CONSTANT, RANDOM):
            raise UsageError(f"Two models are called {label!r}.", hint="--model ONE=... --model OTHER=...")
        found[label] = name
    return found


def training_replies(folder: Path) -> list[str]:
    """Every reply of the training split. Raises `DataError` when the file is missing."""
    file = folder / "train.jsonl"
    if not file.is_file():
        raise DataError(f"There is no file {file}.", hint=f"kosent prepare SOURCE --output {folder}")
    return [m["content"] for row in read_jsonl(file) for m in row["messages"] if m["role"] == "assistant"]


def central_reply(replies: Sequence[str], embedder: Any) -> str:
    """The reply with the greatest mean cosine to all others: the best thing to say without listening."""
    vectors = embedder.questions(replies)
    return replies[int((vectors @ vectors.mean(axis=0)).argmax())]


def sentence_embedder(name: str) -> Embedder:
    """As `embedder`, but `use` needs nothing beyond kosent[evaluate]."""
    return UniversalSentenceEncoder() if name == "use" else embedder(name)


def score(name: str, generated: Sequence[Any], scorer: Scorer, draws: Sequence[Any]) -> Scored:
    """All metrics of one model's replies, with the intervals of those that have one. `draws` are arrays of indices."""
    from kosent.evaluation.statistics import interval, mean_interval

    replies = [one.text for one in generated]
    measured = scorer.measure(replies, [one.ended for one in generated])
    intervals = {metric: mean_interval(numbers, draws) for metric, numbers in measured.each.items()}
    intervals |= {metric: interval(draws, sums.value) for metric, sums in measured.sums.items()}
    return Scored(name, replies, measured, {metric: intervals[metric] for metric in measured.values if metric in intervals})


def _difference(row: Scored, other: Scored, draws: Sequence[Any]) -> dict[str, Any]:
    from kosent.evaluation.statistics import mean_interval

    differences = [a - b for a, b in zip(row.measured.each["cosine"], other.measured.each["cosine"], strict=True)]
    return {"cosine": sum(differences) / len(differences), "interval": mean_interval(differences, draws)}


def write_report(folder: Path, results: dict[str, Any], scored: Sequence[Scored], turns: Sequence[tuple[str, str]]) -> None:
    from kosent.evaluation.comparisons import markdown
    from kosent.evaluation.plots import plot_comparison

    write_json(folder / "results.json", results)
    sheet = io.StringIO()
    writer = csv.writer(sheet)
    writer.writerow(["user", "reference", *(row.name for row in scored)])
    for index, (user, reference) in enumerate(turns):
        writer.writerow([user, reference, *(row.replies[index] for row in scored)])
    write_text(folder / "replies.csv", sheet.getvalue(), encoding="utf-8-sig")
    examples = "\n".join(
        f"- **{user}**\n" + "\n".join(f"  - {row.name}: {' '.join(row.replies[index].split())}" for row in scored[:-2])
        for index, (user, _) in list(enumerate(turns))[:: max(1, len(turns) // 10)][:10]
    )
    write_text(
        folder / "report.md",
        f"# Evaluation\n\n{table(results)}\n![comparison](comparison.png)\n\n"
        f"## All metrics\n\n{all_metrics(results)}\n{markdown(results['comparisons'])}\n## Examples\n\n{examples}\n",
    )
    plot_comparison(results["models"], folder / "comparison.png")
