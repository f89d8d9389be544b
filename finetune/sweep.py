"""Trains the same recipe several times with different settings, and shows the runs side by side.

    kosent sweep --recipe starter-cpu --data data --output sweep --set lora.rank=0,8,16        0 trains the whole model
    kosent sweep --recipe starter-cpu --data data --output sweep --set lora.rank=0,8,16 --resume         go on with it
    kosent sweep ... --set lora.rank=8,16 --set training.learning_rate=1e-4,3e-4               four runs: each with each
    kosent sweep ... --set lora.rank=8,16 --set training.epochs=1                              two runs of one epoch each
    kosent sweep ... --set 'lora.targets=all-linear,".*(q|v)_proj"'                            two runs; quotes keep a value whole

Each run is a `kosent finetune` in a process of its own and lies in a folder of its own (sweep/lora.rank=8), which `kosent
export` takes like any other. Every run, and the base before training, then answers ten fixed prompts. Read the validation loss
and the replies: the lowest training loss is often not the best model. A run that fails is reported, and the others go on.

Writes sweep.html (everything on one page), sweep.md, sweep.json, replies.csv (opens in Excel) and losses.png.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from kosent import __version__, extras
from kosent.errors import UsageError
from kosent.files import read_json, write_json
from kosent.finetune.recipes import Recipe, load_recipe, names
from kosent.finetune.sweep_replies import FILE, LONGEST, prompts
from kosent.progress import say
from kosent.run_directory import FINISHED, RunDirectory, is_run
from kosent.stages import KOSENT, Ended, call, locked

FAILED, WAITING = "failed", "waiting"
"""What a run is besides `FINISHED`."""
REFUSED = re.compile(r"^kosent \w+: (.+)$", re.MULTILINE)
"""An error as `kosent.cli` prints it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", required=True, help=f"{', '.join(names())}, or a .toml file")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder written by `kosent prepare`")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the runs and the comparison")
    parser.add_argument(
        "--set", required=True, action="append", metavar="KEY=V1,V2", help="values of one key of the recipe; several times"
    )
    parser.add_argument("--base", help="base model instead of the recipe's: `starter`, a folder or a Hugging Face id")
    parser.add_argument("--no-memory-check", action="store_true", help="begin runs even when the memory seems too small")
    parser.add_argument("--resume", action="store_true", help="go on: finished runs are kept, failed ones are tried again")


@dataclass(frozen=True)
class Run:
    """One training of the sweep."""

    name: str
    """The values that tell it from the others; also its folder."""
    overrides: list[str]
    """What it changes in the recipe, as `finetune --set` takes it."""
    recipe: Recipe


def run(args: argparse.Namespace) -> int:
    extras.require("finetune", what="`kosent sweep`")
    runs = plan(args.recipe, args.set, args.base)
    from kosent.finetune.plan import data_hashes, read_split

    hashes, first = data_hashes(args.data), read_split(args.data, "train")[0][0]
    with locked(args.output, "kosent sweep"):
        record = begin(args, runs, hashes, first["content"] if first["role"] == "system" else "")
        try:
            carry_out(args, runs, record)
        except KeyboardInterrupt:
            say(f"\nTo go on: {again(args)}")
            raise
    from kosent.finetune.sweep_report import summary

    print(summary(args.output, record, args.data))
    return 1 if any(entry["error"] for entry in [*record["bases"].values(), *record["runs"].values()]) else 0


def split_values(text: str) -> list[str]:
    """`8,16` as its values. A comma inside a TOML list, table or quotation belongs to the value. Raises `UsageError`."""
    values, depth, quote = [""], 0, ""
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote and not (quote == '"' and text[place - 1] == "\\") else quote
        elif character in "\"'" and (depth or not values[-1].strip()):
            quote = character
        else:
            depth += (character in "[{") - (character in "]}")
        if character == "," and not quote and depth == 0:
            values.append("")
        else:
            values[-1] += character
    values = [value.strip() for value in values]
    if quote or depth or "" in values:
        what = "a quotation or bracket is not closed" if quote or depth else "a value is empty"
        raise UsageError(f"--set {text}: {what}.", hint="--set lora.rank=8,16")
    return values


def plan(recipe: str, settings: list[str], base: str | None) -> list[Run]:
    """Every combination of the values, in the order they were given. Raises `UsageError` for all that cannot be trained."""
    choices: dict[str, list[str]] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key.strip():
            raise UsageError(f"--set takes KEY=V1,V2, not {setting!r}.", hint="--set lora.rank=8,16")
        if key.strip() in choices:
            raise UsageError(f"--set {key.strip()} is given twice.", hint=f"--set {key.strip()}=ONE,OTHER")
        choices[key.strip()] = split_values(text)
    varied = [key for key, values in choices.items() if len(values) > 1]
    if not varied:
        raise UsageError("Every --set has one value, so there is nothing to compare.", hint="--set lora.rank=8,16")
    runs: list[Run] = []
    problems: dict[str, None] = {}
    for values in product(*choices.values()):
        chosen = dict(zip(choices, values, strict=True))
        overrides = [f"{key}={value}" for key, value in chosen.items()]
        try:
            resolved = load_recipe(recipe, [*([f"base={base}"] if base else []), *overrides])
        except UsageError as error:
            problems.setdefault(str(error))
            continue
        runs.append(Run(_name({key: chosen[key] for key in varied}, [run.name for run in runs]), overrides, resolved))
    if problems:
        raise UsageError("\n".join(problems), hint="kosent sweep --help     (nothing was trained)")
    for run, other in ((run, other) for index, run in enumerate(runs) for other in runs[:index]):
        if run.recipe == other.recipe:
            raise UsageError(f"{other.name} and {run.name} are the same training.", hint="give each value once")
    return runs


