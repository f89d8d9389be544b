"""The drawings of the page of `kosent evaluate`: dots with intervals, and the curves of a training, as inline SVG.

Everything is placed in percent of the width, so that letters keep their size however wide the page is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kosent.pages import Tone, number, visible

SMOOTHING = 10
"""Steps in the running mean of a training loss, as in the picture of the run."""
POINTS = 400
"""Points of a curve at most."""
HEIGHT = 190
"""Pixels of a curve."""


@dataclass(frozen=True)
class Dot:
    """A value with its interval."""

    name: str
    value: float
    text: str
    tone: Tone
    interval: tuple[float, float] | None = None


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers, the first not above `low` and the last not below `high`."""
    rough = (high - low or abs(high) or 1.0) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * part for part in (1, 2, 2.5, 5, 10) if power * part >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, max(last, first + 1) + 1)]


def dots(
    rows: Sequence[Dot], zero: float | None = None, form: Callable[[float], str] = number, reach: Sequence[float] = ()
) -> Markup:
    """One row a dot on a common scale, with its name and number. A line stands at `zero`; `form` writes the scale's numbers;
    `reach` are values that the scale holds at least."""
    ends = [end for row in rows for end in (row.interval or (row.value, row.value))] + [*reach]
    ends += [] if zero is None else [zero]
    marks = ticks(min(ends), max(ends))
    low, span = marks[0], marks[-1] - marks[0]

    def place(value: float) -> str:
        return f"{100 * (value - low) / span:.2f}%"

    grid = Markup("").join(
        Markup('<line class="{}" x1="{}" x2="{}" y1="0" y2="26"/>').format(
            "zero" if mark == zero else "axis", place(mark), place(mark)
        )
        for mark in marks
    )
    drawn = []
    for row in rows:
        inside = grid
        if row.interval:
            line = Markup('<line class="whisker {}" x1="{}" x2="{}" y1="13" y2="13"/>')
            inside += line.format(row.tone, place(row.interval[0]), place(row.interval[1]))
        inside += Markup('<circle class="{}" cx="{}" cy="13" r="5"/>').format(row.tone, place(row.value))
        drawn.append(
            Markup('<div class="dotrow"><span class="who">{}</span><svg aria-hidden="true" width="100%" height="26">{}</svg>'
                   '<span class="n">{}</span></div>').format(visible(row.name), inside, row.text)
        )  # fmt: skip
    few = [marks[0], marks[-1]] if zero is None else sorted({marks[0], zero, marks[-1]})
    label = Markup('<text class="bin{}" x="{}" y="12">{}</text>')
    names = Markup("").join(
        label.format(" start" if mark == few[0] else " end" if mark == few[-1] else "", place(mark), form(mark)) for mark in few
    )
    axis = Markup('<div class="dotrow"><span></span><svg aria-hidden="true" width="100%" height="16">{}</svg><span></span></div>')
    return Markup('<div class="dots">{}</div>').format(Markup("").join([*drawn, axis.format(names)]))


def running_mean(values: Sequence[float]) -> list[float]:
    """Mean of the last `SMOOTHING` values at each place (fewer at the beginning)."""
    return [sum(values[max(0, i + 1 - SMOOTHING) : i + 1]) / min(i + 1, SMOOTHING) for i in range(len(values))]


def curve(rows: Sequence[Mapping[str, Any]], key: str, title: str) -> Markup | None:
    """`key` of metrics.jsonl: each step, its running mean, and `eval_` of it at the validations; None without any."""
    training: list[tuple[float, float]] = [(row["step"], row[key]) for row in rows if _finite(row.get(key))]
    validation: list[tuple[float, float]] = [(row["step"], row[f"eval_{key}"]) for row in rows if _finite(row.get(f"eval_{key}"))]
    if not training:
        return None
    steps: list[float] = [step for step, _ in training]
    means = list(zip(steps, running_mean([value for _, value in training]), strict=True))
    values = [value for _, value in training + validation]
    marks = ticks(min(values), max(values))
    top = max(marks[-2], max(values)) if max(values) > marks[0] else marks[-1]
    first: float = min(steps)
    last: float = max([*steps, *(step for step, _ in validation), first + 1])

    def across(step: float) -> float:
        return 100 * (step - first) / (last - first)

    def down(value: float) -> float:
        return HEIGHT * (top - value) / (top - marks[0])

    def line(points: Sequence[tuple[float, float]], kind: str) -> Markup:
        thinned = [*points[:: max(1, math.ceil(len(points) / POINTS))], points[-1]]
        path = " ".join(f"{across(step):.2f},{down(value):.2f}" for step, value in thinned)
        return Markup('<polyline class="{}" points="{}"/>').format(kind, path)

    shown = [mark for mark in marks if mark <= top]
    grid = Markup('<line class="axis" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>')
    label = Markup('<text class="bin {}" x="{}" y="{:.1f}">{}</text>')
    drawn = Markup("").join(grid.format(down(mark)) for mark in shown)
    lines = line(training, "steps") + line(means, "mean") + (line(validation, "check") if validation else Markup(""))
    drawn += Markup(
        '<svg x="0" y="0" width="100%" height="{0}" viewBox="0 0 100 {0}" preserveAspectRatio="none">{1}</svg>'
    ).format(HEIGHT, lines)
    point = Markup('<circle class="check" cx="{:.2f}%" cy="{:.2f}" r="3.5"/>')
    drawn += Markup("").join(point.format(across(step), down(value)) for step, value in validation)
    heights = [down(mark) + (12 if mark == top else -4) for mark in shown]
    drawn += Markup("").join(label.format("start", "0", y, number(mark)) for y, mark in zip(heights, shown, strict=True))
    drawn += label.format("start", "0", HEIGHT + 16, f"step {first}") + label.format("end", "100%", HEIGHT + 16, f"step {last}")
    end = f", validation at the end {validation[-1][1]:.3g}" if validation else ""
    spoken = f"{title}: running mean at the beginning {means[0][1]:.3g}, at the end {means[-1][1]:.3g}{end}"
    return Markup('<svg class="curve" width="100%" height="{}" role="img" aria-label="{}">{}</svg>').format(
        HEIGHT + 22, spoken, drawn
    )


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
