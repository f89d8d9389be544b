"""Speed, MFU and memory of LoRA and QLoRA on Llama 3.1 8B on one GPU, beside TRL, without downloading a model.

    .venv/bin/python -m pip install trl==1.16.0 datasets bitsandbytes        beside a torch built for CUDA
    .venv/bin/python benchmarks/finetune_gpu.py [--peak FLOPS]
    .venv/bin/python benchmarks/finetune_gpu.py --toy                        proves on a CPU that all of it runs

The model is made from Llama 3.1 8B's config values with random weights: they cost what trained ones do. `OUTPUT` keeps it (16 GB,
used again). Dialogues are random ids, about 118 tokens each, which begin with the same 20 and learn 40 % of theirs. A step has as
many as fill `--rows` rows of 2,048 tokens (8, TRL's default batch). KoSent trains the recipes `llama31-8b-lora` and
`llama31-8b-qlora` through its own `train`. TRL gets the same model, LoRA settings and dialogues, packs them itself, and otherwise
keeps its defaults; where the package flash-attn is there, it computes attention with that, as its documentation asks.
The recipes' own steps are of 16 dialogues, one row: about what `--rows 1` measures.

Each contender is a process of its own. Speeds and MFU are medians over the steps after the warm-up, each from the end of the step
before to its own (`torch.cuda.synchronize`). Tokens/s counts the dialogues' own tokens, so a prefix computed once counts as often
as it stands in a dialogue; `computed` counts it once. The epoch is 51,630 such dialogues at that speed, without validation. Peak
memory is `torch.cuda.max_memory_allocated` while training; on a CPU, all that the process held.

    MFU = FLOPs / seconds / peak,    FLOPs of a step = (4 N + 6 A) T + 4 H S + 12 L D P

    N     weights of the frozen linear layers without embedding and head, 6.979e9: 2 FLOPs forward, 2 for their input's gradient
    A     weights of the adapters, 41.9e6 at rank 16: 2 more for their own gradient
    T     tokens computed
    H, S  weights of the head; supervised tokens, the only ones that need it
    L, D  layers; heads times head size
    P     pairs of a token and one that it may attend to: 4 FLOPs forward and 8 backward for each layer and dimension

What is computed again (checkpointing) or brought back from 4 bits does not count. Peaks are the vendors', dense, bfloat16.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from common import Result, report
from kosent.files import read_json, write_json

CONTENDERS = ("kosent-lora", "trl-lora", "kosent-qlora", "trl-qlora")
PEAKS = {r"H100 80GB HBM3$": 989e12, r"H200$": 989e12, r"A100": 312e12, r"RTX 4090$": 165e12}
"""FLOPs a second by what the GPU's name must hold. The PCIe and NVL cards are slower, and 4090s of other kinds too."""
TOY_PEAK = 1e12
GOAL_MFU = 0.5
EPOCH, FOUNDING_MINUTES = 51_630, 54
LENGTH, SPREAD, SHORTEST, LONGEST, PREFIX, SUPERVISED, TURNS = 118, 30, 40, 240, 20, 0.4, 3
"""Of a dialogue, in tokens: mean, standard deviation, least, most, what all share; the share that is learnt; replies."""
RANK = 16
Model = dict[str, Any]
Step = dict[str, float]
"""Of one step: seconds, loss, dialogues, supervised tokens, tokens of the dialogues, computed ones, and attention's pairs."""


@dataclass(frozen=True)
class Size:
    """How large the model, rows (tokens) and steps are."""

    model: Model
    row: int
    rows: int
    steps: int
    warm_up: int
    micro: int
    """Tokens of KoSent's forward pass, `training.micro_batch_tokens`."""

    @property
    def dialogues(self) -> int:
        """In one step."""
        return self.rows * self.row // LENGTH


LLAMA: Model = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip
TOY = LLAMA | {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "vocab_size": 512,
}  # fmt: skip


