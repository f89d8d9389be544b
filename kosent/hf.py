"""Loading Hugging Face models, tokenizers and runs: for training, verification and evaluation, not for chatting.

A base is `starter` (made on first use from its packages), a local folder, or ORG/NAME or ORG/NAME@REVISION on the hub
(`kosent.hub`), which becomes a folder too: its snapshot in the cache.
"""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kosent import extras, hub
from kosent.errors import ModelError
from kosent.files import read_json, sha256
from kosent.locations import starter_base
from kosent.progress import progress
from kosent.prompts import Layout, layout_for_vocabulary
from kosent.run_directory import RunDirectory
from kosent.starter import BASE_NAME, base_is_built, build_base

UNTRAINED_SHARE = 0.1
"""A row of the embedding is untrained below this share of the median row's norm (see `untrained_turn_tokens`)."""


def is_on_hub(name: str) -> bool:
    """Whether a base's name is to be looked up on the hub: it is neither `starter` nor a folder."""
    return name != BASE_NAME and not Path(name).is_dir()


def resolve_base(name: str, *, weights: bool = True) -> str:
    """The folder of a base. Makes the starter base when it is asked for and not there yet; downloads from the hub what lacks.

    Without `weights` only config and tokenizer of a hub base are needed. Raises `ModelError`.
    """
    if is_on_hub(name):
        return str(hub.fetch(name, weights=weights))
    if name != BASE_NAME:
        return name
    folder = starter_base()
    if base_is_built(folder):
        return str(folder)
    with progress("starter base", 236) as advance:
        build_base(folder, advance=lambda what, done, total: advance(done if total > 1 else 0, what))
    return str(folder)


def downloads(name: str) -> dict[str, int]:
    """What loading a base would still download, as {file: bytes}. Downloads nothing. Raises `ModelError`."""
    return hub.downloads(name) if is_on_hub(name) else {}


def base_hashes(name: str) -> dict[str, str]:
    """`{file name: sha256}` of a base's weights, config and tokenizer; of a hub base's, those that are in the cache."""
    folder = Path(resolve_base(name, weights=False))
    tokenizer = next((file for file in ("tokenizer.json", "tokenizer.model") if (folder / file).is_file()), "tokenizer.json")
    files = [*hub.weight_files(folder), folder / "config.json", folder / tokenizer]
    return {path.name: sha256(path) for path in sorted(files) if path.is_file()}


def base_facts(name: str, run: Path) -> dict[str, Any]:
    """What `run.json` says of a base: its name as `RunDirectory.base` reads it, the hub's commit, and `base_hashes`.

    Nothing in it names this machine: a folder is written relative to `run`. The weights of a hub base are hashed when they are
    in the cache (`resolve_base` brings them), and not fetched for this.
    """
    if is_on_hub(name):
        recorded, revision = hub.split(name)[0], hub.commit(name)
    elif name == BASE_NAME:
        recorded, revision = name, ""
    else:
        relative = os.path.relpath(os.path.abspath(name), run.resolve())
        recorded, revision = Path(relative).as_posix() if relative.startswith("..") else f"./{Path(relative).as_posix()}", ""
    return {"name": recorded, "revision": revision, "sha256": base_hashes(name)}


def _unloadable(name: str, error: Exception) -> ModelError:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(
        f"The model {name!r} could not be loaded: {text}",
        hint="name a folder with config.json, tokenizer.json and model.safetensors, or ORG/NAME on the hub, or `starter`",
    )


def load_tokenizer(name: str) -> Any:
    """The fast tokenizer of a base. Raises `ModelError`."""
    from transformers import AutoTokenizer

    folder = resolve_base(name, weights=False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise _unloadable(name, error) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, *, dtype: str, quantization: str = "none") -> Any:
    """The base with weights of `dtype` ("float32" or "bfloat16"). Raises `ModelError`.

    With `quantization` "nf4" its linear layers are stored in 4 bits and multiplied in bfloat16 (in float32 for that `dtype`),
    and it comes on this process's GPU where there is one; without, it comes on the CPU.
    """
    import torch
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if quantization == "nf4":
        options |= _four_bit(dtype)
    elif quantization != "none":
        raise ModelError(f"{quantization!r} is no quantization that a base can be loaded with.", hint="none or nf4")
    folder = resolve_base(name)
    try:
        return AutoModelForCausalLM.from_pretrained(folder, **options)
    except (OSError, ValueError) as error:
        raise _unloadable(name, error) from error


