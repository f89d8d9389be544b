"""Lengths of utterances in the tokens of a model, for the rule `length`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kosent import extras
from kosent.errors import UsageError
from kosent.locations import starter_base

Lengths = Callable[[Sequence[str]], list[int]]


def characters(texts: Sequence[str]) -> list[int]:
    return list(map(len, texts))


def token_lengths(name: str) -> Lengths:
    """Counts tokens with the tokenizer of `name`: `starter`, a folder or file with a tokenizer.json, or a Hub id.

    Raises `UsageError` when there is none.
    """
    extras.require("prepare", what="`kosent prepare --tokenizer`")
    from tokenizers import Tokenizer

    path = starter_base() if name == "starter" else Path(name).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(file)) if file.is_file() else None
        if tokenizer is None and name != "starter" and not path.exists() and name.count("/") == 1:
            tokenizer = Tokenizer.from_pretrained(name)
    except Exception as error:  # the library raises bare Exception for a file that it cannot read and a Hub that is not there
        what = "is not a tokenizer.json" if file.is_file() else "is neither a folder here nor to be had from the Hub"
        raise UsageError(f"--tokenizer {name} {what}: {error}", hint="give the folder of a model, or a tokenizer.json") from None
    if tokenizer is None:
        hint = "kosent models starter" if name == "starter" else "give the folder of a model, or a tokenizer.json"
        raise UsageError(f"--tokenizer {name}: there is no tokenizer.json at {file}.", hint=hint)

    def lengths(texts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    return lengths
