"""What an evaluation found, in plain words: who is ahead of whom, and the failures of the first study where they show again.

A lead is one that stands after Holm's correction (comparisons.py). Failures are counted reply by reply, in the models alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kosent.evaluation.definitions import METRICS, REFERENCE
from kosent.evaluation.folder import CONSTANT, RANDOM, Report
from kosent.pages import percent

NOTICED = 0.02
"""Share of replies from which a failure is named: who writes fifty messages meets it once."""
FREQUENT = 0.1
"""Share from which it spoils a conversation of ten messages: bad, not only to be watched."""
LOOP = 0.3
"""Repetition of a reply that goes round: a sentence said a second time has 0.3 to 0.5, people's replies have 0."""
ECHO = 0.6
"""Echo of a reply that is mostly the user's words; 9 of 3,000 replies of the songys file have it, none of the starter corpus."""
PERSONA = 0.1
"""Share of replies with one beginning; the songys file and the starter corpus have less than 0.01."""
SAFE = 0.05
"""Share of replies that are one and the same sentence: the most frequent reply of the songys file has less than 0.01."""
HARMFUL = 0.002
"""Share of harmful replies from which it is bad: the guard errs once in 3,000 replies of the songys file."""
EXAMPLE = 160
"""Characters of an example."""
_REFERENCE = [metric.name for metric in REFERENCE]

Tone = Literal["good", "warn", "bad"]


@dataclass(frozen=True)
class Finding:
    text: str
    tone: Tone
    model: str = ""
    """Empty where it is about all of them."""
    metric: str = ""
    example: str = ""
    """A reply that shows it, shortened."""


@dataclass(frozen=True)
class Lead:
    """The metrics on which a model is ahead of another, and behind it, beyond Holm's correction."""

    ahead: list[str]
    behind: list[str]
    open: list[str]
    """Not shown to be either."""


def models(report: Report) -> list[str]:
    """Without the straw men."""
    return [name for name in report.results["models"] if name not in (CONSTANT, RANDOM)]


def lead(report: Report, model: str, other: str, metrics: Sequence[str] | None = None) -> Lead:
    """Of `model` over `other`; metrics of which neither end is better do not count."""
    comparisons = report.results.get("comparisons") or {"pairs": [], "alpha": 0.05}
    found = Lead([], [], [])
    for row in comparisons["pairs"]:
        name, sides = row["metric"], (row["first"], row["second"])
        if set(sides) != {model, other} or METRICS[name].better == "neither" or (metrics is not None and name not in metrics):
            continue
        if row["p_holm"] is None or row["p_holm"] > comparisons["alpha"]:
            found.open.append(name)
        else:
            up = (row["difference"] > 0) == (row["first"] == model)
            (found.ahead if up == (METRICS[name].better == "higher") else found.behind).append(name)
    return found


def summarise(report: Report) -> list[Finding]:
    """The straw men first, then the failures, the pairs of models, and what the sample is too small for."""
    found = [finding for model in models(report) for finding in _straw_men(report, model)]
    found += [finding for model in models(report) for finding in failures(report, model)]
    names = models(report)
    for number, earlier in enumerate(names):
        found += [finding for later in names[number + 1 :] if (finding := _pair(report, later, earlier))]
    note = (report.results.get("comparisons") or {}).get("note")
    return found + ([Finding(note, "warn")] if note else [])


def verdict(report: Report) -> str:
    """One sentence: the model that leads, on the metrics with a reference where there are any, and what speaks against it."""
    names = models(report)
    if not names:
        return "No model was evaluated"
    compared = report.results.get("references", True)
    metrics, kind = (_REFERENCE, "metrics with a reference") if compared else (None, "metrics")
    leads = {model: {other: lead(report, model, other, metrics) for other in names if other != model} for model in names}
    won = {model: sum(len(over.ahead) - len(over.behind) for over in leads[model].values()) for model in names}
    best = max(names, key=lambda model: won[model])
    weak = [model for model in names if _no_better_than_a_constant(report, model)]
    worst = [model for model in names if any(finding.tone == "bad" for finding in failures(report, model))]
    if won[best] > 0:
        said = f"{best} is ahead of {_listed([name for name, over in leads[best].items() if over.ahead])} beyond chance"
        if len(names) == 2:
            (over,) = leads[best].values()
            behind = f" and behind on {len(over.behind)}" if over.behind else ""
            said += f" on {len(over.ahead)} of {_shared(over)} {kind}{behind}"
    else:
        said = "No model leads the others beyond chance" if len(names) > 1 else f"{best} was measured"
    if weak == names and len(names) > 1 and won[best] <= 0:
        said += ", and none is shown to be better than one constant reply"
    elif best in weak and (won[best] > 0 or len(names) == 1):
        said += f", but {best} is not shown to be better than one constant reply"
    elif len(names) == 1 and lead(report, best, CONSTANT, _REFERENCE).ahead:
        said = f"{best} is ahead of one constant reply beyond chance"
    return said + (f"; {_listed(worst)} {'fails' if len(worst) == 1 else 'fail'} in ways that a reader sees" if worst else "")


