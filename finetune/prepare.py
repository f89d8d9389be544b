"""Reads corpora, cleans them and splits them into training, validation and test files.

    kosent prepare starter --output data                    the corpus that comes with KoSent
    kosent prepare 감성대화_Training.csv --output data        AI Hub's 감성대화말뭉치 as CSV, cp949 or UTF-8
    kosent prepare one.csv two.csv --output data            several together

Writes into DIR: train.jsonl, validation.jsonl, test.jsonl (one {"messages": [...], "meta": {...}} a line), report.json and
report.md (what was understood, what each rule did, shares of emotions), rejected.jsonl (what was left out, and why).
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from kosent.errors import DataError, UsageError
from kosent.files import write_json, write_jsonl, write_text
from kosent.finetune.cleaning import SPLITS, Cleaned, clean_dialogues
from kosent.finetune.corpus import read_corpus
from kosent.prompts import SYSTEM_MESSAGE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="a corpus file, or `starter`")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the files; made if need be")
    parser.add_argument("--system", default=SYSTEM_MESSAGE, help=f'system message of every dialogue ("{SYSTEM_MESSAGE}")')
    parser.add_argument("--validation", type=float, default=0.06, help="share of dialogues for validation (0.06)")
    parser.add_argument("--test", type=float, default=0.12, help="share of dialogues held out for the test (0.12)")


def run(args: argparse.Namespace) -> int:
    if min(args.validation, args.test) < 0 or args.validation + args.test >= 1:
        raise UsageError("--validation and --test are shares from 0 to 1 and must leave something for training.")
    raws, understood = [], []
    for source in args.sources:
        dialogues, line = read_corpus(source)
        raws += dialogues
        understood.append(line)
        print(line)
    cleaned = clean_dialogues(raws, args.system, validation=args.validation, test=args.test)
    empty = [split for split in SPLITS if not cleaned.rows[split]]
    if empty:
        raise DataError(
            f"Of {len(raws)} dialogues none is left for {', '.join(empty)} ({dict(cleaned.counts) or 'nothing rejected'}).",
            hint="give a larger corpus, or other shares with --validation and --test",
        )
    report = build_report(cleaned, understood)
    for split in SPLITS:
        write_jsonl(args.output / f"{split}.jsonl", cleaned.rows[split])
    write_jsonl(args.output / "rejected.jsonl", cleaned.rejected)
    write_json(args.output / "report.json", report)
    write_text(args.output / "report.md", as_markdown(report))
    print(as_markdown(report))
    print(f"Written to {args.output}. Next: kosent finetune --recipe starter-cpu --data {args.output} --output run")
    return 0


def build_report(cleaned: Cleaned, understood: list[str]) -> dict[str, Any]:
    splits = {}
    for split in SPLITS:
        rows = cleaned.rows[split]
        emotions = Counter(row["meta"].get("감정_대분류", "(none)") for row in rows)
        splits[split] = {
            "dialogues": len(rows),
            "replies": sum(message["role"] == "assistant" for row in rows for message in row["messages"]),
            "emotion_shares": {name: round(count / len(rows), 4) for name, count in sorted(emotions.items())},
        }
    return {"understood": understood, "splits": splits, "rules": dict(sorted(cleaned.counts.items()))}


def as_markdown(report: dict[str, Any]) -> str:
    splits = report["splits"]
    emotions = sorted({name for split in splits.values() for name in split["emotion_shares"]})
    lines = ["| split | dialogues | replies | " + " | ".join(emotions) + " |", "|---" * (3 + len(emotions)) + "|"]
    for name, split in splits.items():
        shares = " | ".join(f"{split['emotion_shares'].get(emotion, 0):.1%}" for emotion in emotions)
        lines.append(f"| {name} | {split['dialogues']} | {split['replies']} | {shares} |")
    lines += ["", "Rules that acted: " + (", ".join(f"{k} {v}" for k, v in report["rules"].items()) or "none") + "."]
    return "\n".join(lines) + "\n"
