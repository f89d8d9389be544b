"""Benchmarks at toy size. Training: it runs the real contenders, and notices when they do not train on the same. Retrieval."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from helpers import ROOT, load_benchmark
from kosent.files import read_json
from kosent.rag.collection import Collection

SCRIPT = ROOT / "benchmarks" / "finetune.py"
RETRIEVAL = ROOT / "benchmarks" / "rag.py"


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


def outcome(script: Path, arguments: list[str], patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the last line says, each value under its name without the interval."""
    patch.setattr(sys, "argv", [str(script), *arguments])
    load_benchmark(script, patch).main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == script.stem
    return {result["name"].partition(" (")[0]: result["value"] for result in found["results"]}


def test_retrieval_is_measured_on_a_few_passages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--passages", "2", "--everyday", "5", "--embedder", "use", "--cache", str(tmp_path)]
    found = outcome(RETRIEVAL, ["--part", "quality", "--part", "threshold", *sizes], monkeypatch, capsys)
    few, more = (found[f"use, {what}: questions"] for what in ("at most 1 morpheme shared", "more shared"))
    assert few + more == found["use, all: questions"] > 20
    assert min(few, more) > 0
    for measure in ("recall@5", "MRR"):
        fusion, words, meaning = (found[f"use, all: {what}, {measure}"] for what in ("fusion", "BM25 Kiwi", "dense"))
        assert found[f"use, all: fusion - BM25 Kiwi, {measure}"] == pytest.approx(fusion - words, abs=0.0011)
        assert found[f"use, all: fusion - dense, {measure}"] == pytest.approx(fusion - meaning, abs=0.0011)
        assert found[f"use, more shared: BM25 Kiwi, {measure}"] > found[f"use, at most 1 morpheme shared: BM25 Kiwi, {measure}"]
        assert fusion > words  # half of the questions share no word with their passage
    assert found["use: direct questions whose passage is among the 4"] > 0.8
    again = outcome(RETRIEVAL, ["--part", "quality", *sizes], monkeypatch, capsys)
    assert again == {name: value for name, value in found.items() if name in again}


def test_many_chunks_are_built_once_and_asked_in_fresh_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--chunks", "60", "--questions", "4", "--cache", str(tmp_path), "--gguf", str(tmp_path / "none.gguf")]
    found = outcome(RETRIEVAL, ["--part", "scale", *sizes], monkeypatch, capsys)
    places = ("a process of its own", "the same process")
    ways = [f"{when}, analyser in {place}" for when in ("idle", "a loop of numpy runs") for place in places]
    for way in ways:
        assert found[f"{way}: opened, first search by meaning included"] > found[f"{way}: of that, import of libraries"] > 0
        median, late = found[f"{way}: a question, median of 4"], found[f"{way}: a question, p95"]
        assert 0 < median <= late <= found[f"{way}: a question, slowest"]
        assert 0.3 < found[f"{way}: peak memory, all processes"] < 3
    assert {name.partition(": ")[0] for name in found if "the analyser's process" in name} == {ways[0], ways[2]}
    collection = next((tmp_path / "home").glob("*.done")).stem
    monkeypatch.setenv("KOSENT_HOME", str(tmp_path / "home"))
    with Collection.open(collection).look() as (index, vectors):
        chunks = [text for text, _ in vectors.chunks(index.chunk_ids()).values()]
    assert len(chunks) == len(set(chunks)) == 60
    assert all(240 <= len(text) <= 350 for text in chunks)


def test_adding_is_measured_beside_the_embedder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--part", "adding", "--documents", "30", "--embedder", "use", "--cache", str(tmp_path)]
    found = outcome(RETRIEVAL, arguments, monkeypatch, capsys)
    assert found["use: documents that were added"] == 30
    assert found["use: 30 documents added"] > 0
    assert not list((tmp_path / "home").glob("rag/*"))  # it has a home of its own, which is gone


def test_gains_are_paired_and_drawn_by_passage(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = load_benchmark(ROOT / "benchmarks" / "rag_statistics.py", monkeypatch)
    assert statistics.interval([1.0] * 6, list("aabbcc")) == (1.0, 1.0, 1.0)
    apart = statistics.interval([0.0, 1.0] * 20, [str(number) for number in range(40)])
    together = statistics.interval([0.0, 1.0] * 20, [str(number // 20 * 2 + number % 2) for number in range(40)])
    assert apart[0] == together[0] == 0.5
    assert (together[1], together[2]) == (0.0, 1.0)  # four passages, each all or nothing
    assert apart[1:] == pytest.approx((0.35, 0.65), abs=0.02)
    assert [statistics.MEASURES["MRR"](rank) for rank in (1, 4, None)] == [1.0, 0.25, 0.0]
    assert [statistics.MEASURES["recall@5"](rank) for rank in (5, 6, None)] == [1.0, 0.0, 0.0]