def shapes(model: Model) -> list[tuple[int, int]]:
    """Inputs and outputs of the linear layers of one decoder layer: q, k, v, o, gate, up, down."""
    hidden, inner = model["hidden_size"], model["intermediate_size"]
    queries, keys = (model[f"num_{kind}_heads"] * model["head_dim"] for kind in ("attention", "key_value"))
    attention = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    return [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]


def flops(model: Model, step: Step) -> float:
    """Multiplications and additions of one step, by the formula at the top."""
    layers = model["num_hidden_layers"]
    frozen = layers * sum(inputs * outputs for inputs, outputs in shapes(model))
    adapters = layers * sum(RANK * (inputs + outputs) for inputs, outputs in shapes(model))
    head = model["hidden_size"] * model["vocab_size"]
    attention = 12 * layers * model["num_attention_heads"] * model["head_dim"] * step["pairs"]
    return float((4 * frozen + 6 * adapters) * step["computed"] + 4 * head * step["supervised"] + attention)


def pairs(prefix: int, lengths: Iterable[int]) -> int:
    """Pairs of a token and one that it may attend to, in a row of one prefix and dialogues of `lengths` tokens after it."""
    return prefix * (prefix + 1) // 2 + sum(prefix * length + length * (length + 1) // 2 for length in lengths)


def peak_of(name: str) -> float | None:
    """Dense bfloat16 FLOPs a second of a GPU of that name, where known."""
    return next((peak for pattern, peak in PEAKS.items() if re.search(pattern, name)), None)


