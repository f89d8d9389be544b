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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent import extras
from kosent.errors import ModelError, UsageError, VerificationError
from kosent.export.levels import (
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
from kosent.export.quantizer import K_QUANTS
from kosent.files import sha256, write_json
from kosent.memory import free_memory
from kosent.run_directory import RunDirectory

if TYPE_CHECKING:
    from kosent.export.gguf_model import GgufModel
    from kosent.export.trained_model import TrainedModel
    from kosent.finetune.encode import Dialogue

LIMITS = {
    "f32": (0.995, 1e-4), "f16": (0.995, 1e-4), "bf16": (0.98, 1e-3), "q8_0": (0.92, 0.01), "q6_k": (0.9, 0.03),
    "q5_k_m": (0.9, 0.06), "q5_k_s": (0.9, 0.06), "q4_k_m": (0.9, 0.1), "q4_k_s": (0.9, 0.1), "q3_k_m": (0.8, 0.25),
}  # fmt: skip
"""Quantization -> (least share of equal most probable tokens, greatest mean KL divergence in nats).

f16 to q6_k are calibrated on Gemma 3 270M, which is often torn between two words (docs/export.md has what was measured); q5 to
q3 are what may be asked of a larger model. Gemma 3 270M does not reach them.
"""

FILE_TYPES = {"0": "f32", "1": "f16", "32": "bf16", "7": "q8_0"} | {str(number): name for name, number in K_QUANTS.items()}
"""`general.file_type` of GGUF -> quantization (llama.h, enum llama_ftype)."""
NEEDS = ("finetune", "embedded")
"""Extras."""
DIALOGUES = 12
MOST_TOKENS = 4096
"""Of all dialogues together, which go through a layer at once."""
LEVELS = ("tokens", "distribution", "replies")


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

    base = trained.weights or Path(hf.resolve_base(trained.base))
    verification = verify(trained, base, args.gguf, args.gguf.name, read_held_out(args.data, args.dialogues))
    if args.ollama:
        from kosent.export.ollama_check import check_ollama_says

        level = check_ollama_says(args.ollama, args.gguf, trained.system_message)
        verification = with_level(verification, level)
    finish(verification, report_of(args.gguf), trained.path)
    print(f"Verified. Next: kosent chat --model {args.gguf}")
    return 0


@dataclass(frozen=True)
class Verification:
    file: dict[str, str]
    """Name and SHA-256 of what was verified."""
    levels: list[Level]

    @property
    def holds(self) -> bool:
        """Whether no level fails."""
        return not any(level.holds is False for level in self.levels)

    def report(self) -> dict[str, Any]:
        words = {True: "holds", False: "fails", None: "not run"}
        return {
            "gguf": self.file,
            **{level.name: {"status": words[level.holds], "summary": level.line} | level.facts for level in self.levels},
            "holds": self.holds,
        }


def report_of(gguf: Path) -> Path:
    return gguf.with_suffix(".verification.json")


def finish(verification: Verification, report: Path, run: Path) -> None:
    """Prints a line a level and writes the report. Raises `VerificationError` when one fails."""
    write_json(report, verification.report())
    for level in verification.levels:
        print(f"{level.name:<13} {level.line}.")
    if not verification.holds:
        raise VerificationError(
            f"{verification.file['name']} does not say what {run} says; see {report}.",
            hint=f"kosent export {run} --quantization f16     (the smaller a model, the less it can be rounded)",
        )


def unable(gguf: Path, name: str) -> Verification:
    """Where what is needed to look is not installed."""
    lacking = ",".join(extra for extra in NEEDS if extras.missing(extra))
    return Verification(
        {"name": name, "sha256": sha256(gguf)}, [not_run(level, f"pip install 'kosent[{lacking}]'") for level in LEVELS]
    )


def read_held_out(data: Path | None, most: int) -> list[list[dict[str, str]]]:
    """Raises `UsageError` or `DataError` when there is nothing to read in `data`."""
    if data is None:
        return []
    from kosent.finetune.plan import read_split

    if most < 1:
        raise UsageError(f"--dialogues: at least one dialogue is compared, not {most}.", hint=f"--dialogues {DIALOGUES}")
    return read_split(data, "test")[:most]


def verify(run: RunDirectory, base: Path, gguf: Path, name: str, held_out: Sequence[Sequence[dict[str, str]]]) -> Verification:
    """Compares the file `gguf`, which will be called `name`, with the run whose base lies in `base`, on three levels.

    Without `held_out` dialogues the file's own replies take their place. Raises `ModelError` when either cannot be loaded.
    """
    from kosent import hf
    from kosent.export.gguf_model import GgufModel

    hf.quiet()
    tokenizer = hf.load_tokenizer(str(base))
    file = {"name": name, "sha256": sha256(gguf)}
    vocabulary = GgufModel(gguf)
    if vocabulary.file_type not in FILE_TYPES:
        raise ModelError(f"{gguf} is of a type that `kosent export` does not write (general.file_type {vocabulary.file_type}).")
    tokens = check_tokens(tokenizer, run.template, run.layout, vocabulary)
    from kosent.finetune.encode import encode

    longest = int(run.facts["recipe"]["max_length"])
    dialogues = _together([encode(list(m), tokenizer, run.template, run.layout, longest) for m in held_out])
    limits = LIMITS[FILE_TYPES[vocabulary.file_type]]
    return Verification(file, [tokens, *check_model(run, base, gguf, dialogues, tokenizer, limits)])


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
    run: RunDirectory, base: Path, gguf: Path, held_out: list[Dialogue], tokenizer: Any, limits: tuple[float, float]
) -> list[Level]:
    """The levels that need both models computed."""
    from kosent.export.gguf_model import GgufModel
    from kosent.export.trained_model import TrainedModel

    longest = max((len(dialogue.ids) for dialogue in held_out), default=0)
    exported = GgufModel(gguf, max(longest, 4 * LONGEST_REPLY))
    with TrainedModel(base, None if run.weights else run.adapter) as trained:
        needed, free = memory_needed(trained, held_out, exported), free_memory()
        if needed > free:
            why = f"needs {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
            return [not_run("distribution", why), not_run("replies", why)]
        replies = answer(exported, run.system_message, run.template, run.layout)
        spoken = [dialogue for dialogue, _ in replies]
        end = tokenizer.convert_tokens_to_ids(run.layout.end_of_turn)
        positions, written = compare(trained, exported, held_out or spoken, spoken, end)
    text = f"{len(held_out)} held-out dialogues" if held_out else f"the file's own {len(spoken)} replies (no --data)"
    return [
        judge_distribution(positions, limits, text, len(held_out or spoken)),
        judge_replies(replies, written, exported),
    ]


def memory_needed(trained: TrainedModel, dialogues: Sequence[Dialogue], exported: GgufModel) -> int:
    """Bytes: the trained model's largest part, a layer's activations, logits at hand, and the file as far as it is read."""
    config = trained.model.config
    tokens = sum(len(dialogue.ids) for dialogue in dialogues) + 4 * LONGEST_REPLY
    activations = 4 * tokens * (8 * config.hidden_size + 3 * config.intermediate_size)
    logits = 4 * exported.llama.n_vocab() * (4 * ROWS_AT_ONCE + LONGEST_REPLY)
    return int(trained.largest + activations + logits + 300_000_000)


def with_level(verification: Verification, level: Level) -> Verification:
    return Verification(verification.file, [*verification.levels, level])
