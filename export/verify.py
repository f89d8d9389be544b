"""Checks that an exported GGUF says what the trained model says. `kosent export` does it by itself, and this does it again.

    kosent verify run run/kosent-q8_0.gguf --data data
    kosent verify run run/kosent-q8_0.gguf --ollama kosent     and that Ollama's `kosent` says it too

tokens        the prompts of 72 conversations (with and without a system message, one to four turns, emoji, ㅋㅋ, code, spaces,
              nothing at all, turn markers typed by the user) have equal token ids in transformers and in llama.cpp
distribution  over held-out replies (--data), or else over the file's own, the most probable next token is the trained
              model's, and the Kullback-Leibler divergence small: for q8_0 92 % and 0.01 nats a token; others: docs/export.md
replies       greedy replies end by themselves, or the trained model would not have ended them either
ollama        as many prompt tokens there as in llama.cpp, and the same greedy text

The trained model is read a layer at a time. The result is written beside the file; one that does not hold means exit code 6.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kosent import extras
from kosent.errors import DataError, ModelError, UsageError
from kosent.export.conversations import questions
from kosent.export.levels import (
    BATCH,
    LONGEST_REPLY,
    ROWS_AT_ONCE,
    Level,
    answer,
    check_tokens,
    compare,
    judge_distribution,
    judge_replies,
    not_run,
)
from kosent.export.verification import (
    FILE_TYPES,
    LIMITS,
    NEEDS,
    Verification,
    contradiction,
    report_of,
    show,
)
from kosent.files import sha256, write_json
from kosent.memory import free_memory
from kosent.models import resolve_model
from kosent.run_directory import RunDirectory

if TYPE_CHECKING:
    from kosent.export.trained_model import TrainedModel
    from kosent.finetune.encode import Dialogue

DIALOGUES = 12
MOST_TOKENS = 4096
"""Of all dialogues together, which go through a layer at once."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="the run that the file was exported from")
    parser.add_argument("gguf", type=Path, metavar="FILE.gguf")
    parser.add_argument("--data", type=Path, metavar="DIR", help="prepared data, whose test dialogues are compared")
    parser.add_argument("--dialogues", type=int, default=DIALOGUES, help=f"at most how many of them ({DIALOGUES})")
    parser.add_argument("--ollama", metavar="NAME", help="also compare the model NAME in the running Ollama")


def run(args: argparse.Namespace) -> int:
    extras.require(*NEEDS, what="`kosent verify`")
    trained = RunDirectory.open(args.run_directory)
    if not args.gguf.is_file():
        raise ModelError(f"There is no file {args.gguf}.", hint=f"kosent export {args.run_directory}")
    from kosent import hf

    if args.ollama:
        resolve_model(f"ollama:{args.ollama}")  # whether it is there, before minutes are spent
    base = trained.weights or Path(hf.resolve_base(trained.base))
    held_out = read_held_out(args.data, args.dialogues, trained, base)
    verification = verify(trained, base, args.gguf, args.gguf.name, held_out)
    report = report_of(args.gguf)
    show(verification.levels)
    if args.ollama:
        from kosent.export.ollama_check import check_ollama_says

        write_json(report, verification.report())
        level = check_ollama_says(args.ollama, args.gguf, trained.system_message)
        verification = verification.and_level(level)
        show([level])
    write_json(report, verification.report())
    if not verification.holds:
        raise contradiction(verification, report, trained.path)
    print(f"{verification.summary} Next: kosent chat --model {args.gguf}")
    return 0


def read_held_out(data: Path | None, most: int, run: RunDirectory, base: Path) -> list[Dialogue]:
    """At most `most` test dialogues of `data` as token ids; those of which not one reply fits are left out.

    Raises `UsageError` or `DataError` when there is nothing to read.
    """
    if data is None:
        return []
    if most < 1:
        raise UsageError(f"--dialogues: at least one dialogue is compared, not {most}.", hint=f"--dialogues {DIALOGUES}")
    from kosent import hf
    from kosent.finetune.encode import encode
    from kosent.finetune.plan import read_split

    messages = read_split(data, "test")[:most]
    hf.quiet()
    tokenizer = hf.load_tokenizer(str(base))
    found = []
    for talk in messages:
        try:
            found.append(encode(talk, tokenizer, run.template, run.layout, int(run.facts["recipe"]["max_length"])))
        except DataError:
            continue
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{data / 'test.jsonl'} holds a message without role or content: {str(talk)[:80]}",
                hint=f"kosent prepare SOURCE --output {data}",
            ) from error
    if not found:
        raise DataError(f"Not one reply in the first {most} dialogues of {data / 'test.jsonl'} fits the run's max_length.")
    return _together(found)


