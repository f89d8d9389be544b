"""The files of a report for people and other programs, written from what `folder.py` reads: page, Markdown, CSV, PNG."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kosent.evaluation.comparisons import markdown
from kosent.evaluation.definitions import METRICS
from kosent.evaluation.folder import Report, read_report
from kosent.evaluation.table import all_metrics, table
from kosent.files import write_text

EXAMPLES = 10


def write_report(folder: Path) -> None:
    """Writes report.html, report.md, metrics.csv, replies.csv and comparison.png anew. Raises `DataError`."""
    from kosent.evaluation.page import page
    from kosent.evaluation.plots import plot_comparison

    report = read_report(folder)
    write_text(folder / "metrics.csv", _sheet(_metric_rows(report)), encoding="utf-8-sig")
    write_text(folder / "replies.csv", _sheet(_reply_rows(report)), encoding="utf-8-sig")
    write_text(folder / "report.md", _markdown(report))
    plot_comparison(report.results["models"], folder / "comparison.png")
    write_text(folder / "report.html", page(report))


def _sheet(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([[_safe(cell) for cell in row] for row in rows])
    return text.getvalue()


def _safe(cell: Any) -> Any:
    """A text that a spreadsheet would compute begins with an apostrophe instead."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def _metric_rows(report: Report) -> Iterable[Sequence[Any]]:
    yield ["model", "metric", "name", "value", "low_95", "high_95", "better"]
    for label, row in report.results["models"].items():
        for name, value in row["values"].items():
            low, high = row["intervals"].get(name, ("", ""))
            yield [label, name, METRICS[name].label_ko, value, low, high, METRICS[name].better]


def _reply_rows(report: Report) -> Iterable[Sequence[Any]]:
    labels = list(report.answers)
    yield ["set", "dialogue", "emotion", "user", "reference", *labels]
    for number, turn in enumerate(report.turns):
        replies = [answers[number].text if number < len(answers := report.answers[label]) else "" for label in labels]
        yield [turn.prompt_set, turn.dialogue, turn.emotion, turn.user, turn.reference or "", *replies]


def _markdown(report: Report) -> str:
    from kosent.evaluation.summary import summarise

    models = [label for label in report.answers if label not in report.straw_men]
    sets = dict.fromkeys(turn.prompt_set for turn in report.turns)
    examples = []
    for name in sets:
        places = [place for place, turn in enumerate(report.turns) if turn.prompt_set == name]
        examples += [f"### {name}", ""]
        for place in places[:: max(1, len(places) // EXAMPLES)][:EXAMPLES]:
            replies = [f"  - {label}: {' '.join(report.answers[label][place].text.split())}" for label in models]
            examples += [f"- **{' '.join(report.turns[place].user.split())}**", *replies]
        examples.append("")
    findings = "\n".join(f"- {finding.text}" for finding in summarise(report))
    return (
        f"# Evaluation\n\n{findings}\n\n{table(report.results)}\n![comparison](comparison.png)\n\n## All metrics\n\n"
        f"{all_metrics(report.results)}\n{markdown(report.results['comparisons'])}\n## Examples\n\n" + "\n".join(examples)
    )
