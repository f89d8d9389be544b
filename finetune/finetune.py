"""Trains a LoRA adapter on dialogues written by `kosent prepare`.

    kosent finetune --recipe starter-cpu --data data --output run
    kosent finetune --recipe starter-cpu --data data --output run --resume        go on after Ctrl-C, a crash or `kill -9`
    kosent finetune --recipe starter-cpu --data data --output run --dry-run       what would be trained, without training
    kosent finetune --recipe my.toml --set training.epochs=1 --data data --output run

The loss is taken on replies and their end-of-turn tokens only. The run directory holds everything later stages need: adapter,
chat template, resolved recipe, hashes of data and base, metrics and the loss curve.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent import __version__, extras
from kosent.errors import UsageError
from kosent.files import write_json, write_jsonl, write_text
from kosent.finetune.recipes import Recipe, load_recipe, names
from kosent.progress import progress, say
from kosent.run_directory import FINISHED, TRAINING, RunDirectory, is_run

if TYPE_CHECKING:
    from kosent.finetune.plan import Encoded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", required=True, help=f"{', '.join(names())}, or a .toml file")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder written by `kosent prepare`")
    parser.add_argument("--output", required=True, type=Path, metavar="RUN", help="run directory to make")
    parser.add_argument("--base", help="base model instead of the recipe's: `starter`, a folder or a Hugging Face id")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one key of the recipe")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, or begin when there is none")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained, and stop")


def run(args: argparse.Namespace) -> int:
    extras.require("finetune", what="`kosent finetune`")
    overrides = [*args.set, *([f"base={args.base}"] if args.base else [])]
    recipe = load_recipe(args.recipe, overrides)
    if overrides:
        say(f"Recipe {recipe.name} with {', '.join(overrides)}.")
    if not args.dry_run and is_run(args.output) and not args.resume:
        raise UsageError(f"{args.output} already holds a run.", hint="add --resume to go on with it, or name another --output")
    from kosent import hf
    from kosent.finetune.plan import data_hashes, encode_data
    from kosent.prompts import layout_for_vocabulary

    hf.quiet()
    hashes = data_hashes(args.data)
    tokenizer = hf.load_tokenizer(recipe.base)
    layout = layout_for_vocabulary(tokenizer.get_vocab())
    encoded = encode_data(args.data, tokenizer, layout.template, layout, recipe.max_length)
    facts = {
        "format": 1,
        "kosent": __version__,
        "status": TRAINING,
        "recipe": recipe.as_dict(),
        "precision": resolve_precision(recipe),
        "base": {"name": recipe.base, "sha256": hf.base_hashes(recipe.base)},
        "data": hashes,
        "tokens": encoded.summary,
        "layout": layout.name,
        "system_message": encoded.system_message,
    }
    _describe(facts, encoded, recipe)
    if args.dry_run:
        return 0
    if args.resume and is_run(args.output) and _already_finished(args.output, facts):
        shutil.rmtree(args.output / "checkpoints", ignore_errors=True)
        say(f"{args.output} is finished; nothing to do.")
        return 0
    write_json(args.output / "run.json", facts)
    write_text(args.output / "chat_template.jinja", layout.template)
    _train(args.output, facts, encoded, recipe)
    print(f"Trained. The run is in {args.output}. Next: kosent export {args.output}")
    return 0


def resolve_precision(recipe: Recipe) -> str:
    """The type of the frozen weights while training; the adapter is always float32."""
    if recipe.precision != "auto":
        return recipe.precision
    import torch

    from kosent.hf import cpu_has_bf16

    hardware = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else cpu_has_bf16()
    return "bfloat16" if hardware else "float32"


def _already_finished(output: Path, facts: dict[str, Any]) -> bool:
    """Whether the run is done. Raises `UsageError` when it was begun with another recipe, base or data."""
    earlier = RunDirectory.open(output, finished=False).facts
    other = [key for key in ("recipe", "precision", "base", "data", "layout") if earlier.get(key) != facts[key]]
    if other:
        raise UsageError(
            f"{output} was begun with another {' and '.join(other)}; going on would mix two trainings.",
            hint="name another --output, or remove that folder",
        )
    return bool(earlier["status"] == FINISHED)


def _describe(facts: dict[str, Any], encoded: Encoded, recipe: Recipe) -> None:
    tokens = facts["tokens"]
    share = tokens["supervised_tokens"] / tokens["tokens"]
    per_epoch = -(-tokens["dialogues"] // recipe.training.batch_dialogues)
    say(
        f"Base {recipe.base} in {facts['precision']}; {tokens['dialogues']} dialogues, {tokens['tokens']} tokens, "
        f"{share:.0%} of them supervised; {per_epoch * recipe.training.epochs} steps in {recipe.training.epochs} epochs."
    )
    if tokens["truncated_dialogues"]:
        say(f"{tokens['truncated_dialogues']} dialogues are longer than {recipe.max_length} tokens and lose their last turns.")


def _train(output: Path, facts: dict[str, Any], encoded: Encoded, recipe: Recipe) -> None:
    from kosent import hf
    from kosent.finetune.encode import pack
    from kosent.finetune.plan import steps
    from kosent.finetune.plots import plot_loss
    from kosent.finetune.train import Watch, newest_checkpoint, save_adapter, train, with_adapter

    began = time.monotonic()
    plan = steps(encoded.train, recipe.training)
    validation = pack(encoded.validation, recipe.training.micro_batch_tokens)
    model = with_adapter(hf.load_model(recipe.base, dtype=facts["precision"]), recipe)
    checkpoints = output / "checkpoints"
    resume, broken = newest_checkpoint(checkpoints)
    for path in broken:
        say(f"{path.name} is incomplete and is left out.")
        shutil.rmtree(path)
    start = int(resume.name.rpartition("-")[2]) if resume else 0
    if resume:
        say(f"Going on after step {start}.")
    with progress("training", len(plan), start=start) as advance:
        watch = Watch(advance, [sum(len(row.ids) for row in rows) for rows in plan])
        log = train(model, plan, validation, recipe, checkpoints, watch, resume)
    speed = watch.tokens_per_second(len(plan))
    save_adapter(model, output / "adapter", recipe.base)
    write_jsonl(output / "metrics.jsonl", log)
    plot_loss(log, output / "loss.png")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform != "darwin" else 1e9)
    write_json(
        output / "timing.json",
        {"seconds": round(time.monotonic() - began, 1), "resumed_after_step": start,
         "tokens_per_second": round(speed, 1), "peak_memory_gb": round(peak, 2)},
    )  # fmt: skip
    write_json(output / "run.json", facts | {"status": FINISHED})
    shutil.rmtree(checkpoints, ignore_errors=True)
