"""`kosent export` beside the usual three steps: merge with PEFT, save, convert with llama.cpp's converter.

    .venv/bin/python benchmarks/export.py [--rounds 3]

SmolLM2 135M and Gemma 3 270M with an adapter of rank 16, to f16 and to q8_0; each way in processes of its own, in turn, its time
and the peak resident memory of its largest process. The three steps merge in the base's own type (bfloat16), as people do.

Then the same with a merge in float32, for f32, f16, bf16 and q8_0: every tensor must be equal to the bit, and the metadata but
for names; also for a Qwen 3 of random weights. The converter comes from the source package of the installed llama-cpp-python.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from gguf import GGUFReader

from common import Result, report
from kosent import hf
from kosent.files import write_jsonl

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import bases
from helpers import finetune_arguments

MERGE = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, target, dtype = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype if dtype == "auto" else getattr(torch, dtype))
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(target)
AutoTokenizer.from_pretrained(base).save_pretrained(target)
"""
CONVERT = """
import runpy, sys
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
from conversion.base import TextModel
known = TextModel.get_vocab_base_pre
def guessed(self, tokenizer):
    try:
        return known(self, tokenizer)
    except NotImplementedError:
        return "default"
TextModel.get_vocab_base_pre = guessed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""llama.cpp's converter, which refuses the starter base's tokenizer otherwise; its metadata is compared for SmolLM2 only."""
LAUNCH = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
open(3, "w").write(f"{os.waitstatus_to_exitcode(status)} {usage.ru_maxrss}")
"""
"""A process's peak memory begins with that of the process which started it, so a small one does."""
MODELS = ("SmolLM2", "Gemma 3", "Qwen 3")
"""The last of two random layers: its tensors and metadata are compared, not its speed."""
TIME_GOAL, MEMORY_GOAL = 0.33, 0.5
OWN = ("general.name", "tokenizer.chat_template", "tokenizer.ggml.eot_token_id")
"""Names, and what only a tuned model has."""
DEFAULT = "tokenizer.ggml.add_bos_token"
"""For Qwen the converter leaves it to llama.cpp's own default, false; kosent writes that out."""
NAMING = ("general.basename", "general.finetune", "general.size_label", "general.organization", "general.version")
"""The converter guesses these from the folder's name."""


def converter(cache: Path) -> Path:
    """llama.cpp's `convert_hf_to_gguf.py`, fetched once."""
    from importlib.metadata import version

    folder = cache / f"llama-cpp-python-{version('llama-cpp-python')}"
    if not folder.is_dir():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        package = f"llama-cpp-python=={version('llama-cpp-python')}"
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(part), package]
        subprocess.run(pip, check=True)
        with tarfile.open(next(part.glob("*.tar.gz"))) as archive:
            archive.extractall(part, filter="data")
        part.rename(folder)
    return next(folder.glob("*/vendor/llama.cpp/convert_hf_to_gguf.py"))


def timed(command: list[str], log: Path) -> tuple[float, float]:
    """Seconds, and the peak of its resident memory in GB. Ends the benchmark when it fails."""
    reading, writing = os.pipe()
    began = time.perf_counter()
    with log.open("a") as file:
        launch = [sys.executable, "-S", "-c", f"import os; os.dup2({writing}, 3)\n{LAUNCH}", *command]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        subprocess.run(launch, stdout=file, stderr=file, env=environment, pass_fds=[writing], check=True)
    seconds = time.perf_counter() - began
    os.close(writing)
    with os.fdopen(reading) as said:
        code, peak = map(int, said.read().split())
    if code:
        sys.exit(f"{' '.join(command)} failed; see {log}")
    return seconds, peak / 1e6


def three_steps(run: Path, base: Path, script: Path, kind: str, folder: Path, dtype: str = "auto") -> tuple[float, float]:
    shutil.rmtree(folder, ignore_errors=True)
    log = folder.with_suffix(".log")
    merge = timed([sys.executable, "-c", MERGE, str(base), str(run / "adapter"), str(folder / "merged"), dtype], log)
    outputs = ["--outtype", kind, "--outfile", str(folder / f"{kind}.gguf")]
    convert = timed([sys.executable, "-c", CONVERT, str(script), str(folder / "merged"), *outputs], log)
    return merge[0] + convert[0], max(merge[1], convert[1])


def ours(run: Path, kind: str, target: Path) -> tuple[float, float]:
    command = [sys.executable, "-m", "kosent", "export", str(run), "--quantization", kind, "--output", str(target), "--no-verify"]
    return timed(command, target.with_suffix(".log"))


def make_run(name: str, base: Path, data: Path, folder: Path) -> Path:
    """A run of one training step, which is all an export needs."""
    run = folder / f"{name}-run"
    if not (run / "adapter").is_dir():
        command = finetune_arguments(data, run, base, "--set", "training.epochs=1")
        timed([sys.executable, "-m", "kosent", *command], folder / f"{name}-run.log")
    return run