def verify(run: RunDirectory, base: Path, gguf: Path, name: str, held_out: Sequence[Dialogue]) -> Verification:
    """Compares the file `gguf`, which will be called `name`, with the run whose base lies in `base`, on three levels.

    Without `held_out` dialogues the file's own replies take their place. Raises `ModelError` when either cannot be loaded.
    """
    from kosent import hf
    from kosent.export.gguf_model import GgufModel

    hf.quiet()
    tokenizer = hf.load_tokenizer(str(base))
    vocabulary = GgufModel(gguf)
    kind = FILE_TYPES.get(vocabulary.file_type)
    if kind is None:
        raise ModelError(f"{gguf} is of a type that `kosent export` does not write (general.file_type {vocabulary.file_type}).")
    tokens = check_tokens(tokenizer, run.template, run.layout, vocabulary)
    prompts = [vocabulary.prompt(messages) for messages in questions(run.system_message)]
    file = {"name": name, "type": kind, "sha256": sha256(gguf)}
    return Verification(file, [tokens, *check_model(run, base, gguf, held_out, prompts, LIMITS[kind])])


def _together(dialogues: list[Dialogue]) -> list[Dialogue]:
    """As many of the first as have `MOST_TOKENS` tokens together."""
    kept: list[Dialogue] = []
    total = 0
    for dialogue in dialogues:
        total += len(dialogue.ids)
        if total > MOST_TOKENS and kept:
            break
        kept.append(dialogue)
    return kept


def check_model(
    run: RunDirectory,
    base: Path,
    gguf: Path,
    held_out: Sequence[Dialogue],
    prompts: Sequence[list[int]],
    limits: tuple[float, float],
) -> list[Level]:
    """The levels that need both models computed."""
    from kosent.export.gguf_model import GgufModel
    from kosent.export.trained_model import TrainedModel

    lengths = [*(len(dialogue.ids) for dialogue in held_out), *(len(prompt) + LONGEST_REPLY for prompt in prompts)]
    exported = GgufModel(gguf, max(lengths))
    (end,) = exported.llama.tokenize(run.layout.end_of_turn.encode(), add_bos=False, special=True)
    with TrainedModel(base, None if run.weights else run.adapter) as trained:
        rows = max([LONGEST_REPLY, *(dialogue.supervised for dialogue in held_out)])
        needed, free = memory_needed(trained, sum(lengths), rows, exported.llama.n_vocab()), free_memory()
        if needed > free:
            why = f"needs {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
            return [not_run("distribution", why), not_run("replies", why)]
        replies = answer(exported, prompts)
        spoken = [dialogue for dialogue, _ in replies]
        positions, written = compare(trained, exported, held_out or spoken, spoken, end)
    text = f"{len(held_out)} held-out dialogues" if held_out else f"the file's own {len(spoken)} replies (no --data)"
    return [
        judge_distribution(positions, limits, text, len(held_out or spoken)),
        judge_replies(replies, written, exported),
    ]


def memory_needed(trained: TrainedModel, tokens: int, rows: int, vocabulary: int) -> int:
    """Bytes: the trained model's largest part, a layer's activations, and logits, ours (`rows` at once) and llama.cpp's own."""
    config = trained.model.config
    activations = 4 * tokens * (8 * config.hidden_size + 3 * config.intermediate_size)
    logits = 4 * vocabulary * (4 * ROWS_AT_ONCE + rows + min(rows, BATCH))
    libraries = 900_000_000  # PyTorch, llama.cpp's own buffers, the adapter
    return int(1.15 * (trained.largest + activations + logits + libraries))  # an 8B: 4.3 GB measured (docs/benchmarks.md)
