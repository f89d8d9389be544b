"""Compares models on held-out dialogues and on fixed prompts, with intervals, in a page to look at.

    kosent evaluate --data data --model base=starter --model tuned=run --report report
    kosent evaluate --data data --model run/kosent-q8_0.gguf --model ollama:kosent --prompts baseline --report report
    kosent evaluate --model a=ollama:one --model b=openai:two@http://127.0.0.1:8000 --prompts multi-turn --report report
    kosent evaluate --data data --model tuned=run --report report --gate gate.toml      exit code 7 when it has become worse

MODEL is a run directory (base with its adapter), `starter`, a Hugging Face folder or id, a folder with an adapter of PEFT, a
.gguf file, ollama:NAME or openai:NAME@URL; a name and = before it is its label. Every model answers every held-out turn, given
the true turns before it, by the same messages and its own chat template, greedily unless --temperature says otherwise. Two straw
men stand in every table: the best constant reply (the training reply closest on average to all training replies) and a random
training reply. Each reply is on disk at once: stopped at any point, the same command goes on. Open report.html in a browser;
report.md, metrics.csv and replies.csv (for Excel) and results.json say the same. docs/evaluation.md says what is measured.

Then: kosent judge report --by MODEL     another model compares the replies
      kosent rate report                 you do, without seeing whose they are
"""

from __future__ import annotations

import argparse
import os
import platform
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import kosent
from kosent import extras
from kosent.embedders import Embedder, UniversalSentenceEncoder, embedder
from kosent.errors import UsageError
from kosent.evaluation.folder import CONSTANT, RANDOM, Answer, Turn, read_report, write_turns
from kosent.evaluation.metrics import Measured, Scorer
from kosent.evaluation.table import table
from kosent.files import write_json
from kosent.progress import progress
from kosent.settings import Settings
from kosent.stages import locked

RANDOM_SEED = 0
SHARES = ("exact_match", "foreign", "empty", "ended", "harmful")
"""Metrics that a reply has or has not, whatever the others are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder written by `kosent prepare`: its held-out turns")
    parser.add_argument(
        "--prompts", action="append", default=[], metavar="SET", help="also these prompts: baseline, multi-turn, or a file"
    )
    parser.add_argument("--model", required=True, action="append", help="a model, [LABEL=]MODEL; give it several times")
    parser.add_argument("--report", required=True, type=Path, metavar="DIR", help="folder for the report")
    parser.add_argument("--most", type=int, metavar="N", help="of the held-out turns only N, drawn with a fixed seed")
    decoding = parser.add_argument_group("decoding, the same for all models")
    decoding.add_argument(
        "--max-tokens", type=int, default=Settings().max_tokens, help="longest reply in tokens (as in the chat, 256)"
    )
    decoding.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    decoding.add_argument("--top-p", type=float, default=1.0, help="sampling: the likeliest tokens with this probability (1)")
    decoding.add_argument("--seed", type=int, default=0, help="sampling: prompt number n is sampled with seed + n (0)")
    decoding.add_argument("--parallel", type=int, default=4, metavar="N", help="prompts sent to a server at once (4)")
    measuring = parser.add_argument_group("measuring")
    measuring.add_argument(
        "--embedder", default="use", metavar="NAME", help="for the cosine: use, e5, hf:MODEL, ollama:MODEL (use)"
    )
    measuring.add_argument(
        "--bertscore", metavar="MODEL", help="also BERTScore, by this encoder: klue/roberta-large or MODEL@LAYER"
    )
    measuring.add_argument(
        "--gate", type=Path, metavar="FILE", help="compare with an earlier report and fail when a metric is worse (gate.toml)"
    )


@dataclass(frozen=True)
class Scored:
    """One model: what its replies are worth, and the 95 % intervals of it."""

    name: str
    measured: Measured
    intervals: dict[str, tuple[float, float]]


def run(args: argparse.Namespace) -> int:
    extras.require("evaluate", what="`kosent evaluate`")
    from kosent import hf
    from kosent.evaluation import judging
    from kosent.evaluation.gate import Gate
    from kosent.evaluation.writing import write_report

    hf.quiet()
    check(args)
    models = labelled(args.model)
    gate = Gate.read(args.gate, args.report, list(models)) if args.gate else None
    turns = asked(args.data, args.prompts, args.most or 0)
    with locked(args.report, "kosent evaluate"):
        results = evaluate(args, models, turns)
        judging.count(args.report)
        write_report(args.report)
    print(table(results))
    print(f"Written to {args.report}; open {args.report / 'report.html'} in a browser.")
    if gate:
        gate.check(read_report(args.report), args.report)
    return 0


def check(args: argparse.Namespace) -> None:
    """Raises `UsageError` for numbers that cannot be meant, and for a report's folder that holds something else."""
    wrong = [
        ("--max-tokens", args.max_tokens, args.max_tokens >= 1, "1 or more"),
        ("--temperature", args.temperature, args.temperature >= 0, "0 or more"),
        ("--top-p", args.top_p, 0 < args.top_p <= 1, "above 0, at most 1"),
        ("--parallel", args.parallel, args.parallel >= 1, "1 or more"),
        ("--most", args.most, args.most is None or args.most >= 1, "1 or more"),
    ]
    for name, value, fine, range_ in wrong:
        if not fine:
            raise UsageError(f"{name} is {range_}, not {value:g}.", hint="kosent evaluate --help")
    if args.most is not None and not args.data:
        raise UsageError("--most is of held-out turns, and there is no --data.", hint="--data DIR, or without --most")
    folder: Path = args.report
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file.", hint="--report FOLDER")
    there = {one.name for one in folder.iterdir()} - {".lock"} if folder.is_dir() else set()
    if there and not there & {"turns.jsonl", "results.json"}:
        raise UsageError(f"{folder} holds something else than an evaluation.", hint=f"--report {folder / 'evaluation'}")


