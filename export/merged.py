"""The trained model as an ordinary Hugging Face folder, in the base's own types, for tools that read no GGUF."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from safetensors import TensorSpec, serialize_file

from kosent.export.checkpoint import BYTES, INDEX
from kosent.export.gguf_writer import Advance, Export
from kosent.files import atomic_folder, read_json, write_json

SHARD = 10**9
"""Bytes of tensors in one file, which are in memory together; a single larger tensor is a file by itself."""
COPIED = (
    "config.json", "generation_config.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
)  # fmt: skip
NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""A type as the safetensors library is told it."""


def write_merged(export: Export, folder: Path, advance: Advance) -> None:
    """Writes `folder`, whole or not at all; `advance(done, name)` is told how many MB (10^6 bytes) are done."""
    with atomic_folder(folder) as temporary:
        for name in COPIED:
            if (export.base.folder / name).is_file():
                shutil.copy(export.base.folder / name, temporary / name)
        if "lm_head.weight" in export.adapter.replaced:
            config = read_json(temporary / "config.json")
            write_json(temporary / "config.json", config | {"tie_word_embeddings": False})
        (temporary / "chat_template.jinja").write_text(export.template, encoding="utf-8")
        shards = _shards(export)
        places: dict[str, str] = {}
        done = 0
        for number, names in enumerate(shards, 1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
            arrays = {}
            for name in names:
                merged = export.merged(name, 0, export.shapes[name][0])
                arrays[name] = np.ascontiguousarray(quantize(merged, GGMLQuantizationType[_dtype(export, name)]))
                done += arrays[name].nbytes
                advance(done // 10**6, name)
            _save(export, arrays, temporary / file)
            places |= dict.fromkeys(names, file)
        if len(shards) > 1:
            write_json(temporary / INDEX, {"metadata": {"total_size": done}, "weight_map": places})


def _save(export: Export, arrays: dict[str, np.ndarray], file: Path) -> None:
    specifications = {
        name: TensorSpec(
            dtype=NAMES[_dtype(export, name)], shape=export.shapes[name], data_ptr=array.ctypes.data, data_len=array.nbytes
        )
        for name, array in arrays.items()
    }
    serialize_file(specifications, file, metadata={"format": "pt"})


def merged_nbytes(export: Export) -> int:
    return sum(_nbytes(export, name) for name in export.shapes)


def _dtype(export: Export, name: str) -> str:
    return export.base.tensors[name].dtype if name in export.base.tensors else "F32"


def _nbytes(export: Export, name: str) -> int:
    return int(np.prod(export.shapes[name])) * BYTES[_dtype(export, name)]


def _shards(export: Export) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name in export.shapes:
        if shards[-1] and size + _nbytes(export, name) > SHARD:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += _nbytes(export, name)
    return shards
