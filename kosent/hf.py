"""Loading Hugging Face models, tokenizers and runs: for training, verification and evaluation, not for chatting.

A base is `starter` (made on first use from its packages), a local folder or a Hugging Face id.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kosent.errors import ModelError
from kosent.files import sha256
from kosent.locations import starter_base
from kosent.progress import progress
from kosent.prompts import Layout, layout_for_vocabulary
from kosent.run_directory import RunDirectory
from kosent.starter import BASE_NAME, base_is_built, build_base


def resolve_base(name: str) -> str:
    """What `from_pretrained` takes for `name`; makes the starter base when it is asked for and not there yet."""
    if name != BASE_NAME:
        return name
    folder = starter_base()
    if base_is_built(folder):
        return str(folder)
    with progress("starter base", 236) as advance:
        build_base(folder, advance=lambda what, done, total: advance(done if total > 1 else 0, what))
    return str(folder)


def base_hashes(name: str) -> dict[str, str]:
    """`{file name: sha256}` of a local base's weights and tokenizer; empty for one on the hub."""
    folder = Path(resolve_base(name))
    files = [*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"] if folder.is_dir() else []
    return {path.name: sha256(path) for path in sorted(files) if path.is_file()}


def _advice(name: str, error: Exception) -> ModelError:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "gated" in text.lower() or "401" in text or "403" in text:
        hint = f"ask for access on the model's page, then `hf auth login`, then try again with {name}"
    else:
        hint = "kosent models     (lists what is here); or name a folder with config.json, or `starter`"
    return ModelError(f"The model {name!r} could not be loaded: {text}", hint=hint)


def load_tokenizer(name: str) -> Any:
    """The fast tokenizer of a base. Raises `ModelError`."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_base(name))
    except (OSError, ValueError) as error:
        raise _advice(name, error) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, *, dtype: str) -> Any:
    """The base with weights of `dtype` ("float32" or "bfloat16"). Raises `ModelError`."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(resolve_base(name), dtype=getattr(torch, dtype))
    except (OSError, ValueError) as error:
        raise _advice(name, error) from error


@dataclass(frozen=True)
class Trained:
    """A model ready to be asked, with the text layout that belongs to it."""

    model: Any
    tokenizer: Any
    template: str
    layout: Layout


def load_for_inference(name: str, *, dtype: str = "float32") -> Trained:
    """A run (base and adapter), or a base alone with the template of its layout. On the GPU where there is one."""
    import torch

    path = Path(name)
    if (path / "run.json").is_file():
        run = RunDirectory.open(path)
        model = load_model(run.base, dtype=dtype)
        tokenizer, template, layout = load_tokenizer(run.base), run.template, run.layout
        from peft import PeftModel

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # transformers 5.23 through peft 0.21
            model = PeftModel.from_pretrained(model, str(run.adapter)).get_base_model()
    else:
        tokenizer, model = load_tokenizer(name), load_model(name, dtype=dtype)
        layout = layout_for_vocabulary(tokenizer.get_vocab())
        template = layout.template
    model.eval()
    # torch 2.13 on a CPU copies a frozen bfloat16 matrix again and again for an input that is a slice: 4.5 s and 11 GB, not 0.1 s
    model.get_output_embeddings().register_forward_pre_hook(lambda head, inputs: (inputs[0].contiguous(), *inputs[1:]))
    return Trained(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, template, layout)


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware (Linux, x86: AMX)."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False


def quiet() -> None:
    """Keeps libraries from drawing over our progress, and threads from spinning; call it before torch is imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # with the other cores busy: 115 instead of 85 tokens/s in training, and no slower alone (docs/benchmarks.md)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
