"""What `kosent sweep` tells: the numbers of each run, what they mean in plain sentences, and the tables that show them.

`record` is the dict of sweep.json. The page and the picture are made in `sweep_page`.
"""

from __future__ import annotations

import csv
import io
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kosent.files import read_json, read_jsonl, write_json, write_text
from kosent.run_directory import FINISHED

LAST_STEPS = 10
"""Steps whose mean is called the training loss."""
CLOSE = 0.01
"""Validation losses nearer than this share are not told apart: the held-out dialogues are a sample."""
EMPTY = "(nothing that can be seen)"
WORSE = 0.005
"""Share by which the last validation loss must exceed the best before it is said to have become worse."""


@dataclass(frozen=True)
class Column:
    title: str
    key: str
    """Its name in `measures`."""
    form: str
    best: Literal["lowest", "highest"] = "lowest"


COLUMNS = (
    Column("trainable", "trainable_parameters", ",d"),
    Column("training loss", "training_loss", ".3f"),
    Column("validation loss", "validation_loss", ".3f"),
    Column("best validation", "best_validation_loss", ".3f"),
    Column("time (s)", "seconds", ",.0f"),
    Column("tokens/s", "tokens_per_second", ",.0f", "highest"),
    Column("memory (GB)", "peak_memory_gb", ".2f"),
)
NOTE = (
    f"Trainable: parameters that training changes. Training loss: mean of the last {LAST_STEPS} steps. Validation loss: of the "
    "weights that were kept, which are those of the last step unless training.patience is set; best validation: the lowest "
    "measured, and when. Losses in nats per token. Memory: peak of the training."
)


def measures(folder: Path) -> dict[str, Any]:
    """The numbers of a finished run directory; None for what it does not tell."""
    log = read_jsonl(folder / "metrics.jsonl")
    timing, facts = read_json(folder / "timing.json"), read_json(folder / "run.json")
    training = [entry for entry in log if "loss" in entry]
    validation = [entry for entry in log if "eval_loss" in entry]
    last = training[-LAST_STEPS:]
    best = min(validation, key=lambda entry: entry["eval_loss"])
    earlier = [entry.get("seconds") for entry in training if entry["step"] <= timing["resumed_after_step"]]
    return {
        "trainable_parameters": facts.get("parameters", {}).get("trainable"),
        "steps": training[-1]["step"],
        "training_loss": sum(entry["loss"] for entry in last) / len(last),
        "validation_loss": facts.get("best", validation[-1])["eval_loss"],  # "best": what `training.patience` kept
        "best_validation_loss": best["eval_loss"],
        "best_validation_step": best["step"],
        # timing.json knows the last process only; the steps before it bring their own seconds
        "seconds": None if None in earlier else timing["seconds"] + sum(earlier),
        "tokens_per_second": timing.get("tokens_per_second"),
        "peak_memory_gb": timing.get("peak_memory_gb"),
    }