def asked(data: Path | None, prompt_sets: Sequence[str], most: int) -> list[Turn]:
    """All prompts, those with a reference first. Raises `UsageError` where there is none, and `DataError`."""
    from kosent.evaluation.prompts import held_out_turns, prompt_set

    turns = held_out_turns(data, most) if data else []
    for name in dict.fromkeys(prompt_sets):
        turns += prompt_set(name)
    if not turns:
        where = f"{data}/test.jsonl has no reply to compare with." if data else "There is nothing to ask."
        raise UsageError(where, hint="--data DIR (written by `kosent prepare`), --prompts baseline, --prompts multi-turn")
    return sorted(turns, key=lambda turn: turn.reference is None)


def evaluate(args: argparse.Namespace, models: dict[str, str], turns: list[Turn]) -> dict[str, Any]:
    """Asks and measures; leaves turns, replies, scores and results in the report's folder."""
    from kosent.evaluation.answering import Answered, answer
    from kosent.evaluation.backends import backend
    from kosent.evaluation.generate import Decoding
    from kosent.evaluation.prompts import training_replies

    folder: Path = args.report
    decoding = Decoding(args.max_tokens, args.temperature, args.top_p, args.seed)
    encoder = sentence_embedder(args.embedder)
    training = training_replies(args.data) if args.data else []
    opened = {label: backend(name, parallel=args.parallel) for label, name in models.items()}
    for one in opened.values():
        one.identity()  # what is not there is said before the first model has answered for minutes
    (folder / "results.json").unlink(missing_ok=True)
    write_turns(folder, turns)
    answered: dict[str, Answered] = {}
    for label, one in opened.items():
        answered[label] = answer(label, models[label], one, turns, folder, decoding)
        one.close()
    with_reference = [turn for turn in turns if turn.reference is not None]
    if with_reference and training:
        answered |= straw_men(with_reference, training, encoder, folder)
    results = {
        "kosent": kosent.__version__,
        "settings": {
            "decoding": asdict(decoding), "data": str(args.data) if args.data else None, "prompts": args.prompts,
            "embedder": encoder.name, "bertscore": args.bertscore, "most": args.most, "python": platform.python_version(),
        },
        "data": _seen_from(folder, args.data) if args.data else None,
    } | measured(answered, turns, encoder, args.bertscore, folder)  # fmt: skip
    for label, one in opened.items():
        run_directory = _seen_from(folder, models[label]) if (Path(models[label]) / "run.json").is_file() else None
        results["models"][label] |= {
            "name": models[label], "kind": one.kind, "precision": one.precision,
            "run": run_directory,
        }  # fmt: skip
    write_json(folder / "results.json", results)
    return results


def _seen_from(folder: Path, place: Path | str) -> str:
    """Relative, so that a report can be moved together with what it was made of, and two of the same are equal."""
    return os.path.relpath(os.path.realpath(place), os.path.realpath(folder))


def straw_men(turns: Sequence[Turn], training: list[str], encoder: Any, folder: Path) -> dict[str, Any]:
    """What the two answer to the turns with a reference, written where the models' replies are."""
    from kosent.evaluation.answering import Answered, write_answers

    best = central_reply(training, encoder)
    picker = random.Random(RANDOM_SEED)
    replies = {CONSTANT: [best] * len(turns), RANDOM: [picker.choice(training) for _ in turns]}
    found = {name: [Answer(text, True) for text in texts] for name, texts in replies.items()}
    for name, answers in found.items():
        write_answers(folder, name, answers)
    return {name: Answered(answers, None) for name, answers in found.items()}


