"""Many replies of one GGUF file at a time, and log likelihoods by it, through llama.cpp in this process.

    with GgufBatch("kosent-q8_0.gguf") as model:
        prompts = [model.prompt(turn.messages) for turn in turns]
        model.replies(prompts, max_tokens=256, sampling=(0.0, 1.0, 0), done=lambda index, answer: ...)
        model.log_likelihood([model.conversation(turn.messages, turn.reference) for turn in turns])

The beginning that all prompts share is computed once and copied. Where a reply ends, the last sequence moves into its place and
the next prompt follows at the end, so that they lie side by side (gguf_sequences.py). Prompts are not shortened here, and replies
not guarded.
"""

from __future__ import annotations

import codecs
import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages

from kosent.evaluation.folder import Answer
from kosent.evaluation.gguf_sequences import Entry, Sequences
from kosent.gguf_prompt import gguf_prompt
from kosent.llama_cpp_writer import load
from kosent.prompts import Message, layout_of_template

PARALLEL = 32
"""Replies at a time: by hand, 16 to 64 took alike a token in f32 (Gemma 3 270M, two cores with AVX-512)."""
CONTEXT = 256
"""Of the `llama_cpp.Llama`, which is there for the weights and the vocabulary."""


@dataclass
class _Reply:
    """One that is being written; `sampler` is llama.cpp's, None for greedy; `limit` in tokens."""

    index: int
    prompt: list[int]
    limit: int
    sampler: Any = None
    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def over(self) -> bool:
        return self.ended or len(self.tokens) >= self.limit


