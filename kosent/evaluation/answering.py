"""Asking models, each reply on disk as soon as there is one, so that what was interrupted goes on where it was.

The first line of replies/LABEL.jsonl says what made them: prompts, weights, decoding. Where that has changed, the old replies are
kept beside under another name and the model is asked anew. Prompts that failed are asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kosent.errors import ModelError
from kosent.evaluation.backends import Backend
from kosent.evaluation.folder import Answer, Turn, replies_file
from kosent.evaluation.generate import Decoding
from kosent.files import read_json, write_json, write_jsonl
from kosent.progress import progress, say


@dataclass(frozen=True)
class Answered:
    answers: list[Answer]
    """In the order of the prompts."""
    likelihoods: list[tuple[float, int]] | None
    """Of the references: sum of log probabilities, number of tokens."""


def answer(label: str, name: str, backend: Backend, turns: Sequence[Turn], folder: Path, decoding: Decoding) -> Answered:
    """What the model `name` says to `turns`. Raises `ModelError` where it answered none, and what its backend raises."""
    made_by = {
        "label": label, "model": name, "weights": backend.identity(), "precision": backend.precision,
        "decoding": asdict(decoding), "prompts": prompts_digest(turns),
    }  # fmt: skip
    file = replies_file(folder, label)
    kept = _begun(file, made_by, label)
    missing = [number for number in range(len(turns)) if number not in kept or kept[number].error]
    if missing:
        with (
            file.open("a", encoding="utf-8") as out,
            progress(f"asking {label}", len(turns), start=len(turns) - len(missing)) as advance,
        ):
            asked = 0

            def done(place: int, one: Answer) -> None:
                nonlocal asked
                number, asked = missing[place], asked + 1
                one = replace(one, text=one.text.encode("utf-8", "replace").decode())  # half an emoji, from a server
                kept[number] = one
                out.write(json.dumps({"turn": number, **asdict(one)}, ensure_ascii=False) + "\n")
                out.flush()
                advance(len(turns) - len(missing) + asked, f"failed: {one.error[:60]}" if one.error else "")

            backend.answer([turns[number] for number in missing], missing, decoding, done)
    answers = [kept[number] for number in range(len(turns))]
    failed = [one for one in answers if one.error]
    if failed and len(failed) == len(answers):
        raise ModelError(f"{label} answered none of {len(answers)} prompts: {failed[0].error}", hint="kosent models")
    if failed:
        say(f"{label}: {len(failed)} of {len(answers)} prompts failed, the first with: {failed[0].error}")
    return Answered(answers, _likelihoods(label, backend, turns, file, made_by))


def prompts_digest(turns: Sequence[Turn]) -> str:
    """Of what is asked, references apart."""
    asked = json.dumps([list(map(dict, turn.messages)) for turn in turns], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _begun(file: Path, made_by: Mapping[str, Any], label: str) -> dict[int, Answer]:
    """The replies that are there already, made the same way; what was half written is taken away."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = _whole_lines(file)
    if rows and rows[0] != made_by:
        number = 1
        while (aside := file.with_name(f"{file.stem}.earlier-{number}.jsonl")).exists():
            number += 1
        file.rename(aside)
        changed = [key for key in made_by if rows[0].get(key) != made_by[key]]
        say(f"{label}: asked anew, because of other {' and '.join(changed)}; the earlier replies are in {aside.name}")
        rows = []
    answers: dict[int, Answer] = {}
    for row in rows[1:]:
        answers[row["turn"]] = Answer(row["text"], row["ended"], row["error"], row["tokens"])
    _write(file, made_by, answers)
    return answers


def write_answers(folder: Path, label: str, answers: Sequence[Answer]) -> None:
    """Replies that no model made: those of a straw man."""
    file = replies_file(folder, label)
    file.parent.mkdir(parents=True, exist_ok=True)
    _write(file, {"label": label}, dict(enumerate(answers)))


def _write(file: Path, made_by: Mapping[str, Any], answers: Mapping[int, Answer]) -> None:
    write_jsonl(file, [dict(made_by), *({"turn": number, **asdict(one)} for number, one in answers.items())])


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            rows.append(json.loads(line))
        except ValueError:
            break  # the process was killed while it wrote this one
    return rows


def _likelihoods(
    label: str, backend: Backend, turns: Sequence[Turn], file: Path, made_by: Mapping[str, Any]
) -> list[tuple[float, int]] | None:
    """Of the references, kept in a file of their own beside the replies."""
    with_reference = [turn for turn in turns if turn.reference is not None]
    target = file.with_suffix(".likelihoods.json")
    asked = {**made_by, "decoding": None, "references": [turn.reference for turn in with_reference]}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    if target.is_file():
        known = read_json(target)
        if known["made_by"] == digest:
            return known["values"] and [(nats, tokens) for nats, tokens in known["values"]]
    if not with_reference:
        return None
    with progress(f"reading, {label}", len(with_reference)) as advance:
        found = backend.log_likelihoods(with_reference, advance)
    write_json(target, {"made_by": digest, "values": found})
    return found
