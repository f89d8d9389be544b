"""The loss curve as a picture: training loss of each step, its running mean, and the validation loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kosent.files import atomic_path

SMOOTHING = 10
"""Steps in the running mean."""


def running_mean(values: Sequence[float], width: int = SMOOTHING) -> list[float]:
    """Mean of the last `width` values at each place (fewer at the beginning)."""
    return [sum(values[max(0, i + 1 - width) : i + 1]) / min(i + 1, width) for i in range(len(values))]


def plot_loss(log: Sequence[dict[str, float]], target: Path) -> None:
    """Writes a PNG of the losses in `log`, nats per token."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    training = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
    validation = [(entry["step"], entry["eval_loss"]) for entry in log if "eval_loss" in entry]
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    steps, losses = [s for s, _ in training], [v for _, v in training]
    axes.plot(steps, losses, color="#c9d3e6", linewidth=1, label="training, each step")
    axes.plot(steps, running_mean(losses), color="#3b6fb6", linewidth=2, label=f"training, mean of {SMOOTHING} steps")
    axes.plot([s for s, _ in validation], [v for _, v in validation], color="#d1495b", marker="o", label="validation")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    plt.close(figure)