class GgufBatch:
    """`context`: most tokens of a prompt and its reply. `threads`: all cores when None. `parallel`: fewer where memory is short.

    Raises `ModelError`, `OutOfMemoryError`. Not for several threads at once.
    """

    def __init__(self, path: Path | str, *, context: int = 2048, threads: int | None = None, parallel: int = PARALLEL) -> None:
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as kosent.hf.quiet: spinning threads ruin it on busy cores
        self.context = context
        threads = threads or len(os.sched_getaffinity(0))
        self.llama = load(str(path), CONTEXT, threads, n_batch=8)
        self._sequences = Sequences(self.llama, threads, parallel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        self._sequences.close()
        self.llama.close()

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids up to where the reply begins, as in the chat. Raises `ModelError` for a file without a template."""
        return gguf_prompt(self.llama, _as_messages(messages))

    def conversation(self, messages: Sequence[Message], reply: str) -> tuple[list[int], list[int]]:
        """Token ids of the prompt, and of `reply` with the token that ends it."""
        prompt = self.prompt(messages)
        whole = gguf_prompt(self.llama, [*_as_messages(messages), AIMessage(reply)])
        end = layout_of_template(self.llama.metadata["tokenizer.chat_template"]).end_of_turn
        begins = len(_beginning([prompt, whole]))
        return whole[:begins], whole[begins:] + self.llama.tokenize(end.encode(), add_bos=False, special=True)

    def replies(
        self,
        prompts: Sequence[list[int]],
        *,
        max_tokens: int,
        sampling: tuple[float, float, int],
        done: Callable[[int, Answer], None],
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Calls `done(index, answer)` in this thread as each reply ends, short prompts first.

        `sampling` is temperature (0 is greedy: the first of the likeliest tokens), top-p, seed. Prompt i is sampled with seed +
        numbers[i] (seed + i without `numbers`), as the chat samples with that seed. White space around a reply is taken off. A
        prompt that leaves no room for a reply gets an `Answer` with an error. Ctrl-C stops within a forward pass.
        Raises `BackendError`, `OutOfMemoryError`.
        """
        numbers = range(len(prompts)) if numbers is None else numbers
        waiting, running = deque[_Reply](), list[_Reply]()
        for index, prompt in sorted(enumerate(prompts), key=lambda item: len(item[1])):
            if prompt and len(prompt) < self.context and max_tokens > 0:
                waiting.append(_Reply(index, prompt, min(max_tokens, self.context - len(prompt))))
            else:
                why = f"The prompt has {len(prompt):,} tokens and leaves no room for a reply in a context of {self.context:,}."
                done(index, Answer("", False, why, 0))
        if not waiting:
            return
        shared = _shared([reply.prompt for reply in waiting])
        places = self._sequences.begin(shared, len(waiting), max(len(reply.prompt) + reply.limit for reply in waiting))
        try:
            while waiting or running:
                while waiting and len(running) < places:
                    self._sequences.copy(places, len(running))
                    waiting[0].sampler = _sampler(sampling, numbers[waiting[0].index])
                    running.append(waiting.popleft())
                for place, output in self._sequences.decoded(_next(running, len(shared))):
                    self._write(running[place], self._sequences.logits(output), sampling[1])
                for place in reversed([place for place, reply in enumerate(running) if reply.over]):
                    over, last = running[place], running.pop()
                    if last is not over:
                        self._sequences.copy(len(running), place)
                        running[place] = last
                    _free(over)
                    done(over.index, self._answer(over))
        finally:
            for reply in running:
                _free(reply)

    def log_likelihood(
        self, conversations: Sequence[tuple[list[int], list[int]]], done: Callable[[int], None] = lambda count: None
    ) -> list[tuple[float, int]]:
        """Of each reply given its prompt: sum of the natural log probabilities of its tokens, and how many these are.

        (0.0, 0) for one that does not fit into the context. `done(count)` says how many are through. Raises `BackendError`.
        """
        found = [(0.0, 0)] * len(conversations)
        sizes = [len(prompt) + len(reply) for prompt, reply in conversations]
        order = sorted(range(len(sizes)), key=lambda index: sizes[index])
        chosen = [i for i in order if all(conversations[i]) and sizes[i] <= self.context]
        count = len(conversations) - len(chosen)
        if not chosen:
            return found
        shared = _shared([conversations[i][0] for i in chosen])
        places = self._sequences.begin(shared, len(chosen), max(sizes[i] for i in chosen))
        for start in range(0, len(chosen), places):
            group = chosen[start : start + places]
            entries, targets = list[Entry](), deque[int]()
            for place, index in enumerate(group):
                self._sequences.copy(places, place)
                prompt, reply = conversations[index]
                whole = [*prompt, *reply]
                for position in range(len(shared), len(whole) - 1):
                    entries.append((whole[position], position, place, position >= len(prompt) - 1))
                targets.extend(reply)
            for place, output in self._sequences.decoded(entries):
                total, tokens = found[group[place]]
                logs = _log_probability(self._sequences.logits(output), targets.popleft())
                found[group[place]] = total + logs, tokens + 1
            count += len(group)
            done(count)
        return found

    def _write(self, reply: _Reply, logits: np.ndarray, top_p: float) -> None:
        from llama_cpp import llama_vocab_is_eog

        token = int(logits.argmax()) if reply.sampler is None else _sampled(reply.sampler, logits, top_p)
        reply.ended = bool(llama_vocab_is_eog(self.llama._model.vocab, token))
        if not reply.ended:
            reply.tokens.append(token)

    def _answer(self, reply: _Reply) -> Answer:
        """A character of which the last token has only the beginning is left out."""
        written = b"".join(self.llama._model.detokenize([token], special=False) for token in reply.tokens)
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(written)
        return Answer(text.strip(), reply.ended, tokens=len(reply.tokens))


def _as_messages(messages: Sequence[Message]) -> list[BaseMessage]:
    return convert_to_messages([dict[str, Any](message) for message in messages])


def _beginning(ids: Sequence[list[int]]) -> list[int]:
    """What all begin with."""
    first, last = min(ids), max(ids)
    return first[: next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _shared(prompts: Sequence[list[int]]) -> list[int]:
    """As `_beginning`, but at least the last token of each is left to compute."""
    return _beginning([prompt[:-1] for prompt in prompts])


def _next(running: Sequence[_Reply], begun: int) -> Iterator[Entry]:
    """What is to be computed for the next token of each; the first `begun` tokens of every prompt are."""
    for place, reply in enumerate(running):
        if reply.tokens:
            yield reply.tokens[-1], len(reply.prompt) + len(reply.tokens) - 1, place, True
        else:
            for position in range(begun, len(reply.prompt)):
                yield reply.prompt[position], position, place, position == len(reply.prompt) - 1


def _sampler(sampling: tuple[float, float, int], number: int) -> Any:
    """llama.cpp's temperature and draw, in the order of the chat's sampler; None for greedy."""
    import llama_cpp

    temperature, _, seed = sampling
    if temperature <= 0:
        return None
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    random = llama_cpp.llama_sampler_init_dist((seed + number) % llama_cpp.LLAMA_DEFAULT_SEED)  # which itself means any seed
    for part in (llama_cpp.llama_sampler_init_temp(temperature), random):
        llama_cpp.llama_sampler_chain_add(chain, part)
    return chain


def _free(reply: _Reply) -> None:
    from llama_cpp import llama_sampler_free

    if reply.sampler is not None:
        llama_sampler_free(reply.sampler)
        reply.sampler = None


def _sampled(sampler: Any, logits: np.ndarray, top_p: float) -> int:
    import llama_cpp

    chosen = _nucleus(logits, top_p)
    candidates = np.zeros(len(chosen), [("id", "i4"), ("logit", "f4"), ("p", "f4")])  # llama_token_data
    candidates["id"], candidates["logit"] = chosen, logits[chosen]
    data = ctypes.cast(candidates.ctypes.data, llama_cpp.llama_token_data_p)
    array = llama_cpp.llama_token_data_array(data, len(chosen), -1, top_p < 1)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
    return int(candidates["id"][array.selected])


def _nucleus(logits: np.ndarray, top_p: float) -> np.ndarray:
    """What llama.cpp's top-p sampler leaves, the likeliest first; it would order the whole vocabulary (34 ms a token, not 1).

    The fewest tokens with the probability `top_p` together (Holtzman et al. 2020); for 1 all, in their own order.
    """
    if top_p >= 1:
        return np.arange(len(logits))
    likely = np.exp(logits - logits.max())
    enough = top_p * float(likely.sum(dtype=np.float64))
    for least in (1e-3, 1e-6, 0.0):
        chosen = np.flatnonzero(likely >= least)
        if float(likely[chosen].sum(dtype=np.float64)) >= enough:
            break
    chosen = chosen[np.argsort(-logits[chosen], kind="stable")]
    return chosen[: int(np.searchsorted(likely[chosen].cumsum(dtype=np.float64), enough)) + 1]


def _log_probability(logits: np.ndarray, token: int) -> float:
    """Natural logarithm of the softmax of a float32 row at `token`."""
    most = logits.max()
    return float(logits[token] - most) - float(np.log(np.exp(logits - most).sum(dtype=np.float64)))
