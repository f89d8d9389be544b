"""Speed, memory and held-out loss of `kosent finetune` beside a padded loop, TRL and LLaMA-Factory, on the same dialogues.

    .venv/bin/python -m pip install trl==1.16.0 datasets
    .venv/bin/python benchmarks/finetune.py --rounds 3 [--llama-factory PYTHON]

All train the recipe `starter-cpu` for one pass over three-turn dialogues of the starter corpus: same token ids and labels
(checked), order, batch, steps, learning rates and threads. TRL and LLaMA-Factory are told only what this needs. `kosent` and
`trl` compute in their default precision (bfloat16 where the processor has it; bfloat16 autocast), `kosent-same-precision` and
`trl-same-precision` in that of the others. Packed TRL joins about a batch of dialogues into one row.

Each contender is a process of its own, in an order that rotates from round to round. Speed leaves out loading and the first step;
ratios are taken round by round, and the table shows the middle round. The last round's adapters are measured by one evaluator.
`OUTPUT` keeps everything, each contender's output in `log.txt`.

LLaMA-Factory pins older libraries, so it lives in an environment of its own:

    python -m venv .cache/llama-factory
    .cache/llama-factory/bin/pip install torch==2.13.0
    .cache/llama-factory/bin/pip install llamafactory==0.9.5 torch==2.13.0
    .cache/llama-factory/bin/pip uninstall torchvision torchaudio      where they want CUDA and torch is a CPU build
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from common import Result, report
from kosent import hf
from kosent.files import read_json, read_jsonl, write_json, write_jsonl
from kosent.finetune.encode import encode
from kosent.finetune.recipes import Recipe, load_recipe
from kosent.prompts import SYSTEM_MESSAGE, layout_for_vocabulary
from kosent.starter import corpus_path

CONTENDERS = (
    "kosent", "kosent-same-precision", "padded", "trl", "trl-same-precision",
    "trl-packing", "trl-packing-same-precision", "llama-factory",
)  # fmt: skip
GOALS = {("kosent", "padded"): 2.5, ("kosent-same-precision", "padded"): 2.5, ("kosent", "trl"): 4.0}
"""At least so many times the dialogues/s of the second."""
OURS = ("kosent", "kosent-same-precision")
TURNS, HELD_OUT, LOSS_DIFFERENCE = 3, 24, 0.01
FIRST_LOSS_DIFFERENCE = 0.02
"""Adapters start at zero, so the first step's loss tells whether two contenders saw the same batch; the rest is rounding."""
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Measured:
    """One contender in one round."""

    dialogues_per_second: float
    step_seconds: float
    """Median."""
    peak_gb: float


