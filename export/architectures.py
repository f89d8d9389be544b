"""What GGUF needs to know about a model architecture: metadata, and values that llama.cpp stores differently.

An architecture is one small file with `ARCHITECTURES`, entered in `MODULES` under its Hugging Face `model_type`. Tensor names
come from the `gguf` package.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, RopeScalingType, get_tensor_name_map

from kosent.errors import ModelError
from kosent.export.checkpoint import readable
from kosent.files import read_json

Config = dict[str, Any]
"""A model's `config.json` as `base_config` reads it: `rope_parameters` in the form of transformers 5, no needed key missing."""

MODULES = {
    "llama": "kosent.export.llama",
    "gemma3_text": "kosent.export.gemma3",
    "qwen2": "kosent.export.qwen",
    "qwen3": "kosent.export.qwen",
}


NEEDED = (
    "num_hidden_layers", "max_position_embeddings", "hidden_size", "intermediate_size", "num_attention_heads", "rms_norm_eps",
    "vocab_size",
)  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    model_arch: MODEL_ARCH
    head_size_follows: bool = False
    """Whether a config without `head_dim` means hidden size / heads, and the file says so."""
    norm_offset: float = 0.0
    """Added to every norm weight when written: llama.cpp multiplies by the stored value, Gemma by 1 + weight."""
    tied: bool = False
    """Whether the head is the embedding when a config does not say."""
    heads_of: Callable[[str, Config], int] = lambda name, config: 0
    """Number of heads by which the rows of a tensor are reordered (see `row_order`); 0: rows stay where they are."""
    extra_tensors: Callable[[Config], dict[str, np.ndarray]] = lambda config: {}
    """Tensors (in float32) that follow from the config, under their GGUF names."""
    add_metadata: Callable[[GGUFWriter, Config], None] = lambda writer, config: None
    """Adds what `add_common_metadata` does not."""

    @property
    def name(self) -> str:
        """llama.cpp's name, the prefix of its metadata keys."""
        return MODEL_ARCH_NAMES[self.model_arch]

    def namer(self, config: Config) -> Callable[[str], str]:
        """From a Hugging Face tensor name to the GGUF one; raises `ModelError` for a tensor that the architecture lacks."""
        names = get_tensor_name_map(self.model_arch, config["num_hidden_layers"])

        def gguf_name(name: str) -> str:
            found = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if found is None:
                raise ModelError(f"The base has a tensor {name!r}, which {self.name} does not have in GGUF.")
            return found

        return gguf_name


def base_config(base: Path) -> Config:
    """The base's config, read without transformers, whose import takes longer than the export of a small model.

    Raises `ModelError` when it is not there, is damaged, lacks a size, or names a kind that cannot be exported.
    """
    with readable(base / "config.json"):
        config: Config = read_json(base / "config.json")
        architecture = architecture_of(config)
    if missing := [key for key in NEEDED if config.get(key) is None]:
        raise ModelError(f"{base / 'config.json'} does not say {', '.join(missing)}.", hint="fetch the base again")
    config["num_key_value_heads"] = config.get("num_key_value_heads") or config["num_attention_heads"]
    if architecture.head_size_follows and config.get("head_dim") is None:
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    config.setdefault("tie_word_embeddings", architecture.tied)
    if not config.get("rope_parameters"):
        config["rope_parameters"] = _rope_parameters(config)
    return config


def _rope_parameters(config: Config) -> dict[str, Any]:
    """From `rope_theta`, `rope_scaling` and `rope_local_base_freq`, as configs before transformers 5 have them."""
    scaling = dict(config.get("rope_scaling") or {})
    full = {"rope_theta": config.get("rope_theta", 10000.0), "rope_type": scaling.pop("type", "default")} | scaling
    local = config.get("rope_local_base_freq")
    return full if local is None else {"full_attention": full, "sliding_attention": {"rope_theta": local}}


def row_order(rows: int, heads: int) -> np.ndarray:
    """Which row of a query or key matrix is written at each place: (rows,) indices, alike within every head.

    Hugging Face's rotary embedding turns row i of a head together with row i + half; llama.cpp's "normal" kind turns neighbours.
    """
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(-1)


def architecture_of(config: Config) -> Architecture:
    """The entry for a model's config. Raises `ModelError` with the list of what can be exported."""
    kind = config.get("model_type")
    if kind not in MODULES:
        raise ModelError(
            f"Models of the type {kind!r} cannot be exported; possible: {', '.join(MODULES)}.",
            hint="train on a Llama, Qwen 2 or 3, Gemma 3 (text) or SmolLM2 base",
        )
    architectures: dict[str, Architecture] = importlib.import_module(MODULES[kind]).ARCHITECTURES
    return architectures[kind]


def add_common_metadata(writer: GGUFWriter, config: Config) -> None:
    """Sizes, heads, rotary embedding and norm, as every architecture here has them."""
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if config.get("head_dim") is not None:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    _add_rope(writer, rope(config))
    local = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    if local.get("rope_theta") is not None:
        writer.add_rope_freq_base_swa(local["rope_theta"])


def rope(config: Config) -> dict[str, Any]:
    """The rotary embedding of the layers with full attention, in transformers 5's form: `rope_theta`, `rope_type` and others."""
    parameters: dict[str, Any] = config.get("rope_parameters") or {}
    return parameters.get("full_attention") or parameters


def _add_rope(writer: GGUFWriter, parameters: dict[str, Any]) -> None:
    """Raises `ModelError` for a kind of scaling that would be lost."""
    if parameters.get("rope_theta") is not None:
        writer.add_rope_freq_base(parameters["rope_theta"])
    kind = parameters.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType.LINEAR if kind == "linear" else RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(parameters["factor"]))
        if kind == "yarn":
            writer.add_rope_scaling_orig_ctx_len(parameters["original_max_position_embeddings"])
    elif kind not in ("default", "llama3"):  # llama3 scales by a tensor of its own
        raise ModelError(f"The base scales its rotary embedding by {kind!r}, which cannot be exported.")
