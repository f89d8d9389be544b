"""A Llama 3.1 8B of random weights, with an adapter of rank 16, exported on this machine: time, memory and disk.

    .venv/bin/python benchmarks/export_8b.py [--types q8_0,q4_k_m]

The base is 16 GB of bfloat16 in four shards, built here; nothing is downloaded, and all is removed at the end. Memory is the
largest anonymous resident memory (RssAnon) of `kosent export` and of llama.cpp's quantizer, which is a process of its own,
looked at ten times a second. About 60 GB of disk are needed for q4_k_m: the base, an f16 file between, and the result.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from common import Result, report
from kosent.files import write_json
from kosent.prompts import LAYOUTS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import bases

HIDDEN, INNER, LAYERS, HEADS, KEY_HEADS, VOCABULARY = 4096, 14336, 32, 32, 8, 128256
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
    "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS, "vocab_size": VOCABULARY, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    "rope_theta": 500000.0,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192},
}  # fmt: skip
"""Llama 3.1 8B's own."""
KEYS = HIDDEN // HEADS * KEY_HEADS
LINEAR = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KEYS, HIDDEN), "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}  # fmt: skip
RANK, SHARDS = 16, 4
MEMORY_GOAL = 2.0


def build_base(folder: Path) -> None:
    """Four shards of random weights, each with its part of the layers, and SmolLM2's tokenizer, padded."""
    generator = torch.Generator().manual_seed(8)
    places = {}
    for shard in range(SHARDS):
        tensors = {}
        for layer in range(shard * LAYERS // SHARDS, (shard + 1) * LAYERS // SHARDS):
            prefix = f"model.layers.{layer}"
            for name, shape in LINEAR.items():
                tensors[f"{prefix}.{name}.weight"] = _random(shape, generator)
            for name in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{prefix}.{name}.weight"] = 1 + _random((HIDDEN,), generator)
        if shard == 0:
            tensors["model.embed_tokens.weight"] = _random((VOCABULARY, HIDDEN), generator)
        if shard == SHARDS - 1:
            tensors["model.norm.weight"] = 1 + _random((HIDDEN,), generator)
            tensors["lm_head.weight"] = _random((VOCABULARY, HIDDEN), generator)
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def _random(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)


def build_run(folder: Path, base: Path) -> Path:
    """A run directory as a training would have left it, with a random adapter."""
    run, layout = folder / "run", LAYOUTS["chatml"]
    (run / "adapter").mkdir(parents=True)
    generator = torch.Generator().manual_seed(16)
    tensors = {}
    for layer in range(LAYERS):
        for name, (rows, columns) in LINEAR.items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.empty(RANK, columns).normal_(0, 0.02, generator=generator)
            tensors[f"{key}.lora_B.weight"] = torch.empty(rows, RANK).normal_(0, 0.02, generator=generator)
    save_file(tensors, run / "adapter" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 32, "bias": "none"}
    targets = [name.rpartition(".")[2] for name in LINEAR]
    write_json(run / "adapter" / "adapter_config.json", config | {"target_modules": targets})
    (run / "chat_template.jinja").write_text(layout.template, encoding="utf-8")
    facts = {
        "status": "finished",
        "layout": layout.name,
        "base": {"name": os.path.relpath(base, run), "revision": "", "sha256": {}},
    }
    write_json(run / "run.json", facts)
    return run


def anonymous(pid: int) -> float:
    """RssAnon of a process, GB; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024 / 1e9 if "RssAnon:" in status else 0.0


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def measured(command: list[str], well: tuple[int, ...] = (0,)) -> tuple[float, float, float, float]:
    """Seconds in all, seconds of the quantizer, and the two peaks in GB. Ends the benchmark when its exit code is not `well`."""
    began, quantizing, own, quantizer = time.perf_counter(), 0.0, 0.0, 0.0
    process = subprocess.Popen(command)
    while process.poll() is None:
        own = max(own, anonymous(process.pid))
        for child in children(process.pid):
            quantizing = quantizing or time.perf_counter()
            quantizer = max(quantizer, anonymous(child))
        time.sleep(0.1)
    ended = time.perf_counter()
    if process.returncode not in well:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return ended - began, ended - quantizing if quantizing else 0.0, own, quantizer


def verified(run: Path, target: Path) -> list[Result]:
    """Time and memory of verifying. Random weights agree as they please, so that exit code 6 is as good as 0."""
    seconds, _, own, _ = measured([sys.executable, "-m", "kosent", "verify", str(run), str(target)], (0, 6))
    return [
        Result(f"{target.stem}: time to verify", round(seconds), "s", "", True),
        Result(f"{target.stem}: peak anonymous memory, verifying", round(own, 2), "GB", "", True),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default="q8_0,q4_k_m", help="which to export to, separated by commas (q8_0,q4_k_m)")
    parser.add_argument("--verify", action="store_true", help="verify each file too (about 15 minutes on two cores)")
    parser.add_argument("--output", type=Path, default=Path("runs/export-8b"), metavar="DIR", help="removed at the end")
    args = parser.parse_args()
    folder: Path = args.output.resolve()
    if folder.exists():
        sys.exit(f"{folder} is there already; it would be removed at the end.")
    rows = []
    try:
        base = bases.smollm2(folder / "base")
        (base / "model.safetensors").unlink()
        write_json(base / "config.json", CONFIG)
        build_base(base)
        run = build_run(folder, base)
        for kind in args.types.split(","):
            target = folder / f"{kind}.gguf"
            output = ["--quantization", kind, "--output", str(target), "--no-verify"]
            command = [sys.executable, "-m", "kosent", "export", str(run), *output]
            seconds, quantizing, own, quantizer = measured(command)
            rows.append(Result(f"{kind}: time", round(seconds), "s", "", True))
            rows.append(
                Result(f"{kind}: peak anonymous memory, kosent", round(own, 2), "GB", f"<= {MEMORY_GOAL:g}", own <= MEMORY_GOAL)
            )
            if quantizing:
                rows.append(Result(f"{kind}: of which llama.cpp's quantizer, from f16", round(quantizing), "s", "", True))
                rows.append(Result(f"{kind}: peak anonymous memory, llama.cpp's quantizer", round(quantizer, 2), "GB", "", True))
            rows.append(Result(f"{kind}: file", round(target.stat().st_size / 1e9, 2), "GB", "", True))
            if args.verify:
                rows += verified(run, target)
            target.unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report("export_8b", rows)


if __name__ == "__main__":
    main()
