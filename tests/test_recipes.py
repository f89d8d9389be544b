"""Recipes: the ones that come with KoSent, values that cannot be right, and every key explained where it stands."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from helpers import ROOT, finetune_arguments
from kosent.cli import main
from kosent.errors import UsageError
from kosent.finetune.recipes import Lora, Recipe, Training, load_recipe, names, recipe_path

KEYS = {
    *(field.name for field in fields(Recipe) if field.name not in ("name", "lora", "training")),
    *(f"lora.{field.name}" for field in fields(Lora)),
    *(f"training.{field.name}" for field in fields(Training)),
}


def test_the_recipes_of_the_readme_are_there() -> None:
    assert names() == ["gemma3", "llama31-8b-lora", "llama31-8b-qlora", "qwen3", "starter-cpu"]
    small = load_recipe("llama31-8b-qlora")
    assert (small.quantization, small.training.optimizer, small.training.gradient_checkpointing) == (
        "nf4",
        "paged_adamw_8bit",
        True,
    )


@pytest.mark.parametrize("name", names())
def test_a_recipe_names_every_key_and_explains_it(name: str) -> None:
    text = recipe_path(name).read_text(encoding="utf-8")
    values = tomllib.loads(text)
    found = {key for key in values if key not in ("lora", "training")}
    found |= {f"{section}.{key}" for section in ("lora", "training") for key in values[section]}
    assert found == KEYS
    for line in text.splitlines():
        if re.match(r"\w+ = ", line) and not (line.startswith("base = ") and "/" in line):
            assert re.search(r"  # \S.{5,}", line), line


def test_the_page_on_training_explains_every_key() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    missing = sorted(key for key in KEYS if f"`{key}`" not in page)
    assert not missing
    assert all(f"`{name}`" in page for name in names())


def test_recipes_say_all_their_problems_at_once(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(
        'speed = 1\nprecision = "half"\n[lora]\nrank = "big"\n[training]\nepochs = 0\ngradient_checkpointing = 1\n',
        encoding="utf-8",
    )
    with pytest.raises(UsageError) as caught:
        load_recipe(str(file))
    for word in ("speed", "precision", "lora.rank", "training.epochs", "training.gradient_checkpointing must be true or false"):
        assert word in str(caught.value)
    with pytest.raises(UsageError, match="starter-cpu"):
        load_recipe("no-such-recipe")


def test_values_on_the_command_line() -> None:
    assert load_recipe("starter-cpu", ["lora.rank=4", "base=my/model"]).lora.rank == 4
    assert load_recipe("starter-cpu", ["lora.rank=0"]).full
    assert load_recipe("starter-cpu", ["training.gradient_checkpointing=true"]).training.gradient_checkpointing is True
    for wrong in ("epochs", "=1", "lora.rank.deep=1", "lora.dropout=1.5", "training.schedule=steep", "lora.rank=-1"):
        with pytest.raises(UsageError):
            load_recipe("starter-cpu", [wrong])


@pytest.mark.parametrize("changes", [["lora.rank=0", "quantization=nf4"], ["lora.rank=0", "precision=bfloat16"]])
def test_full_training_needs_weights_that_can_be_trained(changes: list[str]) -> None:
    with pytest.raises(UsageError, match=r"lora\.rank = 0"):
        load_recipe("starter-cpu", changes)


def test_an_optimizer_for_a_gpu_is_refused_without_one(
    tiny_base: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    more = ("--set", "training.optimizer=paged_adamw_8bit")
    assert main(finetune_arguments(small_data, tmp_path / "run", tiny_base, *more)) == 2
    assert "--set training.optimizer=adamw" in capsys.readouterr().err
