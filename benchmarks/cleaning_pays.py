"""Does cleaning pay? The starter base trained on a corpus with planted noise, as it stands and cleaned, the same steps.

    .venv/bin/python benchmarks/cleaning_pays.py ChatbotData.csv --output cleaning-pays

ChatbotData.csv is songys' Chatbot_data (Q,A,label). The noise replaces the replies of 5 % of its training rows with what spoilt
the models of an earlier study: foreign script, English, endless repetition, one persona sentence, mojibake, NaN. What is measured
is the loss of both models on the same clean, untouched dialogues of validation and test. About 45 minutes on two processor cores.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import Result, report
from kosent.evaluation.statistics import mean_interval, resamples
from kosent.files import read_json, read_jsonl, write_json, write_jsonl
from kosent.finetune.corpus import open_corpus

SHARE = 0.05
SPLIT = ("--validation", "0.01", "--test", "0.19")
"""The rows are training rows of a split of 0.06 and 0.12; this one takes but a few of them away."""
PERSONA = "저는 AI 챗봇이라 감정을 느낄 수 없지만 무엇이든 도와드리겠습니다."
FOREIGN = ("とても大変でしたね", "我非常理解你的感受", "Мне очень жаль это слышать", "そうですか", "加油加油")
ENGLISH = "I'm really sorry to hear that. Please let me know if there is anything I can do to help you."


def noisy(reply: str, kind: int, chance: random.Random) -> str:
    words = reply.split()
    place = chance.randrange(len(words) + 1)
    return (
        " ".join([*words[:place], chance.choice(FOREIGN), *words[place:]]),
        ENGLISH,
        " ".join([reply] * 8),
        PERSONA,
        reply.encode("cp949").decode("latin-1"),
        "nan",
    )[kind]


def plant(corpus: Path, rows: set[int], target: Path) -> int:
    """Writes the rows of `corpus` with noise in 5 % of them; returns how many."""
    chance = random.Random(42)
    planted = 0
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Q", "A", "label"])
        for record in open_corpus(str(corpus)).records():
            if record.row not in rows:
                continue
            question, reply = (message["content"] for message in record.messages)
            if chance.random() < SHARE:
                reply = noisy(reply, planted % 6, chance)
                planted += 1
            writer.writerow([question, reply, record.meta.get("label", "")])
    return planted


def kosent(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "kosent", *arguments], check=True, stdout=sys.stderr)


def losses(run: Path, rows: list[list[dict[str, str]]]) -> list[float]:
    """Mean loss of each dialogue in nats per supervised token."""
    import torch

    from kosent import hf
    from kosent.finetune.encode import encode
    from kosent.finetune.fast import prepare, row_loss
    from kosent.finetune.rows import make_row

    trained = hf.load_for_inference(str(run), dtype="bfloat16")
    prepare(trained.model)
    found = []
    with torch.no_grad():
        for messages in rows:
            row = make_row([encode(messages, trained.tokenizer, trained.template, trained.layout, 512)])
            found.append(row_loss(trained.model, row, trained.model.device)[0].item() / row.supervised)
    return found


def train(args: argparse.Namespace, name: str, seed: int, held_out: list[dict[str, Any]]) -> Path:
    """The run of one corpus and seed; one that is finished is kept."""
    data, run = args.output / name, args.output / f"run-{name}-{seed}"
    if not (run / "run.json").is_file() or read_json(run / "run.json")["status"] != "finished":
        without = ["--without", "all"] if name == "as-it-stands" else []
        shutil.rmtree(data, ignore_errors=True)
        kosent("prepare", str(args.output / "noisy.csv"), "--output", str(data), *SPLIT, *without)
        write_jsonl(data / "train.jsonl", read_jsonl(data / "train.jsonl")[: args.dialogues])
        write_jsonl(data / "validation.jsonl", held_out[:100])
        changes = ("epochs=1", "validation_steps=1000", "checkpoint_steps=50", f"seed={seed}")
        settings = [part for change in changes for part in ("--set", f"training.{change}")]
        kosent("finetune", "--recipe", "starter-cpu", "--data", str(data), "--output", str(run), *settings)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--output", type=Path, default=Path("cleaning-pays"))
    parser.add_argument("--dialogues", type=int, default=2400, help="training dialogues of each run (2400: 300 steps)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43], help="one pair of runs for each (42 43)")
    args = parser.parse_args()
    clean = args.output / "clean"
    kosent("prepare", str(args.corpus), "--output", str(clean))
    rows = {int(row["meta"]["source"].rpartition(":")[2]) for row in read_jsonl(clean / "train.jsonl")}
    planted = plant(args.corpus, rows, args.output / "noisy.csv")
    held_out = [row for split in ("validation", "test") for row in read_jsonl(clean / f"{split}.jsonl")]
    measured: dict[str, list[float]] = {}
    for seed in args.seeds:
        for name in ("as-it-stands", "cleaned"):
            run = train(args, name, seed, held_out)
            measured[f"{name} {seed}"] = losses(run, [row["messages"] for row in held_out])
    write_json(args.output / "losses.json", measured)
    means = {
        name: [sum(values) / len(values) for values in zip(*(measured[f"{name} {seed}"] for seed in args.seeds), strict=True)]
        for name in ("as-it-stands", "cleaned")
    }
    difference = [one - other for one, other in zip(means["as-it-stands"], means["cleaned"], strict=True)]
    low, high = mean_interval(difference, resamples(range(len(difference))))
    dirty, cleaned = (sum(means[name]) / len(held_out) for name in ("as-it-stands", "cleaned"))
    by_seed = [(sum(measured[f"as-it-stands {seed}"]) - sum(measured[f"cleaned {seed}"])) / len(held_out) for seed in args.seeds]
    report(
        "cleaning_pays",
        [
            Result("rows with planted noise", planted, "rows", "5 %", 0.04 < planted / len(rows) < 0.06),
            Result("steps of each run", -(-args.dialogues // 8), "steps", "the same", True),
            Result("held-out dialogues", len(held_out), "dialogues", "", True),
            Result("held-out loss, trained on the corpus as it stands", round(dirty, 4), "nats/token", "", True),
            Result("held-out loss, trained on the cleaned corpus", round(cleaned, 4), "nats/token", "lower", cleaned < dirty),
            *(
                Result(f"difference, seed {seed}", round(found, 4), "nats/token", "> 0", found > 0)
                for seed, found in zip(args.seeds, by_seed, strict=True)
            ),
            Result("difference, mean", round(dirty - cleaned, 4), "nats/token", "> 0", dirty > cleaned),
            Result("lower bound of its 95 % interval over dialogues", round(low, 4), "nats/token", "> 0", low > 0),
            Result("upper bound", round(high, 4), "nats/token", "", True),
        ],
    )


if __name__ == "__main__":
    main()
