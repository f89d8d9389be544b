"""Whether a model in Ollama reads prompts and answers as its file does in llama.cpp."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ollama import Client

from kosent.export.conversations import TEXTS, conversations, questions
from kosent.export.gguf_model import GgufModel
from kosent.export.levels import Level
from kosent.models import ollama_url
from kosent.ollama_model import explained
from kosent.progress import progress
from kosent.prompts import Message

OPTIONS: dict[str, Any] = {"temperature": 0}
TURNS = 2
"""Most turns of the prompts that are counted: each is computed there."""
LONGEST = 32
"""Tokens of the replies that are compared."""
NEAR = 0.1
"""Logits this close are a tie, which rounding may decide."""


def check_ollama_says(name: str, gguf: Path, system: str) -> Level:
    """The level `ollama`. Raises `BackendError` when Ollama cannot be asked, `ModelError` when llama.cpp cannot load `gguf`."""
    prompts = [_with_system(messages, system) for messages in conversations(TEXTS, TURNS)[:: TURNS + 1]]
    asked = questions(system)
    talks = [asked[0], asked[-1]]
    longest = len(GgufModel(gguf).prompt(talks[1])) + LONGEST
    exported = GgufModel(gguf, longest)
    client = Client(host=ollama_url(), trust_env=False, timeout=600)
    different: list[dict[str, Any]] = []
    replies: list[dict[str, Any]] = []
    with progress("asking Ollama", len(prompts) + len(talks)) as advance, explained(ollama_url(), f"answer with {name!r}"):
        for number, messages in enumerate(prompts):
            advance(number, "")
            answer = client.chat(name, messages=_composed(messages), options=OPTIONS | {"num_predict": 1})
            expected = len(exported.prompt(messages))
            if answer.prompt_eval_count != expected:
                last = str(messages[-1]["content"])
                different.append({"message": last, "expected": expected, "found": answer.prompt_eval_count})
        for number, messages in enumerate(talks, len(prompts)):
            advance(number, "")
            answer = client.chat(name, messages=_composed(messages), options=OPTIONS | {"num_predict": LONGEST})
            replies.append(same_reply(exported, messages, str(answer.message.content), str(answer.done_reason)))
        advance(len(prompts) + len(talks), "")
    holds = not different and all(reply["holds"] for reply in replies)
    line = f"{len(prompts) - len(different)} of {len(prompts)} prompts have equally many tokens in Ollama's {name}"
    if different:
        one = different[0]
        line += f"; first: {one['message'][:60]!r} has {one['found']} instead of {one['expected']}"
    line += f"; {sum(reply['holds'] for reply in replies)} of {len(replies)} greedy replies are the same"
    if ties := [reply for reply in replies if reply["holds"] and "after" in reply]:
        line += f", {len(ties)} until two words were nearly equally probable"
    return Level("ollama", holds, line, {"model": name, "prompts": len(prompts), "different": different, "replies": replies})


def _with_system(messages: Sequence[Message], system: str) -> Sequence[Message]:
    """As Ollama completes a conversation without a system message: with the model's own."""
    return messages if messages[0]["role"] == "system" or not system else [{"role": "system", "content": system}, *messages]


def _composed(messages: Sequence[Message]) -> list[Message]:
    """With Hangul composed, as everything that KoSent sends; Ollama takes it as it comes."""
    return [{"role": message["role"], "content": unicodedata.normalize("NFC", message["content"])} for message in messages]


def same_reply(exported: GgufModel, messages: Sequence[Message], text: str, reason: str) -> dict[str, Any]:
    """Whether Ollama's `text` is what llama.cpp writes greedily; `after` and `gap` where they part, with how far the best two
    logits are from each other there."""
    reply: list[int] = []
    for best, gap in exported.steps(exported.prompt(messages), LONGEST):
        before = exported.text(reply)
        if exported.ends(best):
            same = text.strip() == before.strip() and reason == "stop"
            return {"text": text, "holds": same or gap < NEAR} | ({} if same else {"after": before, "gap": gap, "reason": reason})
        reply.append(best)
        if not text.lstrip().startswith(exported.text(reply).lstrip()):
            return {"text": text, "holds": gap < NEAR, "after": before, "expected": exported.text(reply), "gap": gap}
    return {"text": text, "holds": True}