def three_turns() -> list[Messages]:
    """The dialogues of the starter corpus that have three replies, each with the system message."""
    with corpus_path().open(encoding="cp949", newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        turns = [(row[f"사람문장{n}"].strip(), row[f"시스템문장{n}"].strip()) for n in range(1, TURNS + 1)]
        if all(user and reply for user, reply in turns):
            messages = [{"role": "system", "content": SYSTEM_MESSAGE}]
            for user, reply in turns:
                messages += [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
            found.append(messages)
    return found


def choose(count: int, seed: int) -> tuple[list[Messages], list[Messages]]:
    """`count` dialogues to train on, repeated where there are not as many, and the held-out ones."""
    shuffled = three_turns()
    random.Random(seed).shuffle(shuffled)
    pool, chosen = shuffled[HELD_OUT:], list[Messages]()
    while len(chosen) < count:
        chosen += pool
        random.Random(f"{seed}/{len(chosen)}").shuffle(pool)
    return chosen[:count], shuffled[:HELD_OUT]


def make_job(args: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """Writes `data/` for KoSent and `job.json` with the same dialogues, as ids and labels in KoSent's order, for the others."""
    training = recipe.training
    chosen, held_out = choose(args.steps * training.batch_dialogues, training.seed)
    data = args.output / "data"
    for split, dialogues in (("train", chosen), ("validation", held_out[:8]), ("test", held_out)):
        write_jsonl(data / f"{split}.jsonl", [{"messages": messages} for messages in dialogues])
    order = list(range(len(chosen)))
    random.Random(f"{training.seed}/0").shuffle(order)  # as kosent.finetune.plan does in the first epoch
    tokenizer = hf.load_tokenizer(args.base)
    layout = layout_for_vocabulary(tokenizer.get_vocab())

    def ids(messages: Messages) -> dict[str, list[int]]:
        dialogue = encode(messages, tokenizer, layout.template, layout, recipe.max_length)
        if dialogue.truncated:
            sys.exit(f"A dialogue is longer than {recipe.max_length} tokens; the contenders would cut it differently.")
        return {"input_ids": dialogue.ids, "labels": dialogue.labels}

    job = {
        "base": hf.resolve_base(args.base), "precision": args.precision, "steps": args.steps, "batch": training.batch_dialogues,
        "learning_rate": training.learning_rate, "warmup_steps": training.warmup_steps, "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm, "seed": training.seed, "max_length": recipe.max_length,
        "rank": recipe.lora.rank, "alpha": recipe.lora.alpha, "dropout": recipe.lora.dropout, "targets": recipe.lora.targets,
        "dialogues": [ids(chosen[i]) for i in order], "held_out": [ids(messages) for messages in held_out],
    }  # fmt: skip
    write_json(args.output / "job.json", job)
    return job


def call(command: list[str], output: Path, threads: int) -> float:
    """Runs a contender and returns its peak resident memory in GB. Ends the benchmark when it fails."""
    output.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with (output / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = (output / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        sys.exit("\n".join([*lines[-30:], f"{' '.join(command)} ended with {process.returncode}; see {output / 'log.txt'}."]))
    return usage.ru_maxrss / (1e6 if sys.platform != "darwin" else 1e9)


def run_kosent(name: str, args: argparse.Namespace, output: Path) -> float:
    """Runs `kosent finetune` and returns its peak memory."""
    never = args.steps + 1
    precision = "auto" if name == "kosent" else args.precision
    changes = ["training.epochs=1", f"training.validation_steps={never}", f"training.checkpoint_steps={never}"]
    return call(
        [sys.executable, "-m", "kosent", "finetune", "--recipe", "starter-cpu", "--base", args.base,
         "--data", str(args.output / "data"), "--output", str(output),
         *(part for change in [*changes, f"precision={precision}"] for part in ("--set", change))],
        output, args.threads,
    )  # fmt: skip


def run_other(name: str, args: argparse.Namespace, output: Path) -> float:
    """Runs one job of `finetune_contenders.py` and returns its peak memory."""
    python = args.llama_factory if name == "llama-factory" else sys.executable
    script = Path(__file__).with_name("finetune_contenders.py")
    return call([str(python), str(script), name, str(args.output / "job.json"), str(output)], output, args.threads)


def steps_of(name: str, output: Path) -> list[dict[str, Any]]:
    """One entry a step, with at least its `seconds` and `loss`."""
    if name not in OURS:
        steps: list[dict[str, Any]] = read_json(output / "steps.json")
        return steps
    return [entry for entry in read_jsonl(output / "metrics.jsonl") if "seconds" in entry and "loss" in entry]


def check(name: str, steps: list[dict[str, Any]], job: dict[str, Any], output: Path) -> None:
    """Ends the benchmark unless `name` trained on the job's dialogues, tokens and labels, in its number of steps."""
    dialogues = job["dialogues"]
    learnt = [[label for label in dialogue["labels"] if label >= 0] for dialogue in dialogues]
    wanted = {"dialogues": len(dialogues), "supervised": sum(map(len, learnt))}
    if name in OURS:
        found = {"dialogues": (facts := read_json(output / "run.json")["tokens"])["dialogues"]}
        found["supervised"] = facts["supervised_tokens"]
    else:
        wanted["checksum"] = sum(map(sum, learnt))
        found = {key: sum(step[key] for step in steps) for key in wanted}
    if found != wanted:
        sys.exit(f"{name} did not train on the same tokens: {found} instead of {wanted}.")
    if len(steps) != job["steps"] and "packing" not in name:  # rows that fill well can be one fewer
        sys.exit(f"{name} took {len(steps)} measured steps instead of {job['steps']}; see {output}.")


def compete(args: argparse.Namespace, job: dict[str, Any]) -> list[dict[str, Measured]]:
    """Runs every contender in every round."""
    rounds = []
    for number in range(args.rounds):
        turn = number % len(args.contenders)
        measured: dict[str, Measured] = {}
        first: dict[str, float] = {}
        folder = args.output / f"round-{number + 1}"
        shutil.rmtree(folder, ignore_errors=True)
        for name in args.contenders[turn:] + args.contenders[:turn]:
            output = folder / name
            peak = run_kosent(name, args, output) if name in OURS else run_other(name, args, output)
            steps = steps_of(name, output)
            check(name, steps, job, output)
            seconds = [step["seconds"] for step in steps[1:]]
            dialogues = sum(step.get("dialogues", job["batch"]) for step in steps[1:])
            measured[name] = Measured(dialogues / sum(seconds), median(seconds), peak)
            if "packing" not in name:
                first[name] = steps[0]["loss"]
            print(f"round {number + 1}: {name}: {measured[name]}, first loss {steps[0]['loss']:.4f}", file=sys.stderr, flush=True)
        if first and max(first.values()) > min(first.values()) * (1 + FIRST_LOSS_DIFFERENCE):
            sys.exit(f"The first steps did not hold the same dialogues; their losses: {first}.")
        rounds.append(measured)
        write_json(args.output / "rounds.json", [{name: asdict(one[name]) for name in one} for one in rounds])
    return rounds


def speeds(contenders: list[str], rounds: list[dict[str, Measured]]) -> list[Result]:
    rows = []
    for name in contenders:
        speed = median(one[name].dialogues_per_second for one in rounds)
        rows.append(Result(f"{name}: speed", round(speed, 3), "dialogues/s", "", True))
        rows.append(Result(f"{name}: median step", round(median(one[name].step_seconds for one in rounds), 3), "s", "", True))
    for ours in [name for name in OURS if name in contenders]:
        for name in [name for name in contenders if name not in OURS]:
            ratio = median(one[ours].dialogues_per_second / one[name].dialogues_per_second for one in rounds)
            least = GOALS.get((ours, name), 0.0)
            goal = f">= {least}" if least else ""
            rows.append(Result(f"speed, {ours} / {name}", round(ratio, 2), "ratio", goal, ratio >= least))
    return rows


def peaks(contenders: list[str], rounds: list[dict[str, Measured]]) -> list[Result]:
    peak = {name: median(one[name].peak_gb for one in rounds) for name in contenders}
    rows = []
    for name in contenders:
        others = [gigabytes for other, gigabytes in peak.items() if other not in OURS]
        goal = "<= each other's" if name in OURS else ""
        holds = not goal or peak[name] <= min(others, default=peak[name])
        rows.append(Result(f"{name}: peak memory", round(peak[name], 2), "GB", goal, holds))
    return rows


def held_out_losses(contenders: list[str], held_out: dict[str, float]) -> list[Result]:
    names = ["base", *contenders]
    rows = [Result(f"{name}: held-out loss", round(held_out[name], 4), "nats/token", "", True) for name in names]
    if any(name in OURS for name in contenders):
        losses = [held_out[name] for name in contenders]
        largest = max(losses) / min(losses) - 1
        goal = f"<= {100 * LOSS_DIFFERENCE:g}"
        difference = round(100 * largest, 2)
        rows.append(Result("held-out loss, largest difference", difference, "%", goal, largest <= LOSS_DIFFERENCE))
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps, the first of which is not timed (12)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each contender is run (1)")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="which, separated by commas (all)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the frozen weights (float32)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads of a contender (2)")
    parser.add_argument("--base", default="starter", help="`starter` or a folder")
    parser.add_argument("--output", type=Path, default=Path("runs/finetune-benchmark"), metavar="DIR", help="what is kept")
    parser.add_argument("--llama-factory", type=Path, metavar="PYTHON", help="the Python that LLaMA-Factory is installed for")
    args = parser.parse_args()
    args.contenders = args.contenders.split(",")
    if unknown := [name for name in args.contenders if name not in CONTENDERS]:
        parser.error(f"unknown contenders {', '.join(unknown)}; known are {', '.join(CONTENDERS)}")
    if args.steps < 2 or args.rounds < 1:
        parser.error("at least 2 steps (the first is not timed) and 1 round are needed")
    if not Path(hf.resolve_base(args.base)).is_dir():
        parser.error(f"--base {args.base} is no folder")
    if "llama-factory" in args.contenders and not args.llama_factory:
        args.contenders.remove("llama-factory")
        print("llama-factory is left out: --llama-factory PYTHON was not given.", file=sys.stderr)
    if any(name.startswith("trl") for name in args.contenders) and not (find_spec("trl") and find_spec("datasets")):
        parser.error("TRL is not installed: .venv/bin/python -m pip install trl==1.16.0 datasets")
    return args


def main() -> None:
    args = arguments()
    recipe = load_recipe("starter-cpu")
    job = make_job(args, recipe)
    rounds = compete(args, job)
    last = args.output / f"round-{args.rounds}"
    run_other("evaluate", args, last)
    held_out = read_json(last / "held_out.json")
    rows = [*speeds(args.contenders, rounds), *peaks(args.contenders, rounds), *held_out_losses(args.contenders, held_out)]
    report("finetune", rows)


if __name__ == "__main__":
    main()
