"""Compares models on the held-out dialogues of prepared data, with bootstrap intervals.

    kosent evaluate --data data --model base=starter --model tuned=run --report report

MODEL is a run directory (base with its adapter), `starter`, a Hugging Face folder or id; a name and = before it is its label.
Every model answers every held-out turn greedily, given the true turns before it. Two straw men stand in the table: the best
constant reply (the training reply closest on average to all training replies) and a random training reply. Writes
results.json, report.md, replies.csv (opens in Excel) and comparison.png into the report folder.
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
from kosent.errors import DataError, UsageError
from kosent.evaluation.table import table
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
    parser.add_argument("--report", required=True, type=Path, metavar="DIR", help="folder for the report")


@dataclass(frozen=True)
class Scored:
    """One row of the table: `values[metric]` and its 95 % interval, and the cosine of every reply."""

    name: str
    replies: list[str]
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    cosines: list[float]


def run(args: argparse.Namespace) -> int:
    extras.require("evaluate", what="`kosent evaluate`")
    from kosent import hf
    from kosent.embedders import UniversalSentenceEncoder
    from kosent.evaluation.generate import Generated, generate, held_out_turns
    from kosent.evaluation.statistics import mean_interval, resamples

    hf.quiet()
    turns = held_out_turns(args.data)
    if not turns:
        raise DataError(f"{args.data}/test.jsonl has no reply to compare with.")
    precision = "bfloat16" if hf.cpu_has_bf16() else "float32"
    answers: dict[str, list[Generated]] = {}
    for label, name in labelled(args.model).items():
        with progress(f"asking {label}", len(turns)) as advance:
            answers[label] = generate(hf.load_for_inference(name, dtype=precision), turns, advance, max_tokens=args.max_tokens)
    embedder = UniversalSentenceEncoder()
    training = training_replies(args.data)
    best = central_reply(training, embedder)
    picker = random.Random(0)
    answers[CONSTANT] = [Generated(best, True)] * len(turns)
    answers[RANDOM] = [Generated(picker.choice(training), True) for _ in turns]
    references = [turn.reference for turn in turns]
    draws = resamples([turn.dialogue for turn in turns])
    target = embedder.embed(references)
    scored: list[Scored] = []
    signatures: dict[str, str] = {}
    for name, generated in answers.items():
        row, signatures = score(name, generated, references, embedder.embed([g.text for g in generated]), target, draws)
        scored.append(row)
    differences = {
        f"{row.name} - {other.name}": {
            "cosine": _mean([a - b for a, b in zip(row.cosines, other.cosines, strict=True)]),
            "interval": mean_interval([a - b for a, b in zip(row.cosines, other.cosines, strict=True)], draws),
        }
        for row in scored[1 : len(answers) - 2]
        for other in scored
        if other is not row
    }
    results = {
        "replies": len(turns),
        "dialogues": len({turn.dialogue for turn in turns}),
        "decoding": {"greedy": True, "max_tokens": args.max_tokens, "precision": precision},
        "embedder": embedder.name,
        "signatures": signatures,
        "models": {row.name: {"values": row.values, "intervals": row.intervals} for row in scored},
        "cosine_differences": differences,
    }
    write_report(args.report, results, scored, [(t.messages[-1]["content"], t.reference) for t in turns])
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
    vectors = embedder.embed(replies)
    return replies[int((vectors @ vectors.mean(axis=0)).argmax())]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def score(
    name: str, generated: Sequence[Any], references: Sequence[str], vectors: Any, target: Any, draws: Sequence[Sequence[int]]
) -> tuple[Scored, dict[str, str]]:
    """All metrics of one model's replies with their intervals, and the signatures of the overlap metrics."""
    from kosent.evaluation import metrics
    from kosent.evaluation.statistics import interval, mean_interval

    replies = [g.text for g in generated]
    cosines = [float(value) for value in (vectors * target).sum(axis=1)]
    each = {
        "cosine": cosines,
        "repetition": [metrics.repetition(reply) for reply in replies],
        "foreign": [float(metrics.has_foreign(reply)) for reply in replies],
        "ended": [float(g.ended) for g in generated],
    }
    values = {metric: _mean(numbers) for metric, numbers in each.items()}
    intervals = {metric: mean_interval(numbers, draws) for metric, numbers in each.items()}
    signatures = {}
    for metric, function in (("bleu_char", metrics.bleu_char), ("chrf", metrics.chrf)):
        values[metric], signatures[metric] = function(replies, references)
        intervals[metric] = interval(
            draws[:200],
            lambda chosen, f=function: f([replies[i] for i in chosen], [references[i] for i in chosen])[0],  # type: ignore[misc]
        )
    values["distinct"] = metrics.distinct(replies)
    return Scored(name, replies, values, intervals, cosines), signatures


def write_report(folder: Path, results: dict[str, Any], scored: Sequence[Scored], turns: Sequence[tuple[str, str]]) -> None:
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
        folder / "report.md", f"# Evaluation\n\n{table(results)}\n![comparison](comparison.png)\n\n## Examples\n\n{examples}\n"
    )
    plot_comparison(results["models"], folder / "comparison.png")
