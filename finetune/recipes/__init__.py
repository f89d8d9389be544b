"""Training recipes: TOML files in this folder, read into typed settings.

`load_recipe("starter-cpu")` reads one that comes with KoSent, `load_recipe("my.toml")` one of the user's own; `overrides` are
`key=value` texts such as "training.epochs=1", applied last. Units stand in the files.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from kosent.errors import UsageError

CHOICES = {
    "precision": ("auto", "float32", "bfloat16"),
    "quantization": ("none", "nf4"),
    "lora.variant": ("lora", "rslora", "dora"),
    "training.optimizer": ("adamw", "paged_adamw_8bit"),
    "training.schedule": ("linear", "cosine", "constant"),
}
MAY_BE_ZERO = ("rank", "warmup_steps", "seed", "validation_dialogues", "patience")


@dataclass(frozen=True)
class Lora:
    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    targets: str = "all-linear"
    variant: str = "lora"


@dataclass(frozen=True)
class Training:
    learning_rate: float = 5e-4
    epochs: int = 3
    batch_dialogues: int = 8
    micro_batch_tokens: int = 512
    optimizer: str = "adamw"
    schedule: str = "linear"
    warmup_steps: int = 5
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    validation_steps: int = 15
    validation_dialogues: int = 0
    patience: int = 0
    checkpoint_steps: int = 5
    seed: int = 42


@dataclass(frozen=True)
class Recipe:
    name: str
    base: str = "starter"
    precision: str = "auto"
    quantization: str = "none"
    max_length: int = 512
    lora: Lora = field(default_factory=Lora)
    training: Training = field(default_factory=Training)

    @property
    def full(self) -> bool:
        """Whether all weights are trained, without an adapter."""
        return self.lora.rank == 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def names() -> list[str]:
    """Recipes that come with KoSent."""
    folder = files("kosent.finetune.recipes")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe that comes with KoSent."""
    with as_file(files("kosent.finetune.recipes").joinpath(f"{name}.toml")) as path:
        return path


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Raises `UsageError` that lists every unknown key and every value of the wrong kind at once."""
    path = Path(name)
    if name in names():
        text = recipe_path(name).read_text(encoding="utf-8")
    elif path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        raise UsageError(
            f"There is no recipe {name!r}; KoSent has {', '.join(names())}.", hint="name one of these, or a .toml file"
        )
    try:
        values = tomllib.loads(text)
        for override in overrides:
            _apply(values, override)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"Recipe {name}: not valid TOML: {error}") from error
    problems: list[str] = []
    lora = _typed(Lora, values.pop("lora", {}), "lora.", problems)
    training = _typed(Training, values.pop("training", {}), "training.", problems)
    top = _typed(Recipe, values, "", problems, skip=("name", "lora", "training"))
    if not problems:
        recipe = Recipe(name=path.stem, lora=Lora(**lora), training=Training(**training), **top)
        problems = _contradictions(recipe)
    if problems:
        raise UsageError(f"Recipe {name}: " + "; ".join(problems) + ".")
    return recipe


def _contradictions(recipe: Recipe) -> list[str]:
    problems = []
    if recipe.full and recipe.quantization != "none":
        problems.append("lora.rank = 0 trains the weights themselves, which 4 bits cannot hold: quantization must be none")
    if recipe.full and recipe.precision == "bfloat16":
        problems.append(
            "lora.rank = 0 needs float32 weights, in which small steps are not lost: precision must be auto or float32"
        )
    if recipe.lora.dropout >= 1:
        problems.append(f"lora.dropout must be below 1, not {recipe.lora.dropout:g}")
    return problems


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"--set takes KEY=VALUE, not {override!r}.", hint="--set training.epochs=1")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UsageError(f"--set {override}: {parent} is not a section of a recipe.")
    values[last] = value


def _typed(kind: Any, values: Any, prefix: str, problems: list[str], skip: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(values, dict):
        problems.append(f"[{prefix.rstrip('.')}] must be a section")
        return {}
    expected = {entry.name: str(entry.type) for entry in fields(kind) if entry.name not in skip}
    result = {}
    for key, value in values.items():
        problem = _problem(key, value, prefix, expected)
        if problem:
            problems.append(problem)
        else:
            result[key] = float(value) if expected[key] == "float" else value
    return result


def _problem(key: str, value: Any, prefix: str, expected: dict[str, str]) -> str:
    """What is wrong with one value, in words; empty when nothing is."""
    name, wanted = prefix + key, expected.get(key)
    if wanted is None:
        return f"{name} is not known (known: {', '.join(prefix + known for known in expected)})"
    if wanted == "bool" and not isinstance(value, bool):
        return f"{name} must be true or false, not {value!r}"
    if wanted == "str" and not isinstance(value, str):
        return f"{name} must be a text, not {value!r}"
    if name in CHOICES and value not in CHOICES[name]:
        return f"{name} must be one of {', '.join(CHOICES[name])}, not {value!r}"
    if wanted in ("int", "float") and (isinstance(value, (bool, str)) or not _is_number(value, wanted)):
        return f"{name} must be a number of kind {wanted}, 0 or more, not {value!r}"
    if wanted == "int" and key not in MAY_BE_ZERO and value < 1:
        return f"{name} must be 1 or more, not {value!r}"
    return ""


def _is_number(value: Any, wanted: str) -> bool:
    return isinstance(value, int if wanted == "int" else (int, float)) and value >= 0
