"""Bases from a model hub, in 4 bits, without weights, and away from where they were trained on.

The hub is `hub.Hub`, on this machine. huggingface_hub reads its settings on import, so what talks to it runs in a process of
its own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hub import MEMBER, NARROW, STRANGER, Hub
from kosent import extras, hf
from kosent.cli import main
from kosent.errors import MissingExtraError, ModelError
from kosent.files import read_json, sha256, write_json
from kosent.hub import weight_files
from kosent.prompts import LAYOUTS
from kosent.run_directory import RunDirectory

SMALL = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "gguf_tokenizer.json"}


@pytest.fixture(scope="module")
def folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base with what real repositories hold besides: a card and weights of other kinds."""
    target = tmp_path_factory.mktemp("repository") / "base"
    shutil.copytree(tiny_base, target)
    for name in ("README.md", "pytorch_model.bin", "consolidated.safetensors", "model.fp16.safetensors"):
        (target / name).write_text("not for us", encoding="utf-8")
    return target


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    with Hub() as site:
        site.add("org/open", folder)
        site.add("org/gated", folder, gated=True)
        yield site


@pytest.fixture
def ask(hub: Hub, tmp_path: Path) -> Callable[..., Any]:
    """Evaluates an expression over `hf` and `name` in a process that uses the hub; its value, or (message, hint)."""

    def call(expression: str, name: str, *, cache: str = "cache", token: str = "", **more: str) -> Any:
        script = (
            "import json, sys\nfrom pathlib import Path\nfrom kosent import hf\nfrom kosent.errors import ModelError\n"
            "name = sys.argv[1]\n"
            f"try:\n    print(json.dumps({expression}))\n"
            "except ModelError as error:\n    print(json.dumps([str(error), error.hint]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, name],
            env=hub.environment(tmp_path / cache, token) | more,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        for secret in (MEMBER, STRANGER, NARROW, "hf_wrong"):
            assert secret not in done.stdout + done.stderr
        return json.loads(done.stdout)

    return call


def test_a_dry_run_downloads_no_weights_and_a_load_the_rest(hub: Hub, ask: Callable[..., Any], tiny_base: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in tiny_base.iterdir()}
    assert set(sizes) == SMALL | {"model.safetensors"}
    assert ask("hf.downloads(name)", "org/open") == sizes
    assert hub.downloaded() == []
    tokens, empty, left, hashed = ask(
        "[len(hf.load_tokenizer(name)), hf.empty_model(name).num_parameters(), hf.downloads(name), list(hf.base_hashes(name))]",
        "org/open",
    )
    assert set(hub.downloaded()) == SMALL
    assert left == {"model.safetensors": sizes["model.safetensors"]} and hashed == ["config.json", "tokenizer.json"]
    loaded, left, facts = ask(
        """[hf.load_model(name, dtype="bfloat16").num_parameters(), hf.downloads(name), hf.base_facts(name, Path("run"))]""",
        "org/open",
    )
    assert set(hub.downloaded()) == set(sizes) and left == {}
    assert empty == loaded and tokens == 262144
    (commit,) = hub.repositories["org/open"].commits
    assert facts == {"name": "org/open", "revision": commit, "sha256": hf.base_hashes(str(tiny_base))}


def test_what_is_cached_needs_no_network(hub: Hub, ask: Callable[..., Any]) -> None:
    load = """hf.load_model(name, dtype="bfloat16").num_parameters()"""
    parameters = ask(load, "org/open")
    hub.requests.clear()
    (commit,) = hub.repositories["org/open"].commits
    assert ask(load, f"org/open@{commit}") == parameters
    assert hub.requests == []
    hub.down = True
    for reason in ({}, {"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        assert ask("[hf.downloads(name), len(hf.base_hashes(hf.resolve_base(name)))]", "org/open", **reason) == [{}, 3]


def test_a_cache_filled_by_transformers_alone_is_used(hub: Hub, ask: Callable[..., Any], tmp_path: Path) -> None:
    script = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "AutoTokenizer.from_pretrained('org/gated'), AutoModelForCausalLM.from_pretrained('org/gated')"
    )
    environment = hub.environment(tmp_path / "cache", MEMBER)
    subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True, timeout=120)
    assert "model.safetensors" in hub.downloaded()
    whole = "[hf.downloads(name), len(hf.base_hashes(hf.resolve_base(name)))]"
    assert ask(whole, "org/gated", HF_HUB_OFFLINE="1") == [{}, 3]


def test_the_weights_that_a_broken_download_left_out_are_asked_for(hub: Hub, ask: Callable[..., Any], tmp_path: Path) -> None:
    assert ask("len(hf.base_hashes(name))", "org/open") == 2
    message, hint = ask("""hf.load_model(name, dtype="bfloat16")""", "org/open", HF_HUB_OFFLINE="1")
    assert "not whole in the cache" in message and "unset HF_HUB_OFFLINE" in hint


@pytest.mark.parametrize(
    ("token", "message", "hint"),
    [
        ("", "nobody is logged in", "hf auth login"),
        (STRANGER, "your account has no access", "ask for access on https://huggingface.co/org/gated, then try again"),
        (NARROW, "fine-grained token settings", "https://huggingface.co/settings/tokens"),
        ("hf_wrong", "does not accept the token in HF_TOKEN", "unset HF_TOKEN"),
    ],
)
def test_a_gated_base_without_access_says_what_to_do(
    token: str, message: str, hint: str, hub: Hub, ask: Callable[..., Any]
) -> None:
    for expression in ("hf.downloads(name)", "hf.resolve_base(name)"):
        found = ask(expression, "org/gated", token=token)
        assert found[0].startswith("org/gated") and message in found[0] and hint in found[1]
    assert hub.downloaded() == []


def test_a_gated_base_with_access_loads(hub: Hub, ask: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "stored").mkdir()
    for stored in (MEMBER, "hf_wrong"):
        (tmp_path / "stored" / "token").write_text(stored, encoding="utf-8")  # what `hf auth login` writes
        found = ask("len(hf.base_hashes(hf.resolve_base(name)))", "org/gated", cache="stored")
        if stored == MEMBER:
            assert found == 3
    assert found == ["org/gated: the hub does not accept the token that is stored here.", "hf auth login"]
    assert ask("hf.empty_model(name).config.model_type", "org/gated", token=MEMBER, cache="other") == "gemma3_text"


@pytest.mark.parametrize(
    ("name", "settings", "message", "hint"),
    [
        ("org/none", {}, "no model org/none on the hub", "https://huggingface.co/models"),
        ("org/none", {"HF_TOKEN": STRANGER}, "no model org/none on the hub", "https://huggingface.co/models"),
        ("org/open@v9", {}, "no revision 'v9'", "https://huggingface.co/org/open/commits/main"),
        ("nowhere/at/all", {}, "There is no folder nowhere/at/all", "name a folder, ORG/NAME or `starter`"),
        ("/nowhere", {}, "There is no folder /nowhere", "name a folder, ORG/NAME or `starter`"),
        ("org/open", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE=1 forbids", "unset HF_HUB_OFFLINE"),
        ("org/open", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "(http://127.0.0.1:9) cannot be reached", "look at the network"),
    ],
)
def test_a_base_that_is_not_to_be_had_says_what_to_do(
    name: str, settings: dict[str, str], message: str, hint: str, ask: Callable[..., Any]
) -> None:
    found = ask("hf.downloads(name)", name, **settings)
    assert name.partition("@")[0] in found[0] and message in found[0] and hint in found[1]


def test_a_hub_that_is_down_says_so(hub: Hub, ask: Callable[..., Any]) -> None:
    hub.down = True
    message, hint = ask("hf.downloads(name)", "org/open")
    assert "the hub answers 503" in message and hint == "try again later"


def test_pickled_weights_are_not_taken(hub: Hub, ask: Callable[..., Any], tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    hub.add("org/pickled", tmp_path / "pickled")
    assert "has no safetensors weights" in ask("hf.downloads(name)", "org/pickled")[0]


def test_shards_are_one_base(hub: Hub, ask: Callable[..., Any], tmp_path: Path, tiny_base: Path) -> None:
    sharded = tmp_path / "sharded"
    shutil.copytree(tiny_base, sharded, ignore=shutil.ignore_patterns("*.safetensors"))
    model = hf.load_model(str(tiny_base), dtype="bfloat16")
    model.save_pretrained(sharded, max_shard_size="100KB")
    shards = {path.name for path in weight_files(sharded)}
    assert len(shards) > 1 and shards == {path.name for path in sharded.glob("*.safetensors")}
    hub.add("org/shards", sharded)
    hashes, total = ask(
        """[hf.load_model(name, dtype="bfloat16") and hf.base_hashes(name),
            float(hf.load_model(name, dtype="float32").get_input_embeddings().weight.detach().sum())]""",
        "org/shards",
    )
    assert hashes == {name: sha256(sharded / name) for name in sorted({*shards, "config.json", "tokenizer.json"})}
    assert total == pytest.approx(float(model.get_input_embeddings().weight.detach().float().sum()), rel=1e-5)


def test_a_run_keeps_to_the_commit_that_it_was_trained_on(
    hub: Hub, ask: Callable[..., Any], tmp_path: Path, tiny_base: Path, tiny_run: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("*.gguf"))
    facts = ask("[hf.resolve_base(name), hf.base_facts(name, Path('run'))][1]", "org/open")
    trained = RunDirectory.open(run).with_base(facts)
    changed = tmp_path / "changed"
    shutil.copytree(tiny_base, changed)
    write_json(changed / "config.json", read_json(tiny_base / "config.json") | {"rope_theta": 1234.0})
    newer = hub.add("org/open", changed)
    assert trained.base == f"org/open@{facts['revision']}" != f"org/open@{newer}"
    assert ask("hf.base_facts(name, Path('run'))", "org/open", cache="another")["revision"] == newer
    assert ask("[hf.resolve_base(name), hf.base_facts(name, Path('run'))][1]", trained.base, cache="another") == facts
    assert ask("hf.load_for_inference(name).layout.name", str(run)) == "gemma"

    export = [sys.executable, "-m", "kosent", "export", str(run), "--no-verify"]
    offline = hub.environment(tmp_path / "cache") | {"HF_HUB_OFFLINE": "1", "KOSENT_HOME": str(tmp_path / "home")}
    done = subprocess.run(export, env=offline, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (run / "kosent-q8_0.gguf").stat().st_size > 10_000_000


def test_a_base_folder_moves_with_its_run(tiny_run: Path, tiny_base: Path, tmp_path: Path) -> None:
    before, after = tmp_path / "rented" / "work", tmp_path / "home"
    shutil.copytree(tiny_run, before / "runs" / "one")
    shutil.copytree(tiny_base, before / "models" / "tiny")
    facts = hf.base_facts(str(before / "models" / "tiny"), before / "runs" / "one")
    assert facts == {"name": "../../models/tiny", "revision": "", "sha256": hf.base_hashes(str(tiny_base))}
    RunDirectory.open(before / "runs" / "one").with_base(facts)
    before.rename(after)
    run = RunDirectory.open(after / "runs" / "one")
    assert run.base == str(after.resolve() / "models" / "tiny")
    assert hf.base_facts(run.base, run.path) == facts
    (run.path / "base").symlink_to(tiny_base)
    inside = run.with_base(hf.base_facts(str(run.path / "base"), run.path))
    assert inside.facts["base"]["name"] == "./base" and inside.base == str(tiny_base.resolve())


def test_a_base_that_stayed_behind_is_named_again(
    tiny_run: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("*.gguf"))
    facts = hf.base_facts(str(tiny_base), tiny_run)
    RunDirectory.open(run).with_base(facts | {"name": "../elsewhere/tiny"})
    with pytest.raises(ModelError, match="a folder tiny") as refused:
        hf.load_for_inference(str(run))
    assert f"kosent export {run} --base FOLDER" in str(refused.value.hint)
    assert main(["export", str(run)]) == 5

    other = tmp_path / "other"
    shutil.copytree(tiny_base, other)
    write_json(other / "config.json", read_json(tiny_base / "config.json") | {"rope_theta": 1234.0})
    recorded = (run / "run.json").read_bytes()
    assert main(["export", str(run), "--base", str(other)]) == 2
    assert "other files: config.json." in capsys.readouterr().err
    assert main(["export", str(run), "--base", str(tmp_path / "none")]) == 2
    assert (run / "run.json").read_bytes() == recorded and not list(run.glob("*.gguf"))

    here = tmp_path / "here"
    shutil.copytree(tiny_base, here)
    assert main(["export", str(run), "--base", str(here), "--no-verify"]) == 0
    assert RunDirectory.open(run).facts["base"] == facts | {"name": "../here"}
    assert str(tmp_path) not in (run / "run.json").read_text(encoding="utf-8")
    assert main(["export", str(run), "--no-verify"]) == 0


@pytest.mark.parametrize("typed", ["starter", "org/name", "models/relative", "ABSOLUTE"])
def test_runs_that_recorded_the_name_as_it_was_typed_still_open(typed: str, tiny_run: Path, tiny_base: Path) -> None:
    name = str(tiny_base) if typed == "ABSOLUTE" else typed
    assert RunDirectory(tiny_run, {"base": {"name": name, "sha256": {}}}).base == name


def test_four_bits_say_nearly_the_same(tiny_base: Path) -> None:
    import torch
    from bitsandbytes.nn import Linear4bit

    tokenizer = hf.load_tokenizer(str(tiny_base))
    ids = tokenizer("오늘 너무 힘들었어요. 위로해 주세요.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        whole = hf.load_model(str(tiny_base), dtype="float32").eval()(input_ids=ids).logits[0]
        for dtype, compute in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            model = hf.load_model(str(tiny_base), dtype=dtype, quantization="nf4").eval()
            layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
            assert len(layers) == 14 and all(layer.weight.dtype == torch.uint8 for layer in layers)
            assert all(layer.weight.quant_type == "nf4" and layer.weight.quant_state.nested for layer in layers)
            assert {layer.compute_dtype for layer in layers} == {compute}
            logits = model(input_ids=ids).logits[0].float()
            assert torch.isfinite(logits).all()
            assert not torch.allclose(logits, whole, atol=1e-3)
            assert torch.cosine_similarity(logits, whole, dim=1).min() > 0.97


def test_four_bits_need_their_extra(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.MODULES, "qlora", ("no_such_module",))
    with pytest.raises(MissingExtraError) as refused:
        hf.load_model(str(tiny_base), dtype="float32", quantization="nf4")
    assert refused.value.hint == "pip install 'kosent[qlora]'"
    with pytest.raises(ModelError, match="int3"):
        hf.load_model(str(tiny_base), dtype="float32", quantization="int3")


def test_an_empty_model_has_every_parameter_and_no_weights(tiny_base: Path) -> None:
    empty = hf.empty_model(str(tiny_base))
    shapes = {name: parameter.shape for name, parameter in empty.named_parameters()}
    assert shapes == {name: p.shape for name, p in hf.load_model(str(tiny_base), dtype="bfloat16").named_parameters()}
    assert all(parameter.is_meta for parameter in empty.parameters())


def test_turn_tokens_that_the_base_never_learned_are_found(tiny_base: Path) -> None:
    import torch

    layout = LAYOUTS["gemma"]
    tokenizer = hf.load_tokenizer(str(tiny_base))
    vocabulary = tokenizer.get_vocab()
    opening, end = vocabulary["<start_of_turn>"], vocabulary["<end_of_turn>"]
    model = hf.load_model(str(tiny_base), dtype="bfloat16")
    weight = model.get_input_embeddings().weight.data
    original = weight.clone()

    def found(*changes: tuple[int, torch.Tensor]) -> list[str]:
        weight.copy_(original)
        for row, values in changes:
            weight[row] = values
        return hf.untrained_turn_tokens(model, tokenizer, layout)

    assert found() == []
    assert found((opening, torch.zeros(64))) == ["<start_of_turn>"]
    assert found((end, original[end] * 0.05)) == ["<end_of_turn>"]
    assert found((end, original[end] * 0.3)) == []
    assert found((opening, original[vocabulary["<unused3>"]])) == ["<start_of_turn>"]
    assert found((opening, original[end])) == ["<start_of_turn>", "<end_of_turn>"]
    assert found((opening, original[vocabulary["안"]])) == []  # a copy of a word is no reserved row
    assert found((vocabulary["<eos>"], torch.zeros(64))) == []  # not written by the layout


def test_the_starter_base_knows_its_turn_tokens(starter_base: Path) -> None:
    model = hf.load_model(str(starter_base), dtype="bfloat16")
    assert hf.untrained_turn_tokens(model, hf.load_tokenizer(str(starter_base)), LAYOUTS["gemma"]) == []
