"""What several test files share besides fixtures."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kosent.llama_cpp_model import LlamaCppChat

ROOT = Path(__file__).resolve().parent.parent


def ollama_program() -> str:
    """The `ollama` command for the tests; empty where there is none."""
    return os.environ.get("KOSENT_TEST_OLLAMA") or shutil.which("ollama") or ""


def browser_program() -> str:
    """A Chromium for the tests; empty where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = [path for name in names if (path := shutil.which(name))]
    return os.environ.get("KOSENT_TEST_BROWSER") or next(iter(found), "")


def finetune_arguments(data: Path, output: Path, base: Path | str, *more: str) -> list[str]:
    """Eight steps on `small_data`, with a checkpoint after every other one and two measurements."""
    settings = ["training.epochs=2", "training.batch_dialogues=4", "training.checkpoint_steps=2", "training.validation_steps=4"]
    settings += ["precision=float32"]
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


def load_benchmark(script: Path, patch: pytest.MonkeyPatch) -> ModuleType:
    """A script of `benchmarks/` as a module, for as long as `patch` lasts."""
    patch.syspath_prepend(str(script.parent))
    specification = importlib.util.spec_from_file_location(f"{script.stem}_benchmark", script)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    patch.setitem(sys.modules, specification.name, module)
    specification.loader.exec_module(module)
    return module


def counted(model: LlamaCppChat) -> list[int]:
    """Grows by the tokens of each forward pass from now on."""
    passes: list[int] = []
    context = model.load()._ctx
    decode = context.decode
    context.decode = lambda batch: (passes.append(batch.n_tokens()), decode(batch))
    return passes
