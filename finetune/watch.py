"""Watching a training: progress, `metrics.jsonl`, TensorBoard, and Ctrl-C turned into a checkpoint and a clean end."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState

from kosent.files import read_json, read_jsonl, write_jsonl

KEPT = (
    "step", "loss", "token_accuracy", "learning_rate", "grad_norm", "seconds", "tokens_per_second", "dialogues_per_second",
    "memory_gb", "eval_loss", "eval_token_accuracy",
)  # fmt: skip
VARYING = ("seconds", "tokens_per_second", "dialogues_per_second", "memory_gb")
"""What differs between two equal trainings."""


class Metrics:
    """`metrics.jsonl`: a line a step as it happens, and a line a validation; after an interruption it goes on where it was."""

    def __init__(self, path: Path, resume: Path | None) -> None:
        """`resume` is the checkpoint that training goes on from: what came after it will come again."""
        self.path = path
        state = read_json(resume / "trainer_state.json")["log_history"] if resume else []
        known = {(entry["step"], "eval_loss" in entry) for entry in state}
        self.entries = [entry for entry in _whole_lines(path) if (entry["step"], "eval_loss" in entry) in known]
        write_jsonl(path, self.entries)

    def add(self, entry: dict[str, float]) -> None:
        self.entries.append(entry)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    @property
    def validations(self) -> list[dict[str, float]]:
        return [entry for entry in self.entries if "eval_loss" in entry]


def _whole_lines(path: Path) -> list[dict[str, float]]:
    """The entries of a file whose last line may have been cut off by a crash."""
    try:
        return read_jsonl(path)
    except FileNotFoundError:
        return []
    except ValueError:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[:-1]
        return [json.loads(line) for line in lines]


class Watch(TrainerCallback):
    """Tells the interface about each step and stops the training, with a checkpoint, when a signal has come.

    `advance(step, note)` and the files are the first process's alone; the signal is everybody's, and all stop at the same step.
    """

    def __init__(self, advance: Callable[[int, str], None], metrics: Metrics | None, board: Path | None) -> None:
        self.advance, self.metrics, self._board_folder = advance, metrics, board
        self.interrupted = False
        self._asked = False
        self._validation = ""
        self._previous: Any = None
        self._board: Any = None

    def _interrupt(self, signum: int, frame: Any) -> None:
        if self._asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._previous = [(number, signal.signal(number, self._interrupt)) for number in (signal.SIGINT, signal.SIGTERM)]
        if self._board_folder is not None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(self._board_folder), purge_step=state.global_step + 1)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Gives the signals back; may be called twice."""
        for number, handler in self._previous or ():
            signal.signal(number, handler)
        self._previous = None
        if self._board is not None:
            self._board.close()
            self._board = None

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        asked = self._asked
        if args.world_size > 1:
            flag = torch.tensor(float(asked), device=args.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            asked = bool(flag.item())
        if asked:
            self.interrupted = True
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        if self.metrics is None or not ("loss" in logs or "eval_loss" in logs):
            return
        values = {"step": state.global_step, **logs}
        entry = {key: values[key] for key in KEPT if key in values}
        self.metrics.add(entry)
        if self._board is not None:
            for key, value in entry.items():
                group = "validation" if key.startswith("eval_") else "speed" if key in VARYING else "train"
                if key != "step":
                    self._board.add_scalar(f"{group}/{key.removeprefix('eval_')}", value, state.global_step)
            self._board.flush()
        if "eval_loss" in entry:
            self._validation = f", validation {entry['eval_loss']:.3f}"
        else:
            note = f"loss {entry['loss']:.3f}{self._validation}, {entry['tokens_per_second']:.0f} tokens/s"
            self.advance(state.global_step, note)
