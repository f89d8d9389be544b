"""Into a real Ollama: what `ollama run` says is what llama.cpp says of the same file, and the prompt has the same tokens."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from helpers import finetune_arguments
from kosent.cli import main
from kosent.errors import BackendError
from kosent.export import ollama_upload
from kosent.export.modelfile import GO_TEMPLATES, STOPS, ollama_settings
from kosent.files import sha256
from kosent.prompts import LAYOUTS, SYSTEM_MESSAGE

CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "오늘 회사에서 실수를 해서 너무 속상해요. ㅠㅠ"}],
    [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "  두 칸 뒤에 ㅋㅋㅋ 😢\n\nHow are you?  "}],
    [
        {"role": "user", "content": "안녕"},
        {"role": "assistant", "content": "안녕하세요. 오늘은 어떠세요?"},
        {"role": "user", "content": "Tell me a very short joke."},
        {"role": "assistant", "content": "Why did the chicken cross the road?"},
        {"role": "user", "content": "Why?"},
    ],
]
LONGEST = 48


@pytest.fixture(scope="module")
def smollm2_run(smollm2_base: Path, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 after one real step on four dialogues."""
    folder = tmp_path_factory.mktemp("smollm2-run")
    (folder / "data").mkdir()
    for split, count in (("train", 4), ("validation", 1), ("test", 1)):
        lines = (small_data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(finetune_arguments(folder / "data", folder / "run", smollm2_base, "--set", "training.epochs=1")) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def in_ollama(smollm2_run: Path, ollama: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run exported into the server as `tuned`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_HOST", ollama)
        patch.setenv("KOSENT_HOME", str(tmp_path_factory.mktemp("home")))
        assert main(["export", str(smollm2_run), "--quantization", "f16", "--ollama", "tuned"]) == 0
    return smollm2_run / "kosent-f16.gguf"


def ask(address: str, messages: list[dict[str, str]]) -> dict[str, Any]:
    options = {"temperature": 0, "num_predict": LONGEST, "num_thread": 1}  # the tests share the processors
    body = {"model": "tuned", "messages": messages, "stream": False, "options": options}
    request = urllib.request.Request(f"http://{address}/api/chat", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=300) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["english", "korean", "spaces", "three turns"])
def test_ollama_says_what_llama_cpp_says(messages: list[dict[str, str]], in_ollama: Path, ollama: str) -> None:
    """Until two tokens are nearly as probable, which rounding may decide: then the place and the distance are shown."""
    from llama_cpp import Llama

    from kosent.prompts import render

    llama = Llama(str(in_ollama), n_ctx=2048, logits_all=True, verbose=False)
    system = [] if messages[0]["role"] == "system" else [{"role": "system", "content": SYSTEM_MESSAGE}]
    text = render([*system, *messages], LAYOUTS["chatml"].template, LAYOUTS["chatml"], add_generation_prompt=True)
    prompt = llama.tokenize(text.encode(), add_bos=False, special=True)
    answer = ask(ollama, messages)
    assert answer["prompt_eval_count"] == len(prompt)
    expected, ids = "", list(prompt)
    llama.eval(prompt)
    while len(ids) - len(prompt) < LONGEST:
        logits = llama.scores[len(ids) - 1]
        best, second = logits.argsort()[::-1][:2]
        if best == llama.token_eos():
            assert answer["done_reason"] == "stop"
            break
        ids.append(int(best))
        expected = llama.detokenize(ids[len(prompt) :]).decode(errors="ignore")
        if not answer["message"]["content"].startswith(expected):
            gap = float(logits[best] - logits[second])
            print(f"after {len(ids) - len(prompt) - 1} tokens the best two are {gap:.4f} apart: {expected!r}")
            assert gap < 0.1
            return
        llama.eval([int(best)])
    assert answer["message"]["content"].strip() == expected.strip()


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_go_template_writes_what_the_jinja_one_writes(name: str, in_ollama: Path, ollama: str) -> None:
    """As many tokens, with and without a system message, with the markers as plain text where SmolLM2 does not know them."""
    from llama_cpp import Llama
    from ollama import Client

    from kosent.prompts import render

    layout = LAYOUTS[name]
    llama = Llama(str(in_ollama), vocab_only=True, verbose=False)
    client = Client(host=f"http://{ollama}", timeout=300)
    client.create(f"layout-{name}", files={"model.gguf": f"sha256:{sha256(in_ollama)}"}, template=GO_TEMPLATES[name])
    for messages in CONVERSATIONS[2:]:
        answer = client.chat(f"layout-{name}", messages=messages, options={"num_predict": 1, "num_thread": 1})
        text = render(messages, layout.template, layout, add_generation_prompt=True)
        assert answer.prompt_eval_count == len(llama.tokenize(text.encode(), add_bos=False, special=True)), text


def test_what_ollama_has_is_not_sent_again(in_ollama: Path, ollama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama)
    monkeypatch.setattr(ollama_upload, "_pieces", lambda file, advance: pytest.fail("sent again"))
    ollama_upload.upload(in_ollama, f"sha256:{sha256(in_ollama)}", lambda done, note: None)


def test_a_name_that_is_taken_is_refused_and_replaced(
    in_ollama: Path, smollm2_run: Path, ollama: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama)
    output = str(smollm2_run / "other.gguf")
    assert main(["export", str(smollm2_run), "--output", output, "--ollama", "tuned"]) == 2
    assert "has a model 'tuned' already" in capsys.readouterr().err
    assert main(["export", str(smollm2_run), "--output", output, "--ollama", "Tuned:LATEST"]) == 2  # the same to Ollama
    assert main(["export", str(smollm2_run), "--output", output, "--ollama", "내 모델"]) == 2
    assert "takes no model name like" in capsys.readouterr().err
    assert not (smollm2_run / "other.gguf").exists()
    assert main(["export", str(smollm2_run), "--output", output, "--ollama", "tuned", "--replace"]) == 0
    assert "ollama run tuned" in capsys.readouterr().out


def test_an_ollama_that_is_down_is_said_before_anything_is_written(
    smollm2_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "model.gguf"
    assert main(["export", str(smollm2_run), "--output", str(target), "--ollama", "kosent"]) == 5
    assert "Try: ollama serve" in capsys.readouterr().err
    assert not target.exists()


def test_a_broken_upload_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_upload.time, "sleep", lambda seconds: None)
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    notes: list[str] = []
    with pytest.raises(BackendError, match="broke 3 times"):
        ollama_upload.upload(file, "sha256:0", lambda done, note: notes.append(note))
    assert [note for note in notes if "trying again" in note] == [
        "connection lost, trying again (2 of 3)",
        "connection lost, trying again (3 of 3)",
    ]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_has_a_template_and_its_stops(name: str) -> None:
    layout = LAYOUTS[name]
    assert layout.end_of_turn in STOPS[name]
    assert layout.end_of_turn in GO_TEMPLATES[name]
    text = ollama_settings(layout, SYSTEM_MESSAGE).modelfile("./kosent-q8_0.gguf")
    assert text.startswith('FROM ./kosent-q8_0.gguf\nTEMPLATE """')
    assert "PARAMETER repeat_penalty 1.0\n" in text
    assert f'PARAMETER stop "{layout.end_of_turn}"\n' in text
    assert f'SYSTEM """{SYSTEM_MESSAGE}"""\n' in text
