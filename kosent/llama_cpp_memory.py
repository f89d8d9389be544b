"""Whether a GGUF file and its context fit into this machine's memory, asked before llama.cpp takes it."""

from __future__ import annotations

from pathlib import Path

from kosent.errors import OutOfMemoryError, UsageError
from kosent.memory import free_memory

ORDINARY_CONTEXT = 8192
"""Tokens whose cache every machine has room for."""


def check_room(path: str, context: int) -> None:
    """Memory that is not there would be given, and the process killed when it uses it. Raises `OutOfMemoryError`, or `UsageError`
    for a context longer than the model was made for."""
    from llama_cpp import Llama

    size, free = Path(path).stat().st_size, free_memory()
    if context <= ORDINARY_CONTEXT and 2 * size < free:
        return
    facts = Llama(path, vocab_only=True, verbose=False).metadata
    kind = facts["general.architecture"]
    longest = int(facts[f"{kind}.context_length"])
    if context > longest:
        raise UsageError(
            f"{Path(path).name} was made for a context of {longest:,} tokens, not {context:,}.",
            hint=f"KOSENT_CONTEXT={longest} or less",
        )
    cache = context * cache_of_a_token(facts)
    if size + cache > free:
        reason = f"it takes {size / 1e9:.1f} GB and {cache / 1e9:.1f} GB for the context, and {free / 1e9:.1f} GB are free"
        raise too_large(path, context, reason)


def cache_of_a_token(facts: dict[str, str]) -> int:
    """Bytes of its keys and values, in 16 bits; `facts` is the metadata of a GGUF file."""
    kind = facts["general.architecture"]
    heads = int(facts[f"{kind}.attention.head_count"])
    wide = int(facts.get(f"{kind}.attention.key_length", int(facts[f"{kind}.embedding_length"]) // heads))
    given = facts.get(f"{kind}.attention.head_count_kv", "")
    kept = int(given) if given.isdigit() else heads
    return 2 * 2 * int(facts[f"{kind}.block_count"]) * kept * wide


def too_large(path: str, context: int, reason: str) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"{Path(path).name} does not fit into memory with a context of {context:,} tokens: {reason}.",
        hint="KOSENT_CONTEXT=1024 kosent ...     (a smaller context), or kosent export RUN --quantization q4_k_m",
    )
