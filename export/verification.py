"""What is asked of an exported file, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kosent import extras
from kosent.errors import VerificationError
from kosent.export.levels import Level, not_run
from kosent.export.quantizer import K_QUANTS
from kosent.files import sha256

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
LEVELS = ("tokens", "distribution", "replies")


@dataclass(frozen=True)
class Verification:
    file: dict[str, str]
    """Name and SHA-256 of what was verified."""
    levels: list[Level]

    @property
    def holds(self) -> bool:
        """Whether no level fails."""
        return not any(level.holds is False for level in self.levels)

    @property
    def summary(self) -> str:
        """Of one that holds."""
        left_out = [level.name for level in self.levels if level.holds is None]
        return f"Nothing contradicts it, but this was not compared: {', '.join(left_out)}." if left_out else "Verified."

    def and_level(self, level: Level) -> Verification:
        return Verification(self.file, [*self.levels, level])

    def report(self) -> dict[str, Any]:
        words = {True: "holds", False: "fails", None: "not run"}
        return {
            "gguf": self.file,
            **{level.name: {"status": words[level.holds], "summary": level.line} | level.facts for level in self.levels},
            "holds": self.holds,
            "complete": all(level.holds is not None for level in self.levels),
        }


def report_of(gguf: Path) -> Path:
    return gguf.with_suffix(".verification.json")


def show(levels: Sequence[Level]) -> None:
    """Prints a line a level."""
    for level in levels:
        print(f"{level.name:<13} {level.line}.")


def contradiction(verification: Verification, report: Path, run: Path) -> VerificationError:
    """What to raise when a level fails, with what may help for that level."""
    failed = [level.name for level in verification.levels if level.holds is False]
    kind = verification.file["type"]
    if "tokens" in failed:
        hint = (
            f"fetch the base again, then kosent export {run}     (its tokenizer or the run's template is not what was exported)"
        )
    elif LIMITS[kind][1] > LIMITS["bf16"][1]:
        hint = f"kosent export {run} --quantization {'f16' if kind == 'q8_0' else 'q8_0'}     (small models can be rounded less)"
    else:
        hint = f"kosent export {run}, and report it if that fails too"
    return VerificationError(f"{verification.file['name']} does not say what {run} says; see {report}.", hint=hint)


def unable(gguf: Path, name: str, kind: str) -> Verification:
    """Where what is needed to look is not installed."""
    lacking = ",".join(extra for extra in NEEDS if extras.missing(extra))
    file = {"name": name, "type": kind, "sha256": sha256(gguf)}
    return Verification(file, [not_run(level, f"pip install 'kosent[{lacking}]'") for level in LEVELS])