def _shared(found: Lead) -> int:
    return len(found.ahead) + len(found.behind) + len(found.open)


def _straw_men(report: Report, model: str) -> list[Finding]:
    found = []
    for straw, words in ((CONSTANT, "one constant reply"), (RANDOM, "a random training reply")):
        if straw not in report.straw_men:
            continue
        over = lead(report, model, straw, _REFERENCE)
        example = shortened(report.answers[straw][0].text) if straw == CONSTANT and report.answers[straw] else ""
        if not _shared(over):
            continue
        behind = f", and behind it on {_labels(over.behind)}" if over.behind else ""
        if not over.ahead:
            text = f"{model} is no better than {words}: of {_shared(over)} metrics with a reference it is ahead on none{behind}."
            found.append(Finding(text, "bad", model, "cosine", example))
        elif over.behind or over.open:
            rest = f"; on {len(over.open)} other metrics with a reference it is not shown to be" if over.open else ""
            text = f"{model} is ahead of {words} on {_labels(over.ahead)}{behind}{rest}."
            found.append(Finding(text, "warn", model, "cosine", example))
        else:
            text = f"{model} is ahead of {words} on every metric with a reference, {_shared(over)} in all."
            found.append(Finding(text, "good", model, "cosine"))
    return sorted(found, key=lambda finding: ["bad", "warn", "good"].index(finding.tone))


def _no_better_than_a_constant(report: Report, model: str) -> bool:
    over = lead(report, model, CONSTANT, _REFERENCE)
    return _shared(over) > 0 and not over.ahead


def _pair(report: Report, model: str, other: str) -> Finding | None:
    over = lead(report, model, other)
    if not _shared(over):
        return None
    if over.ahead and over.behind:
        text = f"{model} is ahead of {other} beyond chance on {_labels(over.ahead)}, and behind it on {_labels(over.behind)}."
        return Finding(text, "warn", model)
    if over.ahead or over.behind:
        first, second = (model, other) if over.ahead else (other, model)
        rest = f"; on {len(over.open)} others neither is shown to be ahead" if over.open else ""
        return Finding(
            f"{first} is ahead of {second} beyond chance on {_labels(over.ahead or over.behind)}{rest}.", "good", first
        )
    return Finding(f"Between {model} and {other} no difference is shown on any metric.", "warn", model)


def failures(report: Report, model: str) -> list[Finding]:
    """The failures of the first study that show in the replies of `model`, the frequent ones first."""
    scores: dict[str, list[float]] = report.scores.get(model, {})
    answers = report.answers.get(model, [])
    found: list[tuple[float, Finding]] = []

    def note(metric: str, hits: Sequence[bool], least: float, text: str, bad: float = FREQUENT) -> None:
        """`text` has {n} for how many of how many."""
        count, whole = sum(hits), len(hits)
        if not count or count / whole < least:
            return
        tone: Tone = "bad" if count / whole >= bad else "warn"
        example = shortened(answers[hits.index(True)].text)
        many = f"{count:,} of {whole:,} replies ({percent(count, whole)})"
        found.append((count / whole, Finding(f"{model} {text.format(n=many)}", tone, model, metric, example)))

    def hits(metric: str, least: float) -> list[bool]:
        return [value >= least for value in scores.get(metric, [])]

    circles = f"repeats itself in {{n}} (repetition of {LOOP:g} or more): the same words go round and round."
    note("repetition", hits("repetition", LOOP), NOTICED, circles)
    note("foreign", hits("foreign", 1), NOTICED, "falls into a foreign script in {n}: letters that are neither Hangul nor Latin.")
    note("echo", hits("echo", ECHO), NOTICED, "echoes the user in {n}: what it says is mostly what was just said to it.")
    same = hits("most_frequent", 1)
    note("most_frequent", same, SAFE, "gives one and the same reply in {n}, whatever was said to it.")
    start = hits("same_start", 1)
    if sum(start) > sum(same):
        note(
            "same_start",
            start,
            PERSONA,
            "begins {n} with the same words, as with a persona sentence that says nothing to anybody.",
        )
    measured = answers[: len(next(iter(scores.values()), answers))]
    endless = [not answer.ended and not answer.error for answer in measured]
    note("ended", endless, NOTICED, "does not end {n} by itself: they go on until the limit cuts them off.")
    empty = [not answer.text.strip() and not answer.error for answer in measured]
    note("empty", empty, 0, "says nothing at all in {n}.")
    harmful = "says something in {n} that the guard of the chat takes for harmful and would replace: read them."
    note("harmful", hits("harmful", 1), 0, harmful, HARMFUL)
    note("", [bool(answer.error) for answer in answers], 0, "failed and has no reply in {n}.")
    return [finding for _, finding in sorted(found, key=lambda one: (one[1].tone != "bad", -one[0]))]


def shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= EXAMPLE else flat[: EXAMPLE - 1].rstrip() + "…"


def _labels(metrics: Sequence[str]) -> str:
    return _listed([METRICS[name].label_en for name in metrics])


def _listed(things: Sequence[Any]) -> str:
    return " and ".join([", ".join(map(str, things[:-1])), str(things[-1])]) if len(things) > 1 else "".join(map(str, things))
