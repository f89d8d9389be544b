"""Each example, run as its first lines say."""

from __future__ import annotations

import importlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from helpers import ROOT, counted
from kosent import build_chain
from kosent.llama_cpp_model import LlamaCppChat
from kosent.safety import CARD, NOTICE

EXAMPLES = ROOT / "examples"
pytestmark = pytest.mark.filterwarnings("error::DeprecationWarning:kosent")


def run(name: str, *arguments: str, **variables: str) -> str:
    command = [sys.executable, "-W", "error::DeprecationWarning:kosent", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_script(tiny_gguf: Path) -> None:
    out = run("script.py", "--model", str(tiny_gguf), KOSENT_MAX_TOKENS="6", KOSENT_TEMPERATURE="0")
    assert NOTICE["ko"] in out and "finish" not in out and "length" in out and "level='none'" in out


def test_the_chain_over_documents_cites_them(tiny_gguf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "일기"
    folder.mkdir()
    (folder / "봄.md").write_text("# 4월\n\n시험을 망친 날 바닷가까지 걸었다. 파도 소리가 좋았다.\n", encoding="utf-8")
    (folder / "여름.txt").write_text("수박을 여섯 통 먹었다.\n", encoding="utf-8")
    command = ["--model", str(tiny_gguf), "일기", str(folder), "시험을 망친 날 나는 어디까지 걸었지?"]
    out = run("rag_chain.py", *command, KOSENT_MAX_TOKENS="4")
    assert "2 added, 0 changed, 0 unchanged" in out
    place = re.search(r"\[참고 1\] (\S+) 4월 (\d+)-(\d+) ", out)
    assert (
        place
        and Path(place[1]).name == "봄.md"
        and int(place[3]) - int(place[2]) == len("시험을 망친 날 바닷가까지 걸었다. 파도 소리가 좋았다.")
    )
    assert "    시험을 망친 날 바닷가까지 걸었다." in out
    (folder / "여름.txt").unlink()
    again = run("rag_chain.py", *command, KOSENT_MAX_TOKENS="4")
    assert "0 added, 0 changed, 1 unchanged" in again and "수박" not in again


def test_the_langgraph_app_goes_on_where_it_was_left(tiny_gguf: Path, tmp_path: Path) -> None:
    file = tmp_path / "talk.sqlite"
    common = ["--model", str(tiny_gguf), "--file", str(file)]
    assert "(2 messages" in run("langgraph_app.py", *common, "--thread", "mina", "오늘 시험을 망쳤어요.", KOSENT_MAX_TOKENS="4")
    assert "(4 messages" in run("langgraph_app.py", *common, "--thread", "mina", "엄마한테 뭐라고 하죠?", KOSENT_MAX_TOKENS="4")
    assert "(2 messages" in run("langgraph_app.py", *common, "--thread", "juno", "안녕", KOSENT_MAX_TOKENS="4")
    assert file.stat().st_mode & 0o077 == 0


@contextmanager
def served(model: Path, **variables: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "fastapi_stream:app", "--port", str(port)]
    environment = os.environ | {"KOSENT_MODEL": str(model), "KOSENT_TEMPERATURE": "0"} | variables
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                with socket.create_connection(("127.0.0.1", port), 1):
                    break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/reply"
    finally:
        server.terminate()
        server.wait(20)


def asked(url: str, body: dict[str, Any]) -> urllib.request.Request:
    return urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})


def test_the_endpoint_streams(tiny_gguf: Path) -> None:
    with served(tiny_gguf, KOSENT_MAX_TOKENS="40") as url:
        with urllib.request.urlopen(asked(url, {"message": "죽고 싶어"}), timeout=60) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            first = response.readline() + response.readline()
            assert b"event: text" in first and json.loads(first.split(b"data: ")[1])["text"].startswith(CARD["ko"][:20])
        body = {"message": "안녕", "history": [{"role": "user", "content": "아"}, {"role": "assistant", "content": "네"}]}
        with urllib.request.urlopen(asked(url, body), timeout=60) as response:
            text = response.read().decode()
        events = re.findall(r"event: (\w+)\ndata: (.*)\n", text)
        end = json.loads(events[-1][1])
        assert [name for name, _ in events[:-1]] == ["text"] * (len(events) - 1) and events[-1][0] == "end"
        assert end["notice"] == NOTICE["ko"] and end["safety"] == "none"
        assert end["usage"]["output_tokens"] <= 40 and end["finish_reason"] in ("stop", "length")


def test_the_endpoint_says_what_is_wrong(tmp_path: Path) -> None:
    with served(tmp_path / "none.gguf") as url, urllib.request.urlopen(asked(url, {"message": "안녕"}), timeout=60) as response:
        text = response.read().decode()
    assert text.startswith("event: problem") and "none.gguf" in text


async def test_the_model_stops_when_the_reader_leaves(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("fastapi_stream")
    model = LlamaCppChat(path=str(tiny_gguf), temperature=0.0, max_tokens=1500)
    computed = counted(model)
    monkeypatch.setattr(example, "chain", lambda: build_chain(model, output="reply"))
    events = example.events(example.Request(message="안녕"))
    assert (await anext(events)).startswith("event: text")
    await events.aclose()
    assert (await model.ainvoke([HumanMessage("또")], max_tokens=3)).text
    assert len(computed) < 200, "1,500 tokens were not written to their end"
