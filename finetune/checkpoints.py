"""Checkpoints that count only when they are whole, and what is saved of a trained model.

A checkpoint is sealed by `complete.json`, written last: the hash of every other file in it. One without the seal, or whose files
are not what the seal says, is left out, and the one before is used; `train` keeps two.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from kosent.files import read_json, sha256_folder, write_json

COMPLETE = "complete.json"
BEST = "best"
"""Beside the checkpoints: the trained weights with the lowest validation loss so far, where a recipe has `patience`."""
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "gguf_tokenizer.json", "generation_config.json")


def seal(folder: Path) -> None:
    write_json(folder / COMPLETE, sha256_folder(folder))


def is_sealed(folder: Path) -> bool:
    files = sha256_folder(folder)
    if files.pop(COMPLETE, None) is None:
        return False
    try:
        return bool(files == read_json(folder / COMPLETE))
    except ValueError:
        return False


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest whole checkpoint, and the newer ones that are broken."""
    broken: list[Path] = []
    for path in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        if is_sealed(path):
            return path, broken
        broken.append(path)
    return None, broken


def save_trained(model: Any, state: dict[str, Any] | None, folder: Path, base: str) -> None:
    """Writes the adapter, or all weights of a model without one, so that equal models are equal files.

    `state` holds the weights where they are gathered from several processes. `base` is the base's name without a path.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if not hasattr(model, "peft_config"):
        model.save_pretrained(str(folder), state_dict=state)
        return
    model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    config = read_json(folder / "adapter_config.json")
    config["base_model_name_or_path"] = base
    config["target_modules"] = sorted(config["target_modules"])
    write_json(folder / "adapter_config.json", config)


def copy_tokenizer(base: Path, folder: Path) -> None:
    """Puts the base's tokenizer beside fully trained weights, so that the folder is a model by itself."""
    for pattern in TOKENIZER_FILES:
        for file in base.glob(pattern):
            shutil.copy(file, folder / file.name)