def finished(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The measures of every run that ended well."""
    return {name: entry["measures"] for name, entry in record["runs"].items() if entry["status"] == FINISHED}


def cells(record: dict[str, Any]) -> list[tuple[str, list[tuple[str, bool]]]]:
    """The table: for the base and each run its name and (text, whether it is the best of its column)."""
    known = finished(record)
    best: dict[str, str] = {}
    for column in COLUMNS:
        values = [m[column.key] for m in known.values() if m[column.key] is not None]
        texts = {format(value, column.form) for value in values}
        if len(texts) > 1:
            best[column.key] = format((min if column.best == "lowest" else max)(values), column.form)
    rows = [(name, [("0", False), *[("–", False)] * (len(COLUMNS) - 1)]) for name in record["bases"]]
    for name, entry in record["runs"].items():
        row: list[tuple[str, bool]] = []
        for column in COLUMNS:
            value = known.get(name, {}).get(column.key)
            text = "–" if value is None else format(value, column.form)
            when = f" (step {known[name]['best_validation_step']})" if name in known and "best" in column.key else ""
            row.append((text + when, text == best.get(column.key)))
        rows.append((name, [("failed", False), *row[1:]] if entry["status"] == "failed" else row))
    return rows


def verdict(record: dict[str, Any]) -> list[str]:
    """What the numbers mean: first the sentence that names the run with the lowest validation loss, then what else to know."""
    known = finished(record)
    if not known:
        return ["No run has finished."]
    winner = min(known, key=lambda name: known[name]["validation_loss"])
    lowest = known[winner]["validation_loss"]
    if len(known) == 1:
        return [f"{winner} is the only run that has finished; its validation loss is {lowest:.3f}.", *_worse(known)]
    trained = min(known, key=lambda name: known[name]["training_loss"])
    if trained == winner:
        first = f"{winner} has the lowest validation loss, {lowest:.3f}, and the lowest training loss too."
    else:
        first = (
            f"{winner} has the lowest validation loss, {lowest:.3f}; the lowest training loss is that of another run, {trained}, "
            f"whose validation loss is {known[trained]['validation_loss']:.3f}."
        )
    near = [name for name, m in known.items() if name != winner and m["validation_loss"] <= lowest * (1 + CLOSE)]
    close = f"Within {CLOSE:.0%} of the lowest validation loss, too close to tell apart: {'; '.join(near)}."
    ever = min(known, key=lambda name: known[name]["best_validation_loss"])
    stopped = (
        f"The lowest validation loss at any time was that of {ever} after step {known[ever]['best_validation_step']}, "
        f"{known[ever]['best_validation_loss']:.3f}: ended there, it would have been ahead."
    )
    ahead = ever != winner and known[ever]["best_validation_loss"] < lowest * (1 - CLOSE)
    return [first, *([close] if near else []), *([stopped] if ahead else []), *_worse(known)]


def _worse(known: dict[str, dict[str, Any]]) -> list[str]:
    found = "; ".join(
        f"{name} ({m['best_validation_loss']:.3f} after step {m['best_validation_step']}, {m['validation_loss']:.3f} at the end)"
        for name, m in known.items()
        if m["validation_loss"] > m["best_validation_loss"] * (1 + WORSE)
    )
    advice = "With training.patience above 0 a run ends soon after its best and keeps those weights."
    return [f"Trained beyond their best: {found}. {advice}"] if found else []


def troubles(record: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, what is wrong) of what failed or has not been trained."""
    entries = [*record["bases"].items(), *record["runs"].items()]
    found = [(name, f"{_kind(entry)}{entry['error']}") for name, entry in entries if entry["error"]]
    waiting = [(name, "not trained yet") for name, entry in record["runs"].items() if entry["status"] == "waiting"]
    return found + waiting


def _kind(entry: dict[str, Any]) -> str:
    return "failed: " if entry.get("status") == "failed" else ""


def models(record: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The replies of the bases and of every run that gave some."""
    return {name: e["replies"] for name, e in [*record["bases"].items(), *record["runs"].items()] if e["replies"]}


def summary(folder: Path, record: dict[str, Any], data: Path) -> str:
    """The comparison for a terminal, and the next commands."""
    titles = [column.title.rpartition(" ")[::2] for column in COLUMNS]
    rows = [(name, [f"{part}  " for part in parts]) for name, parts in zip(("", "run"), zip(*titles, strict=True), strict=True)]
    rows += [(name, [f"{text}{' *' if best else '  '}" for text, best in row]) for name, row in cells(record)]
    first = max(len(name) for name, _ in rows)
    widths = [max(len(row[index]) for _, row in rows) for index in range(len(COLUMNS))]
    lines = ["", "─" * (first + sum(widths) + len(widths))]
    for name, row in rows:
        texts = [f" {text:>{width}}" for text, width in zip(row, widths, strict=True)]
        lines.append(f"{name:<{first}}{''.join(texts)}".rstrip())
    lines += ["", "* lowest of its column (tokens/s: highest)", "", *verdict(record)]
    lines += [f"{name} {what}" for name, what in troubles(record)]
    lines += [
        "",
        f"Written to {folder}: sweep.html (all on one page, with the replies), sweep.md, sweep.json, replies.csv, losses.png",
    ]
    if known := finished(record):
        best = shlex.quote(str(folder / min(known, key=lambda name: known[name]["validation_loss"])))
        base = shlex.quote(next(iter(record["bases"].values()))["model"])
        report = shlex.quote(str(folder / "report"))
        lines += [
            f"Next: kosent evaluate --data {shlex.quote(str(data))} --model base={base} --model {best} --report {report}",
            f"      kosent export {best}",
        ]
    return "\n".join(lines)


def markdown(record: dict[str, Any]) -> str:
    """sweep.md: the same for a repository or a lab book; the best of a column is bold."""
    lines = ["# Comparison of runs", "", verdict(record)[0], ""]
    lines += ["| run | " + " | ".join(column.title for column in COLUMNS) + " |", "|---" + "|---:" * len(COLUMNS) + "|"]
    for name, row in cells(record):
        lines.append(f"| {name} | " + " | ".join(f"**{text}**" if best else text for text, best in row) + " |")
    lines += ["", f"Bold: the lowest of its column (tokens/s: the highest). {NOTE}", ""]
    lines += [f"- {sentence}" for sentence in [*verdict(record)[1:], *(f"{name} {what}" for name, what in troubles(record))]]
    lines += ["", "![losses](losses.png)", "", "## Replies", ""] if finished(record) else ["", "## Replies", ""]
    lines.append(f"Greedy, at most {record['max_tokens']} tokens; … where a reply was cut there.")
    for number, prompt in enumerate(record["prompts"]):
        lines += ["", f"**{prompt}**", ""]
        lines += [f"- {name}: {' '.join(_shown(replies[number]).split())}" for name, replies in models(record).items()]
    return "\n".join(lines) + "\n"


def _shown(reply: dict[str, Any]) -> str:
    return f"{reply['text'] or EMPTY}{'' if reply['ended'] else ' …'}"


def sheet(record: dict[str, Any]) -> str:
    """replies.csv: one row a prompt, one column a model."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["prompt", *models(record)])
    for number, prompt in enumerate(record["prompts"]):
        writer.writerow([prompt, *(_shown(replies[number]) for replies in models(record).values())])
    return text.getvalue()


def write_report(folder: Path, record: dict[str, Any]) -> None:
    """Writes every file of the comparison."""
    from kosent.finetune.sweep_page import page, plot_losses

    write_json(folder / "sweep.json", record | {"verdict": verdict(record)})
    if known := finished(record):
        plot_losses(
            {name: read_jsonl(folder / name / "metrics.jsonl") for name in known}, list(record["runs"]), folder / "losses.png"
        )
    write_text(folder / "sweep.md", markdown(record))
    write_text(folder / "replies.csv", sheet(record), encoding="utf-8-sig")
    write_text(folder / "sweep.html", page(record, (folder / "losses.png").read_bytes() if known else b""))