def dialogues(count: int, vocabulary: int, seed: int = 42) -> list[Any]:
    """Dialogues of random ids; in each of `TURNS` turns after the prefix the last tokens are learnt."""
    from kosent.finetune.encode import IGNORED, Dialogue

    draw = random.Random(seed)
    prefix = draw.choices(range(3, vocabulary), k=PREFIX)
    made = []
    for _ in range(count):
        length = min(max(round(draw.gauss(LENGTH, SPREAD)), SHORTEST), LONGEST)
        ids = prefix + draw.choices(range(3, vocabulary), k=length - PREFIX)
        labels = [IGNORED] * length
        ends = [PREFIX + (length - PREFIX) * turn // TURNS for turn in range(1, TURNS + 1)]
        for end in ends:
            labels[end - round(SUPERVISED * length / TURNS) : end] = ids[end - round(SUPERVISED * length / TURNS) : end]
        made.append(Dialogue(ids, labels))
    return made


def build_base(size: Size, folder: Path) -> None:
    """Writes the random model in bfloat16; made on the GPU where it fits there, which takes seconds instead of minutes."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    device = "cuda" if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > 20e9 else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**size.model), dtype=torch.bfloat16)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    partial.rename(folder)


def stopwatch() -> Any:
    """A callback for KoSent's trainer and TRL's that notes in `seconds` what each step took."""
    import torch

    from kosent.finetune.watch import Watch

    class Stopwatch(Watch):
        def __init__(self) -> None:
            super().__init__(lambda step, note: None, None, None)
            self.seconds: list[float] = []

        def _now(self) -> float:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            return time.perf_counter()

        def on_train_begin(self, *more: Any, **named: Any) -> None:
            super().on_train_begin(*more, **named)
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            self._mark = self._now()

        def on_step_end(self, *more: Any, **named: Any) -> None:
            now = self._now()
            self.seconds.append(now - self._mark)
            self._mark = now
            super().on_step_end(*more, **named)

    return Stopwatch()


def load(base: Path, name: str) -> Any:
    from kosent import hf

    return hf.load_model(str(base), dtype="bfloat16", quantization="nf4" if name.endswith("qlora") else "none")


def recipe_for(name: str, size: Size, checkpointing: str) -> Any:
    """KoSent's recipe for the 8B model with this benchmark's rows and steps, without validations and checkpoints in between."""
    import torch

    from kosent.finetune.recipes import load_recipe

    never = size.steps + 1
    own = [
        "training.epochs=1", f"training.micro_batch_tokens={size.micro}", f"training.batch_dialogues={size.dialogues}",
        f"training.validation_steps={never}", f"training.checkpoint_steps={never}", "training.patience=0", f"lora.rank={RANK}",
    ]  # fmt: skip
    if not torch.cuda.is_available():
        own.append("training.optimizer=adamw")  # the paged one needs a GPU
    if checkpointing:
        own.append(f"training.gradient_checkpointing={checkpointing}")
    return load_recipe(f"llama31-8b-{name.partition('-')[2]}", own)


def kosent(name: str, size: Size, base: Path, output: Path, checkpointing: str) -> tuple[list[Step], str]:
    """Trains with KoSent and returns its steps and how attention was computed."""
    from kosent.finetune.plan import make_step
    from kosent.finetune.train import train, trainable

    recipe = recipe_for(name, size, checkpointing)
    drawn = dialogues(size.steps * size.dialogues, size.model["vocab_size"])
    parts = [drawn[start : start + size.dialogues] for start in range(0, len(drawn), size.dialogues)]
    plan = [make_step(part, recipe.training.micro_batch_tokens) for part in parts]
    watch, model = stopwatch(), trainable(load(base, name), recipe)
    trainer = train(model, plan, make_step(drawn[:1], size.micro), recipe, output / "checkpoints", watch, None, "random")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    steps = [
        {
            "seconds": seconds, "loss": loss, "dialogues": step.dialogues, "supervised": step.supervised, "tokens": step.tokens,
            "computed": sum(len(row.ids) for row in step.rows), "pairs": sum(pairs(row.prefix, row.lengths) for row in step.rows),
        }
        for step, seconds, loss in zip(plan, watch.seconds, losses, strict=True)
    ]  # fmt: skip
    return steps, model.get_base_model().config._attn_implementation


def trl(name: str, size: Size, base: Path, output: Path, checkpointing: str) -> tuple[list[Step], str]:
    """Trains with TRL's SFTTrainer and returns its steps and how attention was computed."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    lora = recipe_for(name, size, checkpointing).lora
    drawn = dialogues(size.steps * size.dialogues, size.model["vocab_size"])
    model, watch = load(base, name), stopwatch()
    if find_spec("flash_attn"):
        model.set_attn_implementation("flash_attention_2")
    # the dialogues are ids already; TRL asks for a tokenizer all the same
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(output / "trainer"), packing=True, max_length=size.row, per_device_train_batch_size=size.rows,
            num_train_epochs=1, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=Dataset.from_list([{"input_ids": one.ids, "labels": one.labels} for one in drawn]),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"),
        peft_config=LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets, task_type="CAUSAL_LM"),
        callbacks=[watch],
    )  # fmt: skip
    batches: list[Step] = []
    collate = trainer.data_collator

    def noted(examples: Any) -> Any:
        batch = collate(examples)
        batches.append(contents(batch))
        return batch

    trainer.data_collator = noted
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    steps = zip(batches, watch.seconds, losses, strict=True)
    return [step | {"seconds": seconds, "loss": loss} for step, seconds, loss in steps], model.config._attn_implementation


def contents(batch: Any) -> Step:
    """What TRL's packed batch holds: dialogues one after another, each from position 0."""
    positions = batch["position_ids"].flatten().tolist()
    starts = [place for place, position in enumerate(positions) if position == 0]
    lengths = [end - start for start, end in zip(starts, [*starts[1:], len(positions)], strict=True)]
    supervised = int((batch["labels"] >= 0).sum())
    return {
        "dialogues": len(lengths), "supervised": supervised, "tokens": len(positions), "computed": len(positions),
        "pairs": pairs(0, lengths),
    }  # fmt: skip


