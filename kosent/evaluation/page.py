"""The report of `kosent evaluate` as one HTML page: the findings in words, tables, drawings, and every reply to search through.

`page(report)` takes what lies in the folder (folder.py). Without scripts everything is there but the search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from kosent.evaluation import page_judges, table
from kosent.evaluation.definitions import INTRINSIC, LIKELIHOOD, METRICS, REFERENCE, Metric
from kosent.evaluation.drawings import Dot, curve, dots
from kosent.evaluation.folder import CONSTANT, RANDOM, Report
from kosent.evaluation.page_replies import FAILURES, by_emotion, emotions_of, open_sets, prompt_sets, search_data, worst
from kosent.evaluation.summary import lead, models, shortened, summarise, verdict
from kosent.pages import Bar, Tone, bars, embedded, number, render, script_marks

TONES: tuple[Tone, ...] = ("first", "second", "third", "fourth", "fifth")
BETTER = {"higher": "higher is better", "lower": "lower is better", "neither": "neither end is better"}
ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}
SHARES = frozenset(metric.name for metric in INTRINSIC if metric.per_reply and metric.high == 1) - {"empathy"} | {"exact_match"}
"""Written in percent."""
OPEN_METRICS = ("distinct", "repetition", "foreign", "echo", "ended", "empty", "harmful", "empathy", "characters")
"""Of prompts without a reference."""
EMOTION_METRICS = ("cosine", "chrf")
CURVES = {"loss": "Loss (nats per token)", "token_accuracy": "Share of tokens foretold"}
TABLES = frozenset({"models", "comparisons", "judges", "prompt_sets"})
"""Parts of the results that have sections of their own; the others are settings."""


def page(report: Report) -> str:
    """The whole page."""
    results = report.results
    present = [metric for metric in METRICS.values() if any(metric.name in row["values"] for row in results["models"].values())]
    headline = [METRICS[name] for name in table.METRICS if METRICS[name] in present]
    tones = _tones(report)
    searched = search_data(report) | {"tones": [tones[name] for name in models(report)], "marks": script_marks()}
    return render(
        "evaluation.html.jinja",
        "kosent",
        verdict=verdict(report),
        facts=_facts(report),
        findings=summarise(report),
        models=models(report),
        tones=tones,
        straw_men=report.straw_men,
        constant=shortened(report.answers[CONSTANT][0].text) if report.answers.get(CONSTANT) else "",
        headline=_table(report, headline),
        full=_table(report, present),
        defined=[{"metric": metric, "reach": _reach(metric), "better": BETTER[metric.better]} for metric in present],
        arrows=ARROWS,
        groups=_plots(report, present),
        comparisons=results.get("comparisons"),
        pairs=_pairs(report),
        emotions=_emotions(report),
        open_sets=[one | {"table": _table_of_set(report, one["name"])} for one in open_sets(report)],
        worst={model: worst(report, model) for model in models(report)},
        sets=prompt_sets(report),
        emotion_names=emotions_of(report),
        data=embedded(searched),
        failure_names=list(FAILURES.values()),
        curves={model: [(title, drawn) for key, title in CURVES.items() if (drawn := curve(rows, key, title))]
                for model, rows in report.training.items()},
        corpus=report.corpus,
        left_out=_left_out(report.corpus),
        judges=[page_judges.entry(judge) for judge in results.get("judges") or []],
        settings=sorted(page_judges.flat({key: value for key, value in results.items() if key not in TABLES and key != "settings"}
                              | dict(results.get("settings") or {}))),
        number=number,
        share_interval=_share_interval,
        share=lambda value: "–" if value is None else f"{100 * value:.1f} %",
    )  # fmt: skip


def _tones(report: Report) -> dict[str, Tone]:
    names = models(report)
    return {name: TONES[names.index(name) % len(TONES)] if name in names else "quiet" for name in report.results["models"]}


def _facts(report: Report) -> str:
    with_reference = [turn for turn in report.turns if turn.reference is not None]
    dialogues = len({turn.dialogue for turn in with_reference})
    parts = [f"{_count(len(models(report)), 'model')}, {_count(len(report.turns), 'prompt')}"]
    if with_reference:
        parts.append(f"{_count(len(with_reference), 'held-out reply')} of {_count(dialogues, 'dialogue')} to compare with")
    return "; ".join(parts)


def _count(value: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number(value)} {noun if value == 1 else plural}"


def figure(metric: Metric, value: float, signed: bool = False) -> str:
    """As the tables write it: shares in percent."""
    sign = "+" if signed else ""
    if metric.name in SHARES:
        return f"{100 * value:{sign}z.1f} {'points' if signed else '%'}"
    if abs(value) >= 1e6:
        return f"{value:{sign}.3g}"
    return f"{value:{sign}z.{1 if metric.high > 1 else 3}f}"


def _scale(metric: Metric) -> Callable[[float], str]:
    return (lambda value: f"{number(100 * value)} %") if metric.name in SHARES else number


def _bounds(metric: Metric, bounds: Sequence[float] | None, signed: bool = False) -> str:
    if not bounds:
        return ""
    low, high = (figure(metric, bound, signed).removesuffix(" %").removesuffix(" points") for bound in bounds)
    return f"{low} … {high}"


def _share_interval(bounds: Sequence[float] | None) -> str:
    return f"{100 * bounds[0]:.0f} … {100 * bounds[1]:.0f} %" if bounds else ""


def _reach(metric: Metric) -> str:
    return f"{metric.low:g} and more" if metric.high == inf else f"{metric.low:g} to {metric.high:g}"


def _table(report: Report, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Rows of a model and its cells."""
    rows = []
    for model, row in report.results["models"].items():
        cells = [
            {"text": figure(metric, row["values"][metric.name]), "bounds": _bounds(metric, row["intervals"].get(metric.name)),
             "best": _best(report, model, metric)}
            if metric.name in row["values"] else {"text": "–", "bounds": "", "best": False}
            for metric in metrics
        ]  # fmt: skip
        rows.append({"model": model, "cells": cells})
    return {"metrics": metrics, "rows": rows, "marked": any(cell["best"] for row in rows for cell in row["cells"])}