def _name(chosen: dict[str, str], taken: list[str]) -> str:
    """A folder name without anything that a shell, a file system or a picture could trip over."""
    name = ",".join(f"{key}={re.sub('[^A-Za-z0-9._+-]+', '-', value).strip('-.') or '-'}" for key, value in chosen.items())[:120]
    return next(found for found in (name, *(f"{name}-{number}" for number in range(2, 1000))) if found not in taken)


def begin(args: argparse.Namespace, runs: list[Run], hashes: dict[str, str], system: str) -> dict[str, Any]:
    """The record of the sweep in its folder, made or gone on with. Raises `UsageError` when it is that of another sweep."""
    file = args.output / "sweep.json"
    earlier: dict[str, Any] = read_json(file) if file.is_file() else {}
    if earlier and not args.resume:
        raise UsageError(
            f"{args.output} already holds a sweep.", hint=f"{again(args)}     (goes on with it); or name another --output"
        )
    known = earlier.get("runs", {})
    other = [run.name for run in runs if run.name in known and known[run.name]["recipe"] != run.recipe.as_dict()]
    if other or earlier.get("data", hashes) != hashes:
        what = f"other settings for {', '.join(other)}" if other else "other data"
        raise UsageError(f"{args.output} was begun with {what}; its runs would not be comparable.", hint="name another --output")
    bases = list(dict.fromkeys(run.recipe.base for run in runs))
    labels = {base: "base" if len(bases) == 1 else f"base {number}" for number, base in enumerate(bases, 1)}
    return {
        "format": 1,
        "kosent": __version__,
        "data": hashes,
        "system_message": system,
        "prompts": prompts(),
        "max_tokens": LONGEST,
        "bases": {label: {"model": base, "error": "", "replies": []} for base, label in labels.items()},
        "runs": {
            run.name: {"status": WAITING, "error": "", "last_words": "", "measures": {}, "replies": []}
            | (known[run.name] if run.name in known and known[run.name]["status"] == FINISHED else {})
            | {"settings": run.overrides, "recipe": run.recipe.as_dict()}
            for run in runs
        },
    }


def again(args: argparse.Namespace) -> str:
    """The command that goes on with this sweep."""
    parts = ["kosent", "sweep", "--recipe", args.recipe, "--data", str(args.data), "--output", str(args.output)]
    parts += [part for setting in args.set for part in ("--set", setting)]
    parts += [*(["--base", args.base] if args.base else []), *(["--no-memory-check"] if args.no_memory_check else [])]
    return shlex.join([*parts, "--resume"])


def carry_out(args: argparse.Namespace, runs: list[Run], record: dict[str, Any]) -> None:
    """The base's replies, then every run with its own; what is known is written after each."""
    from kosent.finetune.sweep_report import measures, write_report

    write_json(args.output / "sweep.json", record)
    for label, entry in record["bases"].items():
        say(f"{label}: {entry['model']} answers {len(record['prompts'])} prompts before any training")
        _ask(entry, entry["model"], args.output / label.replace(" ", "-"), record["system_message"])
    for number, run in enumerate(runs, 1):
        entry, folder, place = record["runs"][run.name], args.output / run.name, f"[{number}/{len(runs)}] {run.name}:"
        if _is_kept(entry, folder):
            say(f"{place} kept")
        else:
            say(f"{place} training")
            _train(args, run, entry)
        if entry["status"] == FINISHED:
            entry["measures"] = measures(folder)
            say(f"{place} answers {len(record['prompts'])} prompts")
            _ask(entry, str(folder), folder, record["system_message"])
        write_report(args.output, record)


def _is_kept(entry: dict[str, Any], folder: Path) -> bool:
    """Whether the run was trained with what it would be trained with now; recipe and data were compared by `begin`."""
    if entry["status"] != FINISHED or not is_run(folder):
        return False
    from kosent import hf

    facts = RunDirectory.open(folder, finished=False).facts
    return bool(facts["status"] == FINISHED and facts["base"]["sha256"] == hf.base_hashes(entry["recipe"]["base"]))


def _train(args: argparse.Namespace, run: Run, entry: dict[str, Any]) -> None:
    command = ["finetune", "--recipe", args.recipe, "--data", str(args.data), "--output", str(args.output / run.name)]
    command += ["--resume", *(["--base", run.recipe.base] if args.base else [])]
    command += ["--no-memory-check"] if args.no_memory_check else []
    command += [part for override in run.overrides for part in ("--set", override)]
    _note(entry, call([*KOSENT, *command], "stderr"))
    entry["status"] = FAILED if entry["error"] else FINISHED


def _ask(entry: dict[str, Any], model: str, folder: Path, system: str) -> None:
    command = [sys.executable, "-m", "kosent.finetune.sweep_replies", model, str(folder / FILE), system]
    ended = call(command, "stderr")
    _note(entry, ended)
    if entry["error"]:
        entry["error"] = f"no replies: {entry['error']}"
    entry["replies"] = [] if entry["error"] else read_json(folder / FILE)["replies"]


def _note(entry: dict[str, Any], ended: Ended) -> None:
    """Keeps why a process failed: in one line, and what it said last."""
    said = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", ended.said).replace("\r\n", "\n")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    refused = REFUSED.findall(said)
    reason = refused[-1] if refused else lines[-1] if lines else ""
    if ended.code == -9:
        reason = "the system killed it (signal 9), most often because memory ran out"
    entry["error"] = (reason or ended.how) if ended.code else ""
    entry["last_words"] = "\n".join(lines[-40:]) if ended.code else ""
