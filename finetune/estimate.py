"""What a training will need before anything is loaded: parameters, memory, time.

The memory of activations is not guessed: the largest row runs through the model's architecture on torch's meta device, which
computes shapes and no numbers, and what autograd would keep is added up. Weights, gradients and optimizer state follow from
the parameters. Time is the multiplications of the whole run over the speed of one matrix product, measured here and now, at
the share of it that training reaches: a hint, not a promise.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kosent import hf
from kosent.finetune.fast import LOGITS_AT_ONCE, row_loss
from kosent.finetune.plan import Step
from kosent.finetune.recipes import Recipe
from kosent.finetune.rows import Row
from kosent.finetune.train import parameters, trainable
from kosent.memory import free_memory

ADAM_BYTES = {"adamw": 8, "paged_adamw_8bit": 2}
"""Optimizer state, bytes a trained parameter: two moments in float32, or in 8 bits (Dettmers et al. 2022)."""
NF4_BYTES = 0.516
"""Bytes a weight of 4 bits with doubly quantized scales: 4.127 bits (Dettmers et al. 2023, QLoRA, section 3)."""
REACHED = {"cpu": 0.6, "cuda": 0.45}
"""Share of the speed of a large matrix product that a whole training step reaches (docs/benchmarks.md)."""
KERNELS = 0.4
"""GB of compiled kernels that oneDNN keeps on a CPU for bfloat16, one a shape of a product (0.3 to 0.6 seen in 30 rows)."""
CUDA_CONTEXT = 0.6
"""GB that a process takes on a GPU before its first tensor."""


@dataclass(frozen=True)
class Estimate:
    """Memory in GB (10^9 bytes); `work` in multiplications and additions."""

    parameters: dict[str, int]
    weights: float
    optimizer: float
    """Gradients and optimizer state of what is trained, and the trained weights' own part of `weights` besides."""
    activations: float
    """Most that one row leaves for the backward pass, and the logits at hand."""
    process: float
    """What the process takes before the model."""
    work: float

    @property
    def peak(self) -> float:
        return self.process + self.weights + self.optimizer + self.activations


def estimate(base: str, recipe: Recipe, precision: str, plan: Sequence[Step]) -> Estimate:
    """Raises `ModelError` when the base's config cannot be had or its kind cannot be trained."""
    empty = hf.empty_model(base)
    model = trainable(empty.to(getattr(torch, precision)), recipe)
    counted = parameters(model)
    largest = max((row for step in plan for row in step.rows), key=lambda row: (len(row.ids), row.supervised))
    head = model.get_output_embeddings().weight
    supervised = max(row.supervised for step in plan for row in step.rows)
    size = 4 if precision == "float32" else 2
    if recipe.full:
        logits = supervised * head.shape[0] * 4 * 2  # the gradients of the logits and of their log-softmax
        largest_weight = max(p.numel() for p in model.parameters())
        optimizer = counted["trainable"] * (4 + ADAM_BYTES[recipe.training.optimizer]) + 2 * 4 * largest_weight
    else:
        logits = min(supervised, LOGITS_AT_ONCE // head.shape[0]) * head.shape[0] * (4 + size)
        optimizer = counted["trainable"] * (4 + ADAM_BYTES[recipe.training.optimizer])
    return Estimate(
        counted,
        _weights(model, recipe, size) / 1e9,
        optimizer / 1e9,
        (_kept(model, largest, recipe, size) + logits) / 1e9,
        CUDA_CONTEXT if torch.cuda.is_available() else _resident() + (KERNELS if precision == "bfloat16" else 0.0),
        _work(model, recipe, plan),
    )


def _weights(model: Any, recipe: Recipe, size: int) -> float:
    if recipe.quantization != "nf4":
        return float(sum(p.numel() * p.element_size() for p in model.parameters()))
    matrices = {id(m.base_layer.weight) for m in model.modules() if hasattr(m, "base_layer")}
    return float(
        sum(p.numel() * (NF4_BYTES if id(p) in matrices else 4 if p.requires_grad else size) for p in model.parameters())
    )


def _kept(model: Any, row: Row, recipe: Recipe, size: int) -> float:
    """Bytes of the tensors that autograd keeps of one row, besides parameters."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that its place is not given to another
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = row_loss(model, row, "meta")
    total = sum(storage.nbytes() for storage in kept.values())
    del loss
    if recipe.training.gradient_checkpointing:
        layers, hidden = model.config.num_hidden_layers, model.config.hidden_size
        total = layers * len(row.ids) * hidden * size + total // layers
    if recipe.quantization == "nf4":  # one matrix at a time is brought back to 16 bits
        total += 2 * max(p.numel() for name, p in model.named_parameters() if "base_layer" in name)
    return float(total)


def _resident() -> float:
    """Resident memory of this process, GB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9


def _work(model: Any, recipe: Recipe, plan: Sequence[Step]) -> float:
    """Multiplications and additions of the run: 2 a weight and token forward, 2 backward to the input, 2 more where the weight
    itself is trained, 2 again where a layer is computed anew; the head at supervised tokens only. Attention is left out."""
    head = model.get_output_embeddings().weight.numel()
    embedding = model.get_input_embeddings().weight.numel()
    counted = parameters(model)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    layers = counted["total"] - embedding - (0 if tied else head)
    tokens = sum(len(row.ids) for step in plan for row in step.rows)
    supervised = sum(step.supervised for step in plan)
    each = 6 if recipe.full else 4
    again = 2 if recipe.training.gradient_checkpointing else 0
    return float((each + again) * layers * tokens + each * head * supervised)


def speed(precision: str) -> float:
    """Multiplications and additions a second of a product of 512 x 2048 and 2048 x 2048, in `precision`, on this device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(512, 2048, device=device, dtype=getattr(torch, precision))
    b = torch.randn(2048, 2048, device=device, dtype=getattr(torch, precision))
    times = []
    for _ in range(8):
        began = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * 512 * 2048 * 2048 / sorted(times)[len(times) // 2] * REACHED[device]


def available() -> tuple[float, str]:
    """GB that this process may have altogether, and where: free memory, and what it holds already."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] / 1e9 + CUDA_CONTEXT, torch.cuda.get_device_name()
    return free_memory() / 1e9 + _resident(), "main memory"


def alternatives(recipe: Recipe, longest: int) -> Iterator[tuple[list[str], Recipe]]:
    """Changes of the recipe that need less memory, the mildest first, as `--set` texts and as the recipe they make.

    `longest` is the longest dialogue in tokens, below which a row cannot shrink.
    """
    smaller = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, micro_batch_tokens=longest))
    found = [([f"training.micro_batch_tokens={longest}"], smaller)] if longest < recipe.training.micro_batch_tokens else []
    if not recipe.training.gradient_checkpointing:
        again = dataclasses.replace(smaller.training, gradient_checkpointing=True)
        texts = [*(found[0][0] if found else []), "training.gradient_checkpointing=true"]
        found.append((texts, dataclasses.replace(smaller, training=again)))
    texts, least = found[-1] if found else ([], recipe)
    if recipe.full:
        lora = dataclasses.replace(least.lora, rank=16)
        texts, least = [*texts, "lora.rank=16"], dataclasses.replace(least, lora=lora)
        found.append((texts, least))
    if recipe.quantization == "none" and torch.cuda.is_available():
        found.append(([*texts, "quantization=nf4"], dataclasses.replace(least, quantization="nf4")))
    yield from found
