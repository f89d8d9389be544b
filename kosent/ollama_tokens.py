"""How many tokens a conversation has for a model in Ollama, which has no call that says so.

The model's own vocabulary counts: read by llama.cpp (vocabulary alone, no weights) from the file that Ollama keeps, where that is
on this machine and can be read. Else Ollama is asked to read each message once (a reply of one token, whose `prompt_eval_count`
is the answer), which takes the time of reading it. Counts are remembered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage
from ollama import Client

from kosent.prompts import layout_of_template, render

MARKUP = 8
"""Tokens that a turn's markers take at most, where the template is not known."""
_FROM = re.compile(r"^FROM (.+)$", re.MULTILINE)


class OllamaTokens:
    def __init__(self, url: str, model: str) -> None:
        self.client = Client(host=url, trust_env=False, timeout=600)
        self.model = model
        self._counted: dict[str, int] = {}
        self._vocabulary: Any = None
        self._searched = False

    @staticmethod
    def at_most(messages: Sequence[BaseMessage]) -> int:
        """A bound that needs no model: no token is shorter than one byte."""
        return sum(len(message.text.encode()) + MARKUP for message in messages)

    def count(self, messages: Sequence[BaseMessage]) -> int:
        """Tokens of the prompt. Exact where the file was found and has a chat template that KoSent knows; else a few too many."""
        vocabulary = self._found()
        template = vocabulary.metadata.get("tokenizer.chat_template") if vocabulary else None
        if vocabulary and template:
            return self._rendered(vocabulary, template, messages)
        return sum(self._of_text(message.text) + MARKUP for message in messages)

    def _rendered(self, vocabulary: Any, template: str, messages: Sequence[BaseMessage]) -> int:
        from llama_cpp import llama_vocab_bos, llama_vocab_get_text

        from kosent.llama_cpp_model import as_plain

        bos = llama_vocab_bos(vocabulary._model.vocab)
        spelled = llama_vocab_get_text(vocabulary._model.vocab, bos).decode() if bos >= 0 else ""
        text = render(as_plain(messages), template, layout_of_template(template), bos_token=spelled, add_generation_prompt=True)
        return len(vocabulary.tokenize(text.encode(), add_bos=False, special=True))

    def _of_text(self, text: str) -> int:
        if text not in self._counted:
            self._counted[text] = self._asked(text) if self._vocabulary is None else self._read(text)
        return self._counted[text]

    def _read(self, text: str) -> int:
        return len(self._vocabulary.tokenize(text.encode(), add_bos=False, special=False))

    def _asked(self, text: str) -> int:
        if not text:
            return 0
        reply = self.client.generate(self.model, text, raw=True, options={"num_predict": 1})
        return int(reply.prompt_eval_count or 0)

    def _found(self) -> Any:
        """The vocabulary, or None where there is no file to read it from."""
        if not self._searched:
            self._searched = True
            found = _FROM.search(str(self.client.show(self.model).modelfile))
            file = Path(found.group(1).strip()) if found else None
            if file and file.is_file() and os.access(file, os.R_OK) and find_spec("llama_cpp"):
                self._vocabulary = _vocabulary(file)
        return self._vocabulary


def _vocabulary(file: Path) -> Any:
    from llama_cpp import Llama

    from kosent.llama_cpp_log import silence

    silence()
    try:
        return Llama(str(file), vocab_only=True, verbose=False)
    except (ValueError, OSError):  # a file of a kind that this llama.cpp does not know
        return None