def measured(answered: dict[str, Any], turns: list[Turn], encoder: Any, bertscore: str | None, folder: Path) -> dict[str, Any]:
    """The part of results.json that is numbers, and scores.json."""
    import numpy as np

    from kosent.evaluation.bertscore import BertScore
    from kosent.evaluation.comparisons import compare
    from kosent.evaluation.statistics import resamples
    from kosent.evaluation.words import Words

    with_reference = [turn for turn in turns if turn.reference is not None]
    main = with_reference or turns
    words = Words()
    references = [turn.reference or "" for turn in main] if with_reference else None
    scorer = Scorer(
        [turn.user for turn in main], references, encoder, bertscore=BertScore(bertscore) if bertscore else None, words=words
    )
    dialogues = [turn.dialogue for turn in main]
    draws = [np.array(drawn) for drawn in resamples(dialogues)]
    sets = {turn.prompt_set for turn in turns if turn.reference is None} if with_reference else set()
    scored: list[Scored] = []
    with progress("measuring", len(answered)) as advance:
        for name, one in answered.items():
            scored.append(score(name, one.answers[: len(main)], scorer, draws, len(set(dialogues)), one.likelihoods))
            advance(len(scored), name)
    write_json(folder / "scores.json", {row.name: _rounded(row.measured) for row in scored})
    return {
        "replies": len(main),
        "dialogues": len(set(dialogues)),
        "references": bool(with_reference),
        "embedder": encoder.name,
        "signatures": {name: text for row in reversed(scored) for name, text in row.measured.signatures.items()},
        "models": {
            row.name: {
                "values": row.measured.values, "intervals": row.intervals,
                "failures": sum(bool(one.error) for one in answered[row.name].answers),
            }
            for row in scored
        },
        "prompt_sets": {name: _of_set(name, answered, turns, words) for name in sorted(sets)},
        "comparisons": compare(
            {row.name: row.measured.each | {name: sums.rows for name, sums in row.measured.sums.items()} for row in scored},
            dialogues,
            straw_men=(CONSTANT, RANDOM),
            functions={name: sums.function for row in scored for name, sums in row.measured.sums.items()},
        ),
    }  # fmt: skip


def _rounded(measured: Measured) -> dict[str, list[float]]:
    each = measured.each | {name: measured.sums[name].each() for name in ("bleu_char", "chrf") if name in measured.sums}
    return {name: [round(float(number), 5) for number in numbers] for name, numbers in each.items()}


def _of_set(name: str, answered: dict[str, Any], turns: list[Turn], words: Any) -> dict[str, Any]:
    """Prompts without a reference: what the replies alone show."""
    places = [place for place, turn in enumerate(turns) if turn.prompt_set == name and turn.reference is None]
    scorer = Scorer([turns[place].user for place in places], None, None, words=words)
    models = {}
    for label, one in answered.items():
        if label not in (CONSTANT, RANDOM):
            chosen = [one.answers[place] for place in places]
            values = scorer.measure([answer.text for answer in chosen], [answer.ended for answer in chosen]).values
            models[label] = {"values": values, "failures": sum(bool(answer.error) for answer in chosen)}
    return {"prompts": len(places), "models": models}


def labelled(models: Sequence[str]) -> dict[str, str]:
    """`LABEL=MODEL` texts as {label: model}; without a label the last part of the name. Raises `UsageError` for a label twice."""
    found: dict[str, str] = {}
    for text in models:
        label, separator, name = text.partition("=")
        if not separator or "/" in label or ":" in label:
            label, name = (text if text.startswith(("ollama:", "openai:")) else Path(text).name), text
        if not label.strip() or not name:
            raise UsageError(f"{text!r} is not [LABEL=]MODEL.", hint="--model tuned=run")
        if label in (*found, CONSTANT, RANDOM):
            raise UsageError(f"Two models are called {label!r}.", hint="--model ONE=... --model OTHER=...")
        found[label] = name
    return found


def central_reply(replies: Sequence[str], embedder: Any) -> str:
    """The reply with the greatest mean cosine to all others: the best thing to say without listening."""
    vectors = embedder.questions(replies)
    return replies[int((vectors @ vectors.mean(axis=0)).argmax())]


def sentence_embedder(name: str) -> Embedder:
    """As `embedder`, but `use` needs nothing beyond kosent[evaluate]."""
    return UniversalSentenceEncoder() if name == "use" else embedder(name)


def score(
    name: str,
    answers: Sequence[Answer],
    scorer: Scorer,
    draws: Sequence[Any],
    dialogues: int,
    likelihoods: list[tuple[float, int]] | None = None,
) -> Scored:
    """All metrics of one model's replies, with the intervals of those that have one. `draws` are arrays of indices. A reply that
    failed counts as an empty one that did not end. Where all or none of the replies have something, the interval is Wilson's
    (1927) over dialogues."""
    from kosent.evaluation.ranking import wilson
    from kosent.evaluation.statistics import interval, mean_interval

    replies = [one.text for one in answers]
    measured = scorer.measure(replies, [one.ended for one in answers], likelihoods)
    intervals = {metric: mean_interval(numbers, draws) for metric, numbers in measured.each.items()}
    intervals |= {metric: interval(draws, sums.value) for metric, sums in measured.sums.items()}
    for metric, numbers in measured.each.items():
        if metric in SHARES and len(set(numbers)) == 1 and numbers[0] in (0.0, 1.0):
            intervals[metric] = wilson(numbers[0], dialogues)  # a bootstrap cannot draw what is in no reply
    return Scored(name, measured, {metric: intervals[metric] for metric in measured.values if metric in intervals})
