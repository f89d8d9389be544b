"""Training on planned steps: transformers' Trainer with packed rows, exact resume and sealed checkpoints.

The Trainer brings optimizer, schedule, clipping, devices, DDP and FSDP, and checkpoints. Ours are: one dataset item is one whole
optimizer step, the loss of a row (`kosent.finetune.fast`), and a checkpoint that counts only once it is complete.
"""

from __future__ import annotations

import resource
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from kosent import extras
from kosent.errors import KosentError, UsageError
from kosent.finetune.checkpoints import BEST, newest_checkpoint, save_trained, seal, step_of
from kosent.finetune.fast import prepare, row_loss
from kosent.finetune.plan import Step
from kosent.finetune.recipes import Recipe
from kosent.finetune.watch import Watch


class PackedTrainer(Trainer):
    """A Trainer whose items are whole optimizer steps."""

    validation: Step
    patience = 0
    """Validations without a lower loss after which training stops; 0: never."""
    base_name = ""

    def get_train_dataloader(self) -> Any:
        # every process has its own part of each step already: nothing may be divided again
        return DataLoader(self.train_dataset, batch_size=1, collate_fn=lambda items: items[0])  # type: ignore[arg-type]

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> None:
        return None

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        self._began = time.perf_counter()
        self._step = inputs
        model.train()
        total = torch.zeros((), device=self.args.device)
        self._right = torch.zeros((), device=self.args.device)
        # gradients are averaged over processes, and each has only its part of the sum
        share = self.args.world_size / inputs.supervised
        for row, weight in zip(inputs.rows, inputs.weights, strict=True):
            losses, right = row_loss(model, row, self.args.device)
            loss = losses * (weight * share)
            self.accelerator.backward(loss)
            total += loss.detach()
            self._right += weight * right
        return total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            right = self.accelerator.reduce(self._right, "sum").item()
            seconds = time.perf_counter() - self._began
            logs |= {
                "token_accuracy": right / self._step.supervised,
                "seconds": round(seconds, 4),
                "tokens_per_second": round(self._step.tokens / seconds, 1),
                "dialogues_per_second": round(self._step.dialogues / seconds, 3),
                "memory_gb": round(peak_memory(), 3),
            }
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        model: Any = self.model_wrapped
        model.eval()
        sums = torch.zeros(2, device=self.args.device, dtype=torch.float64)
        with torch.no_grad():
            for row, weight in zip(self.validation.rows, self.validation.weights, strict=True):
                losses, right = row_loss(model, row, self.args.device)
                sums += weight * torch.stack((losses, right)).double()
        loss, right = (self.accelerator.reduce(sums, "sum") / self.validation.supervised).tolist()
        metrics = {"eval_loss": loss, "eval_token_accuracy": right}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.patience:
            self._stop_early(loss)
        return metrics

    def _stop_early(self, loss: float) -> None:
        losses = [entry["eval_loss"] for entry in self.state.log_history if "eval_loss" in entry]
        if loss <= min(losses):
            self.save_to(Path(str(self.args.output_dir)) / BEST)
        elif len(losses) - 1 - losses.index(min(losses)) >= self.patience:
            self.control.should_training_stop = True

    def save_to(self, folder: Path) -> None:
        """Saves what was trained; every process must call it, the first one writes."""
        state = self.accelerator.get_state_dict(self.model_wrapped) if self.is_fsdp_enabled else None
        if self.args.should_save:
            save_trained(self.accelerator.unwrap_model(self.model_wrapped), state, folder, self.base_name)
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        output = Path(str(self.args.output_dir))
        folder = output / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card, which names the folder of the base
                seal(folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            earlier, _ = newest_checkpoint(output)
            kept = f"the one of step {step_of(earlier)} is whole" if earlier else "there is none before it"
            free = shutil.disk_usage(output).free / 1e9
            raise KosentError(
                f"The checkpoint of step {self.state.global_step} could not be written into {output} ({free:.2f} GB free): "
                f"{str(error).splitlines()[0]}. {kept[0].upper()}{kept[1:]}.",
                hint="make room, then the same command with --resume",
            ) from error
        self.accelerator.wait_for_everyone()


def peak_memory() -> float:
    """Most memory used so far, GB (10^9 bytes): the GPU's where there is one, else this process's resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.is_file():  # not getrusage, which on Linux begins with the memory of the process that started this one
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform != "darwin" else 1e9)


def training_arguments(recipe: Recipe, checkpoints: Path, total_steps: int) -> TrainingArguments:
    """Raises `UsageError` when the recipe's optimizer needs a GPU and there is none."""
    training = recipe.training
    if training.optimizer != "adamw" and not torch.cuda.is_available():
        raise UsageError(
            f"training.optimizer = {training.optimizer!r} pages between a GPU and main memory, and there is no GPU here.",
            hint="kosent finetune … --set training.optimizer=adamw",
        )
    return TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        max_steps=total_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule if training.schedule != "constant" else "constant_with_warmup",
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim=_optimizer(training.optimizer),
        bf16=recipe.full and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False),
        activation_checkpointing=training.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if training.gradient_checkpointing else None,
        ddp_find_unused_parameters=False,
        use_liger_kernel=fused_layers(),
        liger_kernel_config={"cross_entropy": False, "fused_linear_cross_entropy": False},  # `kosent.finetune.fast` has its own
        logging_strategy="steps",
        logging_nan_inf_filter=False,
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


