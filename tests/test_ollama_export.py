"""Into a real Ollama: what `ollama run` says is what llama.cpp says of the same file, and the prompt has the same tokens."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pty
import re
import select
import signal
import socket
import socketserver
import struct
import termios
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from ollama import Client

from bases import random_base
from helpers import finetune_arguments, ollama_program
from kosent.cli import main
from kosent.errors import BackendError, VerificationError
from kosent.export import levels, modelfile, ollama_check, ollama_upload, verify
from kosent.export.conversations import questions
from kosent.export.export import into_ollama
from kosent.export.gguf_model import GgufModel
from kosent.export.gguf_writer import Export
from kosent.export.modelfile import GO_TEMPLATES, STOPS, ollama_settings
from kosent.export.verification import Verification
from kosent.files import read_json, read_jsonl, sha256, write_jsonl
from kosent.prompts import LAYOUTS, SYSTEM_MESSAGE, render
from kosent.run_directory import RunDirectory

CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "  두 칸 뒤에 ㅋㅋㅋ 😢\n\nHow are you?  "}],
    [
        {"role": "user", "content": "안녕"},
        {"role": "assistant", "content": "안녕하세요. 오늘은 어떠세요?"},
        {"role": "user", "content": "Tell me a very short joke."},
        {"role": "assistant", "content": "Why did the chicken cross the road?"},
        {"role": "user", "content": "Why?"},
    ],
]
OPTIONS = {"temperature": 0, "num_thread": 1}
"""The tests share the processors."""


@pytest.fixture(scope="module")
def smollm2_run(smollm2_base: Path, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 after one real step on the first reply of a dialogue."""
    folder = tmp_path_factory.mktemp("smollm2-run")
    for split in ("train", "validation", "test"):
        messages = read_jsonl(small_data / f"{split}.jsonl")[0]["messages"]
        write_jsonl(folder / "data" / f"{split}.jsonl", [{"messages": messages[:3]}])
    assert main(finetune_arguments(folder / "data", folder / "run", smollm2_base, "--set", "training.epochs=1")) == 0
    return folder / "run"


def one_thread(*arguments: Any, **more: Any) -> modelfile.OllamaSettings:
    settings = ollama_settings(*arguments, **more)
    return dataclasses.replace(settings, parameters=settings.parameters | {"num_thread": 1})


def compare_little(patch: pytest.MonkeyPatch) -> None:
    """Of the file and the trained model: one short reply."""
    patch.setattr(levels, "LONGEST_REPLY", 16)
    patch.setattr(verify, "questions", lambda system: questions(system)[:1])


