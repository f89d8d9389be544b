"""What is compared between a trained model and its exported file: prompt tokens, next-token distributions, greedy replies.

A level holds, fails, or was not run, which its line then says and why. A limit on a share or on a mean is missed only when the
measurement is surely beyond it: by Wilson's interval (1927) for the share and the normal one for the mean, one-sided, 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kosent.export.conversations import conversations
from kosent.progress import progress
from kosent.prompts import Layout

if TYPE_CHECKING:
    from kosent.export.gguf_model import GgufModel
    from kosent.export.trained_model import TrainedModel
    from kosent.finetune.encode import Dialogue

CONTEXT_TOKENS = 12
"""Shown before a token that differs."""
EXAMPLES = 3
LONGEST_REPLY = 256
"""Tokens, as in `kosent chat`."""
ROWS_AT_ONCE = 64
"""Positions whose logits are compared at a time."""
BATCH = 512
"""Tokens that llama.cpp computes in one pass."""
SURELY = 1.645
"""Standard deviations of a one-sided interval of 95 %."""


@dataclass(frozen=True)
class Level:
    name: str
    holds: bool | None
    """None: not run."""
    line: str
    """For a person."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For the report."""


def not_run(name: str, why: str) -> Level:
    return Level(name, None, f"not run: {why}", {"why": why})


def check_tokens(tokenizer: Any, template: str, layout: Layout, exported: GgufModel) -> Level:
    """Prompt token ids of every conversation, by transformers with the run's template and by llama.cpp with the file's."""
    every = conversations()
    different = []
    for messages in every:
        protected = [{"role": m["role"], "content": layout.protect(m["content"])} for m in messages]
        expected = tokenizer.apply_chat_template(
            protected, chat_template=template, add_generation_prompt=True, return_dict=True
        )["input_ids"]  # fmt: skip
        found = exported.prompt(messages)
        if expected != found:
            different.append(first_difference(expected, found, tokenizer, exported))
    line = f"{len(every) - len(different)} of {len(every)} prompts have equal token ids"
    if different:
        one = different[0]
        line += f"; first: after {one['before']!r} {one['expected']!r} became {one['found']!r}"
    return Level("tokens", not different, line, {"conversations": len(every), "different": different})


def first_difference(expected: Sequence[int], found: Sequence[int], tokenizer: Any, exported: GgufModel) -> dict[str, Any]:
    """Where two prompts part: place, the text before it, and from there on a few tokens of each, as text and as ids."""
    place = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found)))
    after = slice(place, place + 3)
    return {
        "place": place,
        "before": exported.pieces(found[max(0, place - CONTEXT_TOKENS) : place]),
        "expected": tokenizer.decode(expected[after]), "expected_ids": list(expected[after]),
        "found": exported.pieces(found[after]), "found_ids": list(found[after]),
    }  # fmt: skip


def answer(exported: GgufModel, prompts: Sequence[list[int]]) -> list[tuple[Dialogue, bool]]:
    """The file's greedy replies, each with its prompt as a dialogue, and whether it ended by itself."""
    from kosent.finetune.encode import IGNORED, Dialogue

    found = []
    with progress("replies", len(prompts)) as advance:
        for number, prompt in enumerate(prompts):
            advance(number, "")
            reply, ended = exported.greedy(prompt, LONGEST_REPLY)
            found.append((Dialogue([*prompt, *reply], [IGNORED] * len(prompt) + reply), ended))
        advance(len(prompts), "")
    return found


@dataclass(frozen=True)
class Position:
    """One place at which both models say what comes next."""

    before: str
    trained: str
    exported: str
    same: bool
    divergence: float
    """KL(trained || exported), nats."""


def compare(
    trained: TrainedModel, exported: GgufModel, measured: Sequence[Dialogue], replies: Sequence[Dialogue], end_of_turn: int
) -> tuple[list[Position], list[list[tuple[bool, float]]]]:
    """The positions of `measured`; and for each token of each reply whether the trained model would have written it, and the
    probability with which it would have ended there instead."""
    positions: list[Position] = []
    written: list[list[tuple[bool, float]]] = []
    everything = [*measured, *replies]
    with progress("comparing", trained.steps + len(everything)) as advance:
        states = trained.hidden(everything, lambda done, note: advance(done, note))
        with trained.head() as head:
            for number, (dialogue, state) in enumerate(zip(everything, states, strict=True)):
                advance(trained.steps + number, "")
                places = [place - 1 for place, label in enumerate(dialogue.labels) if label >= 0]
                if number < len(measured):
                    positions += _positions(dialogue, places, state, head, exported)
                else:
                    written.append(_written(dialogue, places, state, head, end_of_turn))
        advance(trained.steps + len(everything), "")
    return positions, written


