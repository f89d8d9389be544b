"""`kosent rate`: what is asked and hidden, votes, undo, going on; in a real terminal, and through a pipe."""

from __future__ import annotations

import io
import re
import signal
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from judged_folder import evaluation, kept
from kosent.cli import main
from kosent.evaluation.rating_screen import TEXTS, visible
from kosent.files import read_json
from terminals import Pty, environment, left_over

SHORT = ["그래.", "음.", "네.", "아니.", "왜?", "오."]
WARM = [
    "많이 속상하셨겠어요.",
    "아쉬우셨겠어요.",
    "기다리느라 힘드셨겠어요.",
    "지치셨겠어요.",
    "걱정이 크시겠어요.",
    "축하드려요!",
]
PLACE = re.compile(r"─ (\d+/\d+) ─")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return evaluation(tmp_path / "report", {"기본": SHORT, "튜닝": WARM})


def rate(folder: Path, keys: str, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{key}\n" for key in keys)))
    return main(["rate", str(folder), "--name", "민지", *more])


def asked(shown: str) -> list[tuple[str, str]]:
    """The replies in the order in which they were shown."""
    panels = re.findall(r"│ (.*?) *│", shown)
    return list(zip(panels[::2], panels[1::2], strict=True))


def test_a_rating_through_a_pipe(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A vote, one that is nothing, an undo, the same pair again, a tie, a skip, and the end of the input."""
    assert rate(folder, "axuB=s", monkeypatch) == 0
    shown = capsys.readouterr().out
    assert PLACE.findall(shown) == ["1/6", "2/6", "1/6", "2/6", "3/6", "4/6"]
    pairs = asked(shown)
    assert pairs[0] == pairs[2], "taken back, a pair is shown as it was"
    assert len({frozenset(pair) for pair in pairs}) == 4
    rows = kept(folder)
    assert [row["outcome"] for row in rows] == ["b", "tie", "skip"]
    said = [(SHORT if row["a"] == "기본" else WARM)[row["turn"]] for row in rows]
    assert said == [pair[0] for pair in pairs[2:5]], "the file says which model was shown first"
    assert TEXTS["ko"]["unknown"] in shown and TEXTS["ko"]["left"] in shown
    assert "기본" not in shown and "튜닝" not in shown and "결과:" not in shown, "who goes on must not know"
    (entry,) = read_json(folder / "results.json")["judges"]
    assert (entry["judge"], entry["kind"], entry["voices"], entry["ranking"]["votes"]) == ("people", "people", ["민지"], 2)


def test_names_are_told_when_all_is_answered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rate(folder, "ab=sab", monkeypatch) == 0
    before, _, after = capsys.readouterr().out.partition("결과: 평가 5개, 건너뛴 것 1개")
    assert "기본" not in before and "튜닝" not in before and "기본" in after and "튜닝" in after
    assert "승률" not in after.replace(TEXTS["ko"]["few"].format(number=10), "")


def test_votes_are_readable_by_their_owner_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rate(folder, "a", monkeypatch) == 0
    assert (folder / "judgements" / "people-민지.jsonl").stat().st_mode & 0o777 == 0o600


def test_going_on_asks_the_rest_and_nothing_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rate(folder, "asq", monkeypatch) == 0
    assert rate(folder, "bbbb", monkeypatch) == 0
    shown = capsys.readouterr().out
    assert PLACE.findall(shown) == ["1/6", "2/6", "3/6", "3/6", "4/6", "5/6", "6/6"]
    assert len({(row["turn"], *sorted((row["a"], row["b"]))) for row in kept(folder)}) == len(kept(folder)) == 6
    assert rate(folder, "", monkeypatch) == 0
    again = capsys.readouterr().out
    assert TEXTS["ko"]["all_done"] in again and "평가 5개" in again and not PLACE.findall(again)


def test_undo_reaches_back_into_what_was_saved_before_and_stops_at_the_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rate(folder, "aa", monkeypatch) == 0
    assert rate(folder, "uuubq", monkeypatch) == 0
    assert [row["outcome"] for row in kept(folder)] == ["b"]
    assert TEXTS["ko"]["no_undo"] in capsys.readouterr().out


def test_what_was_killed_while_writing_is_asked_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rate(folder, "aab", monkeypatch) == 0
    (file,) = folder.glob("judgements/*.jsonl")
    file.write_bytes(file.read_bytes()[:-20])
    assert rate(folder, "", monkeypatch) == 0
    assert [row["outcome"] for row in kept(folder)] == ["a", "a"]


def test_the_place_is_drawn_by_lot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 times the same side would be chance once in 2 ** 63."""
    users = [f"{number}번째" for number in range(64)]
    folder = evaluation(tmp_path / "many", {"기본": [f"{user} 네." for user in users], "튜닝": users}, users)
    assert rate(folder, "a" * 64, monkeypatch) == 0
    rows = kept(folder)
    assert {row["a"] for row in rows} == {"기본", "튜닝"}
    assert any(first["turn"] > second["turn"] for first, second in pairwise(rows))


def test_sample_names_and_language(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two people on one seed see the same prompts, whatever the order."""
    assert rate(folder, "aaa", monkeypatch, "--most", "3", "--lang", "en") == 0
    assert "Results: 3 votes, 0 skipped" in capsys.readouterr().out
    assert rate(folder, "aaa", monkeypatch, "--most", "3", "--name", "준호") == 0
    one, other = ({row["turn"] for row in kept(folder, f"people-{name}")} for name in ("민지", "준호"))
    assert one == other and len(one) == 3


def test_win_rates_and_a_ranking_come_with_enough_votes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ["그랬군요.", "아쉽네요.", "그래요?", "저런.", "오."]
    folder = evaluation(tmp_path / "report", {"기본": SHORT[:5], "보통": plain, "튜닝": WARM[:5]})
    assert rate(folder, "=" * 15, monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "결과: 평가 15개" in shown and "50% (17%–83%)" in shown and TEXTS["ko"]["strengths"] in shown


def test_the_same_replies_are_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = evaluation(tmp_path / "report", {"기본": ["그래.", "응."], "튜닝": ["그래. ", "네."]})
    assert rate(folder, "a", monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "두 답이 똑같은 1쌍" in shown and PLACE.findall(shown) == ["1/1"]
    same = evaluation(tmp_path / "same", {"기본": ["그래."], "튜닝": ["그래."]})
    assert rate(same, "", monkeypatch) == 2
    assert "nothing to compare" in capsys.readouterr().err


def test_votes_on_replies_that_changed_are_put_aside(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rate(folder, "a" * 6, monkeypatch) == 0
    evaluation(folder, {"기본": ["그래요.", *SHORT[1:]], "튜닝": WARM})
    assert rate(folder, "a", monkeypatch) == 0
    shown = capsys.readouterr().out
    assert TEXTS["ko"]["outdated"].format(number=1) in " ".join(shown.split()) and PLACE.findall(shown)[-1] == "6/6"
    outdated = folder / "judgements" / "outdated" / "people-민지.jsonl"
    assert len(kept(folder)) == 6 and outdated.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("그래\u202e요\u200b", "그래<U+202E>요<U+200B>"),
        ("\x1b[2J\x07끝", "<U+001B>[2J<U+0007>끝"),
        ("한 줄\n둘째\t줄\r\n셋째", "한 줄\n둘째\t줄\n셋째"),
        ("\u3164\ufeff빈칸", "<U+3164><U+FEFF>빈칸"),
        ("👨‍👩‍👧 ❤️ 힘내요", "👨‍👩‍👧 ❤️ 힘내요"),
        ("가\u200d나", "가<U+200D>나"),
        ("[bold]굵게[/bold] :smile:", "[bold]굵게[/bold] :smile:"),
    ],
)
def test_hidden_characters_are_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_markup_in_replies_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluation(tmp_path / "report", {"기본": ["[red]그래[/red] :smile:"], "튜닝": [""]})
    assert rate(folder, "q", monkeypatch) == 0
    assert {"[red]그래[/red] :smile:", "(빈 답)"} in [set(pair) for pair in asked(capsys.readouterr().out)]


def test_every_text_exists_in_both_languages() -> None:
    assert TEXTS["ko"].keys() == TEXTS["en"].keys()
    for name, text in TEXTS["ko"].items():
        assert re.findall(r"{\w+}", text) == re.findall(r"{\w+}", TEXTS["en"][name]), name


# --- in a real terminal


@pytest.fixture
def terminals(folder: Path, home: Path) -> Iterator[list[Pty]]:
    """Started one after the other by `begin`, and closed."""
    opened: list[Pty] = []
    yield opened
    for terminal in opened:
        terminal.close()


def begin(terminals: list[Pty], folder: Path, home: Path) -> Pty:
    command = [sys.executable, "-m", "kosent", "rate", str(folder), "--name", "민지"]
    terminals.append(Pty(command, environment(home), columns=90))
    return terminals[-1]


def press(terminal: Pty, key: str, *then: str) -> None:
    """Without Enter; waits for what comes after it."""
    before = terminal.send(key)
    for text in then:
        terminal.shows(text, before)


def test_a_long_reply_is_cut_until_it_is_asked_for(tmp_path: Path, home: Path, terminals: list[Pty]) -> None:
    """In 24 lines both replies and the keys are seen."""
    long = [" ".join(f"{number}번째 낱말" for number in range(200)) + " 끝이다."]
    terminal = begin(terminals, evaluation(tmp_path / "long", {"기본": long, "튜닝": ["네."]}), home)
    terminal.shows("자 더 있어요 (m)")
    terminal.shows("q 저장하고 나가기")
    assert "끝이다" not in terminal.text() and "네." in terminal.text()
    press(terminal, "m", "끝이다")
    press(terminal, "a", "결과: 평가 1개")
    assert terminal.ended() == 0


def test_keys_in_a_terminal(folder: Path, home: Path, terminals: list[Pty]) -> None:
    """A vote, an arrow key and a paste that are none, an undo, a vote on a Korean keyboard, leaving, going on, Ctrl-C."""
    keys = "q 저장하고 나가기"
    terminal = begin(terminals, folder, home)
    terminal.shows(keys)
    press(terminal, "a", "2/6", keys)
    press(terminal, "\x1b[A", TEXTS["ko"]["unknown"])
    press(terminal, "ab", TEXTS["ko"]["unknown"])
    assert len(kept(folder)) == 1
    press(terminal, "u", "1/6", keys)
    assert kept(folder) == []
    press(terminal, "ㅠ", "2/6", keys)
    press(terminal, "q", "여기까지 저장했어요")
    assert terminal.ended() == 0
    assert [row["outcome"] for row in kept(folder)] == ["b"]
    written = terminal.written.decode()
    assert left_over(written, set(re.findall(r"\x1b\[[\d;]*m", written))) == []
    again = begin(terminals, folder, home)
    again.shows(keys)
    assert PLACE.findall(again.text()) == ["2/6"]
    press(again, "=", "3/6", keys)
    again.process.send_signal(signal.SIGINT)
    again.shows("여기까지 저장했어요")
    assert again.ended() == 0
    assert [row["outcome"] for row in kept(folder)] == ["b", "tie"]
