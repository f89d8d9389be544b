"""The comparison of `kosent sweep` as one HTML page, and its picture of the losses."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from kosent.files import atomic_path
from kosent.finetune.plots import SMOOTHING, running_mean
from kosent.finetune.sweep_report import COLUMNS, EMPTY, NOTE, cells, finished, models, troubles, verdict
from kosent.pages import render

COLOURS = ("#0072b2", "#d55e00", "#00875f", "#b5528b", "#8a6d00", "#4d4d4d", "#56b4e9")
"""Told apart by colour-blind people too (after Okabe and Ito); with more runs the markers differ."""
MARKERS = "osD^vPX"
BEGINNING = 0.1
"""Share of the steps whose losses may lie above the picture, so that the differences at the end can be seen."""


def colours(names: Sequence[str]) -> dict[str, str]:
    """The colour of each run, in picture and page."""
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}


def page(record: dict[str, Any], picture: bytes) -> str:
    """The whole page; `picture` is the PNG of the losses, empty when no run has finished."""
    said = verdict(record)
    entries = {**record["bases"], **record["runs"]}
    return render(
        "sweep.html.jinja",
        "kosent.finetune",
        record=record,
        verdict=said[0],
        more=said[1:],
        troubles=[(name, what, entries[name].get("last_words", "")) for name, what in troubles(record)],
        waiting=[name for name, entry in record["runs"].items() if entry["status"] == "waiting"],
        columns=COLUMNS,
        rows=cells(record),
        note=NOTE,
        known=finished(record),
        best=min(finished(record), key=lambda name: finished(record)[name]["validation_loss"], default=""),
        colours={name: Markup(colour) for name, colour in colours(list(record["runs"])).items()},
        picture=Markup(base64.b64encode(picture).decode("ascii")),
        models=models(record),
        empty=EMPTY,
    )


def plot_losses(logs: Mapping[str, Sequence[dict[str, float]]], names: Sequence[str], target: Path) -> None:
    """Writes a PNG: for each run of `logs` its training loss as a line and its validation loss dashed with markers.

    `names` are all runs of the sweep, so that each keeps its colour however many have finished.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5), dpi=130, layout="constrained")
    chosen, ends, tops = colours(names), {}, []
    for name, log in logs.items():
        number = list(names).index(name)
        training = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
        validation = [(entry["step"], entry["eval_loss"]) for entry in log if "eval_loss" in entry]
        means = running_mean([loss for _, loss in training])
        axes.plot([step for step, _ in training], means, color=chosen[name], linewidth=1.6)
        axes.plot(
            *zip(*validation, strict=True), color=chosen[name], linewidth=1.6, linestyle=(0, (4, 2)), markersize=5.5,
            marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)], markerfacecolor="white", markeredgewidth=1.5,
        )  # fmt: skip
        tops += [means[int(BEGINNING * len(means))], *(loss for step, loss in validation if step > BEGINNING * training[-1][0])]
        ends[name] = validation[-1]
    _frame(axes, max(tops))
    _label_ends(axes, ends, chosen)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    plt.close(figure)


def _short(name: str) -> str:
    """lora.rank=8,training.learning_rate=1e-4 -> rank=8, learning_rate=1e-4"""
    return ", ".join(part.partition("=")[0].rpartition(".")[2] + "=" + part.partition("=")[2] for part in name.split(","))


def _frame(axes: Any, top: float) -> None:
    """Axes, grid, legend of the two kinds of line; what lies above `top` at the beginning is left out, and said."""
    low, high = axes.get_ylim()
    limit = top + 0.06 * (top - low)
    if limit < high:
        axes.set_ylim(low, limit)
        axes.set_title(f"the beginning, above {limit:.1f}, is cut off", loc="right", fontsize=8, color="#666666")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    grey: dict[str, Any] = {"color": "#444444", "linewidth": 1.6}
    axes.plot([], [], **grey, label=f"training, mean of {SMOOTHING} steps")
    axes.plot([], [], **grey, linestyle=(0, (4, 2)), marker="o", markerfacecolor="white", label="validation")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)


def _label_ends(axes: Any, ends: Mapping[str, tuple[float, float]], chosen: Mapping[str, str]) -> None:
    """Writes each run's name and last validation loss right of the picture, at its height where there is room."""
    low, high = axes.get_ylim()
    room = 0.055 * (high - low)
    heights: list[float] = []
    order = sorted(ends, key=lambda name: ends[name][1])
    for name in order:
        heights.append(max(ends[name][1], heights[-1] + room) if heights else ends[name][1])
    over = max(0.0, heights[-1] - (high - room / 2))
    right = 1.04 * max(step for step, _ in ends.values())
    for name, height in zip(order, heights, strict=True):
        step, loss = ends[name]
        line = {"arrowstyle": "-", "color": chosen[name], "linewidth": 0.7, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4}
        axes.annotate(
            f"{_short(name)}  {loss:.3f}", (step, loss), xytext=(right, height - over), textcoords="data", va="center",
            fontsize=9, color=chosen[name], annotation_clip=False, arrowprops={**line, "relpos": (0, 0.5)},
        )  # fmt: skip
