"""The command line: help, wrong words, missing parts, settings."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kosent import extras
from kosent.cli import COMMANDS, build_parser, main
from kosent.errors import UsageError
from kosent.settings import Settings, load_settings

Kosent = Callable[..., subprocess.CompletedProcess[str]]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help_with_an_example(name: str) -> None:
    parser, _ = build_parser(name)
    assert f"kosent {name}" in (parser.description or "")


def test_an_unknown_command_suggests_the_nearest(kosent: Kosent) -> None:
    done = kosent("finetun")
    assert done.returncode == 2
    assert "Try: kosent finetune" in done.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["finetune", "--recipe", "starter-cpu", "--data", "d", "--output", "r"], "finetune"),
        (["export", "r"], "export"),
        (["verify", "r", "f.gguf", "--data", "d"], "finetune,embedded"),
        (["evaluate", "--data", "d", "--model", "m", "--report", "r"], "evaluate"),
        (["models", "starter"], "starter"),
        (["demo"], "prepare,finetune,export,embedded,evaluate,starter"),
    ],
)
def test_without_the_extra_the_message_names_it(
    command: list[str], extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert main(command) == 4
    assert f"pip install 'kosent[{extra}]'" in capsys.readouterr().err


def test_asking_a_gguf_without_llama_cpp_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.gguf").touch()
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert main(["ask", "안녕", "--model", str(tmp_path / "m.gguf")]) == 4
    assert "pip install 'kosent[embedded]'" in capsys.readouterr().err


def test_asking_with_no_model_at_all_says_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "안녕"]) == 5
    assert "Try: kosent demo" in capsys.readouterr().err


def test_an_empty_message_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "  "]) == 2
    assert "empty" in capsys.readouterr().err


def test_chat_needs_a_terminal(kosent: Kosent) -> None:
    done = kosent("chat", stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "terminal" in done.stderr


def test_models_lists_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert "No Ollama answers" in shown
    assert "not made yet" in shown


def test_settings_come_from_file_then_environment_then_flags(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings() == Settings()
    home.mkdir()
    (home / "config.toml").write_text('model = "a.gguf"\ntemperature = 0.1\nlang = "en"\n', encoding="utf-8")
    monkeypatch.setenv("KOSENT_TEMPERATURE", "0.2")
    chosen = load_settings({"lang": "ko", "model": None, "message": "not a setting"})
    assert (chosen.model, chosen.temperature, chosen.lang) == ("a.gguf", 0.2, "ko")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("modle = 1", "modle"),
        ("temperature = 'hot'", "temperature"),
        ("lang = 'fr'", "lang"),
        ("= 3", "TOML"),
        ("context = -1", "context"),
    ],
)
def test_a_wrong_config_file_is_named_with_its_problem(home: Path, text: str, problem: str) -> None:
    home.mkdir()
    (home / "config.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=problem):
        load_settings()
