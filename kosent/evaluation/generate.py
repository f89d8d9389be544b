"""A Hugging Face model's replies to many prompts, in batches of similar length, and how likely it finds given replies.

The true turns stand before each prompt. Greedy, or sampled with a seed of each prompt's own, so that a reply does not depend on
what else is in its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kosent.evaluation.folder import Answer, Turn
from kosent.hf import Trained
from kosent.prompts import render
from kosent.settings import Settings

BATCH = 32
LIKELIHOOD_BATCH, LIKELIEST = 8, 256
"""References read at once; tokens among which top-p is looked for before all are sorted."""
MAX_TOKENS = Settings().max_tokens
"""Longest reply in tokens: what a person in the chat would see of a model that never ends."""


@dataclass(frozen=True)
class Decoding:
    """How replies are chosen, the same for all models."""

    max_tokens: int = MAX_TOKENS
    temperature: float = 0.0
    """0: greedy."""
    top_p: float = 1.0
    """Sampling only: the least set of tokens with this probability together."""
    seed: int = 0
    """Sampling only: prompt number n is sampled with seed + n."""


Done = Callable[[int, Answer], None]
"""Called with the place of a prompt and what was answered, as soon as there is an answer."""


def generate(trained: Trained, turns: Sequence[Turn], *, max_tokens: int = MAX_TOKENS) -> list[Answer]:
    """One greedy reply a turn, in the order of `turns`."""
    replies: dict[int, Answer] = {}
    generate_each(trained, turns, Decoding(max_tokens), replies.__setitem__)
    return [replies[place] for place in range(len(turns))]


def generate_each(
    trained: Trained, turns: Sequence[Turn], decoding: Decoding, done: Done, *, numbers: Sequence[int] | None = None
) -> None:
    """`done(place, answer)` for every turn, the shortest prompts first. `numbers` are the prompts' own, for their seeds (their
    places otherwise). What fails in a batch is asked alone; what then fails is an answer with an error."""
    prompts = [_prompt(trained, turn) for turn in turns]
    order = sorted(range(len(turns)), key=lambda place: len(prompts[place]))
    numbers = range(len(turns)) if numbers is None else numbers
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        for place, answer in zip(chosen, _answered(trained, chosen, prompts, numbers, decoding), strict=True):
            done(place, answer)


def _answered(
    trained: Trained, chosen: Sequence[int], prompts: Sequence[str], numbers: Sequence[int], decoding: Decoding
) -> list[Answer]:
    try:
        return _batch(trained, [prompts[place] for place in chosen], [numbers[place] for place in chosen], decoding)
    except (RuntimeError, ValueError, IndexError) as error:  # what torch and transformers raise of one prompt, memory included
        if len(chosen) == 1:
            return [Answer("", False, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")]
        return [answer for place in chosen for answer in _answered(trained, [place], prompts, numbers, decoding)]


def _batch(trained: Trained, prompts: list[str], numbers: list[int], decoding: Decoding) -> list[Answer]:
    import torch

    tokenizer, model = trained.tokenizer, trained.model
    tokenizer.padding_side = "left"
    ends = [tokenizer.get_vocab()[trained.layout.end_of_turn], tokenizer.eos_token_id]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        output = model.generate(
            **batch.to(model.device), max_new_tokens=decoding.max_tokens, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id,
            do_sample=False, logits_processor=[_Sampled(decoding, numbers)] if decoding.temperature else None,
        )  # fmt: skip
    answers = []
    for ids in output[:, batch["input_ids"].shape[1] :].tolist():
        end = next((place for place, token in enumerate(ids) if token in ends), None)
        text = tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        answers.append(Answer(text, end is not None, tokens=len(ids) if end is None else end))
    return answers


class _Sampled:
    """Leaves one token a row: that which temperature, top-p and a generator of the row's own draw. transformers samples a whole
    batch from one generator, which makes a reply depend on its neighbours."""

    def __init__(self, decoding: Decoding, numbers: Sequence[int]) -> None:
        import torch

        self._decoding = decoding
        self._generators = [torch.Generator().manual_seed(decoding.seed + number) for number in numbers]

    def __call__(self, ids: Any, scores: Any) -> Any:
        import torch

        probabilities = (scores.float() / self._decoding.temperature).softmax(-1)
        tokens, sums = self._nucleus(probabilities)
        drawn = torch.cat([torch.rand(1, 1, generator=generator) for generator in self._generators]).to(scores.device)
        places = torch.searchsorted(sums, drawn * sums[:, -1:], right=True).clamp(max=sums.shape[1] - 1)
        kept = torch.full_like(scores, -torch.inf)
        return kept.scatter_(1, places if tokens is None else tokens.gather(1, places), 0.0)

    def _nucleus(self, probabilities: Any) -> tuple[Any, Any]:
        """The likeliest tokens [rows, some] that are sampled from (None: all in their own order), and the sums of their
        probabilities so far; nothing is added behind the last that is sampled from."""
        top_p = self._decoding.top_p
        if top_p >= 1:
            return None, probabilities.double().cumsum(-1)
        likeliest, tokens = probabilities.topk(min(LIKELIEST, probabilities.shape[1]))
        if bool((likeliest.sum(-1) < top_p).any()):  # a flat distribution: all of them have to be sorted
            likeliest, tokens = probabilities.sort(descending=True)
        before = likeliest.cumsum(-1) - likeliest
        return tokens, likeliest.double().where(before < top_p, 0).cumsum(-1)


def log_likelihoods(
    trained: Trained, turns: Sequence[Turn], advance: Callable[[int, str], None] = lambda done, note: None
) -> list[tuple[float, int]]:
    """Of every turn's reference, its end of turn included: the sum of its tokens' log probabilities (natural logarithm) after
    the prompt, and how many tokens that are."""
    import torch

    tokenizer, model = trained.tokenizer, trained.model
    tokenizer.padding_side = "left"
    pairs = [reply_tokens(trained, turn) for turn in turns]
    order = sorted(range(len(turns)), key=lambda place: sum(map(len, pairs[place])))
    found: dict[int, tuple[float, int]] = {}
    for start in range(0, len(order), LIKELIHOOD_BATCH):
        chosen = order[start : start + LIKELIHOOD_BATCH]
        batch = tokenizer.pad(
            {"input_ids": [prompt + reply for prompt, reply in (pairs[place] for place in chosen)]}, return_tensors="pt"
        ).to(model.device)
        longest = max(len(pairs[place][1]) for place in chosen)
        with torch.inference_mode():
            logits = model(**batch, logits_to_keep=longest + 1).logits
        for place, row, ids in zip(chosen, logits, batch["input_ids"], strict=True):
            count = len(pairs[place][1])
            logs = row[-count - 1 : -1].float().log_softmax(-1)
            found[place] = float(logs.gather(1, ids[-count:, None]).double().sum()), count
        advance(len(found), "")
    return [found[place] for place in range(len(turns))]


def reply_tokens(trained: Trained, turn: Turn) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, and of the reference up to its end of turn."""
    text = _prompt(trained, turn)
    said = [*turn.messages, {"role": "assistant", "content": turn.reference or ""}]
    whole = render(said, trained.template, trained.layout, bos_token=trained.tokenizer.bos_token or "")
    reply = whole[len(text) :]
    reply = reply[: reply.index(trained.layout.end_of_turn) + len(trained.layout.end_of_turn)]
    prompt, written = (trained.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, reply))
    return prompt, written


def _prompt(trained: Trained, turn: Turn) -> str:
    bos = trained.tokenizer.bos_token or ""
    return render(turn.messages, trained.template, trained.layout, bos_token=bos, add_generation_prompt=True)