def work(name: str, args: argparse.Namespace, size: Size, base: Path) -> None:
    """The process of one contender, or of the base: does its part and writes `OUTPUT/NAME/measured.json`."""
    if name == "base":
        return build_base(size, base)
    from kosent.finetune.train import peak_memory

    output = args.output / name
    contender = kosent if name.startswith("kosent") else trl
    steps, attention = contender(name, size, base, output, args.checkpointing)
    shutil.rmtree(output / "checkpoints", ignore_errors=True)
    write_json(output / "measured.json", {"attention": attention, "peak_gb": peak_memory(), "steps": steps})


def call(name: str, args: argparse.Namespace) -> bool:
    """Runs `work` in a process of its own, its output in `OUTPUT/NAME/log.txt`; says so when that fails."""
    output = args.output / name
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if args.toy:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    print(f"{name} …", file=sys.stderr, flush=True)
    with (output / "log.txt").open("w", encoding="utf-8") as log:
        command = [sys.executable, str(Path(__file__)), *sys.argv[1:], "--one", name]
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if code:
        last = (output / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        print("\n".join([*last, f"{name} ended with {code}; see {output / 'log.txt'}."]), file=sys.stderr)
    return code == 0


def check(name: str, steps: list[Step], size: Size) -> None:
    """Ends the benchmark unless `name` trained once on every dialogue and token, with a finite loss, in enough steps."""
    drawn = dialogues(size.steps * size.dialogues, size.model["vocab_size"])
    wanted = {
        "dialogues": len(drawn), "supervised": sum(one.supervised for one in drawn), "tokens": sum(len(one.ids) for one in drawn)
    }  # fmt: skip
    found = {key: sum(step[key] for step in steps) for key in wanted}
    if found != wanted:
        sys.exit(f"{name} did not train on the same tokens: {found} instead of {wanted}.")
    if len(steps) <= size.warm_up or not all(math.isfinite(step["loss"]) for step in steps):
        sys.exit(
            f"{name} took {len(steps)} steps with the losses {[step['loss'] for step in steps]}; {size.warm_up} are warm-up."
        )


def rates(steps: list[Step], size: Size, peak: float) -> dict[str, float]:
    timed = steps[size.warm_up :]
    return {
        "tokens/s": median(step["tokens"] / step["seconds"] for step in timed),
        "computed tokens/s": median(step["computed"] / step["seconds"] for step in timed),
        "dialogues/s": median(step["dialogues"] / step["seconds"] for step in timed),
        "mfu": median(flops(size.model, step) / step["seconds"] for step in timed) / peak,
    }


def results(measured: dict[str, dict[str, Any]], size: Size, peak: float, toy: bool) -> list[Result]:
    rows = [Result("peak taken for MFU", peak / 1e12, "TFLOPs/s", "", True)]
    speeds = {name: rates(one["steps"], size, peak) for name, one in measured.items()}
    for name, speed in speeds.items():
        goal = GOAL_MFU if name == "kosent-lora" and not toy else 0.0
        minutes = EPOCH / speed["dialogues/s"] / 60
        rows += [
            Result(f"{name}: speed", round(speed["tokens/s"], 1), "tokens/s", "", True),
            Result(f"{name}: computed", round(speed["computed tokens/s"], 1), "tokens/s", "", True),
            Result(f"{name}: MFU", round(speed["mfu"], 4), "share", f">= {goal}" if goal else "", speed["mfu"] >= goal),
            Result(f"{name}: peak memory", round(measured[name]["peak_gb"], 2), "GB", "", True),
            Result(f"{name}: epoch of {EPOCH:,} dialogues", round(minutes, 1), "min", "", True),
        ]  # fmt: skip
    rows.append(Result(f"founding project, one A100: epoch of {EPOCH:,} dialogues", FOUNDING_MINUTES, "min", "", True))
    for kind in ("lora", "qlora"):
        if {f"kosent-{kind}", f"trl-{kind}"} <= set(speeds):
            ratio = speeds[f"kosent-{kind}"]["tokens/s"] / speeds[f"trl-{kind}"]["tokens/s"]
            rows.append(Result(f"speed, kosent-{kind} / trl-{kind}", round(ratio, 2), "ratio", "", True))
    return rows


def available(contenders: Sequence[str]) -> list[str]:
    """Those whose libraries are installed; says which are left out."""
    kept = []
    for name in contenders:
        needed = [*(["trl", "datasets"] if name.startswith("trl") else []), *(["bitsandbytes"] if name.endswith("qlora") else [])]
        if missing := [library for library in needed if find_spec(library) is None]:
            print(f"{name} is left out: pip install {' '.join(missing)}")
        else:
            kept.append(name)
    return kept


def find_peak(args: argparse.Namespace) -> float:
    """The GPU's peak in FLOPs a second. Ends with exit code 1 where there is no GPU, or one that is not in the table."""
    if args.toy:
        return float(args.peak or TOY_PEAK)
    import torch

    script = f"{sys.executable} {sys.argv[0]}"
    if not torch.cuda.is_available():
        sys.exit(
            f"There is no GPU that torch {torch.__version__} can use. `{script} --toy` proves on a CPU that the benchmark runs; "
            "for the numbers run it on a machine with a GPU and a torch built for CUDA."
        )
    name = torch.cuda.get_device_name()
    peak = args.peak or peak_of(name)
    if not peak:
        sys.exit(
            f"The peak of {name} is not known here. `{script} --peak FLOPS` with its dense bfloat16 peak, for example 312e12."
        )
    print(f"{name}, torch {torch.__version__}")
    return float(peak)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="two layers, 3 steps of rows of 256 tokens, on a CPU")
    parser.add_argument("--peak", type=float, metavar="FLOPS", help="dense bfloat16 peak, FLOPs a second (from the GPU's name)")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="which, separated by commas (all)")
    parser.add_argument("--rows", type=int, default=8, help="rows that a step's dialogues fill, and TRL's batch (8)")
    parser.add_argument("--steps", type=int, default=15, help="optimizer steps (15)")
    parser.add_argument("--warm-up", type=int, default=3, help="steps at the beginning that are not timed (3)")
    parser.add_argument("--micro", type=int, default=2048, metavar="TOKENS", help="of KoSent's forward pass (2048, the recipes')")
    parser.add_argument("--checkpointing", choices=("true", "false"), default="", help="KoSent's, instead of its recipes'")
    parser.add_argument("--output", type=Path, default=Path("runs/finetune-gpu-benchmark"), metavar="DIR", help="what is kept")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := [name for name in args.contenders.split(",") if name not in CONTENDERS]:
        parser.error(f"unknown contenders {', '.join(unknown)}; known are {', '.join(CONTENDERS)}")
    if min(args.rows, args.warm_up) < 1 or args.steps <= args.warm_up:
        parser.error("at least 1 row and 1 step of warm-up are needed, and more steps than those of warm-up")
    return args


def main() -> None:
    args = arguments()
    size = Size(TOY, 256, 2, 3, 1, 256) if args.toy else Size(LLAMA, 2048, args.rows, args.steps, args.warm_up, args.micro)
    base = args.output / ("toy" if args.toy else "llama31-8b-random")
    if args.one:
        return work(args.one, args, size, base)
    peak = find_peak(args)
    contenders = available(args.contenders.split(","))
    if not base.is_dir():
        args.output.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(args.output).free / 1e9
        if not args.toy and free < 20:
            sys.exit(f"The model needs 16 GB in {args.output}, and {free:.1f} GB are free there: --output DIR with room for it.")
        if not call("base", args):
            sys.exit(1)
    succeeded = [name for name in contenders if call(name, args)]
    measured = {name: read_json(args.output / name / "measured.json") for name in succeeded}
    for name, one in measured.items():
        check(name, one["steps"], size)
        print(f"{name}: attention by {one['attention']}; losses {json.dumps([round(step['loss'], 3) for step in one['steps']])}")
    report("finetune_gpu", results(measured, size, peak, args.toy))
    if succeeded != contenders:
        sys.exit(1)


if __name__ == "__main__":
    main()
