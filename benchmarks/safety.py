"""The crisis detector on lines that it was not tuned on; and how its weights were made.

    .venv/bin/python benchmarks/safety.py             recall, precision and time, with intervals
    .venv/bin/python benchmarks/safety.py --cross     the same on the tuning part and on each training file, by the others
    .venv/bin/python benchmarks/safety.py --fit       makes kosent/data/safety_weights.bin again (needs kosent[finetune])

The test lines (tests/data/safety_test.tsv) were written and split before the detector. The training lines (benchmarks/data) were
written by others, who did not see them. A crisis that is called a concern is missed; a concern that is called a crisis is a false
alarm. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import random
import struct
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from common import Result, report
from kosent import safety, safety_classifier
from kosent.finetune.corpus import open_corpus
from kosent.safety_classifier import CLASSES, features

HERE = Path(__file__).resolve().parent
TRAINING = sorted((HERE / "data").glob("safety_*.tsv"))
EVERYDAY = HERE / "data" / "everyday_songys.tsv"
TUNE, TEST = (HERE.parent / "tests" / "data" / f"safety_{part}.tsv" for part in ("tune", "test"))
WEIGHTS = HERE.parent / "kosent" / "data" / "safety_weights.bin"
C, ITERATIONS, KEPT, JOINED, SEED = 120.0, 200, 100_000, 3000, 11
RECALL_GOAL, PRECISION_GOAL, TIME_GOAL = 0.97, 0.90, 5.0
Line = tuple[str, str, str]
"""Level, kind, text."""


def lines(file: Path) -> list[Line]:
    with file.open(encoding="utf-8", newline="") as opened:
        rows = csv.reader(opened, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        return [(level, kind, text) for level, kind, text in rows]


def is_held_out(text: str) -> bool:
    """Half of the everyday talk and of the starter corpus is not trained on, and measures false alarms."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 2 == 1


def starter() -> list[str]:
    """What the people in the starter corpus say."""
    said = (
        message["content"]
        for record in open_corpus("starter").records()
        for message in record.messages
        if message["role"] == "user"
    )
    return sorted(set(said))


def background() -> list[Line]:
    """Everyday talk and ordinary trouble, none of it a crisis."""
    return lines(EVERYDAY) + [("none", "plain", text) for text in starter() if not is_held_out(text)]


def joined(training: Sequence[Line]) -> list[Line]:
    """Messages of several sentences: ordinary ones, and a crisis with an ordinary sentence before or after it."""
    draw = random.Random(SEED)
    ordinary = [text for level, _, text in background()]
    crises = [line for line in training if line[0] == "crisis"]
    made = [
        ("none", "plain", " ".join(_ended(text) for text in draw.sample(ordinary, draw.choice((2, 2, 3))))) for _ in range(JOINED)
    ]
    for level, kind, text in draw.sample(crises, JOINED // 3):
        pair = [_ended(text), _ended(draw.choice(ordinary))]
        draw.shuffle(pair)
        made.append((level, kind, " ".join(pair)))
    return made


def _ended(text: str) -> str:
    return text if text[-1] in ".?!…" else f"{text}."


def fit(training: Sequence[Line]) -> tuple[list[int], Any, Any]:
    """Features, their weights (features, classes) and biases: multinomial logistic regression with the squared norm over 2 C
    added, by L-BFGS. Features of one line only are left out, and so are the weakest beyond `KEPT`."""
    import torch

    warnings.filterwarnings("ignore", message=".*[Ss]parse")  # in beta, says PyTorch 2.13
    training = [*training, *background(), *joined(training)]
    pieces = [features(text) for _, _, text in training]
    seen = Counter(piece for one in pieces for piece in one)
    vocabulary = sorted(piece for piece, count in seen.items() if count > 1)
    number = {piece: place for place, piece in enumerate(vocabulary)}
    encoded = [sorted(number[piece] for piece in one if piece in number) for one in pieces]
    counts = torch.tensor([len(ids) for ids in encoded])
    columns = torch.tensor([place for ids in encoded for place in ids])
    owners = torch.repeat_interleave(torch.arange(len(encoded)), counts)
    values = (1 / counts.clamp_min(1).double().sqrt())[owners]
    size = (len(encoded), len(vocabulary))
    lines = torch.sparse_coo_tensor(torch.stack((owners, columns)), values, size).to_sparse_csr()
    across = torch.sparse_coo_tensor(torch.stack((columns, owners)), values, size[::-1]).to_sparse_csr()
    levels = torch.tensor([CLASSES.index(level) for level, _, _ in training])
    weight = torch.zeros(len(vocabulary), len(CLASSES), dtype=torch.double)
    bias = torch.zeros(len(CLASSES), dtype=torch.double)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Any:
        logits = lines @ weight + bias
        away = torch.softmax(logits, 1) - torch.nn.functional.one_hot(levels, len(CLASSES))
        weight.grad, bias.grad = across @ away + weight / C, away.sum(0)
        return torch.nn.functional.cross_entropy(logits, levels, reduction="sum") + weight.square().sum() / (2 * C)

    optimizer.step(loss)
    strongest = weight.square().sum(1).argsort(descending=True)[:KEPT].sort().values
    return [vocabulary[place] for place in strongest.tolist()], weight[strongest], bias


def write(vocabulary: Sequence[int], weight: Any, bias: Any, file: Path) -> None:
    import torch

    unit = float(weight.abs().max()) / 127
    rows = (weight / unit).round().clamp(-127, 127).to(torch.int8)
    head = " ".join(f"{number:.6g}" for number in [*bias.tolist(), unit]) + f" {len(vocabulary)}"
    file.write_bytes(head.encode() + b"\n" + struct.pack(f"<{len(vocabulary)}I", *vocabulary) + rows.numpy().tobytes())
    safety_classifier.weights.cache_clear()


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, share = 1.96, right / count
    middle, spread = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - spread) / (1 + z * z / count), (middle + spread) / (1 + z * z / count)


