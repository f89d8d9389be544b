"""A run directory: the one thing passed from training to export, verification, evaluation and chat.

run.json             resolved recipe, base and its hashes, hashes of the data, chat layout, system message, status
chat_template.jinja  the exact template trained with
adapter/             LoRA adapter in PEFT's format; or model/, a Hugging Face folder, where all weights were trained
metrics.jsonl        a line a step: loss, accuracy, learning rate, gradient norm, speed, memory; and one a validation
tensorboard/         the same for `tensorboard --logdir RUN`
timing.json          seconds, tokens per second, peak memory
loss.png             the curves
checkpoints/         while training; removed when it has ended
*.gguf               what `kosent export` made of it
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kosent.errors import ModelError, UsageError
from kosent.files import read_json, write_json
from kosent.prompts import LAYOUTS, SYSTEM_MESSAGE, Layout
from kosent.starter import BASE_NAME

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
        """The base as `kosent.hf` takes it: `starter`, a folder, or ORG/NAME@COMMIT on the hub, the very one trained on.

        Raises `ModelError` when it was a folder that is not there.
        """
        base = self.facts["base"]
        name = str(base["name"])
        if base.get("revision"):
            return f"{name}@{base['revision']}"
        if "revision" not in base and not Path(name).is_absolute():
            return name  # recorded as it was typed, before folders were written relative to the run
        if name == BASE_NAME:
            return name
        folder = (self.path / name).resolve()
        if not folder.is_dir():
            raise ModelError(
                f"{self.path} was trained on the base in a folder {folder.name}, which is not in {folder.parent}.",
                hint=f"kosent export {self.path} --base FOLDER     (looks whether FOLDER holds that base, and remembers it)",
            )
        return str(folder)

    def with_base(self, base: dict[str, Any]) -> RunDirectory:
        """The run with other facts about its base, written into `run.json`."""
        facts = self.facts | {"base": base}
        write_json(self.path / "run.json", facts)
        return RunDirectory(self.path, facts)

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

    @property
    def weights(self) -> Path | None:
        """The folder of the whole trained model, where all weights were trained (`lora.rank` 0); None where an adapter was."""
        folder = self.path / "model"
        return folder if folder.is_dir() and not self.adapter.is_dir() else None

    def exported(self) -> Path:
        """The newest GGUF in the run. Raises `ModelError` when none was exported."""
        found = sorted(self.path.glob("*.gguf"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise ModelError(f"{self.path} has no exported GGUF yet.", hint=f"kosent export {self.path}")
        return found[-1]


def is_run(path: Path) -> bool:
    return (path / "run.json").is_file()
