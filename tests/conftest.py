"""Shared real parts, as small as they come.

`starter_base` is the real Gemma 3 270M. `tiny_base` has its tokenizer and vocabulary and a two-layer model of 64 dimensions,
so that everything from training to llama.cpp runs for real in seconds. `home` gives every test a KOSENT_HOME of its own.
"""

from __future__ import annotations

import csv
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import ROOT, finetune_arguments, ollama_program
from kosent.cli import main
from kosent.conversations import ConversationStore
from kosent.files import read_json, write_json
from kosent.starter import GGUF_TOKENIZER, build_base, corpus_path

CACHE = ROOT / ".cache"

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share the cores (pyproject.toml, -n 2)
os.environ.setdefault("HF_HUB_OFFLINE", "1")


LONGEST = (
    "test_training_kinds", "test_ollama_export", "test_sweep", "test_demo", "test_ollama", "test_training", "test_evaluation",
    "test_hub", "test_export_faults", "test_verification", "test_benchmarks", "test_export",
)  # fmt: skip
"""Files that take a minute or more: they come first, so that neither test process is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    for name in [name for name in os.environ if name.startswith("KOSENT_") and not name.startswith("KOSENT_TEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KOSENT_HOME", str(folder))
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")  # nothing listens there
    return folder


@pytest.fixture
def store(home: Path) -> Iterator[ConversationStore]:
    opened = ConversationStore()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def starter_base() -> Path:
    """The real starter base, built once and kept for later sessions; the test processes wait for the one that builds it."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "starter.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build_base(CACHE / "gemma-3-270m")


@pytest.fixture(scope="session")
def starter_gguf() -> Path:
    """The GGUF of the starter base as its packages carry it, with a chat template; made once and kept."""
    from bases import starter_with_template

    CACHE.mkdir(exist_ok=True)
    with (CACHE / "starter.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return starter_with_template(CACHE / "starter-chat.gguf")


@pytest.fixture(scope="session")
def tiny_base(starter_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3 of two layers, random but for the scale of its embedding: it leans towards saying the last token again."""
    import torch
    from transformers import AutoConfig, Gemma3ForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    config = AutoConfig.from_pretrained(starter_base)
    config.update(
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32, "query_pre_attn_scalar": 32,
         "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 32,
         "layer_types": ["sliding_attention", "sliding_attention"]}
    )  # fmt: skip
    torch.manual_seed(7)
    model = Gemma3ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0.0, 0.3)
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", GGUF_TOKENIZER):
        shutil.copy(starter_base / name, folder / name)
    stored = read_json(folder / "config.json")
    write_json(folder / "config.json", read_json(starter_base / "config.json") | stored)
    return folder


@pytest.fixture(scope="session")
def smollm2_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real SmolLM2 135M Instruct."""
    from bases import smollm2

    return smollm2(tmp_path_factory.mktemp("smollm2") / "base")


@pytest.fixture
def tiny_home(home: Path, tiny_base: Path) -> Path:
    """A KOSENT_HOME whose starter base is the tiny one."""
    (home / "models").mkdir(parents=True)
    (home / "models" / "gemma-3-270m").symlink_to(tiny_base)
    return home


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 18 dialogues of the starter corpus, in its own form: 15 to train on, 1 to validate with, 2 held out."""
    target = tmp_path_factory.mktemp("corpus") / "small.csv"
    with corpus_path().open(encoding="cp949", newline="") as file:
        rows = list(csv.reader(file))
    with target.open("w", encoding="cp949", newline="") as file:
        csv.writer(file).writerows(rows[:19])
    return target


@pytest.fixture(scope="session")
def small_data(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "data"
    assert main(["prepare", str(small_corpus), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def tiny_run(tiny_base: Path, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the tiny base, trained in this process."""
    folder = tmp_path_factory.mktemp("run") / "run"
    assert main(finetune_arguments(small_data, folder, tiny_base)) == 0
    return folder


@pytest.fixture(scope="session")
def tiny_gguf(tiny_run: Path) -> Iterator[Path]:
    """The run exported, and verified on replies of a few tokens: they say enough, and the tiny model never ends one."""
    from kosent.export import levels

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KOSENT_HOME", str(tiny_run.parent / "home"))
        patch.setattr(levels, "LONGEST_REPLY", 16)
        assert main(["export", str(tiny_run)]) == 0
    yield tiny_run / "kosent-q8_0.gguf"


@pytest.fixture
def kosent() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `kosent` in a process of its own."""

    def call(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kosent", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload, no-any-return]

    return call


@pytest.fixture(scope="session")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Ollama on a free port with SmolLM2 135M as the model `smol`; yields its address."""
    from bases import smollm2_gguf

    program = ollama_program()
    if not program:
        pytest.skip("no Ollama: set KOSENT_TEST_OLLAMA or put `ollama` on PATH")
    folder = tmp_path_factory.mktemp("ollama")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = os.environ | {"OLLAMA_HOST": address, "OLLAMA_MODELS": str(folder / "models"), "HOME": str(folder)}
    server = subprocess.Popen([program, "serve"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://{address}/api/version", timeout=1).read()
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.2)
        (folder / "Modelfile").write_text(
            f"FROM {smollm2_gguf()}\n"
            'TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}'
            '<|im_start|>assistant\n"""\n'
            'PARAMETER stop "<|im_end|>"\n'
            "PARAMETER num_thread 1\n",  # two of them would wait for each other beside another test process
            encoding="utf-8",
        )
        command = [program, "create", "smol", "-f", str(folder / "Modelfile")]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
        yield address
    finally:
        server.terminate()
        server.wait(20)
