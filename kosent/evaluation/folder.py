"""What an evaluation leaves in its folder, read and written in one place.

turns.jsonl            who asked what: one prompt a line, those with a reference first
replies/LABEL.jsonl    what each model answered, the settings in the first line; appended while it answers
scores.json            {model: {metric: one number for each prompt with a reference}}; without references, for each prompt
results.json           every number of the tables, the intervals, the comparisons, the settings
report.html            the page; report.md, metrics.csv and replies.csv say the same for other programs
judgements/*.jsonl     what judges and people said of pairs of replies (`kosent judge`, `kosent rate`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kosent.errors import DataError
from kosent.files import read_json, read_jsonl, write_jsonl
from kosent.prompts import Message

CONSTANT, RANDOM = "best constant reply", "random training reply"
"""The straw men."""
HELD_OUT = "held-out"


@dataclass(frozen=True)
class Turn:
    """One prompt."""

    dialogue: str
    """Prompts of one dialogue hang together: intervals are drawn by dialogue."""
    messages: list[Message]
    """An optional system message, then user and assistant in turn; the last is the user's."""
    reference: str | None = None
    """What was really answered."""
    emotion: str = ""
    prompt_set: str = HELD_OUT
    """`held-out`, `baseline`, `multi-turn`."""

    @property
    def user(self) -> str:
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Answer:
    text: str
    ended: bool
    """Whether the model ended the reply by itself."""
    error: str = ""
    """Why there is no reply; `text` is then empty, or what came before it broke off."""
    tokens: int | None = None
    """Of the reply; None where the backend does not say."""


@dataclass(frozen=True)
class Report:
    """All that a page is made of."""

    results: dict[str, Any]
    turns: list[Turn]
    answers: dict[str, list[Answer]]
    """By model, in the order of `turns`, the straw men last; those have replies to the held-out turns only."""
    scores: dict[str, dict[str, list[float]]]
    training: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By model that is a run: the rows of its metrics.jsonl."""
    corpus: dict[str, Any] | None = None
    """report.json of `kosent prepare`."""
    judgements: list[dict[str, Any]] = field(default_factory=list)
    """The rows of judgements/*.jsonl."""

    @property
    def straw_men(self) -> list[str]:
        return [name for name in (CONSTANT, RANDOM) if name in self.answers]


def write_turns(folder: Path, turns: Sequence[Turn]) -> None:
    write_jsonl(folder / "turns.jsonl", [asdict(turn) for turn in turns])


def read_turns(folder: Path) -> list[Turn]:
    """Raises `DataError` where there is no evaluation."""
    if not (folder / "turns.jsonl").is_file():
        raise DataError(f"{folder} holds no evaluation.", hint=f"kosent evaluate --data DIR --model MODEL --report {folder}")
    return [Turn(**row) for row in read_jsonl(folder / "turns.jsonl")]


def replies_file(folder: Path, label: str) -> Path:
    """The label is the file's name; what file systems do not take in names is written as %XX."""
    kept = "".join(c if c.isalnum() or c in " -_.+()" else "".join(f"%{byte:02X}" for byte in c.encode()) for c in label)
    return folder / "replies" / f"{kept.lstrip('.') or '%'}.jsonl"


def read_report(folder: Path) -> Report:
    """The evaluation in `folder`. Raises `DataError` where there is none, one that has not ended, or one that is damaged."""
    try:
        return _read(folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"The evaluation in {folder} is damaged ({type(error).__name__}: {error}).",
            hint="give `kosent evaluate` again: replies that are whole are kept",
        ) from error


def _read(folder: Path) -> Report:
    turns = read_turns(folder)
    if not (folder / "results.json").is_file():
        raise DataError(f"The evaluation in {folder} has not ended.", hint="give `kosent evaluate` again: it goes on")
    results = read_json(folder / "results.json")
    answers: dict[str, list[Answer]] = {}
    for label in results["models"]:
        by_turn = {row["turn"]: row for row in read_jsonl(replies_file(folder, label))[1:]}
        answers[label] = [Answer(**{key: row[key] for key in row if key != "turn"}) for _, row in sorted(by_turn.items())]
    judgements = [row for file in sorted(folder.glob("judgements/*.jsonl")) for row in read_jsonl(file)]
    training, corpus = _training(folder, results["models"]), _corpus(folder, results)
    return Report(results, turns, answers, read_json(folder / "scores.json"), training, corpus, judgements)


def _training(folder: Path, models: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found = {label: folder / row["run"] / "metrics.jsonl" for label, row in models.items() if row.get("run")}
    return {label: read_jsonl(file) for label, file in found.items() if file.is_file()}


def _corpus(folder: Path, results: Mapping[str, Any]) -> dict[str, Any] | None:
    file = folder / (results.get("data") or "") / "report.json"
    return read_json(file) if results.get("data") and file.is_file() else None
