"""A run directory: the one thing passed from training to export, verification, evaluation and chat.

run.json             resolved recipe, base and its hashes, hashes of the data, chat layout, system message, status
chat_template.jinja  the exact template trained with
adapter/             LoRA adapter in PEFT's format
metrics.jsonl        one line per step: loss, learning rate, gradient norm; validation loss where it was measured
timing.json          seconds, tokens per second, peak memory (the only file that differs between equal runs)
loss.png             the loss curve
checkpoints/         while training; removed when it has ended
*.gguf               what `kosent export` made of it
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kosent.errors import ModelError, UsageError
from kosent.files import read_json
from kosent.prompts import LAYOUTS, SYSTEM_MESSAGE, Layout

FINISHED = "finished"
TRAINING = "training"


@dataclass(frozen=True)
class RunDirectory:
    path: Path
    facts: dict[str, Any]
    """The contents of `run.json`."""

    @classmethod
    def open(cls, path: Path, *, finished: bool = True) -> RunDirectory:
        """Reads a run. Raises `UsageError` when there is none, or when `finished` is asked for and training has not ended."""
        file = path / "run.json"
        if not file.is_file():
            raise UsageError(
                f"{path} is not a run directory: it holds no run.json.",
                hint="kosent finetune --recipe starter-cpu --data DIR --output RUN",
            )
        run = cls(path, read_json(file))
        if finished and run.facts["status"] != FINISHED:
            raise UsageError(
                f"{path}: its training has not ended.",
                hint=f"kosent finetune --resume --recipe {run.facts['recipe']['name']} --data DIR --output {path}",
            )
        return run

    @property
    def base(self) -> str:
        """The base as it was named when training: `starter`, a folder or a Hugging Face id."""
        return str(self.facts["base"]["name"])

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.facts["layout"]]

    @property
    def template(self) -> str:
        return (self.path / "chat_template.jinja").read_text(encoding="utf-8")

    @property
    def system_message(self) -> str:
        return str(self.facts.get("system_message", SYSTEM_MESSAGE))

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def exported(self) -> Path:
        """The newest GGUF in the run. Raises `ModelError` when none was exported."""
        found = sorted(self.path.glob("*.gguf"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise ModelError(f"{self.path} has no exported GGUF yet.", hint=f"kosent export {self.path}")
        return found[-1]


def is_run(path: Path) -> bool:
    return (path / "run.json").is_file()
