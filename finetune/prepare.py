"""Reads corpora, cleans them by rules that are each counted, and splits them into training, validation and test files.

    kosent prepare 감성대화_Training.csv --output data              format and encoding are found by looking at the file
    kosent prepare a.xlsx b.json ChatbotData.csv --output data      several together
    kosent prepare 감성대화.csv --output data --tokenizer starter    bounds of length in tokens of that model
    kosent prepare messy.csv --output data --skip-broken            go on without rows that cannot be read, and keep them
    kosent prepare chats.jsonl --output data --without near,script  switch rules off
    kosent prepare chats.jsonl --output data --set repetition.laughter=3    ㅋㅋㅋㅋㅋㅋ becomes ㅋㅋㅋ

Writes into DIR, whole or not at all:
    train.jsonl, validation.jsonl, test.jsonl    {"messages": [...], "meta": {...}} a line
    train.preferences.jsonl …                    {"prompt", "chosen", "rejected"}, where the corpus ranks replies
    train.prompts.jsonl …                        {"prompt"}, where it has prompts alone
    report.html, report.json                     open report.html in a browser: what was cleaned, with examples
    rejected.jsonl, changed.jsonl                every row left out and every utterance changed: rule, before, after
    contradictions.jsonl                         the same question with different answers
"""

from __future__ import annotations

import argparse
import shlex
import textwrap
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent import extras
from kosent.errors import DataError, KosentError, UsageError
from kosent.files import atomic_folder, write_json, write_text
from kosent.finetune.corpus import FORMATS, SAME_COMMAND, Corpus, open_corpus, source_path
from kosent.finetune.page import page
from kosent.finetune.prepare_report import build_report, summary
from kosent.finetune.records import SPLITS, BrokenRow
from kosent.finetune.rules import RULES, CleaningSettings, flat_settings, resolve_settings, switched_on
from kosent.finetune.tokens import Lengths, characters, token_lengths
from kosent.progress import progress
from kosent.prompts import SYSTEM_MESSAGE

if TYPE_CHECKING:
    from kosent.finetune.pipeline import Pipeline

