"""Reports of `kosent evaluate` without models: invented replies, measured for real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kosent.evaluation.answering import Answered, write_answers
from kosent.evaluation.evaluate import measured
from kosent.evaluation.folder import Answer, Report, Turn, read_report, write_turns
from kosent.files import write_json


def report_of(
    turns: Sequence[Turn], answers: Mapping[str, Sequence[Answer]], folder: Path, encoder: Any, **results: Any
) -> Report:
    """What `read_report` makes of a folder with these answers; `results` are further keys of results.json."""
    write_turns(folder, turns)
    for label, some in answers.items():
        write_answers(folder, label, list(some))
    found = measured({label: Answered(list(some), None) for label, some in answers.items()}, list(turns), encoder, None, folder)
    for row in found["models"].values():
        row |= {"name": "invented", "run": None}
    write_json(folder / "results.json", found | {"settings": {"decoding": {"temperature": 0.0, "max_tokens": 256}}} | results)
    return read_report(folder)
