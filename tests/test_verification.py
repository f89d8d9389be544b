"""Whether verification finds what it is for: wrong merges, other templates, too much rounding, replies without an end."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch

import bases
from kosent import extras, hf
from kosent.cli import main
from kosent.errors import ModelError
from kosent.export import adapter, levels, verification, verify
from kosent.export.gguf_model import GgufModel
from kosent.export.gguf_writer import Export
from kosent.export.levels import Position, judge_distribution, judge_replies, upper_share
from kosent.export.trained_model import TrainedModel
from kosent.files import read_json, read_jsonl, sha256, write_jsonl
from kosent.finetune.encode import IGNORED, Dialogue
from kosent.prompts import LAYOUTS, _compiled, render
from test_export_kinds import adapter_for


@pytest.fixture(scope="module")
def small(smollm2_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("random")
    return {kind: bases.random_base(kind, smollm2_base, folder / kind, max_shard_size="8MB") for kind in ("qwen3", "llama31")}


def dialogues() -> list[Dialogue]:
    torch.manual_seed(0)
    ids = [[1, 5, 9, *torch.randint(3, 4000, (length,)).tolist()] for length in (12, 30, 20)]
    return [Dialogue(one, [IGNORED] * (len(one) - 7) + one[-7:]) for one in ids]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
    ],
    ids=["lora", "rslora", "dora", "head", "head and embedding"],
)
@pytest.mark.parametrize("kind", ["qwen3", "llama31"])
def test_a_layer_at_a_time_says_what_the_whole_model_does(
    kind: str, settings: dict[str, Any], small: dict[str, Path], tmp_path: Path
) -> None:
    whole = adapter_for(small[kind], tmp_path / "adapter", **settings)
    told: list[int] = []
    with TrainedModel(small[kind], tmp_path / "adapter") as trained:
        states = trained.hidden(dialogues(), lambda done, note: told.append(done))
        with trained.head() as head:
            found = [head(state) for state in states]
        assert told == list(range(1, trained.steps + 1))
        kept = [name for name, value in trained.model.named_parameters() if not value.is_meta]
    assert kept and all(".lora_" in name or ".modules_to_save." in name for name in kept)
    for dialogue, logits in zip(dialogues(), found, strict=True):
        places = [place - 1 for place, label in enumerate(dialogue.labels) if label >= 0]
        with torch.no_grad():
            expected = whole(torch.tensor([dialogue.ids])).logits[0, places]
        assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()


def test_an_adapter_that_does_not_fit_is_refused(small: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter_for(small["qwen3"], tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    rest = {key: tensor for key, tensor in tensors.items() if key != name}
    for changed, said in (
        (rest, f"lacks {name}"),
        (tensors | {"base_model.model.other.lora_A.weight": tensors[name].clone()}, "does not fit the base"),
        (rest | {name: tensors[name][:, :1].contiguous()}, "cannot be used"),
    ):
        save_file(changed, file)
        with pytest.raises(ModelError, match=said):
            TrainedModel(small["qwen3"], tmp_path / "adapter")


def test_logits_come_from_the_places_that_were_asked_for(tiny_gguf: Path) -> None:
    from llama_cpp import Llama

    ids = [2, *range(1000, 1700)]  # more than one batch
    llama = Llama(str(tiny_gguf), n_ctx=1024, logits_all=True, verbose=False)
    llama.eval(ids)
    found = GgufModel(tiny_gguf, 1024).logits(ids, [3, 511, 512, 700])
    assert torch.allclose(torch.from_numpy(found), torch.from_numpy(llama.scores[[3, 511, 512, 700]]), atol=1e-4)


def test_a_wrong_merge_is_not_given_the_name(
    tiny_run: Path, tiny_gguf: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    target = tmp_path / "model.gguf"
    shutil.copy(tiny_gguf, target)
    right = adapter.Delta.apply
    with monkeypatch.context() as patch:
        patch.setattr(adapter.Delta, "apply", lambda self, weight, start: -right(self, weight, start))
        assert main(["export", str(tiny_run), "--output", str(target), "--data", str(small_data)]) == 6
    shown = capsys.readouterr()
    assert "model.gguf.unverified" in shown.out and "became" in shown.out
    assert "--quantization f16" in shown.err
    assert sha256(target) == sha256(tiny_gguf)
    report = read_json(tmp_path / "model.unverified.json")
    assert report["distribution"]["status"] == "fails" and report["tokens"]["status"] == "holds"
    assert report["distribution"]["examples"][0]["before"]
    assert main(["export", str(tiny_run), "--output", str(target), "--data", str(small_data)]) == 0
    assert sorted(path.name for path in tmp_path.glob("model*")) == ["model.Modelfile", "model.gguf", "model.verification.json"]


def test_another_template_is_shown_where_it_begins_to_differ(
    tiny_run: Path, tiny_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "run"
    shutil.copytree(tiny_run, other)
    template = (other / "chat_template.jinja").read_text(encoding="utf-8")
    (other / "chat_template.jinja").write_text(template.replace("+ '\\n\\n'", "+ '\\n'"), encoding="utf-8")
    assert main(["verify", str(other), str(tiny_gguf)]) == 6
    first = read_json(tiny_gguf.with_suffix(".verification.json"))["tokens"]["different"][0]
    assert first["before"].endswith("챗봇입니다.")
    assert first["expected"].startswith("\n") and first["found"].startswith("\n\n")
    assert "챗봇입니다.' '\\n" in capsys.readouterr().out


def test_what_was_not_run_is_said(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(tiny_run), "--output", str(tmp_path / "model.gguf")]
    monkeypatch.setattr(verify, "free_memory", lambda: 10**8)
    assert main(arguments) == 0
    report = read_json(tmp_path / "model.verification.json")
    assert [report[name]["status"] for name in verification.LEVELS] == ["holds", "not run", "not run"]
    assert report["holds"] and not report["complete"]
    shown = capsys.readouterr().out
    assert (
        "GB of memory, and 0.1 GB are free" in shown
        and "this was not compared: distribution, replies. Next: kosent chat" in shown
    )
    monkeypatch.setitem(extras.MODULES, "embedded", ("no_such_module",))
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "tokens        not run: pip install 'kosent[embedded]'" in shown and "Next: kosent verify" in shown
    assert main([*arguments, "--no-verify"]) == 0
    assert "Next: kosent verify" in capsys.readouterr().out
    assert not (tmp_path / "model.verification.json").exists()
    assert main([*arguments, "--no-verify", "--data", "data"]) == 2


def test_bad_input_is_refused_before_anything_is_written(
    tiny_run: Path, tiny_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tiny_run), "--output", str(tmp_path / "m.gguf"), "--data", str(tmp_path / "none")]) == 3
    assert "test.jsonl" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.gguf*"))
    assert main(["verify", str(tiny_run), str(tiny_gguf), "--data", str(tmp_path), "--dialogues", "0"]) == 2
    (tmp_path / "broken.gguf").write_bytes(tiny_gguf.read_bytes()[:5000])
    assert main(["verify", str(tiny_run), str(tmp_path / "broken.gguf")]) == 5
    assert "llama.cpp cannot load" in capsys.readouterr().err


def test_held_out_dialogues_are_read_before_anything_is_written(
    tiny_run: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One too long is left out; when all are, or one is no dialogue, that is said at once."""
    arguments = ["export", str(tiny_run), "--output", str(tmp_path / "m.gguf"), "--data", str(tmp_path)]
    long = {"messages": [{"role": "user", "content": "가" * 3000}, {"role": "assistant", "content": "네."}]}
    write_jsonl(tmp_path / "test.jsonl", [long])
    assert main(arguments) == 3
    assert "fits the run's max_length" in capsys.readouterr().err
    write_jsonl(tmp_path / "test.jsonl", [{"messages": [{"role": "user"}]}])
    assert main(arguments) == 3
    assert "a message without role or content" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.gguf*"))
    good = read_jsonl(small_data / "test.jsonl")[0]
    write_jsonl(tmp_path / "test.jsonl", [long, good])
    assert main(arguments) == 0
    assert read_json(tmp_path / "m.verification.json")["distribution"]["dialogues"] == 1


