"""Other ways to train than LoRA to the end: all weights, 4 bits, checkpointing, early stopping, processes, little memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import finetune_arguments
from kosent import hf
from kosent.cli import main
from kosent.export import levels
from kosent.files import read_json, read_jsonl, sha256
from kosent.finetune import estimate as estimates
from kosent.finetune.checkpoints import newest_checkpoint, seal

LAUNCH = ("-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
          "--dynamo_backend", "no", "--main_process_port", "0")  # fmt: skip


def changed(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def losses(run: Path, key: str = "loss") -> list[float]:
    return [entry[key] for entry in read_jsonl(run / "metrics.jsonl") if key in entry]


def test_all_weights_are_trained_saved_and_exported(
    tiny_base: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "LONGEST_REPLY", 16)
    run = tmp_path / "run"
    more = changed("lora.rank=0", "training.learning_rate=3e-3", "training.checkpoint_steps=20")
    assert main(finetune_arguments(small_data, run, tiny_base, *more)) == 0
    facts = read_json(run / "run.json")
    assert facts["parameters"]["trainable"] == facts["parameters"]["total"]
    assert losses(run)[-1] < losses(run)[0] - 1
    assert not (run / "adapter").exists()
    tuned, base = hf.load_for_inference(str(run)), hf.load_for_inference(str(tiny_base))
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(tuned.model.state_dict()[name], base.model.state_dict()[name])
    assert main(["export", str(run), "--quantization", "f32", "--no-verify"]) == 0
    assert main(["verify", str(run), str(run / "kosent-f32.gguf"), "--data", str(small_data)]) == 0


def test_four_bits_train_an_adapter(tiny_base: Path, small_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(finetune_arguments(small_data, run, tiny_base, *changed("quantization=nf4", "training.learning_rate=5e-3"))) == 0
    facts = read_json(run / "run.json")
    whole = sum(p.numel() for p in hf.load_model(str(tiny_base), dtype="float32").parameters())
    assert facts["parameters"]["total"] - facts["parameters"]["trainable"] == whole, "two weights in a byte are two"
    assert losses(run)[-1] < losses(run)[0]


def test_checkpointed_layers_teach_the_same(tiny_run: Path, tiny_base: Path, small_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(finetune_arguments(small_data, run, tiny_base, *changed("training.gradient_checkpointing=true"))) == 0
    assert losses(run) == pytest.approx(losses(tiny_run), abs=1e-3)


def test_training_stops_early_and_keeps_the_best(
    tiny_base: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    more = changed("training.patience=2", "training.validation_steps=1", "training.learning_rate=0.3", "training.epochs=4")
    assert main(finetune_arguments(small_data, run, tiny_base, *more)) == 0
    measured = losses(run, "eval_loss")
    best = min(range(len(measured)), key=measured.__getitem__)
    assert len(measured) == best + 3 < 16, "two measurements after the best one"
    assert read_json(run / "run.json")["best"] == {"step": best + 1, "eval_loss": measured[best]}
    assert f"step {best + 1}" in capsys.readouterr().err
    again = tmp_path / "again"
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    assert main(finetune_arguments(data, again, tiny_base, *more, *changed("training.validation_steps=1"))) == 0
    assert sha256(again / "adapter" / "adapter_model.safetensors") == sha256(run / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp"])
def test_two_processes_train_as_one(
    sharded: bool, tiny_run: Path, tiny_base: Path, small_data: Path, tmp_path: Path, home: Path
) -> None:
    run = tmp_path / "run"
    options = ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP",
               "--fsdp_transformer_layer_cls_to_wrap", "Gemma3DecoderLayer", "--fsdp_state_dict_type", "FULL_STATE_DICT",
               "--fsdp_cpu_ram_efficient_loading", "false"] if sharded else []  # fmt: skip
    command = [sys.executable, *LAUNCH, *(options or ["--cpu"]), "-m", "kosent", *finetune_arguments(small_data, run, tiny_base)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    for key in ("loss", "eval_loss", "learning_rate", "token_accuracy"):
        assert losses(run, key) == pytest.approx(losses(tiny_run, key), abs=1e-3), key
    assert read_json(run / "run.json")["status"] == "finished"
    assert done.stdout.count("Trained. The run is in") == 1, "one process speaks"
    assert not (run / "checkpoints").exists()
    assert hf.load_for_inference(str(run)).model is not None


def test_a_full_disk_stops_with_the_last_checkpoint_whole(tiny_base: Path, small_data: Path, tmp_path: Path, home: Path) -> None:
    """On a real file system that is too small; a mount of its own needs no cleaning up."""
    run = tmp_path / "disk" / "run"
    run.parent.mkdir()
    arguments = finetune_arguments(small_data, run, tiny_base, *changed("training.checkpoint_steps=1"))
    # room for two checkpoints, and not for the third that is written before the first is dropped
    script = f'mount -t tmpfs -o size=1100k tmpfs "{run.parent}" && "$@"; code=$?; cp -r "{run}" "{tmp_path}/kept"; exit $code'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "kosent", *arguments]
    if os.getuid() != 0:
        command[1:2] = ["-r", "-m"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stderr
    assert "could not be written" in done.stderr and "is whole" in done.stderr and "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    newest, broken = newest_checkpoint(tmp_path / "kept" / "checkpoints")
    assert newest is not None and not broken
    shutil.move(tmp_path / "kept", run)
    assert main([*arguments, "--resume"]) == 0
    assert len(losses(run)) == 8


def test_a_broken_newest_checkpoint_costs_only_its_steps(
    tiny_run: Path, tiny_base: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kosent.finetune import plots

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "plot_run", lambda *args: (_ for _ in ()).throw(OSError("power cut")))
        assert main(finetune_arguments(small_data, run, tiny_base)) == 1
    newest, _ = newest_checkpoint(run / "checkpoints")
    assert newest is not None
    with (newest / "optimizer.pt").open("r+b") as file:
        file.truncate(100)
    assert main(finetune_arguments(small_data, run, tiny_base, "--resume")) == 0
    said = capsys.readouterr().err
    assert f"{newest.name} is incomplete and is left out" in said
    assert losses(run) == pytest.approx(losses(tiny_run), abs=1e-3)


def test_a_seal_tells_a_changed_file(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    (folder / "adapter.bin").write_text("whole")
    seal(folder)
    assert newest_checkpoint(tmp_path)[0] == folder
    (folder / "another.bin").write_text("")
    assert newest_checkpoint(tmp_path) == (None, [folder])


def test_turn_tokens_that_the_base_never_learned_are_warned_about(
    tiny_base: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = hf.load_model(str(tiny_base), dtype="bfloat16")
    token = hf.load_tokenizer(str(tiny_base)).get_vocab()["<start_of_turn>"]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = 0
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    model.save_pretrained(base)
    assert main(finetune_arguments(small_data, tmp_path / "run", base, *changed("training.epochs=1"))) == 0
    assert "has never learned <start_of_turn>" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_with_what_would(
    starter_base: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = finetune_arguments(small_data, tmp_path / "run", starter_base, "--dry-run")
    monkeypatch.setattr(estimates, "_resident", lambda: 0.8)  # it grows from call to call
    assert main(arguments) == 0
    needed = float(re.search(r"Memory: about ([\d.]+) GB", capsys.readouterr().err).group(1))  # type: ignore[union-attr]
    monkeypatch.setattr(estimates, "available", lambda: (needed - 0.2, "main memory"))
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"needs about {needed:.1f} GB" in said
    change = re.search(r"Try: kosent finetune … (--set .*?) +\(about", said)
    assert change, said
    assert main([*arguments, *change.group(1).split()]) == 0
    monkeypatch.setattr(estimates, "available", lambda: (0.1, "main memory"))
    assert main([*arguments[:-1]]) == 2
    assert "a smaller base" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("base", "changes"),
    [("starter_base", []), ("smollm2_base", ["training.gradient_checkpointing=true"])],
    ids=["starter", "smollm2-checkpointed"],
)
def test_the_estimated_memory_is_what_training_takes(
    base: str, changes: list[str], small_data: Path, tmp_path: Path, home: Path, request: pytest.FixtureRequest
) -> None:
    """Within a fifth, on real bases; memory peaks in one row, so one step of two rows is enough."""
    folder: Path = request.getfixturevalue(base)
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    for split, count in (("train", 4), ("validation", 1)):
        lines = (small_data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
        (data / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = tmp_path / "run"
    more = changed("training.epochs=1", *changes)
    command = [sys.executable, "-m", "kosent", *finetune_arguments(data, run, folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = float(re.search(r"Memory: about ([\d.]+) GB", done.stderr).group(1))  # type: ignore[union-attr]
    measured = read_json(run / "timing.json")["peak_memory_gb"]
    assert said == pytest.approx(measured, rel=0.2)


def test_an_interrupted_line_of_the_metrics_is_dropped(tmp_path: Path) -> None:
    from kosent.files import write_json
    from kosent.finetune.watch import Metrics

    file = tmp_path / "metrics.jsonl"
    file.write_text(
        '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 2, "eval_loss": 1.7}\n{"step": 3, "lo', encoding="utf-8"
    )
    resume = tmp_path / "checkpoint-2"
    resume.mkdir()
    write_json(resume / "trainer_state.json", {"log_history": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]})
    metrics = Metrics(file, resume)
    assert metrics.entries == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}] == read_jsonl(file)
    metrics.add({"step": 3, "loss": 1.2})
    assert len(read_jsonl(file)) == 3
    assert Metrics(file, None).entries == []
