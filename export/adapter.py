"""A LoRA adapter in PEFT's format, as what it does to the rows of a base's tensors.

    LoRA      W' = W + s B A                                Hu et al. 2021, section 4.1; s = alpha / rank
    rsLoRA    the same with s = alpha / square root of rank  Kalajdzievski 2023
    DoRA      W' = m (W + s B A) / |W + s B A|, row by row   Liu et al. 2024, equation 5

Whole trained tensors (`modules_to_save`) take the place of the base's. Everything is computed in float32.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kosent.errors import ModelError
from kosent.export.checkpoint import readable, tensors_of
from kosent.files import read_json

UNKNOWN = (
    "rank_pattern",
    "alpha_pattern",
    "trainable_token_indices",
    "fan_in_fan_out",
    "use_qalora",
    "alora_invocation_tokens",
    "target_parameters",
    "lora_bias",
)
"""Settings of PEFT that change the merge in ways that are not written here."""
CHANGES_BASE = ("pissa", "olora", "corda", "loftq")
"""Ways to begin that subtract the adapter from the base, which is then another one."""
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Delta:
    """What an adapter does to one weight matrix (out, in)."""

    a: np.ndarray
    """(rank, in)"""
    b: np.ndarray
    """(out, rank)"""
    scale: float
    magnitude: np.ndarray | None = None
    """(out,), for DoRA"""

    def apply(self, weight: np.ndarray, start: int) -> np.ndarray:
        """Rows of the merged matrix from `weight`, the base's rows from `start` on, in float32, which is changed in place."""
        stop = start + weight.shape[0]
        weight += self.b[start:stop] @ self.a * np.float32(self.scale)
        if self.magnitude is not None:
            weight *= (self.magnitude[start:stop] / np.linalg.norm(weight, axis=1))[:, None]
        return weight

    @property
    def shape(self) -> tuple[int, int]:
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True)
class Adapter:
    """Both by the name of the base's tensor."""

    deltas: dict[str, Delta]
    replaced: dict[str, np.ndarray]
    """Tensors that were trained whole."""
    keeps_ties: bool = False
    """Whether a head that is the embedding stayed so when the embedding was trained."""

    def check(self, shapes: dict[str, tuple[int, ...]], where: str) -> None:
        """Raises `ModelError` unless the base, whose tensors have `shapes`, has a place for everything in the adapter."""
        wanted = {name: delta.shape for name, delta in self.deltas.items()}
        wanted |= {name: tuple(tensor.shape) for name, tensor in self.replaced.items()}
        wrong = [
            f"{name} is {shapes[name]} in the base and {shape} in the adapter" if name in shapes else f"{name} is not in the base"
            for name, shape in wanted.items()
            if shapes.get(name) != shape and not (name == "lm_head.weight" and name not in shapes and name in self.replaced)
        ]
        if wrong:
            more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise ModelError(
                f"The adapter does not fit the base in {where}: {'; '.join(wrong[:3])}{more}.",
                hint="kosent export RUN --base FOLDER     (the folder of the base that was trained on)",
            )


NOTHING = Adapter({}, {})
"""For a run whose weights were all trained."""


def read_adapter(folder: Path) -> Adapter:
    """Raises `ModelError` for an adapter of another kind, or one that is damaged or lacks a file."""
    with readable(folder):
        return _read_adapter(folder)


def _read_adapter(folder: Path) -> Adapter:
    config = read_json(folder / "adapter_config.json")
    unknown = [key for key in UNKNOWN if config.get(key)]
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        unknown.append(f"init_lora_weights={start}")
    if config["peft_type"] != "LORA" or unknown or config.get("bias", "none") != "none":
        what = ", ".join(unknown) or (config["peft_type"] if config["peft_type"] != "LORA" else "trained biases")
        raise ModelError(f"{folder}: LoRA, rsLoRA and DoRA can be merged; this adapter has {what}.")
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    tensors = _tensors(folder / "adapter_model.safetensors")
    deltas = {}
    for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
        name = key.removesuffix(".lora_A.weight")
        magnitude = tensors.pop(f"{name}.lora_magnitude_vector", None)
        a, b = tensors.pop(key), tensors.pop(f"{name}.lora_B.weight")
        deltas[f"{name}.weight"] = Delta(a, b, scale, magnitude)
    replaced = {name.replace(".modules_to_save.", "."): tensor for name, tensor in tensors.items()}
    if strange := [name for name in replaced if ".lora_" in name]:
        raise ModelError(f"{folder}: the adapter has tensors of a kind that cannot be merged: {', '.join(strange[:3])}.")
    return Adapter(deltas, replaced, bool(config.get("ensure_weight_tying")))


def _tensors(file: Path) -> dict[str, np.ndarray]:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        found = tensors_of(file, descriptor)
        return {name.removeprefix(PREFIX): tensor.rows(0, tensor.shape[0]) for name, tensor in found.items()}
    finally:
        os.close(descriptor)