def test_interrupted_while_it_compares_nothing_is_left(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*unused: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / ".m.gguf.999999.tmp").write_text("of a killed export")
    monkeypatch.setattr(verify, "answer", interrupted)
    assert main(["export", str(tiny_run), "--output", str(tmp_path / "m.gguf")]) == 130
    assert list(tmp_path.glob("*m.gguf*")) == list(tmp_path.glob(".m.*")) == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_template_protects_its_own_markers_and_hangul_is_composed(name: str) -> None:
    """Also where a server knows nothing but the template; `render` composes Hangul besides."""
    layout = LAYOUTS[name]
    talk = [
        {"role": role, "content": f"  {''.join(layout.markers)}<{layout.markers[0]}\n"}
        for role in ("system", "user", "assistant")
    ]
    alone = _compiled(layout.template).render(messages=talk, bos_token="", add_generation_prompt=True)
    assert alone == render(talk, layout.template, layout, add_generation_prompt=True)
    assert alone.count(layout.end_of_turn) == (2 if name == "gemma" else 3)
    decomposed = [{"role": "user", "content": unicodedata.normalize("NFD", "외로워요")}]
    assert "외로워요" in render(decomposed, layout.template, layout)


def test_qwens_tokenizer_composes_hangul_and_llama_cpp_need_not(small: dict[str, Path], tmp_path: Path) -> None:
    layout = LAYOUTS["chatml"]
    with Export(small["qwen3"], None, layout.template, layout) as made:
        made.write(tmp_path / "model.gguf", "f32")
    level = levels.check_tokens(
        hf.load_tokenizer(str(small["qwen3"])), layout.template, layout, GgufModel(tmp_path / "model.gguf")
    )
    assert level.holds, level.line


