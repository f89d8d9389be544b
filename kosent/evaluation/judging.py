"""Which replies are compared, and what the judgements of them come to: in the results and on the page.

`questions` draws the prompts, the same for every judge and person with one seed. `summaries` counts what lies in `judgements/`
(`kosent.evaluation.judgement_files`) and makes results.json's "judges" of it: an entry for each judge and kind, one for all
people together, and one for all votes where there are several voices:

    {"judge", "kind": "pairwise" | "people" | "all", "prompt", "ranking", "voices", "agreement", "warnings"}
    {"judge", "kind": "rubric", "prompt", "criteria": {criterion: {model: {"mean", "interval"}}}, "replies", "errors", "warnings"}
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from kosent.errors import DataError, UsageError
from kosent.evaluation.folder import Report, read_report
from kosent.evaluation.judge_prompts import CRITERIA, VERSIONS, fingerprint
from kosent.evaluation.judgement_files import Row, mend_all, results_locked
from kosent.evaluation.ranking import Verdict, Vote, rank, verdicts
from kosent.evaluation.statistics import Resampling
from kosent.files import write_json, write_text

PEOPLE, EVERYBODY = "people", "all"
MANY_FLIPS, MANY_ERRORS = 1 / 3, 0.1
"""Shares from which on a judge is warned of."""


@dataclass(frozen=True)
class Question:
    """The replies of two models to one prompt."""

    turn: int
    first: str
    second: str


@dataclass
class Questions:
    """Pairs in the order in which they are to be asked, and how many were left out."""

    asked: list[Question] = field(default_factory=list)
    identical: int = 0
    """Both models said the same."""
    missing: int = 0
    """A model has no reply: it failed."""


def chosen_models(report: Report, named: Sequence[str] | None, straw_men: bool, least: int = 2) -> list[str]:
    """The named models, else all but the straw men. Raises `UsageError` for one that is not there, or for fewer than `least`."""
    known = ", ".join(report.answers)
    for name in named or []:
        if name not in report.answers:
            raise UsageError(f"The evaluation has no model {name!r}; it has: {known}.")
    models = list(dict.fromkeys(named or [name for name in report.answers if name not in report.straw_men]))
    if straw_men:
        models += [name for name in report.straw_men if name not in models]
    if len(models) < least:
        raise UsageError(f"Two models are needed to compare; there is: {', '.join(models)}.", hint="--straw-men, or --models A B")
    return models


def drawn_turns(report: Report, seed: int) -> list[int]:
    """All prompts in a random order of the seed's; the first N of it are a sample of N."""
    order = list(range(len(report.turns)))
    random.Random(seed).shuffle(order)
    return order


def has_reply(report: Report, model: str, turn: int) -> bool:
    """Straw men have answered the held-out turns only, which come first."""
    answers = report.answers[model]
    return turn < len(answers) and not answers[turn].error


def questions(report: Report, models: Sequence[str], most: int | None = None, seed: int = 0) -> Questions:
    """Every pair of models on at most `most` prompts each, prompt after prompt."""
    found, pairs = Questions(), list(combinations(models, 2))
    count = dict.fromkeys(pairs, 0)
    for turn in drawn_turns(report, seed):
        for first, second in pairs:
            if most is not None and count[first, second] >= most:
                continue
            if turn >= min(len(report.answers[first]), len(report.answers[second])):
                continue  # a straw man was not asked this
            if not (has_reply(report, first, turn) and has_reply(report, second, turn)):
                found.missing += 1
            elif report.answers[first][turn].text.strip() == report.answers[second][turn].text.strip():
                found.identical += 1
            else:
                count[first, second] += 1
                found.asked.append(Question(turn, first, second))
    return found


def shown(report: Report, turn: int, *models: str) -> str:
    """The fingerprint of a prompt and the replies of models to it; empty where there is none of them (any more)."""
    if not 0 <= turn < len(report.turns) or not all(name in report.answers and has_reply(report, name, turn) for name in models):
        return ""
    return fingerprint(report.turns[turn].messages, [report.answers[name][turn].text for name in models])


def is_current(report: Report, row: Row) -> bool:
    """Whether a judgement is of the replies that are there now, by the prompt that is asked now."""
    models = [row["model"]] if row["kind"] == "rubric" else [row["a"], row["b"]]
    return bool(row["prompt"] == VERSIONS.get(row["kind"]) and row["replies"] == shown(report, row["turn"], *models))


def votes(report: Report, rows: Sequence[Row]) -> list[Vote]:
    """Of the current judgements of pairs, in an order that does not depend on which came first: intervals are drawn from it."""
    found = []
    for row in rows:
        if row["kind"] != "rubric" and row["outcome"] != "skip" and is_current(report, row):
            a, b = (len(report.answers[row[side]][row["turn"]].text) for side in ("a", "b"))
            voice = f"{row['kind']} {row['judge']}"
            found.append(Vote(row["turn"], row["a"], row["b"], row["outcome"], a, b, voice))
    return sorted(found, key=lambda vote: (vote.judge, vote.prompt, vote.a, vote.b))


