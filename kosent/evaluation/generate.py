"""Asking a model for one reply to every held-out turn, greedily, given the true turns before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kosent.errors import DataError
from kosent.files import read_jsonl
from kosent.hf import Trained
from kosent.prompts import Message, render
from kosent.settings import Settings

BATCH = 32
MAX_TOKENS = Settings().max_tokens
"""Longest reply in tokens: what a person in the chat would see of a model that never ends."""


@dataclass(frozen=True)
class Turn:
    """One held-out reply: the messages before it, and what was really answered."""

    dialogue: int
    messages: list[Message]
    reference: str


@dataclass(frozen=True)
class Generated:
    text: str
    ended: bool
    """Whether the model ended the reply by itself."""


def held_out_turns(folder: Path) -> list[Turn]:
    """Every reply of the test split, in order. Raises `DataError`."""
    file = folder / "test.jsonl"
    if not file.is_file():
        raise DataError(f"There is no file {file}.", hint=f"kosent prepare SOURCE --output {folder}")
    turns = []
    for dialogue, row in enumerate(read_jsonl(file)):
        messages = row["messages"]
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                turns.append(Turn(dialogue, messages[:index], message["content"]))
    return turns


def generate(
    trained: Trained,
    turns: Sequence[Turn],
    advance: Callable[[int, str], None] = lambda done, note: None,
    *,
    max_tokens: int = MAX_TOKENS,
) -> list[Generated]:
    """One greedy reply per turn, in the order of `turns`. Prompts are batched by length; `advance(done, "")` counts turns."""
    import torch

    tokenizer, model = trained.tokenizer, trained.model
    tokenizer.padding_side = "left"
    vocabulary = tokenizer.get_vocab()
    ends = [vocabulary[trained.layout.end_of_turn], tokenizer.eos_token_id]
    prompts = [
        render(t.messages, trained.template, trained.layout, bos_token=tokenizer.bos_token or "", add_generation_prompt=True)
        for t in turns
    ]
    order = sorted(range(len(turns)), key=lambda i: len(prompts[i]))
    replies: dict[int, Generated] = {}
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.no_grad():
            output = model.generate(
                **batch.to(model.device), do_sample=False, max_new_tokens=max_tokens, eos_token_id=ends,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        for i, ids in zip(chosen, output[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            end = next((place for place, token in enumerate(ids) if token in ends), None)
            replies[i] = Generated(tokenizer.decode(ids[:end], skip_special_tokens=True).strip(), end is not None)
        advance(len(replies), "")
    return [replies[i] for i in range(len(turns))]
