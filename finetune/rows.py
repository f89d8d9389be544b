"""Dialogues packed into rows: one sequence that a model reads in one pass and answers as if each dialogue stood alone.

A row is a prefix that its dialogues begin with (the system message, usually), once, and then what each dialogue has of its own:

    prefix | rest of dialogue 1 | rest of dialogue 2 | …

Positions go on from the prefix in every rest, and attention lets each rest see the prefix and itself (`kosent.finetune.fast`),
so every dialogue gets the same numbers as in a row by itself, and the prefix is computed once for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kosent.finetune.encode import IGNORED, Dialogue


@dataclass(frozen=True)
class Row:
    """`ids` and `positions` have the same length, in tokens; so have `predictors` and `targets`, one pair a supervised token."""

    ids: list[int]
    positions: list[int]
    prefix: int
    """Tokens at the beginning that all dialogues of the row share; 0 when it holds one dialogue."""
    lengths: list[int]
    """Tokens of each dialogue after the prefix."""
    predictors: list[int]
    """Where in the row the token before the supervised one stands: the place whose logits are wanted."""
    targets: list[int]
    """The supervised tokens."""

    @property
    def supervised(self) -> int:
        return len(self.targets)


def common_prefix(dialogues: Sequence[Dialogue]) -> int:
    """Tokens that all `dialogues` begin with and none learns, leaving each at least one of its own; 0 for a single one."""
    if len(dialogues) < 2:
        return 0
    first = dialogues[0]
    limit = min(len(dialogue.ids) for dialogue in dialogues) - 1
    for place in range(limit):
        token = first.ids[place]
        if any(d.ids[place] != token or d.labels[place] != IGNORED for d in dialogues):
            return place
    return max(limit, 0)


def make_row(dialogues: Sequence[Dialogue]) -> Row:
    prefix = common_prefix(dialogues)
    ids, positions = list(dialogues[0].ids[:prefix]), list(range(prefix))
    lengths, predictors, targets = [], [], []
    for dialogue in dialogues:
        start = len(ids) - prefix  # place in the row minus place in the dialogue, after the prefix
        for place, label in enumerate(dialogue.labels):
            if label != IGNORED:
                predictors.append(place - 1 if place - 1 < prefix else start + place - 1)
                targets.append(label)
        ids.extend(dialogue.ids[prefix:])
        positions.extend(range(prefix, len(dialogue.ids)))
        lengths.append(len(dialogue.ids) - prefix)
    return Row(ids, positions, prefix, lengths, predictors, targets)


def pack(dialogues: Sequence[Dialogue], max_tokens: int) -> list[Row]:
    """Packs dialogues, in their order, into rows of at most `max_tokens` tokens (a longer dialogue is a row by itself)."""
    rows: list[Row] = []
    waiting: list[Dialogue] = []
    for dialogue in dialogues:
        if waiting:
            together = [*waiting, dialogue]
            prefix = common_prefix(together)
            if prefix + sum(len(d.ids) - prefix for d in together) > max_tokens:
                rows.append(make_row(waiting))
                waiting = []
        waiting.append(dialogue)
    if waiting:
        rows.append(make_row(waiting))
    return rows
