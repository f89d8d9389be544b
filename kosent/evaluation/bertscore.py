"""BERTScore by the package bert-score (kosent[bertscore]) with any encoder: F1 of each reply, not rescaled.

BertScore("klue/roberta-large")         the layer that bert-score tuned for it, else three quarters of the way up
BertScore("klue/roberta-large@17")      layer 17
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kosent import extras
from kosent.errors import ModelError, UsageError


class BertScore:
    """Raises `UsageError` for a layer that is none and `ModelError` for a model that is not to be had."""

    def __init__(self, model: str, batch_size: int = 64) -> None:
        extras.require("bertscore", what="BERTScore")
        from bert_score import BERTScorer
        from bert_score.utils import model2layers
        from transformers import AutoConfig

        name, separator, layer = model.rpartition("@") if "@" in model else (model, "", "")
        if separator and not layer.isdecimal():
            raise UsageError(f"{layer!r} is no layer.", hint=f"--bertscore {name}@9")
        try:
            config = AutoConfig.from_pretrained(name)
            layers = int(layer) if layer else model2layers.get(name) or round(0.75 * config.num_hidden_layers)
            if not 1 <= layers <= config.num_hidden_layers:
                raise UsageError(f"{name} has {config.num_hidden_layers} layers.", hint=f"--bertscore {name}@9")
            self._scorer: Any = BERTScorer(model_type=name, num_layers=layers, batch_size=batch_size)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"The model {name} cannot be loaded: {str(error).strip().splitlines()[0]:.200}",
                hint=f"huggingface-cli download {name}   (or name the folder of a downloaded one)",
            ) from error
        tokenizer = self._scorer._tokenizer
        # a tokenizer that was saved without its limit has 10^30, which truncation cannot take; RoBERTa keeps two positions
        tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings - 2)
        self.signature = str(self._scorer.hash)

    def f1(self, replies: Sequence[str], references: Sequence[str]) -> list[float]:
        """0 where either is empty."""
        found = [0.0] * len(replies)
        places = [place for place, both in enumerate(zip(replies, references, strict=True)) if all(map(str.strip, both))]
        if places:
            scores = self._scorer.score([replies[place] for place in places], [references[place] for place in places])[2]
            for place, value in zip(places, scores.tolist(), strict=True):
                found[place] = float(value)
        return found