def _positions(dialogue: Dialogue, places: list[int], state: Any, head: Any, exported: GgufModel) -> Iterable[Position]:
    import torch

    logits = exported.logits(dialogue.ids, places)
    for start in range(0, len(places), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        p = head(state[part]).log_softmax(1)
        q = torch.from_numpy(logits[part]).log_softmax(1)
        divergences = (p.exp() * (p - q)).sum(1).tolist()
        tops = zip(places[part], p.argmax(1).tolist(), q.argmax(1).tolist(), divergences, strict=True)
        for place, one, other, divergence in tops:
            before = dialogue.ids[max(0, place + 1 - CONTEXT_TOKENS) : place + 1] if one != other else []
            yield Position(exported.pieces(before), exported.pieces([one]), exported.pieces([other]), one == other, divergence)


def _written(dialogue: Dialogue, places: list[int], state: Any, head: Any, end_of_turn: int) -> list[tuple[bool, float]]:
    found = []
    for start in range(0, len(places), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        p = head(state[part]).softmax(1)
        wanted = [dialogue.ids[place + 1] for place in places[part]]
        same = [one == other for one, other in zip(p.argmax(1).tolist(), wanted, strict=True)]
        found += list(zip(same, p[:, end_of_turn].tolist(), strict=True))
    return found


def judge_distribution(positions: Sequence[Position], limits: tuple[float, float], text: str, dialogues: int) -> Level:
    """`limits`: least share of equal most probable tokens, greatest mean divergence in nats; `text`: what was compared."""
    least, greatest = limits
    count = len(positions)
    same = sum(position.same for position in positions) / count
    divergences = [position.divergence for position in positions]
    mean = sum(divergences) / count
    deviation = math.sqrt(sum((one - mean) ** 2 for one in divergences) / max(1, count - 1))
    holds = upper_share(same, count) >= least and mean - SURELY * deviation / math.sqrt(count) <= greatest
    worst = sorted((position for position in positions if not position.same), key=lambda one: -one.divergence)[:EXAMPLES]
    line = (
        f"{same:.2%} of {count:,} most probable next tokens the same (at least {least:.1%}), divergence {mean:.5f} nats "
        f"(at most {greatest:g}), in {text}"
    )
    if not holds and worst:
        line += f"; first: after {worst[0].before!r} {worst[0].trained!r} became {worst[0].exported!r}"
    return Level(
        "distribution", holds, line,
        {"compared": text, "dialogues": dialogues, "positions": count, "same_top": round(same, 6), "divergence": round(mean, 8),
         "limits": {"same_top": least, "divergence": greatest},
         "examples": [{"before": one.before, "trained": one.trained, "exported": one.exported,
                       "divergence": round(one.divergence, 6)} for one in worst]},
    )  # fmt: skip


def upper_share(share: float, count: int) -> float:
    """Upper end of Wilson's one-sided interval of 95 % for a share of `count`."""
    z = SURELY**2
    spread = SURELY * math.sqrt(share * (1 - share) / count + z / (4 * count**2))
    return (share + z / (2 * count) + spread) / (1 + z / count)


def judge_replies(
    replies: Sequence[tuple[Dialogue, bool]], written: Sequence[list[tuple[bool, float]]], exported: GgufModel
) -> Level:
    """Replies must end by themselves, unless the trained model would not have ended them either."""
    rows: list[dict[str, Any]] = []
    early: list[int] = []
    for (dialogue, by_itself), tokens in zip(replies, written, strict=True):
        text = exported.pieces([label for label in dialogue.labels if label >= 0])
        stop = None if by_itself else next((place for place, (_, end) in enumerate(tokens) if end >= 0.5), None)
        rows.append(
            {"text": text, "ended": by_itself, "tokens": len(tokens), "as_trained": sum(same for same, _ in tokens),
             "trained_ends_after": stop}
        )  # fmt: skip
        if stop is not None:
            early.append(stop)
    ended = sum(row["ended"] for row in rows)
    line = f"{ended} of {len(rows)} greedy replies end by themselves within {LONGEST_REPLY} tokens"
    if early:
        line += f"; the trained model would have ended one after {early[0]} tokens"
    elif ended < len(rows):
        line += "; the trained model does not end the others either: train longer, or on more dialogues"
    return Level("replies", not early, line, {"replies": rows})
