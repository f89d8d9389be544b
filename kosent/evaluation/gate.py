"""`kosent evaluate --gate gate.toml`: has a model become worse than in an earlier report? For the CI of people who train.

    baseline = "baseline"               # folder of an earlier report, relative to this file: cp -r report baseline
    models = ["tuned"]                  # labels; without it, every model that both reports have
    metrics = ["cosine", "repetition"]  # without it, every metric with a better end and an interval

    [limits.cosine]                     # besides, whatever the earlier report says
    least = 0.40
    [limits.foreign]
    most = 0.0

A metric is worse when its change for the worse is beyond its 95 % interval. Where both reports asked the same prompts, that is
the interval of the paired difference, drawn by dialogue, which sees far smaller changes; otherwise, and for what is no mean of
replies, the earlier value's own interval. There is no correction for looking at many metrics: name those that matter.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from kosent.errors import DataError, GateError, UsageError
from kosent.evaluation.definitions import METRICS
from kosent.evaluation.folder import CONSTANT, RANDOM, Report, Turn, read_report
from kosent.files import write_json

LIMITS = ("least", "most")


@dataclass(frozen=True)
class Row:
    model: str
    metric: str
    before: float | None
    """None where a limit was compared with."""
    now: float
    allowed: str
    """In words: what would have passed."""
    verdict: Literal["ok", "worse", "outside the limit"]


@dataclass(frozen=True)
class Gate:
    file: Path
    baseline: Path | None = None
    models: Sequence[str] = ()
    metrics: Sequence[str] = ()
    limits: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path, report: Path | None = None, models: Sequence[str] = ()) -> Gate:
        """For the report that will be in `report`, of `models`. Raises `UsageError` for what a gate cannot say, `DataError` where
        there is no earlier report."""
        try:
            said = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{file} cannot be read as a gate: {error}", hint="docs/evaluation.md shows one") from error
        unknown = [f"unknown key {key!r}" for key in said if key not in ("baseline", "models", "metrics", "limits")]
        metrics, limits = said.get("metrics", []), said.get("limits", {})
        unknown += [f"no metric {name!r}" for name in (*metrics, *limits) if name not in METRICS]
        unknown += [f"{name} has no better end" for name in metrics if name in METRICS and METRICS[name].better == "neither"]
        for name, bounds in limits.items():
            if not isinstance(bounds, dict) or not bounds or set(bounds) - set(LIMITS):
                unknown.append(f"limits.{name} wants least, most or both")
            elif not all(isinstance(bound, int | float) for bound in bounds.values()):
                unknown.append(f"limits.{name} wants numbers")
        if "baseline" not in said and not limits:
            unknown.append("neither a baseline nor limits")
        if unknown:
            raise UsageError(f"{file}: {'; '.join(unknown)}.", hint="docs/evaluation.md shows a gate and names the metrics")
        baseline = file.parent / said["baseline"] if "baseline" in said else None
        if baseline is not None and not (baseline / "results.json").is_file():
            raise DataError(f"{file}: {baseline} holds no earlier report.", hint=f"cp -r REPORT {baseline}")
        if baseline is not None and report is not None and baseline.resolve() == report.resolve():
            raise UsageError(f"{file}: the report would be compared with itself.", hint=f"cp -r {report} baseline")
        missing = [name for name in said.get("models", ()) if models and name not in models]
        if missing:
            raise UsageError(f"{file}: no model is called {', '.join(missing)}.", hint="--model LABEL=MODEL")
        return cls(file, baseline, said.get("models", ()), metrics, limits)

    def check(self, report: Report, folder: Path) -> None:
        """Prints what was compared, leaves it in gate.json. Raises `GateError` when anything is worse, and `UsageError` where
        nothing can be compared."""
        rows = [*self._regressions(report), *self._limited(report)]
        if not rows:
            raise UsageError(f"{self.file}: the reports have no model in common.", hint="the labels must be the same")
        write_json(folder / "gate.json", [asdict(row) for row in rows])
        print(_table(rows))
        failed = [row for row in rows if row.verdict != "ok"]
        if failed:
            named = ", ".join(f"{row.metric} of {row.model}" for row in failed[:5])
            more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
            raise GateError(f"The gate is shut: {named}{more} {'is' if len(failed) == 1 else 'are'} worse than allowed.",
                            hint=f"look at {folder / 'report.html'}")  # fmt: skip

    def _chosen(self, report: Report) -> list[str]:
        missing = [name for name in self.models if name not in report.results["models"]]
        if missing:
            raise UsageError(f"{self.file}: the report has no model {', '.join(missing)}.", hint="--model LABEL=MODEL")
        return list(self.models) or [name for name in report.results["models"] if name not in (CONSTANT, RANDOM)]

    def _limited(self, report: Report) -> Iterator[Row]:
        for model in self._chosen(report):
            values = report.results["models"][model]["values"]
            for metric, bounds in self.limits.items():
                if metric not in values:
                    raise UsageError(f"{self.file}: {model} has no {metric}.", hint="leave the limit out")
                now = values[metric]
                kept = bounds.get("least", -float("inf")) <= now <= bounds.get("most", float("inf"))
                words = ", ".join(f"at {name} {bounds[name]:g}" for name in LIMITS if name in bounds)
                yield Row(model, metric, None, now, words, "ok" if kept else "outside the limit")

    def _regressions(self, report: Report) -> Iterator[Row]:
        if self.baseline is None:
            return
        earlier = read_report(self.baseline)
        ways = [one.results.get("settings", {}).get("decoding") for one in (earlier, report)]
        if ways[0] != ways[1]:
            raise UsageError(f"{self.baseline} was decoded otherwise: {ways[0]}, now {ways[1]}.", hint="the same --max-tokens …")
        paired = _same(report.turns, earlier.turns)
        for model in self._chosen(report):
            if model not in earlier.results["models"]:
                if self.models:
                    raise UsageError(f"{self.baseline} has no model {model!r}.", hint="the labels must be the same")
                continue
            row, old = report.results["models"][model], earlier.results["models"][model]
            for metric in self.metrics or [name for name in METRICS if METRICS[name].better != "neither"]:
                if metric not in row["values"] or metric not in old["values"]:
                    if self.metrics:
                        raise UsageError(f"{self.file}: one of the reports has no {metric} of {model}.", hint="leave it out")
                    continue
                scores = (report.scores[model].get(metric), earlier.scores[model].get(metric)) if paired else (None, None)
                if scores[0] and scores[1] and METRICS[metric].per_reply:
                    yield _paired(model, metric, row, old, scores, report)
                elif metric in old["intervals"]:
                    yield _unpaired(model, metric, row, old)
                elif self.metrics:
                    raise UsageError(f"{self.file}: {metric} has no interval.", hint=f"[limits.{metric}] instead")


def _same(these: Sequence[Turn], those: Sequence[Turn]) -> bool:
    return [(turn.messages, turn.reference) for turn in these] == [(turn.messages, turn.reference) for turn in those]


def _paired(model: str, metric: str, row: Any, old: Any, scores: Any, report: Report) -> Row:
    from kosent.evaluation.statistics import mean_interval, resamples

    differences = [now - before for now, before in zip(*scores, strict=True)]
    draws = resamples([turn.dialogue for turn in report.turns][: len(differences)])
    low, high = mean_interval(differences, draws)
    worse = high < 0 if METRICS[metric].better == "higher" else low > 0
    allowed = f"change {sum(differences) / len(differences):+.3g} [{low:+.3g}, {high:+.3g}], paired"
    return Row(model, metric, old["values"][metric], row["values"][metric], allowed, "worse" if worse else "ok")


def _unpaired(model: str, metric: str, row: Any, old: Any) -> Row:
    low, high = old["intervals"][metric]
    now = row["values"][metric]
    upwards = METRICS[metric].better == "higher"
    worse = now < low if upwards else now > high
    allowed = f"at least {low:.4g}" if upwards else f"at most {high:.4g}"
    return Row(model, metric, old["values"][metric], now, allowed, "worse" if worse else "ok")


def _table(rows: Sequence[Row]) -> str:
    lines = ["| gate | metric | before | now | allowed | |", "|---|---|---|---|---|---|"]
    for row in rows:
        before = "-" if row.before is None else f"{row.before:.4g}"
        lines.append(f"| {row.model} | {row.metric} | {before} | {row.now:.4g} | {row.allowed} | {row.verdict} |")
    return "\n".join(lines) + "\n"
