"""Every architecture and every kind of adapter: PEFT says what the merged tensors are, and llama.cpp what the file says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bases
from kosent.errors import ModelError
from kosent.export.architectures import row_order
from kosent.export.checkpoint import INDEX
from kosent.export.gguf_writer import Export
from kosent.files import read_json, write_json
from kosent.prompts import LAYOUTS

LAYOUT = LAYOUTS["chatml"]
MARKERS = ["<|im_start|>", "<|im_end|>"]
IDS = [1, 4093, 198, 30, 777, 2001, 2, 198, 1, 520, 9531, 198, 28, 5, 600]


@pytest.fixture(scope="module")
def small(smollm2_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("random")
    return {kind: bases.random_base(kind, smollm2_base, folder / kind) for kind in bases.RANDOM}


def adapter_for(base: Path, folder: Path, **settings: Any) -> Any:
    """Saves an adapter of random values and returns the merged model, in float32."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(3)
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    tuned = get_peft_model(model, LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * (0.1 if "magnitude" in name else 0.02))
    tuned.save_pretrained(folder)
    return tuned.merge_and_unload()


def export(base: Path, adapter: Path | None, target: Path, quantization: str = "f32") -> Path:
    with Export(base, adapter, LAYOUT.template, LAYOUT) as made:
        made.write(target, quantization)
    return target


def stored(file: Path) -> dict[str, np.ndarray]:
    from gguf import GGUFReader

    return {tensor.name: np.array(tensor.data) for tensor in GGUFReader(file).tensors}


def agree(file: Path, merged: Any) -> None:
    """llama.cpp and transformers give the same logits for a few tokens."""
    from llama_cpp import Llama

    llama = Llama(str(file), n_ctx=64, logits_all=True, verbose=False)
    llama.eval(IDS)
    with torch.no_grad():
        expected = merged(torch.tensor([IDS])).logits[0].numpy()
    assert np.abs(llama.scores[: len(IDS)] - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama31"])
def test_llama_cpp_reads_what_was_trained(kind: str, small: dict[str, Path], tmp_path: Path) -> None:
    merged = adapter_for(small[kind], tmp_path / "adapter")
    agree(export(small[kind], tmp_path / "adapter", tmp_path / "model.gguf"), merged)


def test_a_real_llama_says_what_it_said(smollm2_base: Path, tmp_path: Path) -> None:
    merged = adapter_for(smollm2_base, tmp_path / "adapter", r=8)
    agree(export(smollm2_base, tmp_path / "adapter", tmp_path / "model.gguf"), merged)


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True}, {"use_dora": True}, {"modules_to_save": ["lm_head", "embed_tokens"]}],
    ids=["lora", "rslora", "dora", "modules_to_save"],
)
@pytest.mark.parametrize("kind", ["qwen2", "llama31"])
def test_the_tensors_are_those_of_peft(kind: str, settings: dict[str, Any], small: dict[str, Path], tmp_path: Path) -> None:
    merged = adapter_for(small[kind], tmp_path / "adapter", **settings)
    with Export(small[kind], tmp_path / "adapter", LAYOUT.template, LAYOUT) as made:
        made.write(tmp_path / "model.gguf", "f32")
        namer = made.architecture.namer(made.config)
        found = stored(tmp_path / "model.gguf")
        for name, expected in merged.state_dict().items():
            values = expected.numpy()
            if heads := made.architecture.heads_of(name, made.config):
                values = values[row_order(len(values), heads)]
            # here to the bit; the order of the additions in a product is the processor's
            assert np.allclose(found.pop(namer(name)), values, rtol=0, atol=1e-6), name
    assert set(found) == ({"rope_freqs.weight"} if kind == "llama31" else set())


def test_a_trained_head_of_a_base_that_ties_it_is_kept(small: dict[str, Path], tmp_path: Path) -> None:
    adapter_for(small["qwen3"], tmp_path / "adapter", modules_to_save=["lm_head"])
    found = stored(export(small["qwen3"], tmp_path / "adapter", tmp_path / "model.gguf"))
    assert not np.array_equal(found["output.weight"], found["token_embd.weight"])