def summaries(report: Report) -> list[dict[str, Any]]:
    """What results.json says of judges and people."""
    voices: dict[tuple[str, str], list[Row]] = {}
    for row in report.judgements:
        voices.setdefault((row["kind"], PEOPLE if row["kind"] == PEOPLE else row["judge"]), []).append(row)
    paired = {key: found for key, rows in voices.items() if key[0] != "rubric" and (found := votes(report, rows))}
    entries = []
    for (kind, judge), given in paired.items():
        ranking = rank(given)
        others = {other: theirs for other, theirs in paired.items() if other != (kind, judge)}
        entries.append(
            {
                "judge": judge,
                "kind": kind,
                "prompt": VERSIONS[kind],
                "voices": sorted({vote.judge.partition(" ")[2] for vote in given}),
                "ranking": ranking,
                "agreement": [
                    {"with": other[1], **agreement(verdicts(given), verdicts(theirs))} for other, theirs in others.items()
                ],
                "warnings": _warnings(report, kind, judge, ranking["error_rate"], ranking["flip_rate"]),
            }
        )
    everything = [vote for given in paired.values() for vote in given]
    if len(paired) > 1:
        heard = sorted({vote.judge.partition(" ")[2] for vote in everything})
        entries.append(
            {
                "judge": EVERYBODY, "kind": EVERYBODY, "prompt": "", "voices": heard, "ranking": rank(everything),
                "agreement": [], "warnings": [],
            }
        )  # fmt: skip
    for (kind, judge), rows in voices.items():
        current = [row for row in rows if is_current(report, row)] if kind == "rubric" else []
        if current:
            entries.append(_rubric(report, judge, current))
    return entries


def _rubric(report: Report, judge: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Means by criterion; intervals by dialogue."""
    scored: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: int(row["turn"])):
        if row["scores"]:
            scored.setdefault(row["model"], []).append(row)
    criteria: dict[str, dict[str, Any]] = {name: {} for name in CRITERIA}
    for model in (name for name in report.answers if name in scored):
        drawn = Resampling([report.turns[row["turn"]].dialogue for row in scored[model]])
        estimates = drawn.means([[row["scores"][name] for name in CRITERIA] for row in scored[model]])
        for name, estimate in zip(CRITERIA, estimates, strict=True):
            criteria[name][model] = {"mean": estimate.value, "interval": estimate.interval}
    errors = sum(not row["scores"] for row in rows)
    return {
        "judge": judge, "kind": "rubric", "prompt": VERSIONS["rubric"], "criteria": criteria, "replies": len(rows),
        "errors": errors, "warnings": _warnings(report, "rubric", judge, errors / len(rows), None),
    }  # fmt: skip


def _warnings(report: Report, kind: str, judge: str, errors: float, flips: float | None) -> list[str]:
    said = []
    if flips is not None and flips > MANY_FLIPS:
        said.append(
            f"In {flips:.0%} of the pairs the judge changed its mind with the order of the replies: it looks more at the place "
            "than at the reply. Take a larger judge."
        )
    if errors > MANY_ERRORS:
        said.append(f"{errors:.0%} of the answers were no judgement: what is left may not stand for all. Read their transcripts.")
    itself = [] if kind == PEOPLE else [model for model in report.answers if is_same(report, model, judge)]
    if itself:
        said.append(
            f"The judge is {itself[0]}, one of the models judged: models tend to prefer their own replies "
            "(Panickssery et al. 2024, arXiv:2404.13076)."
        )
    return said


def is_same(report: Report, model: str, judge: str) -> bool:
    """Whether a judge is one of the models, as far as their names say."""
    row = report.results.get("models", {}).get(model, {})
    names = {str(name) for name in (model, row.get("name"), row.get("run")) if name}
    plain = judge.partition(":")[2].partition("@")[0] if judge.startswith(("ollama:", "openai:")) else judge
    wanted = {judge, plain, plain.removesuffix(":latest"), Path(plain).name, Path(plain).parent.name} - {""}
    return bool(wanted & (names | {Path(name).name for name in names}))


def agreement(one: Sequence[Verdict], other: Sequence[Verdict]) -> dict[str, Any]:
    """How far two voices agree on the prompts and pairs that both have judged.

    Cohen's (1960) kappa over first, tie and second: (observed - expected) / (1 - expected), `expected` the agreement of two
    voices that answer at random, each with its own shares. None where both always say the same one. Of several people the mean
    counts.
    """
    these, those = _by_pair(one), _by_pair(other)
    shared = [(these[key], those[key]) for key in these if key in those]
    if not shared:
        return {"items": 0, "observed": None, "kappa": None}
    observed = sum(a == b for a, b in shared) / len(shared)
    expected = sum(
        sum(a == kind for a, _ in shared) * sum(b == kind for _, b in shared) / len(shared) ** 2 for kind in (0.0, 0.5, 1.0)
    )
    kappa = None if expected == 1 else (observed - expected) / (1 - expected)
    return {"items": len(shared), "observed": observed, "kappa": kappa}


def _by_pair(judged: Sequence[Verdict]) -> dict[tuple[str | int, str, str], float]:
    scores: dict[tuple[str | int, str, str], list[float]] = {}
    for verdict in judged:
        if verdict.score is not None:
            scores.setdefault((verdict.prompt, verdict.first, verdict.second), []).append(verdict.score)
    return {key: _nearest(sum(given) / len(given)) for key, given in scores.items()}


def _nearest(score: float) -> float:
    return 0.5 if score == 0.5 else float(score > 0.5)


def rewrite(folder: Path) -> Report:
    """Puts the judgements into results.json and draws the page again. Returns the report as it is then."""
    from kosent.evaluation.page import page

    with results_locked(folder):
        report = _counted(folder)
        write_text(folder / "report.html", page(report))
    return report


def count(folder: Path) -> None:
    """Puts what there is of judgements into results.json; those of replies that have changed do not count."""
    if any(folder.glob("judgements/*.jsonl")):
        with results_locked(folder):
            _counted(folder)


def _counted(folder: Path) -> Report:
    mend_all(folder)
    report = read_report(folder)
    report.results["judges"] = summaries(report)
    write_json(folder / "results.json", report.results)
    return report


def open_report(folder: Path) -> Report:
    """The evaluation, with judgement files mended."""
    mend_all(folder)
    report = read_report(folder)
    if not report.turns:
        raise DataError(f"{folder} holds no prompt.")
    return report
