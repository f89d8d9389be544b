"""The replies on the page of `kosent evaluate`: what the search gets, each model's worst, and the prompts without a reference."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from kosent.evaluation.folder import Answer, Report, Turn
from kosent.evaluation.summary import ECHO, LOOP, models

FAILURES = {
    "failed": "failed", "empty": "empty", "endless": "does not end", "loop": "repeats itself", "foreign": "foreign script",
    "echo": "echoes the user", "harmful": "harmful",
}  # fmt: skip
"""What can be wrong with one reply; bit 1, 2, 4, … in the data of the search."""
WORST = 5
"""Replies of each kind among the worst cases."""
LONGEST = 2000
"""Characters of one text among the worst cases."""


def flags(report: Report, model: str, index: int) -> list[str]:
    """Which of `FAILURES` the reply shows."""
    answer, scores = report.answers[model][index], report.scores.get(model, {})

    def reaches(metric: str, least: float) -> bool:
        values = scores.get(metric, [])
        return index < len(values) and values[index] >= least

    shown = {
        "failed": bool(answer.error),
        "empty": not answer.text.strip() and not answer.error,
        "endless": not answer.ended and not answer.error,
        "loop": reaches("repetition", LOOP),
        "foreign": reaches("foreign", 1),
        "echo": reaches("echo", ECHO),
        "harmful": reaches("harmful", 1),
    }
    return [name for name in FAILURES if shown[name]]


def search_data(report: Report) -> dict[str, Any]:
    """Rows of [prompt set, emotion, messages before, user, reference, [[reply, flags, cosine, error] of each model]]."""
    names, kinds = models(report), list(FAILURES)
    sets, emotions = prompt_sets(report), emotions_of(report)
    rows = []
    for index, turn in enumerate(report.turns):
        said = []
        for model in names:
            answer = report.answers[model][index]
            bits = sum(1 << kinds.index(name) for name in flags(report, model, index))
            said.append([answer.text, bits, score(report, model, "cosine", index), answer.error])
        before = [[message["role"], message["content"]] for message in turn.messages[:-1] if message["role"] != "system"]
        emotion = emotions.index(turn.emotion) if turn.emotion else -1
        rows.append([sets.index(turn.prompt_set), emotion, before, turn.user, turn.reference, said])
    return {"models": names, "sets": sets, "emotions": emotions, "failures": list(FAILURES.values()), "rows": rows}


def score(report: Report, model: str, metric: str, index: int) -> float | None:
    """None where there is no reference."""
    values = report.scores.get(model, {}).get(metric, [])
    known = index < len(values) and report.turns[index].reference is not None and isfinite(values[index])
    return round(values[index], 4) if known else None


def prompt_sets(report: Report) -> list[str]:
    return list(dict.fromkeys(turn.prompt_set for turn in report.turns))


def emotions_of(report: Report) -> list[str]:
    """The frequent ones first."""
    found = [turn.emotion for turn in report.turns if turn.emotion]
    return sorted(dict.fromkeys(found), key=lambda emotion: -found.count(emotion))


def by_emotion(report: Report, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """For every emotion of prompts with a reference, the mean of `metrics` for each model, straw men too."""
    places: dict[str, list[int]] = {}
    for index, turn in enumerate(report.turns):
        if turn.emotion and turn.reference is not None:
            places.setdefault(turn.emotion, []).append(index)
    rows = []
    for emotion, chosen in sorted(places.items(), key=lambda item: -len(item[1])):
        means = {
            metric: {
                model: sum(values[metric][i] for i in chosen) / len(chosen)
                for model, values in report.scores.items()
                if metric in values
            }
            for metric in metrics
        }
        rows.append({"emotion": emotion, "n": len(chosen), "means": means})
    return rows


def open_sets(report: Report) -> list[dict[str, Any]]:
    """The prompt sets without any reference, with what each model answered."""
    found = []
    for name in prompt_sets(report):
        chosen = [(index, turn) for index, turn in enumerate(report.turns) if turn.prompt_set == name]
        if all(turn.reference is None for _, turn in chosen):
            talks = [
                {**_prompt(turn), "replies": [_reply(report, model, index) for model in models(report)]} for index, turn in chosen
            ]
            found.append({"name": name, "talks": talks})
    return found


def worst(report: Report, model: str) -> list[dict[str, Any]]:
    """Lists of the model's worst replies: title, how many there are, and the first `WORST` with what they scored."""
    answers, scores = report.answers[model], report.scores.get(model, {})
    compared = [index for index in range(len(answers)) if report.turns[index].reference is not None]
    lists: list[dict[str, Any]] = []

    def add(title: str, chosen: Sequence[int], words: Any = None, count: int | None = None) -> None:
        shown = [
            {**_prompt(report.turns[i]), "reply": _reply(report, model, i), "score": words(i) if words else ""}
            for i in chosen[:WORST]
        ]
        if shown:
            lists.append({"title": title, "count": count, "cases": shown})

    for kind, title in (("harmful", "Harmful"), ("failed", "Failed"), ("empty", "Empty")):
        hits = [index for index in range(len(answers)) if kind in flags(report, model, index)]
        add(title, hits, count=len(hits))
    for metric, title in (("cosine", "Lowest cosine"), ("chrf", "Lowest chrF")):
        values = scores.get(metric, [])
        known = [i for i in compared if i < len(values) and answers[i].text.strip()]
        add(title, sorted(known, key=lambda i: values[i]), lambda i, v=values: f"{v[i]:.3g}")
    values = scores.get("repetition", [])
    loops = sorted((i for i in range(min(len(values), len(answers))) if values[i] > 0), key=lambda i: -values[i])
    add("Most repetitive", loops, lambda i: f"{values[i]:.0%} of its word trigrams are repeats")
    return lists


def _prompt(turn: Turn) -> dict[str, Any]:
    before = [(message["role"], _cut(message["content"])) for message in turn.messages[:-1] if message["role"] != "system"]
    return {"before": before, "user": _cut(turn.user), "reference": None if turn.reference is None else _cut(turn.reference)}


def _reply(report: Report, model: str, index: int) -> dict[str, Any]:
    answer: Answer = report.answers[model][index]
    return {
        "model": model, "text": _cut(answer.text), "error": answer.error,
        "flags": [FAILURES[name] for name in flags(report, model, index)],
    }  # fmt: skip


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"
