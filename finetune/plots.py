"""The curves of a run as one picture: loss (training, its running mean, validation), accuracy, learning rate, gradient norm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kosent.files import atomic_path

SMOOTHING = 10
"""Steps in the running mean."""


def running_mean(values: Sequence[float], width: int = SMOOTHING) -> list[float]:
    """Mean of the last `width` values at each place (fewer at the beginning)."""
    return [sum(values[max(0, i + 1 - width) : i + 1]) / min(i + 1, width) for i in range(len(values))]


def plot_run(log: Sequence[dict[str, float]], target: Path) -> None:
    """Writes a PNG of the entries of `metrics.jsonl`; losses in nats per token."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ((loss, accuracy), (rate, norm)) = plt.subplots(
        2, 2, figsize=(11, 6.2), dpi=110, layout="constrained", sharex=True, height_ratios=(3, 2)
    )
    _curve(loss, log, "loss", "eval_loss")
    loss.set_title("loss (nats per token)", loc="left")
    loss.legend(frameon=False)
    _curve(accuracy, log, "token_accuracy", "eval_token_accuracy")
    accuracy.set_title("mean token accuracy", loc="left")
    for axes, key, title in ((rate, "learning_rate", "learning rate"), (norm, "grad_norm", "gradient norm before clipping")):
        entries = [entry for entry in log if key in entry]
        axes.plot([entry["step"] for entry in entries], [entry[key] for entry in entries], color="#3b6fb6", linewidth=1.3)
        axes.set_title(title, loc="left")
        axes.set_xlabel("optimizer step")
        axes.set_ylim(bottom=0)
    for axes in (loss, accuracy, rate, norm):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    plt.close(figure)


def _curve(axes: Any, log: Sequence[dict[str, float]], key: str, validation_key: str) -> None:
    training = [entry for entry in log if key in entry]
    validation = [entry for entry in log if validation_key in entry]
    steps, values = [entry["step"] for entry in training], [entry[key] for entry in training]
    axes.plot(steps, values, color="#c9d3e6", linewidth=1, label="training, each step")
    axes.plot(steps, running_mean(values), color="#3b6fb6", linewidth=2, label=f"training, mean of {SMOOTHING} steps")
    axes.plot(
        [entry["step"] for entry in validation], [entry[validation_key] for entry in validation],
        color="#d1495b", marker="o", markersize=4, label="validation",
    )  # fmt: skip
