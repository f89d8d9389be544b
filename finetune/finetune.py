"""Trains a LoRA adapter, or all weights, on dialogues written by `kosent prepare`.

    kosent finetune --recipe starter-cpu --data data --output run
    kosent finetune --recipe starter-cpu --data data --output run --resume        go on after Ctrl-C, a crash or `kill -9`
    kosent finetune --recipe starter-cpu --data data --output run --dry-run       what it will need, without training
    kosent finetune --recipe my.toml --set training.epochs=1 --data data --output run
    kosent finetune --recipe starter-cpu --set lora.rank=0 --data data --output run           all weights, no adapter
    accelerate launch --num_processes 2 -m kosent finetune --recipe … --data data --output run     on two GPUs

The loss is taken on replies and their end-of-turn tokens only. The run directory holds everything later stages need: adapter,
chat template, resolved recipe, hashes of data and base, metrics and the curves. `tensorboard --logdir run` shows them live.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent import __version__, extras
from kosent.errors import UsageError
from kosent.files import write_json, write_text
from kosent.finetune.recipes import Recipe, load_recipe, names
from kosent.progress import clock, progress, say
from kosent.run_directory import FINISHED, TRAINING, RunDirectory, is_run

if TYPE_CHECKING:
    from kosent.finetune.estimate import Estimate
    from kosent.finetune.plan import Encoded, Step
    from kosent.prompts import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", required=True, help=f"{', '.join(names())}, or a .toml file")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder written by `kosent prepare`")
    parser.add_argument("--output", required=True, type=Path, metavar="RUN", help="run directory to make")
    parser.add_argument("--base", help="base model instead of the recipe's: `starter`, a folder or a Hugging Face id")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one key of the recipe")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, or begin when there is none")
    parser.add_argument("--dry-run", action="store_true", help="say what it will need (memory, time, downloads), and stop")
    parser.add_argument("--no-memory-check", action="store_true", help="begin even when the memory seems too small")


@dataclass(frozen=True)
class Job:
    """One training, all its inputs read."""

    output: Path
    recipe: Recipe
    base: str
    """The base as `kosent.hf` takes it."""
    precision: str
    tokenizer: Any
    layout: Layout
    encoded: Encoded
    plan: list[Step]
    validation: Step

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes; the only one, unless `accelerate launch` started several."""
        return process_number() == 0


def process_number() -> int:
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def run(args: argparse.Namespace) -> int:
    extras.require("finetune", what="`kosent finetune`")
    overrides = [*args.set, *([f"base={args.base}"] if args.base else [])]
    recipe = load_recipe(args.recipe, overrides)
    if overrides:
        say(f"Recipe {recipe.name} with {', '.join(overrides)}.")
    if not args.dry_run and is_run(args.output) and not args.resume:
        raise UsageError(f"{args.output} already holds a run.", hint="add --resume to go on with it, or name another --output")
    from kosent import hf
    from kosent.finetune.plan import data_hashes

    hf.quiet()
    hashes = data_hashes(args.data)
    base = _pinned(recipe.base, args.output) if args.resume else recipe.base
    job = _read(args, recipe, base)
    estimated = _describe(job)
    if args.dry_run:
        _refuse(job, estimated)
        return 0
    if not args.no_memory_check:
        _refuse(job, estimated)
    hf.resolve_base(base)
    facts = _facts(job, hashes)
    if args.resume and is_run(args.output) and _already_finished(args.output, facts):
        shutil.rmtree(args.output / "checkpoints", ignore_errors=True)
        say(f"{args.output} is finished; nothing to do.")
        return 0
    if job.is_first:
        write_json(args.output / "run.json", facts)
        write_text(args.output / "chat_template.jinja", job.layout.template)
    _train(job, facts)
    if job.is_first:
        print(f"Trained. The run is in {args.output}. Next: kosent export {args.output}")
    return 0


def _pinned(base: str, output: Path) -> str:
    """The base of a run that goes on: of a hub's, the very commit that it began with."""
    if not is_run(output):
        return base
    begun = RunDirectory.open(output, finished=False)
    recorded = begun.facts["base"]
    return begun.base if recorded.get("revision") and recorded["name"] == base else base


