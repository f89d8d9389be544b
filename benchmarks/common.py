"""How every benchmark ends: a table for people, and one line of JSON as the last line of the output."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Result:
    name: str
    value: float
    unit: str
    goal: str
    holds: bool


def report(benchmark: str, results: Sequence[Result]) -> None:
    print(f"| {benchmark} | value | unit | goal | holds |\n|---|---|---|---|---|")
    for result in results:
        print(f"| {result.name} | {result.value:g} | {result.unit} | {result.goal} | {'yes' if result.holds else 'NO'} |")
    print(json.dumps({"benchmark": benchmark, "results": [asdict(result) for result in results]}, ensure_ascii=False))