@pytest.mark.parametrize("modules_to_save", [None, ["lm_head"]], ids=["lora", "with a head"])
def test_the_merged_folder_is_the_merged_model(
    modules_to_save: list[str] | None, small: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    from kosent.export import merged as merged_folder

    expected = adapter_for(small["qwen3"], tmp_path / "adapter", modules_to_save=modules_to_save).state_dict()
    monkeypatch.setattr(merged_folder, "SHARD", 2_000_000)
    with Export(small["qwen3"], tmp_path / "adapter", LAYOUT.template, LAYOUT) as made:
        merged_folder.write_merged(made, tmp_path / "merged", lambda done, note: None)
    assert len(list((tmp_path / "merged").glob("*.safetensors"))) > 1
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        trained_whole = modules_to_save and name == "lm_head.weight"
        wanted = expected[name] if trained_whole else expected[name].bfloat16().float()
        assert torch.allclose(tensor, wanted, rtol=0 if trained_whole else 0.01), name


def test_an_embedding_trained_apart_from_its_head_is_refused(small: dict[str, Path], tmp_path: Path) -> None:
    adapter_for(small["qwen3"], tmp_path / "adapter", modules_to_save=["embed_tokens"])
    with pytest.raises(ModelError, match="left the head"):
        export(small["qwen3"], tmp_path / "adapter", tmp_path / "model.gguf")


def test_a_head_stored_beside_a_tied_embedding_is_not_read(small: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    shutil.copytree(small["qwen3"], base)
    tensors = load_file(base / "model.safetensors")
    stale = torch.zeros_like(tensors["model.embed_tokens.weight"])
    save_file(tensors | {"lm_head.weight": stale}, base / "model.safetensors")
    assert "output.weight" not in stored(export(base, None, tmp_path / "model.gguf", "f16"))


def test_other_files_beside_the_weights_are_not_read(small: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    shutil.copytree(small["qwen2"], base)
    tensors = load_file(base / "model.safetensors")
    save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, base / "model_ema.safetensors")
    assert stored(export(base, None, tmp_path / "model.gguf"))["token_embd.weight"].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_that_cannot_be_written_are_refused(value: float, small: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter_for(small["qwen2"], tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "q_proj.lora_B" in name)
    tensors[name][:] = value
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"q_proj.weight has a value that is infinite"):
        export(small["qwen2"], tmp_path / "adapter", tmp_path / "model.gguf", "f16")


def damaged(folder: Path, what: str) -> None:
    if what == "no weights":
        (folder / "adapter_model.safetensors").unlink()
    elif what == "no config":
        (folder / "adapter_config.json").unlink()
    elif what == "cut config":
        (folder / "adapter_config.json").write_text('{"peft_type": "LO')
    elif what == "no rank":
        config = read_json(folder / "adapter_config.json")
        del config["r"]
        write_json(folder / "adapter_config.json", config)
    else:
        config = read_json(folder / "adapter_config.json")
        write_json(folder / "adapter_config.json", config | {"init_lora_weights": "pissa_niter_4"})


@pytest.mark.parametrize("what", ["no weights", "no config", "cut config", "no rank", "another base"])
def test_a_damaged_adapter_is_a_clear_error(what: str, small: dict[str, Path], tmp_path: Path) -> None:
    adapter_for(small["qwen2"], tmp_path / "adapter")
    damaged(tmp_path / "adapter", what)
    with pytest.raises(ModelError, match="adapter"):
        export(small["qwen2"], tmp_path / "adapter", tmp_path / "model.gguf")


@pytest.mark.parametrize("config", ["[]", "{", '{"model_type": "llama"}', '{"model_type": "mamba"}'])
def test_an_odd_config_is_a_clear_error(config: str, small: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(small["qwen2"], tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text(config)
    with pytest.raises(ModelError):
        export(tmp_path / "base", None, tmp_path / "model.gguf")


def test_many_small_blocks_and_shards_give_the_same_file(
    small: dict[str, Path], smollm2_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter_for(small["llama31"], tmp_path / "adapter")
    sharded = bases.random_base("llama31", smollm2_base, tmp_path / "sharded", max_shard_size="4MB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    whole = stored(export(small["llama31"], tmp_path / "adapter", tmp_path / "whole.gguf", "q8_0"))
    monkeypatch.setattr("kosent.export.gguf_writer.BLOCK", 1000)
    blocks = stored(export(sharded, tmp_path / "adapter", tmp_path / "blocks.gguf", "q8_0"))
    assert whole.keys() == blocks.keys()
    assert all(np.array_equal(whole[name], blocks[name]) for name in whole)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bases_of_every_float_type_are_read(dtype: str, smollm2_base: Path, tmp_path: Path) -> None:
    base = bases.random_base("qwen3", smollm2_base, tmp_path / "base", dtype=dtype)
    merged = adapter_for(base, tmp_path / "adapter")
    found = stored(export(base, tmp_path / "adapter", tmp_path / "model.gguf"))
    expected = merged.state_dict()["model.layers.1.self_attn.q_proj.weight"].numpy()
    assert np.allclose(found["blk.1.attn_q.weight"], expected, rtol=0, atol=1e-6)


def test_the_tokenizer_of_smollm2_is_that_of_its_gguf(smollm2_base: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    made = GGUFReader(export(smollm2_base, None, tmp_path / "model.gguf", "q8_0")).fields
    original = GGUFReader(bases.smollm2_gguf()).fields
    for key in ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id"):
        assert made[f"tokenizer.ggml.{key}"].contents() == original[f"tokenizer.ggml.{key}"].contents(), key


@pytest.mark.parametrize("prefixed", [True, False], ids=["like Llama 2", "like Gemma"])
def test_a_sentencepiece_tokenizer_is_read_as_llama_cpp_reads_it(prefixed: bool, smollm2_base: Path, tmp_path: Path) -> None:
    """Trained here on the starter corpus, with bytes for what it does not know."""
    import io

    from llama_cpp import Llama
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    from kosent.finetune.corpus import open_corpus

    texts = [message["content"] for record in open_corpus("starter").records() for message in record.messages]
    trained = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=trained, model_type="bpe", vocab_size=1500, byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=prefixed,
        user_defined_symbols=MARKERS, minloglevel=2,
    )  # fmt: skip
    base = bases.random_base("llama31", smollm2_base, tmp_path / "base")
    (base / "tokenizer.model").write_bytes(trained.getvalue())
    added = [{"id": 3 + place, "content": token, "special": True} for place, token in enumerate(MARKERS)]
    beyond = {"id": 50_000, "content": "<image>", "special": True}  # after the embedding's last row, as in Gemma 3
    write_json(base / "tokenizer.json", {"added_tokens": [*added, beyond], "model": {}})
    file = export(base, None, tmp_path / "model.gguf", "q8_0")
    llama, model = Llama(str(file), vocab_only=True, verbose=False), SentencePieceProcessor(model_proto=trained.getvalue())
    for text in [*texts[:200], "ㅋㅋㅋ 🦙 def f(x):\n    return x", "  두 칸  "]:
        assert llama.tokenize(text.encode(), add_bos=False, special=False) == model.encode(text), text
    assert llama.tokenize("".join(MARKERS).encode(), add_bos=False, special=True)[-2:] == [3, 4]


def test_damaged_bases_are_named(small: dict[str, Path], smollm2_base: Path, tmp_path: Path) -> None:
    sharded = bases.random_base("qwen2", smollm2_base, tmp_path / "base", max_shard_size="4MB")
    shard = sorted(sharded.glob("*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=f"{shard.name} is damaged"):
        export(sharded, None, tmp_path / "model.gguf")
    shard.unlink()
    with pytest.raises(ModelError, match=f"lacks 1 of its .* shards: {shard.name}"):
        export(sharded, None, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()
    assert (sharded / INDEX).is_file()


def test_an_adapter_of_another_base_is_refused(small: dict[str, Path], smollm2_base: Path, tmp_path: Path) -> None:
    adapter_for(small["qwen2"], tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"does not fit .*down_proj.weight is \(576, 1536\) in the base and \(128, 256\) in"):
        export(smollm2_base, tmp_path / "adapter", tmp_path / "model.gguf")


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused(small: dict[str, Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(small["qwen2"], base)
    tokenizer = read_json(base / "tokenizer.json")
    tokenizer["pre_tokenizer"] = {"type": "Metaspace"}
    write_json(base / "tokenizer.json", tokenizer)
    with pytest.raises(ModelError, match=r"no known name in llama\.cpp"):
        export(base, None, tmp_path / "model.gguf")
