"""What GGUF needs to know about a model architecture: tensor names, metadata, and values that llama.cpp stores differently.

One entry per Hugging Face `model_type`. Today: Gemma 3 (text).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kosent.errors import ModelError
from kosent.starter import TENSORS as GEMMA3_TENSORS


@dataclass(frozen=True)
class Architecture:
    name: str
    """llama.cpp's name, the prefix of its metadata keys."""
    names: dict[str, str]
    """Hugging Face tensor name -> GGUF name; {n} is the layer number."""
    metadata: Callable[[dict[str, Any]], dict[str, Any]]
    """From `config.json` to metadata keys without the prefix."""
    norm_offset: float
    """Added to every norm weight when written: llama.cpp multiplies by the stored value, Gemma by 1 + weight."""

    def gguf_name(self, name: str) -> str:
        """Raises `ModelError` for a tensor that this architecture does not have."""
        layer = re.search(r"\.layers\.(\d+)\.", name)
        number = layer.group(1) if layer else ""
        pattern = re.sub(r"\.layers\.\d+\.", ".layers.{n}.", name)
        if pattern not in self.names:
            raise ModelError(f"The base has a tensor {name!r}, which {self.name} does not have in GGUF.")
        return self.names[pattern].replace("{n}", number)


def _gemma3_metadata(config: dict[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters", {}).get("full_attention", {})
    return {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.sliding_window": config["sliding_window"],
        "rope.freq_base": float(config.get("rope_theta", rope.get("rope_theta", 1e6))),
    }


ARCHITECTURES = {
    "gemma3_text": Architecture("gemma3", {hf: gguf for gguf, hf in GEMMA3_TENSORS.items()}, _gemma3_metadata, norm_offset=1.0)
}


def architecture_of(config: dict[str, Any]) -> Architecture:
    """The entry for a model's `config.json`. Raises `ModelError` with the list of what can be exported."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise ModelError(f"Models of the type {kind!r} cannot be exported yet; possible: {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[kind]
