"""The training benchmark at toy size: it runs the real contenders, and it notices when they do not train on the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from helpers import ROOT, load_benchmark
from kosent.files import read_json

SCRIPT = ROOT / "benchmarks" / "finetune.py"


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_benchmark(SCRIPT, monkeypatch)


def test_kosent_and_a_padded_loop_train_alike_and_are_measured(
    measuring: ModuleType, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "HELD_OUT", 6)
    settings = ["--steps", "2", "--contenders", "kosent-same-precision,padded", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--base", str(tiny_base), *settings, "--output", str(tmp_path)])
    measuring.main()
    outcome = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert outcome["benchmark"] == "finetune"
    values = {result["name"]: result["value"] for result in outcome["results"]}
    assert list(values) == [
        *(f"{name}: {what}" for name in ("kosent-same-precision", "padded") for what in ("speed", "median step")),
        "speed, kosent-same-precision / padded",
        *(f"{name}: peak memory" for name in ("kosent-same-precision", "padded")),
        *(f"{name}: held-out loss" for name in ("base", "kosent-same-precision", "padded")),
        "held-out loss, largest difference",
    ]
    assert min(value for name, value in values.items() if "difference" not in name) > 0
    assert values["speed, kosent-same-precision / padded"] == pytest.approx(
        values["kosent-same-precision: speed"] / values["padded: speed"], rel=0.02
    )
    assert values["held-out loss, largest difference"] < 0.1  # one order, one start: rounding alone
    assert values["kosent-same-precision: held-out loss"] < values["base: held-out loss"]
    log = [
        json.loads(line) for line in (tmp_path / "round-1" / "kosent-same-precision" / "metrics.jsonl").read_text().splitlines()
    ]
    steps = read_json(tmp_path / "round-1" / "padded" / "steps.json")
    # the same batches in the same order, hence the same losses
    assert [entry["loss"] for entry in log if "loss" in entry] == pytest.approx([step["loss"] for step in steps], abs=1e-3)


def test_other_tokens_or_steps_end_the_benchmark(measuring: ModuleType, tmp_path: Path) -> None:
    job = {"steps": 2, "dialogues": [{"labels": [-100, 5]}, {"labels": [-100, 6, 7]}]}
    steps: list[dict[str, Any]] = [
        {"dialogues": 1, "supervised": 1, "checksum": 5},
        {"dialogues": 1, "supervised": 2, "checksum": 13},
    ]
    measuring.check("padded", steps, job, tmp_path)
    with pytest.raises(SystemExit, match="did not train on the same tokens"):
        measuring.check("padded", [steps[0], steps[1] | {"checksum": 14}], job, tmp_path)
    with pytest.raises(SystemExit, match="took 2 measured steps instead of 3"):
        measuring.check("padded", steps, job | {"steps": 3}, tmp_path)


def test_dialogues_are_repeated_only_where_there_are_no_more(measuring: ModuleType) -> None:
    chosen, held_out = measuring.choose(400, 42)
    distinct = {json.dumps(dialogue) for dialogue in chosen}
    few, _ = measuring.choose(96, 42)
    assert len(chosen) == 400
    assert len({json.dumps(dialogue) for dialogue in few}) == 96
    assert len(distinct) == len(measuring.three_turns()) - len(held_out)
    assert distinct.isdisjoint(json.dumps(dialogue) for dialogue in held_out)
    assert all([message["role"] for message in dialogue] == ["system", *["user", "assistant"] * 3] for dialogue in chosen)
