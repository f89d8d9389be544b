"""Merges a LoRA adapter into its base and writes GGUF, tensor by tensor; no merged model is ever whole in memory.

    W' = W + (alpha / rank) * B @ A        Hu et al. 2021, LoRA, section 4.1; computed in float32

Matrices are stored in the chosen type, norms in float32. The tokenizer metadata is the base's own, unchanged, with the run's chat
template and its end-of-turn token added.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import quantize
from safetensors import safe_open

from kosent.errors import ModelError
from kosent.export.architectures import architecture_of
from kosent.files import atomic_path, read_json
from kosent.prompts import Layout
from kosent.starter import GGUF_TOKENIZER

QUANTIZATIONS = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}


def lora_deltas(adapter: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """`{base tensor name: (A [rank, in], B [out, rank], alpha / rank)}`. Raises `ModelError` for an adapter of another kind."""
    config = read_json(adapter / "adapter_config.json")
    unknown = [key for key in ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern") if config.get(key)]
    if config["peft_type"] != "LORA" or unknown:
        raise ModelError(
            f"{adapter}: only plain LoRA can be merged yet; this one has {', '.join(unknown) or config['peft_type']}."
        )
    scale = config["lora_alpha"] / config["r"]
    deltas = {}
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        for key in file.keys():  # noqa: SIM118  (safe_open is no mapping)
            if key.endswith(".lora_A.weight"):
                name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                b = file.get_tensor(key.replace(".lora_A.", ".lora_B."))
                deltas[f"{name}.weight"] = (file.get_tensor(key).float(), b.float(), scale)
    return deltas


def write_gguf(
    base: Path,
    adapter: Path | None,
    target: Path,
    *,
    quantization: str,
    template: str,
    layout: Layout,
    name: str,
    advance: Callable[[int, str], None] = lambda done, note: None,
) -> None:
    """Writes `base`, with `adapter` merged where there is one, into `target`. `advance(done, note)` counts tensors.

    Raises `ModelError` when the base is of an unknown kind, lacks a file, or has no place for the adapter.
    """
    config = read_json(base / "config.json")
    architecture = architecture_of(config)
    kind, file_type = QUANTIZATIONS[quantization]
    deltas = lora_deltas(adapter) if adapter else {}
    shards = sorted(base.glob("*.safetensors"))
    if not shards:
        raise ModelError(f"{base} holds no safetensors.")
    with atomic_path(target) as temporary:
        writer = GGUFWriter(temporary, architecture.name)
        writer.add_name(name)
        writer.add_file_type(file_type)
        writer.add_quantization_version(2)
        for key, value in architecture.metadata(config).items():
            writer.add_key_value(f"{architecture.name}.{key}", value, _value_type(value))
        add_tokenizer(writer, base, template, layout)
        done = 0
        for shard in shards:
            with safe_open(shard, framework="pt") as file:
                for tensor_name in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                    advance(done, "")
                    tensor = file.get_tensor(tensor_name).float()
                    if tensor_name in deltas:
                        a, b, scale = deltas.pop(tensor_name)
                        tensor += scale * (b @ a)
                    _add(writer, architecture.gguf_name(tensor_name), tensor, kind, architecture.norm_offset)
                    done += 1
        if deltas:
            raise ModelError(f"The adapter changes tensors that {base} does not have: {', '.join(sorted(deltas)[:5])}.")
        advance(done, "writing")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _add(writer: GGUFWriter, name: str, tensor: torch.Tensor, kind: GGMLQuantizationType, norm_offset: float) -> None:
    if tensor.ndim == 1:
        writer.add_tensor(name, (tensor + norm_offset).numpy(), raw_dtype=GGMLQuantizationType.F32)
        return
    values = tensor.numpy()
    stored = kind if kind != GGMLQuantizationType.Q8_0 or values.shape[-1] % 32 == 0 else GGMLQuantizationType.F16
    writer.add_tensor(name, np.ascontiguousarray(quantize(values, stored)), raw_dtype=stored)


def _value_type(value: Any) -> GGUFValueType:
    return GGUFValueType.FLOAT32 if isinstance(value, float) else GGUFValueType.UINT32


def add_tokenizer(writer: GGUFWriter, base: Path, template: str, layout: Layout) -> None:
    """Copies the base's tokenizer metadata and adds the chat template and the end-of-turn token."""
    file = base / GGUF_TOKENIZER
    if not file.is_file():
        raise ModelError(
            f"{base} carries no {GGUF_TOKENIZER}; only bases made by KoSent can be exported yet.", hint="kosent models starter"
        )
    metadata = read_json(file)
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    writer.add_tokenizer_model(metadata["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(metadata["tokenizer.ggml.pre"])
    writer.add_token_list(tokens)
    writer.add_token_scores(metadata["tokenizer.ggml.scores"])
    writer.add_token_types(metadata["tokenizer.ggml.token_type"])
    for key, value in metadata.items():
        if key.endswith("_token_id"):
            writer.add_uint32(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
    writer.add_eot_token_id(tokens.index(layout.end_of_turn))
    writer.add_chat_template(template)
