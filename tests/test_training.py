"""Masks, packing, training, exact resume; on the real tokenizer and a tiny real model, and one step on the real base."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT, finetune_arguments
from kosent import hf
from kosent.cli import main
from kosent.errors import DataError, ModelError
from kosent.files import read_json, read_jsonl, sha256, write_json
from kosent.finetune.checkpoints import COMPLETE, newest_checkpoint
from kosent.finetune.encode import IGNORED, encode
from kosent.finetune.watch import VARYING
from kosent.prompts import LAYOUTS, SYSTEM_MESSAGE, layout_for_vocabulary, render

GEMMA = LAYOUTS["gemma"]
TALK = [
    {"role": "system", "content": SYSTEM_MESSAGE},
    {"role": "user", "content": "오늘 너무 힘들었어"},
    {"role": "assistant", "content": "많이 힘드셨군요."},
    {"role": "user", "content": "응 ㅠㅠ"},
    {"role": "assistant", "content": "무슨 일이 있었어요?"},
]


@pytest.fixture(scope="module")
def tokenizer(starter_base: Path) -> Any:
    return hf.load_tokenizer(str(starter_base))


def test_each_layout_renders_what_its_family_expects() -> None:
    assert render(TALK[:2], GEMMA.template, GEMMA, bos_token="<bos>", add_generation_prompt=True) == (
        f"<bos><start_of_turn>user\n{SYSTEM_MESSAGE}\n\n오늘 너무 힘들었어<end_of_turn>\n<start_of_turn>model\n"
    )
    llama = LAYOUTS["llama3"]
    assert render(TALK[1:3], llama.template, llama, bos_token="<|begin_of_text|>") == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n오늘 너무 힘들었어<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n많이 힘드셨군요.<|eot_id|>"
    )
    chatml = LAYOUTS["chatml"]
    assert render(TALK[:2], chatml.template, chatml, add_generation_prompt=True) == (
        f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n<|im_start|>user\n오늘 너무 힘들었어<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_turn_markers_typed_by_a_user_stay_text(name: str) -> None:
    layout = LAYOUTS[name]
    text = render([{"role": "user", "content": f"{layout.end_of_turn}끝"}], layout.template, layout)
    assert text.count(layout.end_of_turn) == 1
    assert "끝" in text


@pytest.mark.parametrize("roles", [["assistant"], ["user", "user"], ["system"], []])
def test_turns_out_of_order_are_refused(roles: list[str]) -> None:
    with pytest.raises(DataError):
        render([{"role": role, "content": "말"} for role in roles], GEMMA.template, GEMMA)


def test_a_vocabulary_without_turn_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="no known chat layout"):
        layout_for_vocabulary({"a", "b"})


def test_only_replies_and_their_end_of_turn_are_supervised(tokenizer: Any) -> None:
    dialogue = encode(TALK, tokenizer, GEMMA.template, GEMMA, 512)
    learnt = tokenizer.decode([label for label in dialogue.labels if label != IGNORED])
    assert learnt == "많이 힘드셨군요.<end_of_turn>무슨 일이 있었어요?<end_of_turn>"
    assert all(label in (IGNORED, token) for token, label in zip(dialogue.ids, dialogue.labels, strict=True))
    assert dialogue.ids.count(tokenizer.bos_token_id) == 1
    assert dialogue.ids[0] == tokenizer.bos_token_id


def test_the_trained_prompt_is_the_served_prompt(tokenizer: Any) -> None:
    dialogue = encode(TALK, tokenizer, GEMMA.template, GEMMA, 512)
    prompt = tokenizer.apply_chat_template(TALK[:4], chat_template=GEMMA.template, add_generation_prompt=True)["input_ids"]
    assert dialogue.ids[: len(prompt)] == prompt
    assert dialogue.labels[len(prompt)] != IGNORED
    assert dialogue.labels[len(prompt) - 1] == IGNORED


def test_a_long_dialogue_is_cut_after_a_whole_reply(tokenizer: Any) -> None:
    whole = encode(TALK, tokenizer, GEMMA.template, GEMMA, 512)
    cut = encode(TALK, tokenizer, GEMMA.template, GEMMA, len(whole.ids) - 1)
    assert cut.truncated and not whole.truncated
    assert tokenizer.decode(cut.ids).endswith("많이 힘드셨군요.<end_of_turn>")


def test_a_dialogue_with_nothing_to_learn_is_refused_by_name(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="오늘 너무 힘들었어"):
        encode(TALK, tokenizer, GEMMA.template, GEMMA, 10)


def steady(run: Path) -> list[dict[str, float]]:
    """The metrics of a run without what differs between two equal ones."""
    return [{k: v for k, v in entry.items() if k not in VARYING} for entry in read_jsonl(run / "metrics.jsonl")]


def test_a_run_holds_everything_later_stages_need(tiny_run: Path, small_data: Path) -> None:
    facts = read_json(tiny_run / "run.json")
    assert facts["status"] == "finished"
    assert facts["data"]["train.jsonl"] == sha256(small_data / "train.jsonl")
    assert facts["base"]["sha256"]["model.safetensors"]
    assert 0 < facts["parameters"]["trainable"] < facts["parameters"]["total"] / 10
    assert (tiny_run / "chat_template.jinja").read_text(encoding="utf-8") == GEMMA.template
    log = read_jsonl(tiny_run / "metrics.jsonl")
    steps = [entry for entry in log if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, len(steps) + 1))
    assert set(steps[0]) == {"step", "loss", "token_accuracy", "learning_rate", "grad_norm", *VARYING}
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(0 <= entry["token_accuracy"] <= 1 and entry["grad_norm"] > 0 for entry in steps)
    assert log[-1]["step"] == steps[-1]["step"] and log[-1]["eval_loss"] > 0 and "eval_token_accuracy" in log[-1]
    assert (tiny_run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not (tiny_run / "checkpoints").exists()


def test_a_run_names_no_place_of_this_machine(tiny_run: Path) -> None:
    files = [path for path in tiny_run.rglob("*") if path.is_file()]
    assert len(files) >= 8
    for path in files:
        for place in (str(tiny_run), str(tiny_run.parent), str(ROOT), str(Path.home()) + "/"):
            assert place.encode() not in path.read_bytes(), path


def test_tensorboard_reads_what_training_wrote(tiny_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tiny_run / "tensorboard"))
    events.Reload()
    log = read_jsonl(tiny_run / "metrics.jsonl")
    written = [event.value for event in events.Scalars("train/loss")]
    assert written == pytest.approx([entry["loss"] for entry in log if "loss" in entry])
    assert {"train/token_accuracy", "train/grad_norm", "train/learning_rate", "validation/loss", "speed/tokens_per_second",
            "speed/dialogues_per_second", "speed/memory_gb"} <= set(events.Tags()["scalars"])  # fmt: skip


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_killed_goes_on_to_the_same_end(
    signum: signal.Signals, tiny_run: Path, tiny_base: Path, small_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    command = [sys.executable, "-m", "kosent", *finetune_arguments(small_data, output, tiny_base, "--resume")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(output.glob(f"checkpoints/checkpoint-*/{COMPLETE}")):
        assert process.poll() is None, process.stderr.read()  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signum)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == (130 if signum != signal.SIGKILL else -9), said
    assert read_json(output / "run.json")["status"] == "training"
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Going on after step" in done.stderr
    assert read_json(output / "run.json")["data"] == read_json(tiny_run / "run.json")["data"]
    there, here = steady(tiny_run), steady(output)
    assert [entry["step"] for entry in here] == [entry["step"] for entry in there], "each step once, none missing"
    for one, other in zip(there, here, strict=True):
        assert one.keys() == other.keys()
        assert one.get("learning_rate") == other.get("learning_rate")
        for key in ("loss", "eval_loss"):
            if key in one:
                assert other[key] == pytest.approx(one[key], abs=1e-3)
    assert not (output / "checkpoints").exists()


def test_a_failure_after_the_last_step_does_not_cost_the_training(
    tiny_run: Path, tiny_base: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kosent.finetune import plots

    def full(*args: object) -> None:
        raise OSError("No space left on device")

    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(plots, "plot_run", full)
        assert main(finetune_arguments(small_data, output, tiny_base)) == 1
    assert read_json(output / "run.json")["status"] == "training"
    assert main(finetune_arguments(small_data, output, tiny_base, "--resume")) == 0
    assert read_json(output / "timing.json")["resumed_after_step"] > 0
    assert not (output / "checkpoints").exists()
    assert [entry["step"] for entry in steady(output)] == [entry["step"] for entry in steady(tiny_run)]
    assert steady(output)[-1]["eval_loss"] == pytest.approx(steady(tiny_run)[-1]["eval_loss"], abs=1e-3)


def test_a_broken_newest_checkpoint_is_skipped(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "adapter.bin").write_text(str(step))
        if step < 6:
            write_json(folder / COMPLETE, {"adapter.bin": sha256(folder / "adapter.bin")})
    (tmp_path / "checkpoint-4" / "adapter.bin").write_text("cut off")
    newest, broken = newest_checkpoint(tmp_path)
    assert newest == tmp_path / "checkpoint-2"
    assert [path.name for path in broken] == ["checkpoint-6", "checkpoint-4"]


def test_a_finished_run_is_not_overwritten(tiny_run: Path, tiny_base: Path, small_data: Path) -> None:
    before = sha256(tiny_run / "run.json")
    assert main(finetune_arguments(small_data, tiny_run, tiny_base)) == 2
    assert main(finetune_arguments(small_data, tiny_run, tiny_base, "--resume")) == 0
    assert main(finetune_arguments(small_data, tiny_run, tiny_base, "--resume", "--set", "training.seed=1")) == 2
    assert sha256(tiny_run / "run.json") == before


def test_a_dry_run_writes_nothing(tiny_base: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(finetune_arguments(small_data, tmp_path / "run", tiny_base, "--dry-run")) == 0
    said = capsys.readouterr().err
    assert "steps in 2 epochs" in said
    for what in ("million parameters", "supervised", "Memory: about", "Time: about"):
        assert what in said
    assert not (tmp_path / "run").exists()


def test_data_that_prepare_did_not_write_is_refused(tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(finetune_arguments(tmp_path, tmp_path / "run", tiny_base)) == 3
    assert "Try: kosent prepare" in capsys.readouterr().err
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"messages": 1}\n', encoding="utf-8")
    assert main(finetune_arguments(tmp_path, tmp_path / "run", tiny_base)) == 3
    assert "line 1" in capsys.readouterr().err


def test_a_base_that_is_not_there_is_an_error_with_advice(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(finetune_arguments(small_data, tmp_path / "run", str(tmp_path / "nothing"))) == 5
    assert "Try: name a folder, ORG/NAME or `starter`" in capsys.readouterr().err


def test_the_real_base_learns_from_a_few_dialogues(starter_base: Path, small_data: Path, tmp_path: Path, home: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    rows = (small_data / "train.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    (data / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (data / "validation.jsonl").write_text(rows[0] + "\n", encoding="utf-8")
    changes = ["--set", "training.epochs=3", "--set", "training.batch_dialogues=3", "--set", "training.warmup_steps=1"]
    command = ["finetune", "--recipe", "starter-cpu", "--base", str(starter_base), "--data", str(data)]
    assert main([*command, "--output", str(tmp_path / "run"), *changes]) == 0
    losses = [entry["loss"] for entry in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "loss" in entry]
    assert losses[0] < 6, "a real language model, not a random one"
    assert losses[-1] < losses[0] - 0.5


def test_json_on_disk_is_plain(tiny_run: Path) -> None:
    assert json.loads((tiny_run / "run.json").read_text(encoding="utf-8"))["layout"] == "gemma"
    assert os.listdir(tiny_run / "adapter")
