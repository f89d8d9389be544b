"""The report of `prepare` as one HTML page: what was read, what was thrown away and why, and what the splits hold.

`page(report)` takes the dict that is also written as report.json. The same dict gives the same bytes, wherever and whenever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from kosent.pages import Bar, Tone, number, percent, render

SPLIT_TONES: dict[str, Tone] = {"train": "first", "validation": "second", "test": "third"}
KINDS = ("dialogues", "preferences", "prompts")


def page(report: dict[str, Any]) -> str:
    """The whole page."""
    rules, splits = report["rules"], _ordered(report["splits"])
    parts, reasons = _flow(report, splits)
    acted = [rule["rejected"] + rule["changed"] for rule in rules]
    return render(
        "prepare.html.jinja",
        "kosent.finetune",
        report=report,
        totals=report["totals"],
        verdict=_verdict(report),
        splits=splits,
        flow=parts,
        flow_total=sum(part.value for part in parts),
        reasons=reasons,
        broken=sum(source["broken"] for source in report["sources"]),
        sources=[
            {**source, "understood": source["understood"].removeprefix(f"{source['name']}: ")} for source in report["sources"]
        ],
        rules=[{**rule, "bar": _rule_parts(rule)} for rule in rules],
        most_acted=max(acted, default=0),
        split_emotions=_split_emotions(splits),
        split_legend=[Bar(name, _held(split), SPLIT_TONES.get(name, "quiet")) for name, split in splits.items()],
        before_after=_before_after,
        bins=_bin_names(report["lengths"]["bins"]),
        contradictions=sorted(report["contradictions"]["examples"], key=lambda example: not example["opposed"]),
        leaks=_leaks(report["leakage"]),
        settings=[(key, json.dumps(value, ensure_ascii=False)) for key, value in sorted(report["settings"].items())],
        count=_count,
    )


def _count(value: int, noun: str) -> str:
    return f"{number(value)} {noun}" if value == 1 else f"{number(value)} {noun}s"


def _verdict(report: dict[str, Any]) -> str:
    totals, splits = report["totals"], report["splits"].values()
    only_dialogues = not any(split["preferences"] or split["prompts"] for split in splits)
    share = f" ({percent(totals['kept'], totals['records'])})" if totals["records"] else ""
    kept = number(totals["kept"])
    went = f"{number(totals['rejected'])} left out, {number(totals['changed'])} changed"
    return f"{_count(totals['records'], 'dialogue' if only_dialogues else 'record')} in, {kept} kept{share}, {went}"


def _ordered(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Train, validation, test, then whatever else there is."""
    known = list(SPLIT_TONES)
    return {name: splits[name] for name in sorted(splits, key=lambda name: (known.index(name) if name in known else 9, name))}


def _held(split: dict[str, Any]) -> int:
    return sum(split[kind] for kind in KINDS)


def _flow(report: dict[str, Any], splits: Mapping[str, Any]) -> tuple[list[Bar], list[Bar]]:
    """Where the records went: one bar for each split and one for all that is in none, and that last one by reason."""
    reasons = [(rule["rejected"], rule["name"]) for rule in report["rules"]]
    reasons = sorted(((value, name) for value, name in reasons if value > 0), key=lambda pair: (-pair[0], pair[1]))
    fade = 0.65 / max(1, len(reasons) - 1)
    detail = [Bar(name, value, "bad", strength=1 - fade * index) for index, (value, name) in enumerate(reasons)]
    parts = [Bar(name, _held(split), SPLIT_TONES.get(name, "quiet")) for name, split in splits.items()]
    outside = sum(bar.value for bar in detail)
    return [*parts, Bar("in no split", outside, "bad")] if detail else parts, detail


def _rule_parts(rule: dict[str, Any]) -> list[Bar]:
    return [Bar("rejected", rule["rejected"], "bad"), Bar("changed", rule["changed"], "warn")]


def _by_size(counts: Mapping[str, int]) -> list[str]:
    return sorted(counts, key=lambda name: (-counts[name], name))


def _split_emotions(splits: Mapping[str, Any]) -> dict[str, list[Bar]]:
    """For each emotion, the most frequent first, its share in percent of every split."""
    total: dict[str, int] = {}
    for split in splits.values():
        for emotion, value in split["emotions"].items():
            total[emotion] = total.get(emotion, 0) + value
    rows: dict[str, list[Bar]] = {}
    for emotion in _by_size(total):
        rows[emotion] = []
        for name, split in splits.items():
            part, whole = split["emotions"].get(emotion, 0), sum(split["emotions"].values())
            share = 100 * part / whole if whole else 0.0
            rows[emotion].append(Bar(f"{emotion} {name}", share, SPLIT_TONES.get(name, "quiet"), percent(part, whole)))
    return rows


def _before_after(counts: Mapping[str, Mapping[str, int]]) -> dict[str, list[Bar]]:
    """Two bars for every name that stands before or after, the most frequent before first."""
    before, after = counts["before"], counts["after"]
    names = [*_by_size(before), *(name for name in _by_size(after) if name not in before)]
    return {
        name: [
            Bar(f"{name} before", before.get(name, 0), "before"),
            Bar(f"{name} after", after.get(name, 0), "after"),
        ]
        for name in names
    }


def _bin_names(bins: list[int]) -> list[str]:
    """0, 5, 10 -> 0–4, 5–9, 10+"""
    names = [str(low) if high == low + 1 else f"{low}–{high - 1}" for low, high in pairwise(bins)]
    return [*names, f"{bins[-1]}+"] if bins else []


def _leaks(leakage: Mapping[str, int]) -> list[tuple[str, int]]:
    """The pairs of splits with what both hold."""
    return [(key.replace("_", " and "), value) for key, value in leakage.items() if key != "left_out"]
