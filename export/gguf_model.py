"""An exported file in llama.cpp, as verification asks it: token ids, logits at chosen places, greedy replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kosent.errors import ModelError
from kosent.export.levels import BATCH
from kosent.llama_cpp_log import silence
from kosent.prompts import Layout, Message, layout_of_template, render


class GgufModel:
    """`context` in tokens; 0 loads the vocabulary alone. Raises `ModelError` when llama.cpp cannot load the file."""

    def __init__(self, file: Path, context: int = 0) -> None:
        from llama_cpp import Llama

        silence()
        options: dict[str, Any] = {"n_ctx": context, "n_batch": min(BATCH, context)} if context else {"vocab_only": True}
        try:
            self.llama = Llama(str(file), verbose=False, **options)
        except ValueError as error:
            raise ModelError(f"llama.cpp cannot load {file}: {error}", hint="export it again") from error
        self.template: str = self.llama.metadata.get("tokenizer.chat_template", "")
        self.layout: Layout = layout_of_template(self.template)
        self.file_type: str = self.llama.metadata.get("general.file_type", "unknown")
        number = int(self.llama.metadata.get("tokenizer.ggml.bos_token_id", -1))
        self.bos: str = self.pieces([number]) if number >= 0 else ""

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, by the template in the file, up to where the reply begins."""
        text = render(messages, self.template, self.layout, bos_token=self.bos, add_generation_prompt=True)
        ids: list[int] = self.llama.tokenize(text.encode(), add_bos=False, special=True)
        return ids

    def pieces(self, ids: Sequence[int]) -> str:
        text: str = self.llama.detokenize(list(ids), special=True).decode(errors="replace")
        return text

    def text(self, ids: Sequence[int]) -> str:
        """What a person reads of it: control tokens are nothing, and a letter that is not whole yet is left out."""
        text: str = self.llama.detokenize(list(ids)).decode(errors="ignore")
        return text

    def ends(self, token: int) -> bool:
        """Whether the token closes a reply."""
        from llama_cpp import llama_vocab_is_eog

        return bool(llama_vocab_is_eog(self.llama._model.vocab, token))

    def logits(self, ids: Sequence[int], places: Sequence[int]) -> np.ndarray:
        """(places, vocabulary) in float32, after each of the `places`; nothing is computed for the others."""
        self._forget()
        return self._decode(ids, 0, set(places))

    def greedy(self, prompt: Sequence[int], most: int) -> tuple[list[int], bool]:
        """The most probable tokens one after another, at most `most`, the one that ends the reply included; whether it ended."""
        reply: list[int] = []
        for best, _ in self.steps(prompt, most):
            reply.append(best)
            if self.ends(best):
                return reply, True
        return reply, False

    def steps(self, prompt: Sequence[int], most: int) -> Iterator[tuple[int, float]]:
        """The most probable token, and how far its logit is above the next one's, again and again, at most `most` times."""
        self._forget()
        logits = self._decode(prompt, 0, {len(prompt) - 1})[0]
        for position in range(len(prompt), len(prompt) + most):
            second, best = (int(token) for token in np.argpartition(logits, -2)[-2:])
            yield best, round(float(logits[best] - logits[second]), 4)
            if position + 1 < len(prompt) + most:
                logits = self._decode([best], position, {0})[0]

    def _forget(self) -> None:
        import llama_cpp

        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.llama.ctx), True)

    def _decode(self, ids: Sequence[int], position: int, places: set[int]) -> np.ndarray:
        import llama_cpp

        size = self.llama.n_vocab()
        found = np.empty((len(places), size), np.float32)
        done = 0
        batch = llama_cpp.llama_batch_init(min(BATCH, len(ids)), 0, 1)
        try:
            for start in range(0, len(ids), BATCH):
                part = ids[start : start + BATCH]
                batch.n_tokens = len(part)
                for number, token in enumerate(part):
                    batch.token[number] = token
                    batch.pos[number] = position + start + number
                    batch.n_seq_id[number] = 1
                    batch.seq_id[number][0] = 0
                    batch.logits[number] = start + number in places
                if code := llama_cpp.llama_decode(self.llama.ctx, batch):
                    raise ModelError(f"llama.cpp could not compute {len(ids)} tokens (code {code}).")
                for number in range(len(part)):
                    if start + number in places:
                        row = llama_cpp.llama_get_logits_ith(self.llama.ctx, number)
                        found[done] = np.ctypeslib.as_array(row, (size,))
                        done += 1
        finally:
            llama_cpp.llama_batch_free(batch)
        return found
