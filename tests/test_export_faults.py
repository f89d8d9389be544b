"""An export that is killed, or whose disk is full, leaves the old file or none."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kosent.cli import main
from kosent.export import export
from kosent.files import read_json, sha256, write_json
from kosent.run_directory import RunDirectory


def command(run: Path, target: Path, quantization: str, *options: str) -> list[str]:
    output = ["--quantization", quantization, "--output", str(target), *(options or ["--no-verify"])]
    return [sys.executable, "-m", "kosent", "export", str(run), *output]


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize(("quantization", "kills"), [("q8_0", 12), ("q4_k_m", 8)])
def test_killed_at_any_moment(quantization: str, kills: int, tiny_run: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "model.gguf"
    began = time.monotonic()
    subprocess.run(command(tiny_run, target, quantization), check=True, capture_output=True)
    whole, whole_time = sha256(target), time.monotonic() - began
    moments = random.Random(quantization)
    for number in range(kills):
        if number % 2:
            target.unlink()
        process = subprocess.Popen(command(tiny_run, target, quantization), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # most of the time goes into imports: two thirds of the kills fall into the second half
        time.sleep(whole_time * moments.choice([moments.uniform(0, 0.5), *[moments.uniform(0.5, 1.0)] * 2]))
        process.kill()
        process.wait()
        if target.exists():
            assert sha256(target) == whole
        else:
            assert number % 2
            subprocess.run(command(tiny_run, target, quantization), check=True, capture_output=True)
        assert sha256(target) == whole
    subprocess.run(command(tiny_run, target, quantization), check=True, capture_output=True)
    assert leftovers(target.parent) == []


def test_killed_while_it_is_verified_the_file_has_no_name_yet(tiny_run: Path, small_data: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "model.gguf"
    unverified = target.with_name("model.gguf.unverified")
    verifying = command(tiny_run, target, "q8_0", "--data", str(small_data))
    process = subprocess.Popen(verifying, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not unverified.exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert unverified.exists() and not target.exists()
    subprocess.run(verifying, check=True, capture_output=True)
    assert sorted(path.name for path in target.parent.iterdir()) == ["model.Modelfile", "model.gguf", "model.verification.json"]


def test_interrupted_by_ctrl_c_nothing_is_left(tiny_run: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "model.gguf"
    process = subprocess.Popen(command(tiny_run, target, "q4_k_m"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (target.parent.is_dir() and leftovers(target.parent)):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "stopped" in said and "Traceback" not in said
    assert list(target.parent.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tiny_run: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    """On a real file system that is too small; what is free is asked first, so that has to be believed larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = tiny_gguf.stat().st_size
    believed = "shutil.disk_usage = lambda path: types.SimpleNamespace(free=10**12)"
    run_it = f"import shutil, sys, types; from kosent.cli import main; {believed}; sys.exit(main(sys.argv[1:]))"
    script = (
        f'mount -t tmpfs -o size={size + size // 2} tmpfs "{disk}" && cp "{tiny_gguf}" "{disk}/model.gguf" && "$@"; code=$?; '
        f'cp -a "{disk}/." "{tmp_path}/kept"; exit $code'
    )
    (tmp_path / "kept").mkdir()
    arguments = command(tiny_run, disk / "model.gguf", "q8_0")[3:]
    full = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", run_it, *arguments]
    if os.getuid() != 0:
        full[1:2] = ["-r", "-m"]
    done = subprocess.run(full, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "No space left" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["model.gguf"]
    assert sha256(tmp_path / "kept" / "model.gguf") == sha256(tiny_gguf)


@pytest.mark.parametrize("quantization", ["f32", "q4_k_m"])
def test_what_cannot_fit_on_the_disk_is_said_first(
    quantization: str, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10_000_000})())
    assert main(["export", str(tiny_run), "--quantization", quantization, "--output", str(tmp_path / "model.gguf")]) == 1
    shown = capsys.readouterr().err
    assert "needs 0.0" in shown and "has 0.01 GB free" in shown and "--output" in shown
    assert list(tmp_path.glob("*.gguf")) == []


@pytest.mark.parametrize(("quantization", "advice"), [("q8_0", "close other programs\n"), ("q4_k_m", "--quantization q8_0")])
def test_memory_that_lacks_is_said_first(
    quantization: str, advice: str, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(export, "free_memory", lambda: 100_000_000)
    assert main(["export", str(tiny_run), "--quantization", quantization, "--output", str(tmp_path / "model.gguf")]) == 1
    shown = capsys.readouterr().err
    assert "GB of memory, and 0.1 GB are free" in shown and advice in shown
    assert list(tmp_path.glob("*.gguf*")) == []


def test_a_folder_that_cannot_be_written_is_named(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["export", str(tiny_run), "--output", str(tmp_path / "file" / "model.gguf")]) == 1
    assert "file" in capsys.readouterr().err


def test_a_changed_modelfile_is_kept(tiny_run: Path, tmp_path: Path) -> None:
    arguments = ["export", str(tiny_run), "--output", str(tmp_path / "model.gguf"), "--no-verify"]
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert not list(tmp_path.glob("*.old"))
    (tmp_path / "model.Modelfile").write_text("FROM ./model.gguf\nPARAMETER num_ctx 8192\n")
    assert main(arguments) == 0
    assert "num_ctx 8192" in (tmp_path / "model.Modelfile.old").read_text()
    assert "num_ctx 2048" in (tmp_path / "model.Modelfile").read_text()


def test_a_merged_folder_inside_the_run_does_not_become_the_run(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("*.gguf"))
    facts = read_json(run / "run.json")
    facts["base"] = read_json(tiny_run / "run.json")["base"] | {"name": RunDirectory.open(tiny_run).base}
    write_json(run / "run.json", facts)
    assert main(["export", str(run), "--quantization", "f16", "--no-verify", "--merged", str(run / "model")]) == 0
    assert (run / "model" / "model.safetensors").is_file()
    assert RunDirectory.open(run).weights is None


def test_a_folder_in_the_way_of_merged_is_not_replaced(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("keep")
    assert main(["export", str(tiny_run), "--output", str(tmp_path / "m.gguf"), "--merged", str(tmp_path / "mine")]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert (tmp_path / "mine" / "diary.txt").read_text() == "keep"
