"""Evaluating models behind servers: a real Ollama, and small servers that refuse, break off and go away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kosent.cli import main
from kosent.evaluation.folder import Turn, read_report, replies_file
from kosent.files import read_json, read_jsonl, write_jsonl
from openai_server import Handler, server


def prompts(folder: Path, number: int = 4) -> Path:
    """A file of that many prompts with references."""
    rows = [{"messages": [{"role": "user", "content": f"질문 {place}"}], "reference": f"정답 {place}"} for place in range(number)]
    write_jsonl(folder / "asked.jsonl", rows)
    return folder / "asked.jsonl"


def command(asked: Path, folder: Path, *models: str, tokens: int = 12) -> list[str]:
    named = [part for model in models for part in ("--model", model)]
    return ["evaluate", "--prompts", str(asked), *named, "--max-tokens", str(tokens), "--report", str(folder)]


def test_a_real_ollama_natively_and_as_an_openai_server(ollama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama)
    asked = tmp_path / "asked.txt"
    asked.write_text("What is the capital of France?\nSay hello.\n", encoding="utf-8")
    report = tmp_path / "report"
    both = command(asked, report, "native=ollama:smol", f"v1=openai:smol:latest@http://{ollama}", tokens=24)
    assert main(both) == 0
    found = read_report(report)
    for answers in found.answers.values():  # not the same texts: behind /v1 Ollama has a repeat penalty, which is not to be set
        assert "Paris" in answers[0].text
    assert all(one.tokens and not one.error for answers in found.answers.values() for one in answers)
    assert {row["kind"] for row in found.results["models"].values()} == {"ollama", "openai"}
    header = read_jsonl(replies_file(report, "native"))[0]
    assert len(header["weights"]) == 64  # Ollama's digest


def test_a_prompt_that_fails_is_recorded_and_the_report_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(body: dict[str, Any], handler: Handler) -> None:
        said = body["messages"][-1]["content"]
        if said == "질문 1":
            handler.send(400, {"error": {"message": "this prompt is not for me", "type": "x", "code": None}})
        elif said == "질문 2":
            handler.stream("반쪽", finish=None)
        else:
            handler.stream(f"{said}에 대한 답")

    with server(answer) as (name, handler):
        report = tmp_path / "report"
        assert main(command(prompts(tmp_path), report, f"m={name}")) == 0
        found = read_report(report)
        assert [one.text for one in found.answers["m"]] == ["질문 0에 대한 답", "", "반쪽", "질문 3에 대한 답"]
        assert "this prompt is not for me" in found.answers["m"][1].error
        assert found.results["models"]["m"]["failures"] == 2
        assert found.results["models"]["m"]["values"]["empty"] == 0.25
        assert "m: 2 prompts failed" in capsys.readouterr().out
        assert all(body["temperature"] == 0 and body["max_tokens"] == 12 for body in handler.asked)


def test_a_server_that_goes_away_ends_it_and_the_next_time_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked, report = prompts(tmp_path, 6), tmp_path / "report"
    with server(lambda body, handler: handler.stream("답")) as (name, handler):
        assert main(command(asked, report, f"m={name}")) == 0
        first = read_json(report / "results.json")
    file = replies_file(report, "m")
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:4]), encoding="utf-8")
    capsys.readouterr()
    assert main(command(asked, report, f"m={name}")) == 5
    assert "No server answers" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "".join(lines[:4])
    port = int(name.rpartition(":")[2])
    with server(lambda body, handler: handler.stream("답"), port) as (_, handler):
        assert main(command(asked, report, f"m={name}")) == 0
        assert len(handler.asked) == 3
    assert read_json(report / "results.json") == first


def test_every_prompt_is_sampled_with_a_seed_of_its_own(tmp_path: Path) -> None:
    with server(lambda body, handler: handler.stream(json.dumps(body["seed"]))) as (name, handler):
        report = tmp_path / "report"
        sampled = [*command(prompts(tmp_path), report, f"m={name}"), "--temperature", "0.8", "--top-p", "0.9", "--seed", "40"]
        assert main(sampled) == 0
        assert [one.text for one in read_report(report).answers["m"]] == ["40", "41", "42", "43"]
        assert {(body["temperature"], body["top_p"]) for body in handler.asked} == {(0.8, 0.9)}
        assert read_json(report / "results.json")["settings"]["decoding"]["seed"] == 40


def test_all_models_are_asked_the_same_messages_without_cards(tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    crisis = Turn("1", [{"role": "system", "content": "너는 친구야."}, {"role": "user", "content": "죽고 싶어"}])
    write_jsonl(asked, [{"messages": crisis.messages}])
    with server(lambda body, handler: handler.stream("곁에 있을게요.")) as (name, handler):
        assert main(command(asked, tmp_path / "report", f"one={name}", f"two={name}")) == 0
        assert [body["messages"] for body in handler.asked] == [crisis.messages] * 2
        assert read_report(tmp_path / "report").answers["one"][0].text == "곁에 있을게요."


def test_judgements_outlive_an_evaluation_that_says_the_same(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], handler: Handler) -> None:
        if "You compare two replies" in body["messages"][0]["content"]:
            handler.stream('{"reasoning": "", "verdict": "A"}')
        else:
            handler.stream(f"{body['messages'][-1]['content']}, {body['temperature']}, {len(handler.asked)}")

    with server(answer) as (name, _):
        report = tmp_path / "report"
        evaluate = command(prompts(tmp_path, 2), report, f"one={name}", f"two={name}")
        assert main(evaluate) == 0
        assert main(["judge", str(report), "--by", name]) == 0
        judges = read_json(report / "results.json")["judges"]
        assert judges[0]["ranking"]["votes"] == 4
        assert main(evaluate) == 0
        assert read_json(report / "results.json")["judges"] == judges
        assert "first shown" in (report / "report.html").read_text(encoding="utf-8")