def make_data(folder: Path) -> Path:
    data = folder / "data"
    messages = [{"role": "user", "content": "잠이 안 와."}, {"role": "assistant", "content": "잠들지 못해 힘드셨겠어요."}]
    for split, count in (("train", 8), ("validation", 1), ("test", 1)):
        write_jsonl(data / f"{split}.jsonl", [{"messages": messages}] * count)
    return data


def differences(one: Path, other: Path) -> tuple[list[str], list[str]]:
    """Tensors, and keys of the metadata, that are not equal."""
    a, b = GGUFReader(one), GGUFReader(other)
    first, second = ({t.name: t for t in reader.tensors} for reader in (a, b))
    tensors = [
        name
        for name in first.keys() | second.keys()
        if name not in first
        or name not in second
        or first[name].tensor_type != second[name].tensor_type
        or not np.array_equal(np.asarray(first[name].data).view(np.uint8), np.asarray(second[name].data).view(np.uint8))
    ]
    keys = [
        key
        for key in a.fields.keys() | b.fields.keys()
        if not key.startswith("GGUF.") and key not in OWN + NAMING and _contents(a, key) != _contents(b, key)
    ]
    if _contents(a, DEFAULT) is False and _contents(b, DEFAULT) is None:
        keys = [key for key in keys if key != DEFAULT]
    return sorted(tensors), sorted(keys)


def _contents(reader: GGUFReader, key: str) -> Any:
    return reader.fields[key].contents() if key in reader.fields else None


def speed_rows(name: str, kind: str, rounds: list[tuple[tuple[float, float], tuple[float, float]]]) -> list[Result]:
    seconds = [median(pair[way][0] for pair in rounds) for way in (0, 1)]
    memory = [median(pair[way][1] for pair in rounds) for way in (0, 1)]
    faster = median(own[0] / usual[0] for own, usual in rounds)
    smaller = median(own[1] / usual[1] for own, usual in rounds)
    return [
        Result(f"{name} {kind}: kosent export", round(seconds[0], 2), "s", "", True),
        Result(f"{name} {kind}: three steps", round(seconds[1], 2), "s", "", True),
        Result(f"{name} {kind}: time", round(faster, 3), "ratio", f"<= {TIME_GOAL}", faster <= TIME_GOAL),
        Result(f"{name} {kind}: peak memory, kosent export", round(memory[0], 2), "GB", "", True),
        Result(f"{name} {kind}: peak memory, three steps", round(memory[1], 2), "GB", "", True),
        Result(f"{name} {kind}: memory", round(smaller, 3), "ratio", f"<= {MEMORY_GOAL}", smaller <= MEMORY_GOAL),
    ]


def base_of(name: str, folder: Path, smollm2: Path) -> Path:
    if name != "Qwen 3":
        return smollm2 if name == "SmolLM2" else Path(hf.resolve_base("starter"))
    random = folder / "qwen3"
    return random if random.is_dir() else bases.random_base("qwen3", smollm2, random)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is timed (3)")
    parser.add_argument("--output", type=Path, default=Path("runs/export-benchmark"), metavar="DIR", help="what is kept")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), metavar="DIR", help="where the converter is kept")
    parser.add_argument("--models", default=",".join(MODELS), help="which, separated by commas (all)")
    args = parser.parse_args()
    if unknown := [name for name in args.models.split(",") if name not in MODELS]:
        parser.error(f"unknown models {', '.join(unknown)}; known are {', '.join(MODELS)}")
    folder: Path = args.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    script = converter(args.cache.resolve())
    data = make_data(folder)
    smollm2 = folder / "smollm2"
    if not smollm2.is_dir():
        bases.smollm2(smollm2)
    rows = []
    for name in args.models.split(","):
        base = base_of(name, folder, smollm2)
        run = make_run(name.split()[0].lower(), base, data, folder)
        work = folder / f"{name.split()[0].lower()}-work"
        work.mkdir(exist_ok=True)
        for kind in ("f16", "q8_0") if name != "Qwen 3" else ():
            pairs = []
            for number in range(args.rounds):
                early = ours(run, kind, work / f"{kind}.gguf") if number % 2 == 0 else None
                usual = three_steps(run, base, script, kind, work / "usual")
                pairs.append((early or ours(run, kind, work / f"{kind}.gguf"), usual))
            rows += speed_rows(name, kind, pairs)
        for kind in ("f32", "f16", "bf16", "q8_0"):
            three_steps(run, base, script, kind, work / "exact", "float32")
            ours(run, kind, work / f"{kind}.gguf")
            tensors, keys = differences(work / f"{kind}.gguf", work / "exact" / f"{kind}.gguf")
            if name == "Gemma 3":  # its tokenizer is the one of the GGUF that it came from (tests/test_export.py)
                keys = [key for key in keys if not key.startswith("tokenizer.")]
            print(f"{name} {kind}: other tensors {tensors[:5]}, other metadata {keys}", file=sys.stderr)
            rows.append(Result(f"{name} {kind}: tensors that differ", len(tensors), "tensors", "0", not tensors))
            rows.append(Result(f"{name} {kind}: metadata keys that differ", len(keys), "keys", "0", not keys))
            shutil.rmtree(work / "exact")
    report("export", rows)


if __name__ == "__main__":
    main()
