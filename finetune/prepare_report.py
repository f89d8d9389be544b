"""What `kosent prepare` tells: the dict of report.json, and its summary for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kosent import __version__
from kosent.files import sha256
from kosent.finetune.corpus import Corpus
from kosent.finetune.rules import RULES, flat_settings
from kosent.finetune.tally import BINS, shares

if TYPE_CHECKING:
    from kosent.finetune.pipeline import Pipeline


def build_report(pipeline: Pipeline, corpora: list[tuple[str, Corpus]]) -> dict[str, Any]:
    """Everything that report.json holds and report.html shows."""
    splits = pipeline.selection.split_counts()
    counts = pipeline.examples.counts
    kept = sum(split[kind] for split in splits.values() for kind in ("dialogues", "preferences", "prompts"))
    rejected = sum(count["rejected"] for count in counts.values())
    before, after = pipeline.before, pipeline.after
    return {
        "kosent": __version__,
        "sources": [
            {
                "name": name, "understood": corpus.understood, "rows": pipeline.rows[name],
                "broken": pipeline.broken[name], "sha256": sha256(corpus.path),
            }
            for name, corpus in corpora
        ],
        "settings": flat_settings(pipeline.settings),
        "totals": {
            "rows": sum(pipeline.rows.values()), "records": pipeline.records, "kept": kept, "rejected": rejected,
            "changed": pipeline.changed,
        },
        "splits": splits,
        "emotion_difference": emotion_difference(splits),
        "rules": [
            {
                "name": name, "what": what, "on": name in pipeline.on, "rejected": counts[name]["rejected"],
                "changed": counts[name]["changed"], "examples": pipeline.examples.cases[name],
            }
            for name, what in RULES.items()
        ],
        "lengths": {
            "unit": "tokens" if pipeline.in_tokens else "characters", "bins": list(BINS),
            **{who: {"before": before.lengths[who], "after": after.lengths[who]} for who in ("user", "reply")},
        },
        **{
            name: {"before": dict(getattr(before, name).most_common()), "after": dict(getattr(after, name).most_common())}
            for name in ("letters", "emotions", "ages")
        },
        "top_replies": {"before": before.replies.top(), "after": after.replies.top()},
        "top_openings": {"before": before.openings.top(), "after": after.openings.top()},
        "contradictions": {
            "questions": pipeline.questions, "opposed": pipeline.opposed, "examples": pipeline.contradictions,
        },
        "leakage": pipeline.selection.leakage(),
        "notes": notes(pipeline),
    }  # fmt: skip


def notes(pipeline: Pipeline) -> list[str]:
    """What a person must know and no count says."""
    found = list(pipeline.notes)
    if pipeline.borrowed:
        found.append(
            f"{pipeline.borrowed:,} rows without a reply took one of their category (웰니스 대화 스크립트); see meta.reply."
        )
    if pipeline.selection.unbalanced:
        splits = " and ".join(pipeline.selection.unbalanced)
        found.append(f"Emotions are not balanced: {splits} would have had to give up too much (balance.max_share).")
    return found


def emotion_difference(splits: dict[str, Any]) -> dict[str, Any] | None:
    """The largest difference of an emotion's share between two splits, in percentage points."""
    found = {name: shares(split["emotions"]) for name, split in splits.items() if split["emotions"]}
    pairs = [
        (abs(found[one].get(emotion, 0) - found[other].get(emotion, 0)), f"{one} and {other}", emotion)
        for one in found for other in found if one < other for emotion in found[one].keys() | found[other].keys()
    ]  # fmt: skip
    if not pairs:
        return None
    points, between, emotion = max(pairs)
    return {"points": round(points, 2), "between": between, "emotion": emotion}


def summary(report: dict[str, Any]) -> str:
    """The report for a terminal: what came in, what is left, and which rules acted."""
    totals, leakage = report["totals"], report["leakage"]
    kept = f" ({totals['kept'] / totals['records']:.1%})" if totals["records"] else ""
    lines = [
        "",
        f"{totals['records']:>9,} in",
        f"{totals['kept']:>9,} kept{kept}, {totals['changed']:,} of them changed",
        f"{totals['rejected']:>9,} left out",
        "",
        f"  {'rule':<14}{'left out':>9}{'changed':>9}",
    ]
    for rule in report["rules"]:
        if rule["rejected"] or rule["changed"]:
            lines.append(f"  {rule['name']:<14}{rule['rejected']:>9,}{rule['changed']:>9,}")
    if off := [rule["name"] for rule in report["rules"] if not rule["on"]]:
        lines.append(f"  switched off: {', '.join(off)}")
    lines += ["", f"  {'split':<14}{'dialogues':>9}{'replies':>9}"]
    for name, split in report["splits"].items():
        more = "".join(f"  {split[kind]:,} {kind}" for kind in ("preferences", "prompts") if split[kind])
        lines.append(f"  {name:<14}{split['dialogues']:>9,}{split['replies']:>9,}{more}")
    if difference := report["emotion_difference"]:
        lines += [
            "",
            f"Emotions: {difference['emotion']} differs most, by {difference['points']} points between {difference['between']}.",
        ]
    shared = leakage["train_validation"] + leakage["train_test"]
    lines.append(f"User utterances that training shares with validation or test: {shared}.")
    if questions := report["contradictions"]["questions"]:
        opposed = report["contradictions"]["opposed"]
        lines.append(f"Questions with different answers: {questions:,}, {opposed:,} of them opposed (contradictions.jsonl).")
    lines += ["", *(f"Note: {note}" for note in report["notes"])] if report["notes"] else []
    return "\n".join(lines)
