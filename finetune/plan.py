"""The order of training, decided before the first step: which dialogues in which step, packed into which rows.

Each epoch visits every dialogue once in an order drawn from the seed and the epoch, so step N holds the same rows whether or not
the run was interrupted before it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kosent.errors import DataError
from kosent.files import read_jsonl, sha256
from kosent.finetune.encode import Dialogue, encode
from kosent.finetune.recipes import Training
from kosent.finetune.records import SPLITS
from kosent.finetune.rows import Row, pack
from kosent.prompts import Layout


@dataclass(frozen=True)
class Encoded:
    """The prepared data as token ids."""

    train: list[Dialogue]
    validation: list[Dialogue]
    system_message: str

    @property
    def summary(self) -> dict[str, int]:
        return {
            "dialogues": len(self.train),
            "tokens": sum(len(d.ids) for d in self.train),
            "supervised_tokens": sum(d.supervised for d in self.train),
            "truncated_dialogues": sum(d.truncated for d in self.train),
            "validation_dialogues": len(self.validation),
        }


def data_hashes(folder: Path) -> dict[str, str]:
    """Hashes of the training and validation files. Raises `DataError` when `folder` is not what `prepare` writes."""
    missing = [f"{split}.jsonl" for split in SPLITS if not (folder / f"{split}.jsonl").is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}.", hint=f"kosent prepare SOURCE --output {folder}")
    return {f"{split}.jsonl": sha256(folder / f"{split}.jsonl") for split in SPLITS if split != "test"}


def read_split(folder: Path, split: str) -> list[list[dict[str, str]]]:
    """The conversations of one split, each a list of messages. Raises `DataError` with file and line."""
    file = folder / f"{split}.jsonl"
    if not file.is_file():
        raise DataError(f"There is no file {file}.", hint=f"kosent prepare SOURCE --output {folder}")
    try:
        rows = read_jsonl(file)
    except ValueError as error:
        raise DataError(f"{file} is not JSON lines: {error}.", hint=f"kosent prepare SOURCE --output {folder}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("messages"), list) or not row["messages"]:
            raise DataError(
                f'{file}: line {number} is not {{"messages": [...]}}.', hint=f"kosent prepare SOURCE --output {folder}"
            )
    if not rows:
        raise DataError(f"{file} is empty.", hint=f"kosent prepare SOURCE --output {folder}")
    return [row["messages"] for row in rows]


def encode_data(folder: Path, tokenizer: Any, template: str, layout: Layout, max_length: int) -> Encoded:
    train, validation = (read_split(folder, split) for split in ("train", "validation"))
    first = train[0][0]
    return Encoded(
        [encode(messages, tokenizer, template, layout, max_length) for messages in train],
        [encode(messages, tokenizer, template, layout, max_length) for messages in validation],
        first["content"] if first["role"] == "system" else "",
    )


@dataclass(frozen=True)
class Step:
    """One process's part of one optimizer step.

    Every process has equally many rows, so that all wait for each other equally often; those that only fill up weigh 0.
    """

    rows: list[Row]
    weights: list[float]
    supervised: int
    """Supervised tokens of all processes together: what the loss is divided by."""
    tokens: int
    """Tokens of all dialogues of the step."""
    dialogues: int

    def loss(self, losses: Sequence[Any]) -> Any:
        """Mean loss per supervised token of the whole step, as far as this process's `losses` (one sum a row) go."""
        return sum(weight * loss for weight, loss in zip(self.weights, losses, strict=True)) / self.supervised


def make_step(dialogues: Sequence[Dialogue], max_tokens: int, process: int = 0, processes: int = 1) -> Step:
    """The part of one of `processes` in a step over `dialogues`, packed into rows of at most `max_tokens` tokens."""
    parts = [dialogues[number::processes] for number in range(processes)]
    packed = [pack(part, max_tokens) for part in parts]
    most = max(map(len, packed))
    own = packed[process]
    rows = own + [own[-1] if own else packed[0][0]] * (most - len(own))
    return Step(
        rows,
        [1.0] * len(own) + [0.0] * (most - len(own)),
        sum(d.supervised for d in dialogues),
        sum(len(d.ids) for d in dialogues),
        len(dialogues),
    )


def some(dialogues: Sequence[Dialogue], most: int, seed: int) -> list[Dialogue]:
    """At most `most` of the dialogues, drawn by the seed and in their order; all of them for 0."""
    if not 0 < most < len(dialogues):
        return list(dialogues)
    chosen = random.Random(f"{seed}/validation").sample(range(len(dialogues)), most)
    return [dialogues[i] for i in sorted(chosen)]


def steps(dialogues: Sequence[Dialogue], training: Training, process: int = 0, processes: int = 1) -> list[Step]:
    """Every optimizer step of the whole run, for one of `processes`."""
    plan = []
    for epoch in range(training.epochs):
        order = list(range(len(dialogues)))
        random.Random(f"{training.seed}/{epoch}").shuffle(order)
        for start in range(0, len(order), training.batch_dialogues):
            chosen = [dialogues[i] for i in order[start : start + training.batch_dialogues]]
            plan.append(make_step(chosen, training.micro_batch_tokens, process, processes))
    return plan
