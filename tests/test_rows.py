"""Packed rows, the shared prefix, and the exchanged parts of a model: they must say what plain Hugging Face code says."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from kosent import hf
from kosent.errors import ModelError
from kosent.finetune import fast
from kosent.finetune.encode import IGNORED, Dialogue, encode
from kosent.finetune.fast import Packing, prepare, row_loss
from kosent.finetune.plan import make_step, read_split, steps
from kosent.finetune.recipes import Training, load_recipe
from kosent.finetune.rows import Row, common_prefix, make_row, pack
from kosent.finetune.train import trainable
from kosent.prompts import LAYOUTS

GEMMA = LAYOUTS["gemma"]
SMALL = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip


@pytest.fixture(scope="module")
def dialogues(starter_base: Path, small_data: Path) -> list[Dialogue]:
    tokenizer = hf.load_tokenizer(str(starter_base))
    return [encode(m, tokenizer, GEMMA.template, GEMMA, 512) for m in read_split(small_data, "train")]


def talks(count: int, vocabulary: int = 300) -> list[Dialogue]:
    """Random dialogues with a common beginning of 7 tokens and two replies each."""
    draw = torch.Generator().manual_seed(3)
    found = []
    for number in range(count):
        own = torch.randint(10, vocabulary, (11 + 5 * number,), generator=draw).tolist()
        ids = [1, 5, 5, 6, 7, 8, 9, *own]
        labels = [i if place in (9, 10) or place >= len(ids) - 4 else IGNORED for place, i in enumerate(ids)]
        found.append(Dialogue(ids, labels))
    return found


def small_models(tiny_base: Path) -> dict[str, Any]:
    torch.manual_seed(1)
    qwen = Qwen3Config(head_dim=8, tie_word_embeddings=False, **SMALL)
    return {
        "gemma 3": AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32),
        "llama": LlamaForCausalLM(LlamaConfig(**SMALL)),
        "qwen 3": Qwen3ForCausalLM(qwen),
    }


def plain_loss(model: Any, dialogue: Dialogue) -> Any:
    """What Hugging Face says of one dialogue by itself: logits everywhere, the loss of the supervised tokens summed."""
    logits = model(input_ids=torch.tensor([dialogue.ids]), use_cache=False).logits[0]
    return functional.cross_entropy(logits[:-1].float(), torch.tensor(dialogue.labels[1:]), reduction="sum", ignore_index=IGNORED)


def unpacked(row: Row) -> list[list[int]]:
    found, place = [], row.prefix
    for length in row.lengths:
        found.append(row.ids[: row.prefix] + row.ids[place : place + length])
        place += length
    return found


def test_packing_keeps_every_dialogue_whole_and_in_order(dialogues: list[Dialogue]) -> None:
    rows = pack(dialogues, 400)
    assert [ids for row in rows for ids in unpacked(row)] == [d.ids for d in dialogues]
    assert all(len(row.ids) <= 400 or len(row.lengths) == 1 for row in rows)
    assert sum(row.supervised for row in rows) == sum(d.supervised for d in dialogues)
    assert any(row.prefix > 10 for row in rows), "the system message is shared"
    plan = steps(dialogues, Training(epochs=2, batch_dialogues=5))
    assert sum(len(row.lengths) for step in plan for row in step.rows) == 2 * len(dialogues)


def test_every_supervised_token_is_predicted_from_the_token_before_it(dialogues: list[Dialogue]) -> None:
    row = make_row(dialogues[:4])
    expected = [(d.ids[i - 1], label) for d in dialogues[:4] for i, label in enumerate(d.labels) if label != IGNORED]
    assert [(row.ids[p], target) for p, target in zip(row.predictors, row.targets, strict=True)] == expected
    assert [row.positions[p] for p in row.predictors] == [
        i - 1 for d in dialogues[:4] for i, label in enumerate(d.labels) if label != IGNORED
    ]


def test_a_prefix_may_reach_up_to_the_reply() -> None:
    one = Dialogue([1, 2, 3, 4, 9], [IGNORED, IGNORED, IGNORED, 4, 9])
    other = Dialogue([1, 2, 3, 5, 9], [IGNORED, IGNORED, IGNORED, 5, 9])
    row = make_row([one, other])
    assert (row.prefix, row.ids) == (3, [1, 2, 3, 4, 9, 5, 9])
    assert list(zip(row.predictors, row.targets, strict=True)) == [(2, 4), (3, 9), (2, 5), (5, 9)]
    assert common_prefix([one]) == 0
    assert common_prefix([one, one]) == 3, "a supervised token is nobody else's"


@pytest.mark.parametrize("name", ["gemma 3", "llama", "qwen 3"])
def test_a_packed_row_says_and_teaches_what_its_dialogues_do_alone(name: str, tiny_base: Path) -> None:
    model = small_models(tiny_base)[name]
    dialogues = talks(4)
    assert max(len(d.ids) for d in dialogues) < 64
    losses = [plain_loss(model, dialogue) for dialogue in dialogues]
    sum(losses).backward()
    expected = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    (row,) = pack(dialogues, 1000)
    assert row.prefix == 7
    packed, right = row_loss(prepare(model), row, "cpu")
    packed.backward()
    assert packed.item() == pytest.approx(sum(losses).item(), rel=1e-5)
    assert 0 <= right.item() <= row.supervised
    for key, gradient in expected.items():
        found = dict(model.named_parameters())[key].grad
        assert (found - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, key


def test_a_dialogue_longer_than_the_sliding_window_is_seen_through_it(tiny_base: Path) -> None:
    model = small_models(tiny_base)["gemma 3"]
    assert model.config.sliding_window == 32
    long = talks(12)[-3:]
    assert min(len(d.ids) for d in long) > 40
    with torch.no_grad():
        expected = sum(plain_loss(model, dialogue).item() for dialogue in long)
        found = row_loss(prepare(model), make_row(long), "cpu")[0].item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_packed_logits_of_the_real_base_are_the_separate_ones(starter_base: Path, dialogues: list[Dialogue]) -> None:
    model = hf.load_model(str(starter_base), dtype="float32").eval()
    chosen = dialogues[:3]
    row = make_row(chosen)
    with torch.no_grad():
        apart = []
        for dialogue in chosen:
            logits = model(input_ids=torch.tensor([dialogue.ids]), use_cache=False).logits[0]
            apart.append(logits[[i - 1 for i, label in enumerate(dialogue.labels) if label != IGNORED]])
        prepare(model)
        packed = model(
            input_ids=torch.tensor([row.ids]), position_ids=torch.tensor([row.positions]), use_cache=False,
            logits_to_keep=torch.tensor(row.predictors), packing=Packing(row.prefix, row.lengths),
        ).logits[0]  # fmt: skip
    separate = torch.cat(apart)
    assert (packed - separate).abs().max() < 1e-4 * separate.abs().max()
    assert functional.kl_div(packed.log_softmax(1), separate.log_softmax(1), log_target=True, reduction="batchmean") < 1e-4


def test_the_fused_adapter_teaches_what_pefts_own_does(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("starter-cpu")
    (row,) = pack(talks(3), 1000)
    gradients = []
    for fused in (False, True):
        with monkeypatch.context() as patch:
            if not fused:
                patch.setattr(fast, "_is_plain_lora", lambda module: False)
            model = trainable(hf.load_model(str(tiny_base), dtype="float32"), recipe)
        torch.manual_seed(5)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, 0, 0.05)
        row_loss(model, row, "cpu")[0].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert len(gradients[0]) == len(gradients[1]) > 20
    for name, gradient in gradients[0].items():
        assert (gradients[1][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-8, name


@pytest.mark.parametrize("change", [{"dropout": 0.1}, {"variant": "dora"}])
def test_what_the_fused_adapter_does_not_cover_keeps_its_own_code(change: dict[str, Any], tiny_base: Path) -> None:
    recipe = load_recipe("starter-cpu")
    recipe = dataclasses.replace(recipe, lora=dataclasses.replace(recipe.lora, **change))
    model = trainable(hf.load_model(str(tiny_base), dtype="float32"), recipe)
    assert not any("forward" in vars(module) for module in model.modules() if hasattr(module, "lora_A"))
    model.train()
    loss, _ = row_loss(model, make_row(talks(2)), "cpu")
    loss.backward()
    assert loss.item() > 0


def test_the_fused_loss_is_cross_entropy_also_where_words_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    monkeypatch.setattr(fast, "LOGITS_AT_ONCE", 5 * 5000)  # several chunks, the last one shorter
    hidden, weight = torch.randn(13, 16, requires_grad=True), torch.randn(5000, 16) * 2
    targets = torch.randint(0, 5000, (13,))
    expected = functional.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    (3 * expected).sum().backward()
    wanted = hidden.grad
    hidden.grad = None
    result = fast._FrozenHeadLoss.apply(hidden, weight, targets, fast._Scratch())
    (3 * result[:, 0]).sum().backward()
    assert torch.allclose(result[:, 0], expected, rtol=1e-4, atol=1e-4)
    assert result[:, 1].tolist() == ((hidden @ weight.t()).argmax(1) == targets).float().tolist()
    probability = (hidden @ weight.t()).softmax(1)
    assert (probability.amax(0) > fast.NEGLIGIBLE).float().mean() < 0.5, "this case leaves words out"
    assert wanted is not None and hidden.grad is not None
    assert (hidden.grad - wanted).norm() < 1e-3 * wanted.norm()


def test_several_processes_share_one_step_and_its_loss() -> None:
    dialogues = talks(5)
    whole = make_step(dialogues, 60)
    parts = [make_step(dialogues, 60, number, 3) for number in range(3)]
    assert len({len(part.rows) for part in parts}) == 1, "all wait for each other equally often"
    assert {part.supervised for part in parts} == {whole.supervised}
    counted = sum(w * row.supervised for part in parts for row, w in zip(part.rows, part.weights, strict=True))
    assert counted == whole.supervised
    few = [make_step(dialogues[:1], 60, number, 2) for number in range(2)]
    assert few[1].weights == [0.0] and few[1].rows == few[0].rows, "a process without a dialogue works for nothing"


def test_a_model_with_capped_attention_is_refused() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    model.config = copy.deepcopy(model.config)
    model.config.attn_logit_softcapping = 50.0
    with pytest.raises(ModelError, match="attention"):
        prepare(model)
