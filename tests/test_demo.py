"""`kosent demo` on a small corpus and the tiny base: all stages, kept when nothing changed, and killed in each of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kosent.demo import sparkline
from kosent.files import read_json
from kosent.stages import Stages

STAGES = ("base", "prepare", "finetune", "export", "verify", "evaluate", "reply")
SHORT = ("--set", "training.epochs=1", "--set", "training.batch_dialogues=4", "--set", "training.checkpoint_steps=1")
"""Four steps."""
OTHER = ("--set", "training.seed=1", "--set", "training.batch_dialogues=15")
"""Another training, of one step."""


@pytest.fixture
def command(tiny_home: Path, small_corpus: Path, tmp_path: Path) -> list[str]:
    return [sys.executable, "-m", "kosent", "demo", "--corpus", str(small_corpus), "--output", "demo", *SHORT]


def outputs(folder: Path) -> dict[str, dict[str, str]]:
    """What each stage made, but for the metrics, which hold seconds and memory."""
    record = read_json(folder / "stages.json")
    return {name: {path: digest for path, digest in record[name]["outputs"].items() if "metrics" not in path} for name in STAGES}


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400)


def kill_in(stage: str, command: list[str], folder: Path) -> str:
    """Starts the demo and kills it, with its child, once `stage` is under way; what it had said by then."""
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    sign = "Going on after step" if stage == "finetune" else f"] {stage}:"
    said = ""
    for line in process.stderr:
        said += line
        if sign in line:
            break
    else:
        pytest.fail(f"{stage} never began")
    assert f"] {stage}: kept" not in said
    if stage != "finetune":
        time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    return said


def wait_for(holds: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_in_every_stage_it_ends_with_the_same_files(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two trainings by several threads can differ in the fifth digit of a loss
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    straight.mkdir()
    broken.mkdir()
    done = run(command, straight)
    assert done.returncode == 0, done.stderr
    assert "| best constant reply |" in done.stdout
    assert all(f"] {stage}:" in done.stderr for stage in STAGES)
    kill_in("prepare", command, broken)
    stopped_by_control_c(command, broken)
    for stage in STAGES[2:]:
        kill_in(stage, command, broken)
    again = run(command, broken)
    assert again.returncode == 0, again.stderr
    assert "] finetune: kept" in again.stderr
    assert outputs(broken / "demo") == outputs(straight / "demo")
    reply = (straight / "demo" / "reply.txt").read_text(encoding="utf-8")
    assert len(reply) > 1 and reply in done.stdout

    third = run(command, straight)
    assert all(f"] {stage}: kept" in third.stderr for stage in STAGES)
    (straight / "demo" / "data" / "train.jsonl").write_text("", encoding="utf-8")
    fourth = run(command, straight)
    assert fourth.returncode == 0, fourth.stderr
    assert "] prepare: cleaning" in fourth.stderr and "no longer what it made" in fourth.stderr
    assert "] finetune: kept" in fourth.stderr, "its input is again what it was"
    assert (straight / "demo" / "data.old" / "train.jsonl").read_text(encoding="utf-8") == "", "moved aside, not removed"
    said = kill_in("verify", [*command, *OTHER], straight)
    assert "] finetune: training, the longest part (its command changed)" in said
    assert "] export: merging" in said and "changed since" in said
    record = read_json(straight / "demo" / "stages.json")
    assert record["prepare"]["outputs"] == read_json(broken / "demo" / "stages.json")["prepare"]["outputs"]
    assert record["export"]["outputs"] != read_json(broken / "demo" / "stages.json")["export"]["outputs"]


def stopped_by_control_c(command: list[str], folder: Path) -> None:
    """In the middle of training; it ends cleanly and says how to go on."""
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    wait_for(lambda: bool(list(folder.glob("demo/run/checkpoints/*/complete.json"))))
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "stopped. What was finished is kept" in said


def test_two_demos_in_one_folder_are_refused(command: list[str], tmp_path: Path) -> None:
    with Stages(tmp_path / "demo").locked():
        done = run(command, tmp_path)
    assert done.returncode == 1
    assert "Another `kosent demo`" in done.stderr


def test_a_corpus_that_is_not_there_stops_the_demo(tiny_home: Path, tmp_path: Path) -> None:
    done = run([sys.executable, "-m", "kosent", "demo", "--corpus", "no.csv"], tmp_path)
    assert done.returncode == 3
    assert "no.csv" in done.stderr


def test_sparkline() -> None:
    assert sparkline([4.0, 3.0, 2.0, 1.0]) == "█▆▃▁"
    assert len(sparkline([float(i) for i in range(500)])) <= 48
    assert sparkline([1.0]) == "▁"