def measured(name: str, test: Sequence[Line], goals: bool, show: bool = False) -> list[Result]:
    found = [(level, kind, text, safety.assess(text).level) for level, kind, text in test]
    crises = [row for row in found if row[0] == "crisis"]
    alarms = [row for row in found if row[3] == "crisis"]
    right = sum(row[3] == "crisis" for row in crises)
    if show:
        for level, kind, text, called in found:
            if (level == "crisis") != (called == "crisis"):
                print(f"{level}/{kind} called {called} ({safety.assess(text).score:.2f}): {text}")
    recall, precision = right / len(crises), right / max(1, len(alarms))
    low, high = wilson(right, len(crises))
    least, most = wilson(right, max(1, len(alarms)))
    heavy = [row for row in found if row[0] != "none"]
    rows = [
        Result(f"{name}: lines", len(test), "lines", "", True),
        Result(f"{name}: recall of crisis ({low:.3f} to {high:.3f})", round(recall, 4), "share",
               f">= {RECALL_GOAL}" if goals else "", not goals or recall >= RECALL_GOAL),
        Result(f"{name}: precision of crisis ({least:.3f} to {most:.3f})", round(precision, 4), "share",
               f">= {PRECISION_GOAL}" if goals else "", not goals or precision >= PRECISION_GOAL),
        Result(f"{name}: concern or crisis noticed", round(sum(row[3] != "none" for row in heavy) / len(heavy), 4), "share", "",
               True),
    ]  # fmt: skip
    for kind in sorted({row[1] for row in crises}):
        own = [row for row in crises if row[1] == kind]
        rows.append(
            Result(f"{name}: crisis/{kind}", round(sum(row[3] == "crisis" for row in own) / len(own), 4), "share", "", True)
        )
    for kind in sorted({row[1] for row in found if row[0] != "crisis"}):
        own = [row for row in found if row[1] == kind and row[0] != "crisis"]
        wrong = sum(row[3] == "crisis" for row in own)
        rows.append(Result(f"{name}: false alarms, {kind}", wrong, f"of {len(own)}", "", True))
    return rows


def print_thresholds(scores: Sequence[tuple[float, bool]]) -> None:
    """Recall and precision over all folds by the least score that is called a crisis."""
    for percent in range(10, 75, 5):
        alarms = [crisis for score, crisis in scores if score >= percent / 100]
        recall = sum(alarms) / sum(crisis for _, crisis in scores)
        print(f"from {percent / 100:.2f}: recall {recall:.3f}, precision {sum(alarms) / len(alarms):.3f}")


def false_alarms(name: str, texts: Sequence[str]) -> Result:
    """Share of `texts` that is called a crisis; prints them, since some may be one."""
    unseen = [text for text in texts if is_held_out(text)]
    called = [text for text in unseen if safety.assess(text).level == "crisis"]
    print(f"called a crisis, {name}:", *called, sep="\n  ")
    return Result(
        f"{name}: {len(called)} of {len(unseen)} called a crisis", round(len(called) / len(unseen), 4), "share", "", True
    )


def questions(corpus: Path) -> list[str]:
    with corpus.open(encoding="utf-8", newline="") as opened:
        return sorted({" ".join(row["Q"].split()) for row in csv.DictReader(opened)} - {""})


def timed(test: Sequence[Line]) -> Result:
    safety.assess("안녕")
    seconds = []
    for _, _, text in test:
        began = time.perf_counter()
        safety.assess(text)
        seconds.append(time.perf_counter() - began)
    worst = 1000 * max(seconds)
    return Result(f"time a message, longest of all (median {1000 * median(seconds):.2f} ms)", round(worst, 2), "ms",
                  f"< {TIME_GOAL:g}", worst < TIME_GOAL)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="make the weights again")
    parser.add_argument("--cross", action="store_true", help="on what it was trained and tuned on, for whoever changes it")
    parser.add_argument("--corpus", type=Path, metavar="FILE", help="songys' ChatbotData.csv, for false alarms in everyday talk")
    args = parser.parse_args()
    if args.cross:
        rows, scores = [], []
        fold = HERE / "data" / ".fold.bin"
        for held_out in [*TRAINING, TUNE]:
            write(*fit([line for other in TRAINING if other != held_out for line in lines(other)]), fold)
            safety_classifier.WEIGHTS = fold
            rows += measured(held_out.stem, lines(held_out), False, show=held_out == TUNE)
            scores += [(safety.assess(text).score, level == "crisis") for level, _, text in lines(held_out)]
        fold.unlink()
        print_thresholds(scores)
        report("safety_cross", rows)
        return
    if args.fit:
        write(*fit([line for file in TRAINING for line in lines(file)]), WEIGHTS)
    rows = [*measured("test", lines(TEST), True), timed(lines(TEST))]
    rows.append(false_alarms("starter corpus", starter()))
    if args.corpus:
        rows.append(false_alarms("everyday", questions(args.corpus)))
    report("safety", rows)


if __name__ == "__main__":
    main()
