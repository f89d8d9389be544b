"""Llama 2, 3, 3.1, 3.2 and SmolLM2."""

from __future__ import annotations

import math

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter

from kosent.export.architectures import Architecture, Config, rope


def _heads_of(name: str, config: Config) -> int:
    if name.endswith(("q_proj.weight", "q_proj.bias")):
        return int(config["num_attention_heads"])
    if name.endswith(("k_proj.weight", "k_proj.bias")):
        return int(config["num_key_value_heads"])
    return 0


def rope_factors(config: Config) -> dict[str, np.ndarray]:
    """What Llama 3.1 and later divide the rotary frequencies by, (head size / 2,), so that long contexts are told apart.

    Wavelengths (in tokens) that fit the context of pretraining many times are kept, those that do not are stretched by `factor`,
    between the two the factor is interpolated: transformers' `modeling_rope_utils`, `_compute_llama3_parameters`.
    """
    parameters = rope(config)
    if parameters.get("rope_type") != "llama3":
        return {}
    size, context = config["head_dim"], parameters.get("original_max_position_embeddings", 8192)
    factor, low, high = (parameters.get(key, default) for key, default in FACTORS.items())
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    frequencies = np.float32(1.0) / np.float32(parameters["rope_theta"]) ** exponents
    found = []
    for frequency in frequencies.astype(np.float32):
        wavelength = np.float32(2 * math.pi) / frequency
        if wavelength < context / high:
            found.append(1.0)
        elif wavelength > context / low:
            found.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return {"rope_freqs.weight": np.array(found, dtype=np.float32)}


FACTORS = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
"""Defaults of Llama 3.1."""


def _add_metadata(writer: GGUFWriter, config: Config) -> None:
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(config["head_dim"])


ARCHITECTURES = {
    "llama": Architecture(
        MODEL_ARCH.LLAMA, head_size_follows=True, heads_of=_heads_of, extra_tensors=rope_factors, add_metadata=_add_metadata
    )
}
