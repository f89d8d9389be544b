"""LoRA training on planned steps: transformers' Trainer with packed rows, exact resume and atomic checkpoints.

The Trainer brings optimizer, schedule, clipping, devices and checkpoints. Ours are: one dataset item is one whole optimizer step
(a list of packed rows), logits are computed only at supervised positions, and a checkpoint counts only once it is complete.
"""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerControl, TrainerState

from kosent.files import read_json, sha256_folder, write_json
from kosent.finetune.encode import Row, loss_sum
from kosent.finetune.recipes import Recipe

COMPLETE = "complete.json"
"""Written last into a checkpoint: the hash of every other file in it."""


class PackedTrainer(Trainer):
    """A Trainer whose items are lists of packed rows, one optimizer step each."""

    validation: list[Row]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        model.train()
        supervised = sum(row.supervised for row in inputs)
        total = torch.zeros((), device=self.args.device)
        for row in inputs:
            loss = loss_sum(model, row, self.args.device) / supervised
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        model: Any = self.model
        model.eval()
        with torch.no_grad():
            loss = sum(loss_sum(model, row, self.args.device).item() for row in self.validation)
        metrics = {"eval_loss": loss / sum(row.supervised for row in self.validation)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class Steps(torch.utils.data.Dataset[list[Row]]):
    def __init__(self, plan: list[list[Row]]) -> None:
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> list[Row]:
        return self.plan[index]


class Watch(TrainerCallback):
    """Tells the interface about each step, seals checkpoints, and turns Ctrl-C into a checkpoint and a clean end."""

    def __init__(self, advance: Callable[[int, str], None], tokens: list[int]) -> None:
        self.advance, self.tokens = advance, tokens
        self.interrupted = False
        self.began = time.monotonic()
        self.first_step = 0
        self.validation = ""
        self._previous: Any = None

    def _interrupt(self, signum: int, frame: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.first_step = state.global_step
        self._previous = (signal.signal(signal.SIGINT, self._interrupt), signal.signal(signal.SIGTERM, self._interrupt))

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        signal.signal(signal.SIGINT, self._previous[0])
        signal.signal(signal.SIGTERM, self._previous[1])

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.interrupted:
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_json(folder / COMPLETE, sha256_folder(folder))

    def tokens_per_second(self, step: int) -> float:
        """Trained tokens per second since this process began."""
        return sum(self.tokens[self.first_step : step]) / max(time.monotonic() - self.began, 1e-9)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        if "eval_loss" in logs:
            self.validation = f", validation {logs['eval_loss']:.3f}"
        elif "loss" in logs:
            speed = self.tokens_per_second(state.global_step)
            self.advance(state.global_step, f"loss {logs['loss']:.3f}{self.validation}, {speed:.0f} tokens/s")


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest complete checkpoint, and the newer ones that are broken."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    broken: list[Path] = []
    for path in found:
        seal = path / COMPLETE
        if seal.is_file():
            files = sha256_folder(path)
            files.pop(COMPLETE)
            if files == read_json(seal):
                return path, broken
        broken.append(path)
    return None, broken


def training_arguments(recipe: Recipe, checkpoints: Path, total_steps: int) -> TrainingArguments:
    training = recipe.training
    return TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        max_steps=total_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim="adamw_torch",
        logging_strategy="steps",
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=training.validation_steps,
        save_strategy="steps",
        save_steps=training.checkpoint_steps,
        save_total_limit=2,
        train_sampling_strategy="sequential",
        seed=training.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )


def with_adapter(model: Any, recipe: Recipe) -> Any:
    """`model` with a fresh LoRA adapter, started from the recipe's seed."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(recipe.training.seed)
    config = LoraConfig(
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,  # type: ignore[arg-type]
        lora_dropout=recipe.lora.dropout,
        target_modules=recipe.lora.targets,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # transformers 5.23 through peft 0.21
        return get_peft_model(model, config)


def save_adapter(model: Any, folder: Path, base: str) -> None:
    """Writes the adapter so that equal adapters are equal files: no path of this machine, target modules in order."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    config = read_json(folder / "adapter_config.json")
    config["base_model_name_or_path"] = base
    config["target_modules"] = sorted(config["target_modules"])
    write_json(folder / "adapter_config.json", config)


def train(
    model: Any, plan: list[list[Row]], validation: list[Row], recipe: Recipe, checkpoints: Path, watch: Watch, resume: Path | None
) -> list[dict[str, float]]:
    """Trains `model` (with its adapter) through `plan` and returns the log, one entry per step or measurement.

    Raises `KeyboardInterrupt` after writing a checkpoint when Ctrl-C or SIGTERM came.
    """
    trainer = PackedTrainer(
        model=model,
        args=training_arguments(recipe, checkpoints, len(plan)),
        train_dataset=Steps(plan),
        eval_dataset=Steps([validation]),
        data_collator=lambda items: items[0],
        callbacks=[watch],
    )
    trainer.validation = validation
    trainer.args._n_gpu = min(trainer.args.n_gpu, 1)  # one item is one step; DataParallel would split it
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if watch.interrupted and trainer.state.global_step < len(plan):
        raise KeyboardInterrupt
    if "eval_loss" not in trainer.state.log_history[-2]:
        trainer.evaluate()
    keep = ("step", "loss", "grad_norm", "learning_rate", "eval_loss")
    log = [{key: entry[key] for key in keep if key in entry} for entry in trainer.state.log_history]
    return [entry for entry in log if len(entry) > 1]