KINDS = ("", ".preferences", ".prompts")
MADE = {f"{split}{kind}.jsonl" for split in SPLITS for kind in KINDS} | {
    "report.html", "report.json", "report.md", "rejected.jsonl", "changed.jsonl", "contradictions.jsonl",
}  # fmt: skip
"""Every file that prepare makes, now or in an earlier version: a folder with these alone may be replaced."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="a corpus file, or `starter`")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of its own for the files")
    parser.add_argument(
        "--format", choices=sorted(FORMATS), metavar="NAME", help=f"instead of looking: {', '.join(sorted(FORMATS))}"
    )
    parser.add_argument("--encoding", metavar="NAME", help="instead of looking: utf-8, cp949 …")
    parser.add_argument("--skip-broken", action="store_true", help="go on without rows that cannot be read")
    parser.add_argument("--system", default=SYSTEM_MESSAGE, help=f'system message of every dialogue ("{SYSTEM_MESSAGE}")')
    parser.add_argument("--keep-system", action="store_true", help="where a dialogue has a system message of its own, keep that")
    parser.add_argument("--validation", type=float, default=0.06, help="share of dialogues for validation (0.06)")
    parser.add_argument("--test", type=float, default=0.12, help="share of dialogues held out for the test (0.12)")
    parser.add_argument("--tokenizer", metavar="MODEL", help="count lengths in its tokens: `starter`, a folder, a Hub id")
    parser.add_argument(
        "--without", action="append", default=[], metavar="RULE,…", help="switch cleaning rules off; `all` for all"
    )
    parser.add_argument("--set", action="append", default=[], metavar="RULE.NAME=VALUE", help="change a number of a rule")
    numbers = ", ".join(f"{name}={value:g}" for name, value in flat_settings(CleaningSettings()).items())
    rules = [textwrap.fill(f"  {name:<15}{what}", 100, subsequent_indent=" " * 17) for name, what in RULES.items()]
    parser.epilog = "\n".join(
        ["rules:", *rules, "", "numbers that --set changes (docs/corpora.md says what each is):", textwrap.fill(numbers, 100)]
    )


def run(args: argparse.Namespace) -> int:
    if not (args.validation >= 0 and args.test >= 0 and args.validation + args.test < 1):
        raise UsageError("--validation and --test are shares from 0 to 1 and must leave something for training.")
    settings, on = resolve_settings(args.set), switched_on(args.without)
    _check_folder(args.output, args.sources)
    extras.require("prepare", what="`kosent prepare`")
    lengths = token_lengths(args.tokenizer) if args.tokenizer else characters
    try:
        report = _prepare(args, settings, on, lengths)
    except DataError as error:
        if error.hint and error.hint.startswith(SAME_COMMAND):
            error.hint = _command(args) + error.hint.removeprefix(SAME_COMMAND)
        raise
    except OSError as error:
        problem = f"{error.filename or args.output}: {error.strerror or error}"
        raise KosentError(f"{problem}. Nothing was written.", hint=f"df -h {shlex.quote(str(args.output.parent))}") from error
    print(summary(report))
    print(f"Written to {args.output}; look at {args.output / 'report.html'}.")
    if report["splits"]["train"]["dialogues"]:
        print(f"Next: kosent finetune --recipe starter-cpu --data {shlex.quote(str(args.output))} --output run")
    return 0


def _prepare(args: argparse.Namespace, settings: CleaningSettings, on: frozenset[str], lengths: Lengths) -> dict[str, Any]:
    from kosent.finetune.pipeline import Pipeline

    with atomic_folder(args.output) as folder:
        pipeline = Pipeline(
            folder, settings, on, lengths, in_tokens=bool(args.tokenizer), system=args.system,
            keep_system=args.keep_system, shares=(args.validation, args.test),
        )  # fmt: skip
        with closing(pipeline):
            corpora = _open(args, pipeline)
            for _, corpus in corpora:
                print(corpus.understood)
            size = max(1, sum(corpus.size for _, corpus in corpora))
            with progress("reading, %", 100) as advance:
                pipeline.read(corpora, lambda done: advance(100 * done // size, f"{pipeline.records:,} rows"))
            with progress("writing", pipeline.selection.rows) as advance:
                pipeline.write(lambda done: advance(done, ""))
        report = build_report(pipeline, corpora)
        _check_splits(report, args)
        write_json(folder / "report.json", report)
        write_text(folder / "report.html", page(report))
    return report


def _command(args: argparse.Namespace) -> str:
    """The command as it was typed, for a hint that can be pasted."""
    defaults = argparse.ArgumentParser()
    add_arguments(defaults)
    words = ["kosent", "prepare", *args.sources, "--output", str(args.output)]
    for name, value in vars(args).items():
        if name in ("sources", "output") or value == defaults.get_default(name):
            continue
        flag = f"--{name.replace('_', '-')}"
        words += (
            [flag]
            if value is True
            else [part for one in (value if isinstance(value, list) else [value]) for part in (flag, str(one))]
        )
    return shlex.join(words)


def _check_folder(folder: Path, sources: list[str]) -> None:
    """The folder is replaced whole: it must hold nothing but what prepare made, and nothing may stand in it."""
    place = folder.resolve()
    if place.exists() and not place.is_dir():
        raise UsageError(f"--output {folder} is there and is no folder.", hint="--output data")
    if place.is_mount() or Path.cwd().is_relative_to(place):
        raise UsageError(
            f"--output {folder} would be replaced whole, and it is the current folder, one above it, or a mounted one.",
            hint=f"--output {shlex.quote(str(folder / 'data'))}",
        )
    inside = [source for source in sources if Path(source).expanduser().resolve().is_relative_to(place)]
    if inside:
        raise UsageError(f"--output {folder} would be replaced whole, and {inside[0]} lies in it.", hint="--output data")
    names = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    strange = [name for name in names if name not in MADE] or (names if "report.json" not in names else [])
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise UsageError(
            f"--output {folder} would be replaced whole, and it holds what prepare did not make: {', '.join(strange[:3])}{more}.",
            hint=f"--output {shlex.quote(str(folder / 'data'))}",
        )


def _open(args: argparse.Namespace, pipeline: Pipeline) -> list[tuple[str, Corpus]]:
    """The corpora with the names they go by: the file's, or the path where two files have one name."""
    names = [Path(source).name for source in args.sources]
    paths = [source_path(source).resolve() for source in args.sources]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice:
        raise UsageError(f"{twice} is given twice.")
    corpora = []
    for source, name in zip(args.sources, names, strict=True):
        label = source if names.count(name) > 1 else name

        def on_broken(broken: BrokenRow, label: str = label) -> None:
            pipeline.unreadable(label, broken)

        corpus = open_corpus(
            source, format=args.format, encoding=args.encoding, on_broken=on_broken if args.skip_broken else None
        )
        corpora.append((corpus.name if source == "starter" else label, corpus))
    return corpora


def _check_splits(report: dict[str, Any], args: argparse.Namespace) -> None:
    wanted = {"train": True, "validation": args.validation > 0, "test": args.test > 0}
    splits = {name: split for name, split in report["splits"].items() if wanted[name]}
    kinds = [kind for kind in ("dialogues", "preferences", "prompts") if any(split[kind] for split in splits.values())]
    empty = [name for name, split in splits.items() if not any(split[kind] for kind in kinds)]
    if empty:
        acted = {rule["name"]: rule["rejected"] for rule in report["rules"] if rule["rejected"]}
        raise DataError(
            f"Of {report['totals']['records']} rows none is left for {', '.join(empty)} ({acted or 'nothing was left out'}). "
            "A row's split depends on its words: what prepare has put into one split goes there again, so give all of them "
            "together. Otherwise give a larger corpus, other shares (--validation, --test), or switch a rule off (--without).",
            hint="kosent prepare --help",
        )