def position(same: bool, divergence: float) -> Position:
    return Position("앞", "말", "글", same, divergence)


@pytest.mark.parametrize(
    ("same", "count", "divergence", "holds"),
    [
        (900, 1000, 0.005, False),
        (915, 1000, 0.005, True),
        (46, 50, 0.005, True),
        (40, 50, 0.005, False),
        (990, 1000, 0.02, False),
    ],
    ids=["surely less", "perhaps enough", "enough", "few, and too few", "too far"],
)
def test_a_limit_is_missed_when_the_measurement_is_surely_beyond_it(
    same: int, count: int, divergence: float, holds: bool
) -> None:
    positions = [position(number < same, divergence) for number in range(count)]
    level = judge_distribution(positions, (0.92, 0.01), "replies", 3)
    assert level.holds is holds
    assert level.facts["same_top"] == same / count
    assert ("became '글'" in level.line) is not holds


def test_wilsons_interval() -> None:
    """By hand for 90 of 100: (0.9 + 2.706/200 + 1.645 sqrt(0.9 * 0.1 / 100 + 2.706/40000)) / 1.02706."""
    assert upper_share(0.9, 100) == pytest.approx(0.9393, abs=2e-4)
    assert upper_share(1.0, 10) == pytest.approx(1.0)


def test_a_reply_that_the_trained_model_would_have_ended_is_a_fault(tiny_gguf: Path) -> None:
    exported = GgufModel(tiny_gguf)
    reply = Dialogue([2, 10, 11, 12], [IGNORED, 10, 11, 12])
    going_on = [(True, 0.1), (True, 0.2), (True, 0.3)]
    assert judge_replies([(reply, True)], [going_on], exported).holds
    level = judge_replies([(reply, False)], [going_on], exported)
    assert level.holds and "does not end the others either" in level.line
    level = judge_replies([(reply, True), (reply, False)], [going_on, [(True, 0.1), (False, 0.9), (True, 0.1)]], exported)
    assert level.holds is False and "ended one after 1 tokens" in level.line
    assert level.facts["replies"][1]["as_trained"] == 2


def test_greedy_replies_stop_at_the_end_of_the_turn(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = GgufModel(tiny_gguf, 64)
    reply, ended = exported.greedy([2, 1000, 1001], 5)
    assert len(reply) == 5 and not ended
    third = reply[2]
    monkeypatch.setattr(exported, "ends", lambda token: token == third)
    assert exported.greedy([2, 1000, 1001], 5) == (reply[: reply.index(third) + 1], True)
    assert levels.LONGEST_REPLY == 256
