"""Makes the weights of the two classifiers of `kosent.safety_classifier` from the lines in benchmarks/data.

Multinomial logistic regression with the squared norm over 2 C added, by L-BFGS, on the pieces of words of each line and of
ordinary talk (`background`), which lines written as examples do not resemble. Each piece is scaled by how much more often it
occurs in one class than in the rest, as in Wang and Manning, Baselines and Bigrams (ACL 2012); the scales end up in the weights.
Used by safety.py; needs kosent[finetune].
"""

from __future__ import annotations

import csv
import hashlib
import math
import random
import struct
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kosent.finetune.corpus import open_corpus
from kosent.safety_classifier import features

HERE = Path(__file__).resolve().parent
DATA, TESTS = HERE / "data", HERE.parent / "tests" / "data"
MESSAGE_LINES = sorted(DATA.glob("safety_*.tsv"))
REPLY_LINES = sorted(DATA.glob("reply_*.tsv"))
C, ITERATIONS, JOINED, SEED = 60.0, 200, 3000, 11
KEPT = {"safety_weights.bin": 250_000, "reply_weights.bin": 80_000}
"""Features that are kept, the strongest."""
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


def starter(role: str) -> list[str]:
    """What the people in the starter corpus say (role "user"), or are answered ("assistant")."""
    said = (
        message["content"]
        for record in open_corpus("starter").records()
        for message in record.messages
        if message["role"] == role
    )
    return sorted(set(said))


def background() -> list[Line]:
    """Everyday talk and ordinary trouble, none of it a crisis."""
    ordinary = [("none", "plain", text) for text in starter("user") if not is_held_out(text)]
    return lines(DATA / "everyday_songys.tsv") + ordinary


def harmless_replies() -> list[Line]:
    kind = [("safe", "plain", text) for text in starter("assistant") if not is_held_out(text)]
    return lines(DATA / "everyday_replies_songys.tsv") + kind


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


def fit_messages(training: Sequence[Line], file: Path, classes: Sequence[str]) -> None:
    _fit([*training, *background(), *joined(training)], file, classes)


def fit_replies(training: Sequence[Line], file: Path, classes: Sequence[str]) -> None:
    _fit([*training, *harmless_replies()], file, classes)


def _fit(training: Sequence[Line], file: Path, classes: Sequence[str]) -> None:
    """Writes features, weights and biases. Features of one line only are left out, and so are the weakest beyond `KEPT`. The last
    class is the one that matters."""
    import torch

    warnings.filterwarnings("ignore", message=".*[Ss]parse")  # in beta, says PyTorch 2.13
    pieces = [features(text) for _, _, text in training]
    seen = Counter(piece for one in pieces for piece in one)
    vocabulary = sorted(piece for piece, count in seen.items() if count > 1)
    number = {piece: place for place, piece in enumerate(vocabulary)}
    encoded = [sorted(number[piece] for piece in one if piece in number) for one in pieces]
    counts = torch.tensor([len(ids) for ids in encoded])
    columns = torch.tensor([place for ids in encoded for place in ids])
    owners = torch.repeat_interleave(torch.arange(len(encoded)), counts)
    levels = torch.tensor([classes.index(level) for level, _, _ in training])
    telling = _telling(columns, levels[owners] == len(classes) - 1, len(vocabulary))
    values = torch.tensor([1 / math.sqrt(len(one)) for one in pieces]).double()[owners] * telling[columns]
    size = (len(encoded), len(vocabulary))
    lines = torch.sparse_coo_tensor(torch.stack((owners, columns)), values, size).to_sparse_csr()
    across = torch.sparse_coo_tensor(torch.stack((columns, owners)), values, size[::-1]).to_sparse_csr()
    weight = torch.zeros(len(vocabulary), len(classes), dtype=torch.double)
    bias = torch.zeros(len(classes), dtype=torch.double)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Any:
        logits = lines @ weight + bias
        away = torch.softmax(logits, 1) - torch.nn.functional.one_hot(levels, len(classes))
        weight.grad, bias.grad = across @ away + weight / C, away.sum(0)
        return torch.nn.functional.cross_entropy(logits, levels, reduction="sum") + weight.square().sum() / (2 * C)

    optimizer.step(loss)
    weight *= telling[:, None]
    strongest = weight.square().sum(1).argsort(descending=True)[: KEPT.get(file.name, 250_000)].sort().values
    _write([vocabulary[place] for place in strongest.tolist()], weight[strongest], bias, file)


def _telling(columns: Any, last: Any, size: int) -> Any:
    """How far the share of each piece in lines of the last class is from that in the others: the size of their log ratio."""
    import torch

    inside, outside = (torch.bincount(columns[chosen], minlength=size).double() + 0.5 for chosen in (last, ~last))
    return ((inside / inside.sum()).log() - (outside / outside.sum()).log()).abs().clamp(0.05, 4.0)


def _write(vocabulary: Sequence[int], weight: Any, bias: Any, file: Path) -> None:
    import torch

    unit = float(weight.abs().max()) / 127
    rows = (weight / unit).round().clamp(-127, 127).to(torch.int8)
    head = " ".join(f"{number:.6g}" for number in [*bias.tolist(), unit]) + f" {len(vocabulary)}"
    file.write_bytes(head.encode() + b"\n" + struct.pack(f"<{len(vocabulary)}I", *vocabulary) + rows.numpy().tobytes())