def fused_layers() -> bool:
    """Whether norms, rotary embedding and gated activation are computed by Liger's kernels: with a GPU and kosent[gpu]."""
    return torch.cuda.is_available() and torch.version.cuda is not None and not extras.missing("gpu")


def _optimizer(name: str) -> str:
    if name != "adamw":
        return name
    return "adamw_torch_fused" if torch.cuda.is_available() else "adamw_torch"


def trainable(model: Any, recipe: Recipe) -> Any:
    """`model` made ready for training: with a fresh LoRA adapter started from the recipe's seed, or whole (`lora.rank` 0)."""
    torch.manual_seed(recipe.training.seed)
    if recipe.full:
        return prepare(model)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,  # type: ignore[arg-type]
        lora_dropout=recipe.lora.dropout,
        target_modules=recipe.lora.targets,
        use_rslora=recipe.lora.variant == "rslora",
        use_dora=recipe.lora.variant == "dora",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # transformers 5.23 through peft 0.21
        return prepare(get_peft_model(model, config))


def parameters(model: Any) -> dict[str, int]:
    """How many numbers the model has, and how many of them are trained (LoRA's own included in both)."""
    sizes = [(_size(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return {"total": sum(size for size, _ in sizes), "trainable": sum(size for size, trained in sizes if trained)}


def _size(parameter: Any) -> int:
    # bitsandbytes keeps two 4-bit weights in a byte; the shape of the matrix stands beside
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else int(parameter.numel())


def train(
    model: Any,
    plan: list[Step],
    validation: Step,
    recipe: Recipe,
    checkpoints: Path,
    watch: Watch,
    resume: Path | None,
    base_name: str,
) -> PackedTrainer:
    """Trains a model of `trainable` through `plan` and returns the trainer, for its weights.

    Raises `KeyboardInterrupt` after writing a checkpoint when Ctrl-C or SIGTERM came, and `KosentError` when a checkpoint
    cannot be written.
    """
    trainer = PackedTrainer(
        model=model,
        args=training_arguments(recipe, checkpoints, len(plan)),
        train_dataset=plan,
        eval_dataset=plan[:1],
        callbacks=[watch],
    )
    trainer.validation, trainer.patience, trainer.base_name = validation, recipe.training.patience, base_name
    trainer.args._n_gpu = min(trainer.args.n_gpu, 1)  # one item is one step; DataParallel would split it
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    finally:
        watch.close()
    step = trainer.state.global_step
    if watch.interrupted and step < len(plan):
        raise KeyboardInterrupt
    if not any("eval_loss" in entry and entry["step"] == step for entry in trainer.state.log_history):
        trainer.evaluate()
    return trainer