def _table_of_set(report: Report, name: str) -> dict[str, Any] | None:
    """What the replies to prompts without a reference show by themselves."""
    found = (report.results.get("prompt_sets") or {}).get(name)
    if not found:
        return None
    shown = [
        metric
        for metric in map(METRICS.__getitem__, OPEN_METRICS)
        if all(metric.name in row["values"] for row in found["models"].values())
    ]
    rows = [
        {
            "model": model,
            "cells": [{"text": figure(metric, row["values"][metric.name]), "bounds": "", "best": False} for metric in shown],
        }
        for model, row in found["models"].items()
    ]
    return {"metrics": shown, "rows": rows, "marked": False}


def _best(report: Report, model: str, metric: Metric) -> bool:
    """Whether it is ahead of every other model, beyond Holm; with a reference, of the straw men too."""
    names = models(report)
    if model not in names or len(names) < 2:
        return False
    others = [name for name in names if name != model] + (report.straw_men if metric in REFERENCE else [])
    return all(lead(report, model, other, [metric.name]).ahead for other in others)


def _plots(report: Report, metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    tones, groups = _tones(report), []
    measured = {name: (row["values"], row["intervals"]) for name, row in report.results["models"].items()}
    for title, members in (("Compared with the reference", (*REFERENCE, *LIKELIHOOD)), ("Of the replies alone", INTRINSIC)):
        panels: list[dict[str, Any]] = []
        for metric in (metric for metric in members if metric in metrics):
            rows = [
                Dot(name, values[metric.name], figure(metric, values[metric.name]), tones[name], bounds.get(metric.name))
                for name, (values, bounds) in measured.items() if metric.name in values
            ]  # fmt: skip
            panels.append({"metric": metric, "name": metric.name, "drawn": dots(rows, form=_scale(metric))})
        if panels:
            headline = [panel for panel in panels if panel["name"] in table.METRICS]
            others = [panel for panel in panels if panel not in headline]
            groups.append({"title": title, "first": headline, "more": others})
    return groups


def _pairs(report: Report) -> list[dict[str, Any]]:
    """The pairs of models, then those with a straw man: rows of differences, and how many of them stand."""
    comparisons = report.results.get("comparisons") or {"pairs": [], "alpha": 0.05}
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in comparisons["pairs"]:
        found.setdefault((row["first"], row["second"]), []).append(row)
    pairs = []
    for (first, second), rows in sorted(found.items(), key=lambda item: item[0][1] in (CONSTANT, RANDOM)):
        lines = []
        for row in rows:
            metric, sure = METRICS[row["metric"]], row["p_holm"] is not None and row["p_holm"] <= comparisons["alpha"]
            good = "" if metric.better == "neither" or not sure else (row["difference"] > 0) == (metric.better == "higher")
            lines.append({
                "metric": metric, "sure": sure, "tone": "" if good == "" else "good" if good else "bad", "words": row["words"],
                "difference": "–" if row["difference"] is None else figure(metric, row["difference"], True),
                "bounds": _bounds(metric, row["interval"], True),
                "p": _p(row["p_holm"], row.get("p_least", False)),
                "effect": "–" if row["effect_size"] is None else f"{row['effect_size']:+z.2f}",
                "detectable": "–" if row["detectable"] is None else figure(metric, row["detectable"]),
            })  # fmt: skip
        effects = [
            Dot(METRICS[row["metric"]].label_en, row["effect_size"], line["effect"], line["tone"] or "quiet")
            for row, line in zip(rows, lines, strict=True) if row["effect_size"] is not None
        ]  # fmt: skip
        shown = sum(line["sure"] for line in lines)
        drawn = dots(effects, 0.0) if effects else ""
        pairs.append(
            {
                "first": first,
                "second": second,
                "rows": lines,
                "shown": shown,
                "drawn": drawn,
                "straw": second in (CONSTANT, RANDOM),
            }
        )
    return pairs


def _p(value: float | None, least: bool) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{'≤ ' if least else ''}{value:.3f}"


def _emotions(report: Report) -> dict[str, Any]:
    known = [name for name in EMOTION_METRICS if any(name in values for values in report.scores.values())]
    rows, tones = by_emotion(report, known), _tones(report)
    reach = {name: [value for row in rows for value in row["means"][name].values()] for name in known}
    for row in rows:
        row["cells"] = [
            figure(METRICS[name], row["means"][name][model]) if model in row["means"][name] else "–"
            for name in known for model in tones
        ]  # fmt: skip
        row["drawn"] = {}
        for name, means in row["means"].items():
            found = [Dot(model, value, figure(METRICS[name], value), tones[model]) for model, value in means.items()]
            row["drawn"][name] = dots(found, reach=reach[name])
    return {"metrics": [METRICS[name] for name in known], "models": list(tones), "rows": rows}


def _left_out(corpus: Mapping[str, Any] | None) -> Any:
    rules = [rule for rule in (corpus or {}).get("rules", []) if rule["rejected"]]
    rules.sort(key=lambda rule: -rule["rejected"])
    return bars({rule["name"]: [Bar(rule["name"], rule["rejected"], "bad")] for rule in rules}) if rules else ""
