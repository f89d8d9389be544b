"""Conversations as token ids with labels.

A label is the token itself where the model learns (every reply and its end-of-turn token) and -100 elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kosent.errors import DataError
from kosent.prompts import Layout, Message, reply_spans

IGNORED = -100


@dataclass(frozen=True)
class Dialogue:
    """One encoded conversation; `ids` and `labels` have the same length, in tokens."""

    ids: list[int]
    labels: list[int]
    truncated: bool = False

    @property
    def supervised(self) -> int:
        """Number of tokens that the model learns to write."""
        return sum(label != IGNORED for label in self.labels)


def encode(messages: Sequence[Message], tokenizer: Any, template: str, layout: Layout, max_length: int) -> Dialogue:
    """Token ids and labels of one conversation, cut to `max_length` tokens at the last whole reply that fits.

    `tokenizer` is a fast Hugging Face tokenizer. Raises `DataError` when nothing would be left to learn from.
    """
    text, spans = reply_spans(messages, template, layout, bos_token=tokenizer.bos_token or "")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    labels = [IGNORED] * len(ids)
    ends = []
    for start, end in spans:
        inside = [i for i, (a, b) in enumerate(offsets) if a >= start and b <= end and b > a]
        for i in inside:
            labels[i] = ids[i]
        ends.append(inside[-1] + 1)
    fitting = [end for end in ends if end <= max_length]
    if not fitting:
        first = messages[1 if messages[0]["role"] == "system" else 0]["content"]
        raise DataError(
            f"Not one reply of this dialogue fits into {max_length} tokens (it has {len(ids)}): {first[:60]!r}",
            hint="kosent finetune … --set max_length=N with a larger N, or leave the dialogue out",
        )
    cut = fitting[-1]
    return Dialogue(ids[:cut], labels[:cut], truncated=len(fitting) < len(ends))
