"""`kosent evaluate --gate`: what counts as worse, limits, and gates that say nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from kosent.errors import DataError, GateError, UsageError
from kosent.evaluation.answering import write_answers
from kosent.evaluation.folder import Answer, Report, Turn, read_report, write_turns
from kosent.evaluation.gate import Gate
from kosent.files import read_json, write_json

TURNS = [Turn(str(number), [{"role": "user", "content": f"질문 {number}"}], "정답") for number in range(40)]
COSINES = [0.3 + 0.01 * (number % 10) for number in range(40)]


def evaluation(folder: Path, cosines: list[float], *, foreign: float = 0.0, turns: list[Turn] = TURNS) -> Report:
    """A finished one of two models, `tuned` with these cosines."""
    mean = sum(cosines) / len(cosines)
    row = {
        "values": {"cosine": mean, "foreign": foreign, "bleu_char": 10 * mean, "characters": 20.0, "distinct_1": 0.5},
        "intervals": {
            "cosine": [mean - 0.02, mean + 0.02], "foreign": [foreign, foreign], "bleu_char": [2.0, 5.0], "characters": [18, 22],
        },
        "failures": 0,
    }  # fmt: skip
    write_turns(folder, turns)
    for label in ("base", "tuned"):
        write_answers(folder, label, [Answer("답", True)] * len(turns))
    write_json(folder / "results.json", {"models": {"base": row, "tuned": row}, "references": True})
    scores = {"cosine": cosines, "foreign": [foreign] * len(cosines)}
    write_json(folder / "scores.json", {"base": scores, "tuned": scores})
    return read_report(folder)


@pytest.fixture
def gate(tmp_path: Path) -> Any:
    evaluation(tmp_path / "baseline", COSINES)

    def written(text: str) -> Gate:
        (tmp_path / "gate.toml").write_text(text, encoding="utf-8")
        return Gate.read(tmp_path / "gate.toml")

    return written


def test_the_same_report_passes(gate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate('baseline = "baseline"').check(evaluation(tmp_path / "new", COSINES), tmp_path)
    rows = read_json(tmp_path / "gate.json")
    assert {(row["model"], row["metric"]) for row in rows} == {
        (model, metric) for model in ("base", "tuned") for metric in ("cosine", "foreign", "bleu_char")
    }
    assert {row["verdict"] for row in rows} == {"ok"}
    assert "| tuned | cosine | 0.345 | 0.345 |" in capsys.readouterr().out


def test_paired_prompts_show_what_the_interval_of_the_value_does_not(gate: Any, tmp_path: Path) -> None:
    slightly = [cosine - 0.005 for cosine in COSINES]  # within the value's interval of 0.02, but in every reply
    with pytest.raises(GateError, match="cosine of tuned") as raised:
        gate('baseline = "baseline"\nmodels = ["tuned"]').check(evaluation(tmp_path / "new", slightly), tmp_path)
    assert raised.value.exit_code == 7
    other = [Turn(turn.dialogue, [{"role": "user", "content": "다른 질문"}], "정답") for turn in TURNS]
    gate('baseline = "baseline"').check(evaluation(tmp_path / "other", slightly, turns=other), tmp_path)
    with pytest.raises(GateError, match="cosine of base, cosine of tuned are worse"):
        worse = evaluation(tmp_path / "far", [cosine - 0.03 for cosine in COSINES], turns=other)
        gate('baseline = "baseline"\nmetrics = ["cosine"]').check(worse, tmp_path)


def test_better_is_not_worse(gate: Any, tmp_path: Path) -> None:
    gate('baseline = "baseline"').check(evaluation(tmp_path / "new", [cosine + 0.1 for cosine in COSINES]), tmp_path)


def test_limits_hold_without_an_earlier_report(gate: Any, tmp_path: Path) -> None:
    report = evaluation(tmp_path / "new", COSINES, foreign=0.02)
    gate("[limits.foreign]\nmost = 0.02\n[limits.cosine]\nleast = 0.3\nmost = 0.4").check(report, tmp_path)
    with pytest.raises(GateError, match="foreign of base, foreign of tuned"):
        gate("[limits.foreign]\nmost = 0.01").check(report, tmp_path)
    assert read_json(tmp_path / "gate.json")[0]["allowed"] == "at most 0.01"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "neither a baseline nor limits"),
        ("metrics = [", "cannot be read"),
        ('basline = "x"', "unknown key 'basline'"),
        ('baseline = "baseline"\nmetrics = ["cosin"]', "no metric 'cosin'"),
        ('baseline = "baseline"\nmetrics = ["characters"]', "no better end"),
        ("[limits.cosine]\natleast = 1", "least, most or both"),
        ("[limits.cosine]\nleast = 'x'", "wants numbers"),
    ],
)
def test_a_gate_that_cannot_be_meant(gate: Any, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        gate(text)


def test_a_gate_that_compares_nothing_is_refused_before_anyone_is_asked(gate: Any, tmp_path: Path) -> None:
    (tmp_path / "itself.toml").write_text('baseline = "baseline"\nmodels = ["tuned"]', encoding="utf-8")
    with pytest.raises(UsageError, match="compared with itself"):
        Gate.read(tmp_path / "itself.toml", tmp_path / "baseline", ["tuned"])
    with pytest.raises(UsageError, match="no model is called tuned"):
        Gate.read(tmp_path / "itself.toml", tmp_path / "new", ["base"])
    report = evaluation(tmp_path / "new", COSINES)
    report.results["settings"] = {"decoding": {"max_tokens": 8}}
    with pytest.raises(UsageError, match="decoded otherwise"):
        gate('baseline = "baseline"').check(report, tmp_path)


def test_what_cannot_be_compared(gate: Any, tmp_path: Path) -> None:
    report = evaluation(tmp_path / "new", COSINES)
    with pytest.raises(DataError, match="no earlier report"):
        gate('baseline = "elsewhere"')
    with pytest.raises(UsageError, match="no model mine"):
        gate('baseline = "baseline"\nmodels = ["mine"]').check(report, tmp_path)
    with pytest.raises(UsageError, match="distinct_1 has no interval"):
        gate('baseline = "baseline"\nmetrics = ["distinct_1"]').check(report, tmp_path)
    with pytest.raises(UsageError, match="no bertscore"):
        gate("[limits.bertscore]\nleast = 0.5").check(report, tmp_path)
    strangers = copy.deepcopy(report.results)
    strangers["models"] = {"mine": strangers["models"]["base"]}
    lonely = Report(strangers, report.turns, {"mine": report.answers["base"]}, {"mine": report.scores["base"]})
    with pytest.raises(UsageError, match="no model in common"):
        gate('baseline = "baseline"').check(lonely, tmp_path)