def _read(args: argparse.Namespace, recipe: Recipe, base: str) -> Job:
    from kosent import hf
    from kosent.finetune.plan import encode_data, make_step, some, steps
    from kosent.prompts import layout_for_vocabulary

    tokenizer = hf.load_tokenizer(base)
    layout = layout_for_vocabulary(tokenizer.get_vocab())
    encoded = encode_data(args.data, tokenizer, layout.template, layout, recipe.max_length)
    number, count = process_number(), process_count()
    plan = steps(encoded.train, recipe.training, number, count)
    held_out = some(encoded.validation, recipe.training.validation_dialogues, recipe.training.seed)
    validation = make_step(held_out, recipe.training.micro_batch_tokens, number, count)
    return Job(args.output, recipe, base, resolve_precision(recipe), tokenizer, layout, encoded, plan, validation)


def resolve_precision(recipe: Recipe) -> str:
    """The type of the frozen weights while training; what is trained is always float32."""
    if recipe.full:
        return "float32"
    if recipe.precision != "auto":
        return recipe.precision
    from kosent.hf import fast_precision

    return fast_precision()


def _facts(job: Job, hashes: dict[str, str]) -> dict[str, Any]:
    from kosent import hf

    base = hf.base_facts(job.base, job.output)
    return {
        "format": 2,
        "kosent": __version__,
        "status": TRAINING,
        "recipe": job.recipe.as_dict() | {"base": base["name"]},
        "precision": job.precision,
        "base": base,
        "data": hashes,
        "tokens": job.encoded.summary,
        "layout": job.layout.name,
        "system_message": job.encoded.system_message,
    }


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


def _describe(job: Job) -> Estimate:
    """Says what will be trained and what it needs."""
    from kosent import hf
    from kosent.finetune.estimate import available, estimate, speed

    recipe, tokens = job.recipe, job.encoded.summary
    needed = estimate(job.base, recipe, job.precision, job.plan)
    share = tokens["supervised_tokens"] / tokens["tokens"]
    computed = sum(len(row.ids) for step in job.plan for row in step.rows) / recipe.training.epochs * process_count()
    held = " in 4 bits" if recipe.quantization == "nf4" else f" in {job.precision}"
    total, trained = needed.parameters["total"], needed.parameters["trainable"]
    say(f"Base {recipe.base}{held}: {total / 1e6:,.0f} million parameters, {trained / 1e6:,.2f} million of them trained.")
    say(
        f"{tokens['dialogues']:,} dialogues, {tokens['tokens']:,} tokens ({computed:,.0f} to compute, with what dialogues share "
        f"taken once), {share:.0%} of them supervised; {len(job.plan):,} steps in {recipe.training.epochs} epochs."
    )
    if tokens["truncated_dialogues"]:
        say(f"{tokens['truncated_dialogues']} dialogues are longer than {recipe.max_length} tokens and lose their last turns.")
    free, where = available()
    seconds = needed.work / speed(job.precision)
    say(
        f"Memory: about {needed.peak:.1f} GB (weights {needed.weights:.1f}, optimizer {needed.optimizer:.1f}, activations "
        f"{needed.activations:.1f}, the rest {needed.process:.1f}) of {free:.1f} GB in {where}. Time: about {clock(seconds)}."
    )
    missing = hf.downloads(job.base)
    if missing:
        size = sum(missing.values()) / 1e9
        say(f"To be downloaded from the hub: {size:.2f} GB in {len(missing)} files of {recipe.base}.")
    return needed


def _refuse(job: Job, needed: Estimate) -> None:
    """Raises `UsageError` when the memory does not suffice, with the mildest change that would."""
    from kosent.finetune.estimate import alternatives, available, estimate
    from kosent.finetune.plan import steps

    free, where = available()
    if needed.peak <= free:
        return
    longest = max(len(dialogue.ids) for dialogue in job.encoded.train)
    hint = "a smaller base, for instance --base starter; or --no-memory-check to try all the same"
    for changes, recipe in alternatives(job.recipe, longest):
        plan = steps(job.encoded.train, recipe.training)
        less = estimate(job.base, recipe, job.precision, plan).peak
        if less <= free:
            hint = f"kosent finetune … {' '.join(f'--set {change}' for change in changes)}     (about {less:.1f} GB)"
            break
    raise UsageError(f"This training needs about {needed.peak:.1f} GB, and {where} has {free:.1f} GB.", hint=hint)