@pytest.fixture(scope="module")
def in_ollama(smollm2_run: Path, ollama: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run exported into the server as `tuned`; in 8 bits, which an Ollama built for any processor computes fast enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_HOST", ollama)
        patch.setattr(modelfile, "ollama_settings", one_thread)
        patch.setattr(ollama_upload, "ask", lambda name: "")  # it is asked when `tuned` is replaced
        compare_little(patch)
        patch.setenv("KOSENT_HOME", str(tmp_path_factory.mktemp("home")))
        assert main(["export", str(smollm2_run), "--ollama", "tuned"]) == 0
    return smollm2_run / "kosent-q8_0.gguf"


@pytest.fixture(scope="module")
def random_gguf(smollm2_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of random weights with SmolLM2's tokenizer, for prompts whose tokens are counted and that need no answer."""
    folder = tmp_path_factory.mktemp("random")
    layout = LAYOUTS["chatml"]
    with Export(random_base("llama31", smollm2_base, folder / "base"), None, layout.template, layout) as export:
        export.write(folder / "model.gguf", "f16")
    return folder / "model.gguf"


def test_the_export_has_compared_ollama_with_llama_cpp(in_ollama: Path, ollama: str) -> None:
    """Prompts of all kinds have as many tokens there, and one turn and three turns of Korean get the same greedy text."""
    report = read_json(in_ollama.with_suffix(".verification.json"))
    assert report["holds"] and report["tokens"]["status"] == report["distribution"]["status"] == "holds"
    assert report["ollama"]["status"] == "holds" and report["ollama"]["different"] == [] and report["ollama"]["prompts"] == 12
    print([reply for reply in report["ollama"]["replies"] if "gap" in reply])
    assert [bool(reply["text"]) for reply in report["ollama"]["replies"]] == [True, True]
    there = [model.model for model in Client(host=f"http://{ollama}").list().models]
    assert "tuned:latest" in there and "tuned-unverified:latest" not in there


def test_sixteen_bits_say_what_was_trained(smollm2_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare_little(monkeypatch)
    assert main(["export", str(smollm2_run), "--quantization", "f16"]) == 0
    report = read_json(smollm2_run / "kosent-f16.verification.json")
    assert report["holds"] and report["tokens"]["status"] == report["distribution"]["status"] == "holds"
    assert report["distribution"]["divergence"] < 1e-4


def test_a_turn_marker_that_somebody_types_is_text(in_ollama: Path, ollama: str) -> None:
    """Under `ollama run` too, which knows nothing of KoSent: with a control token the second message would have fewer tokens."""
    client = Client(host=f"http://{ollama}", timeout=300)
    counts = [
        client.chat("tuned", messages=[{"role": "user", "content": text}], options=OPTIONS | {"num_predict": 1}).prompt_eval_count
        for text in ("a< |im_end|>b", "a<|im_end|>b")
    ]
    assert counts[0] == counts[1] and counts[0] > 20


def test_another_template_in_ollama_is_found_before_the_model_has_its_name(
    random_gguf: Path, smollm2_run: Path, ollama: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama)
    monkeypatch.setattr(ollama_check, "OPTIONS", OPTIONS)
    monkeypatch.setattr(ollama_check, "TEXTS", ollama_check.TEXTS[:1])
    monkeypatch.setattr(ollama_check, "LONGEST", 4)
    right = ollama_settings(LAYOUTS["chatml"], SYSTEM_MESSAGE)
    wrong = dataclasses.replace(right, template=right.template.replace("assistant\n", "model\n\n"))
    with pytest.raises(VerificationError, match="wrong-unverified:q8"):
        into_ollama(RunDirectory.open(smollm2_run), random_gguf, "wrong:q8", wrong, Verification({}, []))
    there = [model.model for model in Client(host=f"http://{ollama}").list().models]
    assert "wrong-unverified:q8" in there and "wrong:q8" not in there
    report = read_json(random_gguf.with_suffix(".verification.json"))
    assert report["ollama"]["status"] == "fails" and report["ollama"]["different"][0]["message"] == ollama_check.TEXTS[0]
    assert "instead of" in capsys.readouterr().out


def test_ollama_run_in_a_terminal_says_what_llama_cpp_says(in_ollama: Path, ollama: str, tmp_path: Path) -> None:
    """Typed as a user types; greedy by /set, and with one thread, because the tests share the processors."""
    question = "What is the capital of France?"
    exported = GgufModel(in_ollama, 512)
    system = {"role": "system", "content": SYSTEM_MESSAGE}
    reply, _ = exported.greedy(exported.prompt([system, {"role": "user", "content": question}]), 12)
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(OLLAMA_HOST=ollama, HOME=str(tmp_path), TERM="xterm", COLUMNS="200")
        os.execv(ollama_program(), ["ollama", "run", "tuned"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    settings = ["/set parameter temperature 0", "/set parameter num_predict 12", "/set parameter num_thread 1"]
    shown = ""
    try:
        for line in [*settings, question, "/bye"]:
            shown = read_until(terminal, "Send a message")
            os.write(terminal, f"{line}\r".encode())
            if line == question:
                shown = read_until(terminal, "Send a message")
                os.write(terminal, b"/bye\r")
                break
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        os.close(terminal)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "")
    assert exported.text(reply).strip() in " ".join(plain.split()), plain


def read_until(terminal: int, wanted: str) -> str:
    """What a terminal shows until `wanted`, for at most two minutes."""
    shown = b""
    until = time.monotonic() + 120
    while wanted not in shown.decode(errors="ignore"):
        assert time.monotonic() < until, shown.decode(errors="replace")
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 65536)
    return shown.decode(errors="replace")


@pytest.mark.parametrize("name", ["gemma", "llama3"])  # the export has compared chatml
def test_every_go_template_writes_what_the_jinja_one_writes(
    name: str, random_gguf: Path, ollama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many tokens, with and without a system message, with the markers as plain text where SmolLM2 does not know them."""
    from llama_cpp import Llama

    monkeypatch.setenv("OLLAMA_HOST", ollama)
    layout, digest = LAYOUTS[name], f"sha256:{sha256(random_gguf)}"
    llama = Llama(str(random_gguf), vocab_only=True, verbose=False)
    client = Client(host=f"http://{ollama}", timeout=300)
    ollama_upload.upload(random_gguf, digest, lambda done, note: None)
    client.create(f"layout-{name}", files={"model.gguf": digest}, template=GO_TEMPLATES[name])
    for messages in CONVERSATIONS:
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
    monkeypatch.setattr(modelfile, "ollama_settings", one_thread)
    output = str(smollm2_run / "other.gguf")
    assert main(["export", str(smollm2_run), "--output", output, "--ollama", "tuned"]) == 2
    assert "has a model 'tuned' already" in capsys.readouterr().err
    assert main(["export", str(smollm2_run), "--output", output, "--ollama", "Tuned:LATEST"]) == 2  # the same to Ollama
    assert main(["export", str(smollm2_run), "--output", output, "--ollama", "내 모델"]) == 2
    assert "takes no model name like" in capsys.readouterr().err
    assert not (smollm2_run / "other.gguf").exists()
    assert main(["export", str(smollm2_run), "--output", output, "--no-verify", "--ollama", "tuned", "--replace"]) == 0
    assert "ollama run tuned" in capsys.readouterr().out


def test_an_ollama_that_is_down_is_said_before_anything_is_written(
    smollm2_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "model.gguf"
    assert main(["export", str(smollm2_run), "--output", str(target), "--ollama", "kosent"]) == 5
    assert "Try: ollama serve" in capsys.readouterr().err
    assert not target.exists()


class Unreliable(socketserver.BaseRequestHandler):
    """Passes everything on to Ollama, but breaks the first upload off after a few hundred kilobytes."""

    address: tuple[str, int]
    uploads = 0

    def handle(self) -> None:
        with socket.create_connection(self.address) as server:
            threading.Thread(target=self.pass_back, args=(server,), daemon=True).start()
            sent = 0
            while data := self.request.recv(65536):
                Unreliable.uploads += data.startswith(b"POST /api/blobs/")
                sent += len(data)
                if Unreliable.uploads == 1 and sent > 500_000:
                    self.request.shutdown(socket.SHUT_RDWR)
                    return
                server.sendall(data)

    def pass_back(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                self.request.sendall(data)


def test_a_connection_that_breaks_in_the_middle_is_made_again(
    ollama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = ollama.split(":")
    Unreliable.address = (host, int(port))
    file = tmp_path / "blob"
    file.write_bytes(os.urandom(3_000_000))
    notes: list[str] = []
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Unreliable) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{proxy.server_address[1]}")
        ollama_upload.upload(file, f"sha256:{sha256(file)}", lambda done, note: notes.append(note))
        proxy.shutdown()
    assert Unreliable.uploads == 2
    assert [note for note in notes if note] == ["connection lost, trying again (2 of 3)"]
    assert httpx.head(f"http://{ollama}/api/blobs/sha256:{sha256(file)}", trust_env=False).status_code == 200


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
