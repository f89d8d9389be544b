"""The GPU benchmark without a GPU: it runs at toy size with the real trainers, and its FLOPs are those that torch counts."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest

from helpers import ROOT, load_benchmark
from kosent.files import read_json

SCRIPT = ROOT / "benchmarks" / "finetune_gpu.py"
WITHOUT_GPU = os.environ | {"CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_benchmark(SCRIPT, monkeypatch)


def test_toy_size_measures_every_contender_that_is_installed(measuring: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--toy", "--output", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, env=WITHOUT_GPU)
    assert ended.returncode == 0, ended.stderr
    with_trl = all(importlib.util.find_spec(library) for library in ("trl", "datasets"))
    contenders = [name for name in measuring.CONTENDERS if with_trl or not name.startswith("trl")]
    assert ("trl-lora is left out: pip install" in ended.stdout) is not with_trl

    outcome = json.loads(ended.stdout.splitlines()[-1])
    assert outcome["benchmark"] == "finetune_gpu"
    values = {result["name"]: result["value"] for result in outcome["results"]}
    kinds = ("speed", "computed", "MFU", "peak memory", "epoch of 51,630 dialogues")
    assert list(values) == [
        "peak taken for MFU",
        *(f"{name}: {kind}" for name in contenders for kind in kinds),
        "founding project, one A100: epoch of 51,630 dialogues",
        *(f"speed, kosent-{kind} / trl-{kind}" for kind in ("lora", "qlora") if with_trl),
    ]
    assert min(values.values()) > 0
    assert values["kosent-lora: computed"] < values["kosent-lora: speed"]  # the prefix of a row is computed once

    losses = {name: [step["loss"] for step in read_json(tmp_path / name / "measured.json")["steps"]] for name in contenders}
    assert losses["kosent-qlora"] == pytest.approx(losses["kosent-lora"], abs=0.05)
    assert losses["kosent-qlora"] != losses["kosent-lora"]  # four bits are not sixteen


def test_without_a_gpu_it_says_so_and_ends_with_1(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--output", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=WITHOUT_GPU)
    assert ended.returncode == 1
    assert "There is no GPU" in ended.stderr and "--toy" in ended.stderr
    assert ended.stdout == "" and not list(tmp_path.glob("llama*"))


def test_the_formula_gives_the_multiplications_that_torch_counts(measuring: ModuleType, tmp_path: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from kosent.finetune.fast import row_loss
    from kosent.finetune.plan import make_step
    from kosent.finetune.train import trainable

    size = measuring.Size(measuring.TOY, 1024, 1, 2, 1, 1024)
    measuring.build_base(size, tmp_path / "base")
    model = trainable(measuring.load(tmp_path / "base", "kosent-lora"), measuring.recipe_for("kosent-lora", size, ""))
    (row,) = make_step(measuring.dialogues(5, 512), size.row).rows

    def in_place(total: tuple[int, int], a: tuple[int, int], b: tuple[int, int], **more: object) -> int:
        return 2 * a[0] * a[1] * b[1]

    # torch 2.13's counter leaves addmm_ out
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counter:
        row_loss(model, row, "cpu")[0].backward()
    counted = sum(number for operation, number in counter.get_flop_counts()["Global"].items() if "mm" in str(operation))

    tokens = len(row.ids)
    formula = measuring.flops(size.model, {"computed": tokens, "supervised": row.supervised, "pairs": 0})
    first = measuring.shapes(size.model)[:3]  # q, k and v of the first layer: nothing before them learns
    unneeded = 2 * tokens * sum(inputs * outputs + measuring.RANK * inputs for inputs, outputs in first)
    assert counted == formula - unneeded


def test_the_terms_for_llama_31_8b(measuring: ModuleType) -> None:
    nothing = {"computed": 0, "supervised": 0, "pairs": 0}
    flops = {key: measuring.flops(measuring.LLAMA, nothing | {key: 1}) for key in nothing}
    assert flops["computed"] == 4 * 6_979_321_856 + 6 * 41_943_040
    assert flops["supervised"] == 4 * 4096 * 128_256
    assert flops["pairs"] == 12 * 32 * 4096
    # a prefix of 2 and dialogues of 1 and 3 after it: 1+2, then 3, then 3+4+5
    assert measuring.pairs(2, [1, 3]) == 18


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None),
    ],
)
def test_a_peak_is_taken_only_for_the_card_it_belongs_to(measuring: ModuleType, name: str, peak: float | None) -> None:
    assert measuring.peak_of(name) == peak


def test_an_unknown_gpu_needs_its_peak(
    measuring: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 PCIe")
    with pytest.raises(SystemExit, match=r"peak of NVIDIA H100 PCIe is not known.*--peak"):
        measuring.find_peak(Namespace(toy=False, peak=None))
    assert measuring.find_peak(Namespace(toy=False, peak=756e12)) == 756e12
    assert "NVIDIA H100 PCIe" in capsys.readouterr().out


def test_the_goal_is_asked_of_lora_alone_and_not_at_toy_size(measuring: ModuleType) -> None:
    size = measuring.Size(measuring.LLAMA, 2048, 8, 3, 1, 2048)
    step = {"seconds": 1.0, "tokens": 16_000, "computed": 14_000, "dialogues": 138, "supervised": 6_000, "pairs": 900_000}
    measured = {
        name: {"peak_gb": 1.0, "steps": [step | {"seconds": 9.0}, step, step | {"seconds": 1.5}, step]}
        for name in ("kosent-lora", "trl-lora", "kosent-qlora")
    }
    rows = {row.name: row for row in measuring.results(measured, size, 989e12, toy=False)}
    assert rows["kosent-lora: speed"].value == 16_000  # the median, without the warm-up
    assert rows["kosent-lora: epoch of 51,630 dialogues"].value == round(51_630 / 138 / 60, 1)
    assert rows["kosent-lora: MFU"].value == pytest.approx(measuring.flops(size.model, step) / 989e12, abs=1e-4)
    assert [name for name, row in rows.items() if row.goal] == ["kosent-lora: MFU"]
    assert not rows["kosent-lora: MFU"].holds
    assert {row.name: row for row in measuring.results(measured, size, 500e12, toy=False)}["kosent-lora: MFU"].holds
    assert not any(row.goal for row in measuring.results(measured, size, 989e12, toy=True))


def test_dialogues_are_what_the_epoch_is_said_to_be_of(measuring: ModuleType) -> None:
    drawn = measuring.dialogues(2000, 128_256)
    tokens, supervised = sum(len(one.ids) for one in drawn), sum(one.supervised for one in drawn)
    assert tokens / len(drawn) == pytest.approx(118, abs=2)
    assert supervised / tokens == pytest.approx(0.4, abs=0.01)
    assert len({tuple(one.ids[:20]) for one in drawn}) == 1 and len({tuple(one.ids[:21]) for one in drawn}) > 1900
    assert all(label in (-100, token) for one in drawn for token, label in zip(one.ids, one.labels, strict=True))
    assert measuring.dialogues(5, 512) == measuring.dialogues(9, 512)[:5]  # each process draws its own


def test_other_tokens_or_too_few_steps_end_the_benchmark(measuring: ModuleType) -> None:
    size = measuring.Size(measuring.TOY, 256, 1, 2, 1, 256)
    drawn = measuring.dialogues(4, 512)
    steps = [
        {"loss": 6.2, "dialogues": 2, "supervised": one.supervised + other.supervised, "tokens": len(one.ids) + len(other.ids)}
        for one, other in (drawn[:2], drawn[2:])
    ]
    measuring.check("trl-lora", steps, size)
    with pytest.raises(SystemExit, match="did not train on the same tokens"):
        measuring.check("trl-lora", [steps[0], steps[1] | {"supervised": 3}], size)
    with pytest.raises(SystemExit, match="took 2 steps with the losses"):
        measuring.check("trl-lora", [steps[0], steps[1] | {"loss": float("nan")}], size)
    together = {key: steps[0][key] + steps[1][key] for key in steps[0]}
    with pytest.raises(SystemExit, match="took 1 steps"):
        measuring.check("trl-lora", [together], size)


def test_missing_libraries_leave_a_contender_out_and_it_is_said(
    measuring: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "find_spec", lambda name: None if name in ("trl", "bitsandbytes") else object())
    assert measuring.available(measuring.CONTENDERS) == ["kosent-lora"]
    assert capsys.readouterr().out.splitlines() == [
        "trl-lora is left out: pip install trl",
        "kosent-qlora is left out: pip install bitsandbytes",
        "trl-qlora is left out: pip install trl bitsandbytes",
    ]