def _train(job: Job, facts: dict[str, Any]) -> None:
    from accelerate import PartialState

    from kosent import hf
    from kosent.finetune.checkpoints import newest_checkpoint, step_of
    from kosent.finetune.train import parameters, train, trainable
    from kosent.finetune.watch import Metrics, Watch

    began = time.monotonic()
    checkpoints = job.output / "checkpoints"
    loaded = hf.load_model(job.base, dtype=job.precision, quantization=job.recipe.quantization)
    untrained = hf.untrained_turn_tokens(loaded, job.tokenizer, job.layout)
    if untrained:
        say(
            f"Warning: the base has never learned {', '.join(untrained)}, with which its chat layout opens and closes turns, and "
            "an adapter cannot teach it. Take the instruction-tuned variant of the model (often named -Instruct or -it)."
        )
    model = trainable(loaded, job.recipe)
    facts["parameters"] = parameters(model)
    resume, broken = newest_checkpoint(checkpoints)
    for path in broken:
        say(f"{path.name} is incomplete and is left out.")
    if process_count() > 1:
        import torch

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()
    if job.is_first:
        for path in broken:
            shutil.rmtree(path)
    start = step_of(resume) if resume else 0
    if resume:
        say(f"Going on after step {start}.")
    metrics = Metrics(job.output / "metrics.jsonl", resume) if job.is_first else None
    with progress("training", len(job.plan), start=start) as advance:
        watch = Watch(advance, metrics, job.output / "tensorboard" if job.is_first else None)
        trainer = train(model, job.plan, job.validation, job.recipe, checkpoints, watch, resume, facts["base"]["name"])
    _save(job, facts, trainer, metrics, start, time.monotonic() - began)


def _save(job: Job, facts: dict[str, Any], trainer: Any, metrics: Any, start: int, seconds: float) -> None:
    """Writes what the run is for, and only then says that it is finished and drops the checkpoints."""
    from kosent import hf
    from kosent.finetune.checkpoints import BEST, copy_tokenizer
    from kosent.finetune.plots import plot_run
    from kosent.finetune.train import peak_memory

    checkpoints = job.output / "checkpoints"
    target = job.output / ("model" if job.recipe.full else "adapter")
    best = checkpoints / BEST
    if job.recipe.training.patience and best.is_dir():
        if job.is_first:
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(best, target)
    else:
        trainer.save_to(target)
    if not job.is_first:
        return
    if job.recipe.full:
        copy_tokenizer(Path(hf.resolve_base(job.base)), target)
    if job.recipe.training.patience:
        lowest = min(metrics.validations, key=lambda entry: entry["eval_loss"])
        facts["best"] = {"step": lowest["step"], "eval_loss": lowest["eval_loss"]}
        say(f"Kept: the weights of step {lowest['step']}, which had the lowest validation loss, {lowest['eval_loss']:.4f}.")
    plot_run(metrics.entries, job.output / "loss.png")
    trained = [entry for entry in metrics.entries if "loss" in entry]
    spent = sum(entry["seconds"] for entry in trained)
    peak = max(peak_memory(), *(entry["memory_gb"] for entry in trained))
    write_json(
        job.output / "timing.json",
        {"seconds": round(seconds, 1), "resumed_after_step": start, "training_seconds": round(spent, 1),
         "tokens_per_second": round(sum(e["tokens_per_second"] * e["seconds"] for e in trained) / spent, 1),
         "dialogues_per_second": round(sum(e["dialogues_per_second"] * e["seconds"] for e in trained) / spent, 3),
         "peak_memory_gb": round(peak, 2)},
    )  # fmt: skip
    write_json(job.output / "run.json", facts | {"status": FINISHED})
    shutil.rmtree(checkpoints, ignore_errors=True)