def _four_bit(dtype: str) -> dict[str, Any]:
    """Dettmers et al. 2023, QLoRA: NormalFloat4 with its scales quantized too, 4.13 bits a weight."""
    import torch
    from transformers import BitsAndBytesConfig

    extras.require("qlora", what="A base in 4 bits (nf4)")
    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32 if dtype == "float32" else torch.bfloat16,
    )
    # bitsandbytes quantizes on the device where the weights will stay; each process of `accelerate launch` has its own
    device: int | str = "cpu"
    if torch.cuda.is_available():
        device = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device()))
    return {"quantization_config": config, "device_map": {"": device}}


def empty_model(name: str) -> Any:
    """The base's architecture without its weights (torch's meta device): parameters can be counted, nothing can be run."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = resolve_base(name, weights=False)
    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise _unloadable(name, error) from error


def untrained_turn_tokens(model: Any, tokenizer: Any, layout: Layout) -> list[str]:
    """The tokens with which `layout` opens and closes a turn whose embedding the base never learned.

    A base model that has seen no dialogues carries them as reserved rows, and LoRA on the linear layers leaves them so: the
    tuned model then cannot tell them from other reserved tokens (unslothai/unsloth issue 915, torchtune issue 2429, both
    on Llama 3 base models). Those rows are near zero, though not always exactly, or copies of each other. So a row counts as
    untrained when its norm is below a tenth of the median row's, or when it equals another added token's row bit by bit. The
    weights must be there (not `empty_model`); about 4,000 rows are read for the median.
    """
    weight = model.get_input_embeddings().weight.detach()
    vocabulary = tokenizer.get_vocab()
    added = [number for number in tokenizer.added_tokens_decoder if number < len(weight)]
    least = UNTRAINED_SHARE * weight[:: max(1, len(weight) // 4096)].float().norm(dim=1).median()
    untrained = []
    for token in layout.turn_tokens:
        if token not in vocabulary:
            continue
        row = weight[vocabulary[token]]
        others = weight[[number for number in added if number != vocabulary[token]]]
        if row.float().norm() < least or bool((others == row).all(dim=1).any()):
            untrained.append(token)
    return untrained


def _base_of_adapter(folder: Path) -> str:
    """A folder or a name on the hub; a run's adapter names its base from the run's folder."""
    base = str(read_json(folder / "adapter_config.json")["base_model_name_or_path"])
    beside = folder.parent / base
    return str(beside) if beside.is_dir() else base


def _with_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # transformers 5.23 through peft 0.21
        return PeftModel.from_pretrained(model, str(adapter)).get_base_model()


@dataclass(frozen=True)
class Trained:
    """A model ready to be asked, with the text layout that belongs to it."""

    model: Any
    tokenizer: Any
    template: str
    layout: Layout


def load_for_inference(name: str, *, dtype: str = "float32") -> Trained:
    """A run (base and adapter, or its own weights), a folder with an adapter of PEFT, or a base alone. The last two get the
    template of the base's layout. On the GPU where there is one."""
    import torch

    path = Path(name)
    if (path / "run.json").is_file():
        run = RunDirectory.open(path)
        weights = str(run.weights or run.base)
        tokenizer, model, template, layout = load_tokenizer(weights), load_model(weights, dtype=dtype), run.template, run.layout
        if run.weights is None:
            model = _with_adapter(model, run.adapter)
    else:
        adapted = (path / "adapter_config.json").is_file()
        base = _base_of_adapter(path) if adapted else name
        tokenizer, model = load_tokenizer(base), load_model(base, dtype=dtype)
        if adapted:
            model = _with_adapter(model, path)
        layout = layout_for_vocabulary(tokenizer.get_vocab())
        template = layout.template
    model.eval()
    # torch 2.13 on a CPU copies a frozen bfloat16 matrix again and again for an input that is a slice: 4.5 s and 11 GB, not 0.1 s
    model.get_output_embeddings().register_forward_pre_hook(lambda head, inputs: (inputs[0].contiguous(), *inputs[1:]))
    return Trained(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, template, layout)


def fast_precision() -> str:
    """ "bfloat16" where the GPU, or without one the processor, multiplies it in hardware, else "float32"."""
    import torch

    hardware = torch.cuda.is_bf16_supported(including_emulation=False) if torch.cuda.is_available() else cpu_has_bf16()
    return "bfloat16" if hardware else "float32"


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware (Linux, x86: AMX, or AVX-512 with BF16)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
        return "amx_bf16" in flags or "avx512_bf16" in flags
    except OSError:
        return False


def quiet() -> None:
    """Keeps libraries from drawing over our progress, and threads from spinning; call it before torch is imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # threads wait a moment and then sleep: at once costs a quarter of the speed alone, never far more with the cores busy
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # peft loads bitsandbytes where it is installed, which recommends a package that nobody needs here
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
