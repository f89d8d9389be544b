"""What several test files share besides fixtures."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def finetune_arguments(data: Path, output: Path, base: Path | str, *more: str) -> list[str]:
    settings = ["training.epochs=2", "training.checkpoint_steps=2", "training.validation_steps=4", "precision=float32"]
    changes = [part for setting in settings for part in ("--set", setting)]
    return [
        "finetune",
        "--recipe",
        "starter-cpu",
        "--base",
        str(base),
        "--data",
        str(data),
        "--output",
        str(output),
        *changes,
        *more,
    ]
