"""From a conversation to token ids, by the chat template and vocabulary of a GGUF file that llama.cpp has open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage

from kosent.errors import ModelError, UsageError
from kosent.prompts import layout_of_template, render

ROLES = {"system": "system", "human": "user", "ai": "assistant"} | {
    "SystemMessageChunk": "system",
    "HumanMessageChunk": "user",
    "AIMessageChunk": "assistant",
}


def as_plain(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    """LangChain messages as `{"role", "content"}` in the order of chat templates: one system message (all there are joined),
    then user and assistant in turn, user first. Neighbours of one role are joined by an empty line; a greeting before the first
    user message is left out. Raises `UsageError` for a kind that is not part of a conversation."""
    system: list[str] = []
    turns: list[dict[str, str]] = []
    for message in messages:
        role = ROLES.get(message.type)
        if role is None:
            raise UsageError(
                f"A message of the kind {message.type!r} cannot be part of a conversation.",
                hint="system, human and ai messages can",
            )
        if role == "system":
            system.append(message.text)
        elif turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{message.text}"
        elif turns or role == "user":
            turns.append({"role": role, "content": message.text})
    return [*([{"role": "system", "content": "\n\n".join(system)}] if system else []), *turns]


def gguf_prompt(llama: Any, messages: Sequence[BaseMessage]) -> list[int]:
    """Token ids of the prompt for the next reply, with one beginning-of-sequence token where the template writes one. Where the
    last message is the assistant's, it is the beginning of that reply and is left open.

    `llama` is a `llama_cpp.Llama`; its vocabulary is enough. Raises `ModelError` where the file has no chat template, or one that
    writes no layout that KoSent knows.
    """
    from llama_cpp import llama_vocab_bos, llama_vocab_get_text

    template = llama.metadata.get("tokenizer.chat_template")
    if not template:
        raise ModelError(f"{llama.model_path} carries no chat template.", hint="kosent export RUN     (writes one into the file)")
    vocabulary = llama._model.vocab
    token = llama_vocab_bos(vocabulary)
    bos = llama_vocab_get_text(vocabulary, token).decode() if token >= 0 else ""
    layout = layout_of_template(template)
    turns = as_plain(messages)
    begun = turns.pop()["content"] if turns and turns[-1]["role"] == "assistant" else ""
    text = render(turns, template, layout, bos_token=bos, add_generation_prompt=True) + layout.protect(begun)
    return [int(one) for one in llama.tokenize(text.encode(), add_bos=False, special=True)]
