"""`kosent rag` as a person types it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kosent.cli import main
from kosent.errors import UsageError
from kosent.rag.collection import Collection
from kosent.rag.description import folder_of, spelled

DIARY = {
    "11월 3일.md": "# 11월 3일\n\n## 아침\n\n보일러가 고장 나서 찬물로 씻었다.\n\n## 저녁\n\n민수 씨가 귤을 한 상자 가져왔다.",
    "상담 안내.txt": "공황이 오면 숨을 길게 내쉬고 발바닥이 바닥에 닿는 느낌을 살핀다.",
    "연락처.csv": "이름,하는 일\n박서진,보일러 수리\n이도윤,치과 의사\n",
}


@pytest.fixture
def diary(tmp_path: Path, home: Path) -> Path:
    folder = tmp_path / "일기장"
    folder.mkdir()
    for name, text in DIARY.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def added(diary: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["rag", "add", "일기", str(diary)]) == 0
    capsys.readouterr()
    return diary


def typed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What is printed on standard output, and with an exit code above 0 on standard error."""
    assert main(["rag", *arguments]) == code
    out, err = capsys.readouterr()
    return err if code else out


def test_added_again_only_what_is_new_or_changed_is_read(diary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (diary / "그림.jpg").write_bytes(b"\xff\xd8")
    (diary / "잠긴.pdf").write_bytes(b"%PDF-1.7 no more")
    said = typed(capsys, "add", "일기", str(diary))
    assert "일기: 3 added. It holds 3 documents in 5 passages now." in said
    assert "Skipped: damaged 1" in said and "잠긴.pdf" in said and ".jpg 1" in said
    (diary / "상담 안내.txt").write_text("불안하면 물을 한 잔 마신다.", encoding="utf-8")
    (diary / "새 글.txt").write_text("우산을 잃어버렸다.", encoding="utf-8")
    (diary / "연락처.csv").unlink()
    said = typed(capsys, "add", "일기", str(diary))
    assert "1 added, 1 changed, 1 unchanged" in said and "kept: 1 document (with --sync" in said
    assert "1 removed" in typed(capsys, "add", "일기", str(diary), "--sync")
    shown = typed(capsys, "show", "일기")
    assert "연락처.csv" not in shown and "새 글.txt" in shown and "잠긴.pdf" in shown.partition("Skipped:")[2]
    (diary / "잠긴.pdf").unlink()
    (diary / "잠긴.pdf").with_suffix(".txt").write_text("이제 읽을 수 있다.", encoding="utf-8")
    assert "1 added" in typed(capsys, "add", "일기", f"{diary}/잠*.txt")


def test_a_passage_is_found_with_its_place(added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = typed(capsys, "search", "일기", "귤 가져온 사람이 누구였지?")
    first = said.split("\n\n")[0]
    assert (
        first.startswith("1. 11월 3일 · 11월 3일 > 저녁")
        and "민수 씨가 귤을 한 상자" in first
        and str(added / "11월 3일.md") in first
    )
    (row,) = map(
        json.loads, typed(capsys, "search", "일기", "보일러", "-k", "1", "--filter", "kind=table", "--json").splitlines()
    )
    assert row["text"] == "이름: 박서진\n하는 일: 보일러 수리" and row["collection"] == "일기" and row["start"] == 0
    rows = typed(capsys, "search", "일기", "보일러", "--filter", f"source={added / '11월 3일.md'}", "--threshold", "-1", "--json")
    assert {json.loads(line)["source"] for line in rows.splitlines()} == {str(added / "11월 3일.md")}


def test_small_talk_finds_nothing_and_the_nearest_is_shown_as_such(added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(capsys, "search", "일기", "ㅋㅋㅋㅋ 심심해", "--json") == ""
    assert main(["rag", "search", "일기", "ㅋㅋㅋㅋ 심심해"]) == 0
    out, err = capsys.readouterr()
    assert "near enough to this question for a model" in err
    assert out.startswith("1. ") and "\n3. " in out and "\n4. " not in out


def test_a_search_that_cannot_find_anything_says_why(added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no question" in typed(capsys, "search", "일기", "  ", code=2)
    assert "the kinds are text, markdown" in typed(capsys, "search", "일기", "귤", "--filter", "kind=txt", code=2)
    assert "a cosine, -1 to 1" in typed(capsys, "search", "일기", "귤", "--threshold", "7", code=2)
    assert main(["rag", "search", "일기", "귤", "--filter", "title=없는 제목"]) == 0
    assert "fits the filter" in capsys.readouterr().err


def test_what_was_skipped_says_why_and_is_forgotten_with_its_file(added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (added / "이상한.txt").write_bytes(b"\x81\xff\xfe\x80 letters " * 40)
    (added / "옛날.hwp").write_bytes(b"\xd0\xcf\x11\xe0")
    said = typed(capsys, "add", "일기", str(added))
    assert (
        ".hwp: save it as .hwpx in Hancom Office" in said
        and "이상한.txt: it is not utf-8 and not cp949" in said
        and "--encoding" not in said
    )
    assert "It was skipped: " in typed(capsys, "show", "일기", "이상한.txt", code=2)
    (added / "이상한.txt").unlink()
    typed(capsys, "add", "일기", str(added))
    assert "이상한.txt" not in typed(capsys, "show", "일기")


def test_names_and_places_that_cannot_be_meant(added: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no - at the beginning" in typed(capsys, "search", "--", "--sync", "귤", code=2)
    assert "is a folder" in typed(capsys, "export", "일기", str(tmp_path), code=2)


def test_a_document_is_shown_and_taken_out(added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = typed(capsys, "show", "일기", "연락처.csv")
    assert "[2]\n이름: 이도윤" in said
    assert "Removed 1 of 3 documents of '일기'" in typed(capsys, "remove", "일기", "상담 안내.txt", "--yes")
    assert "상담 안내" not in typed(capsys, "show", "일기") and (added / "상담 안내.txt").exists()
    assert "There is no document '없는 글'" in typed(capsys, "show", "일기", "없는 글", code=2)


def test_a_collection_is_removed_only_when_asked(added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--yes" in typed(capsys, "remove", "일기", code=2)
    assert "일기: 3 documents, 5 passages, embedder use" in typed(capsys, "list")
    assert "Removed the collection '일기' with its 3 documents" in typed(capsys, "remove", "일기", "--yes")
    assert main(["rag", "list"]) == 0 and "no collection yet" in capsys.readouterr().err
    assert not folder_of("일기").exists() and (added / "연락처.csv").exists()


def test_every_passage_is_written_out(added: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "나온 글.jsonl"
    assert "3 documents" in typed(capsys, "export", "일기", str(target))
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 5 and {"source", "title", "heading", "page", "section", "start", "end", "text"} == set(rows[0])
    assert "공황이 오면 숨을 길게 내쉬고 발바닥이 바닥에 닿는 느낌을 살핀다." in [row["text"] for row in rows]


def test_rebuilt_without_the_files_it_holds_the_same(added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = typed(capsys, "search", "일기", "보일러", "--json")
    (added / "상담 안내.txt").unlink()
    assert "rebuilt with e5; 2 documents read again, 1 no longer there" in typed(capsys, "rebuild", "일기", "--embedder", "e5")
    assert "made with the embedder e5, not use" in typed(capsys, "add", "일기", str(added), "--embedder", "use", code=3)
    assert "숨을 길게" in typed(capsys, "search", "일기", "공황 숨")
    assert "rebuilt with use" in typed(capsys, "rebuild", "일기", "--embedder", "use")
    assert {row["text"] for row in map(json.loads, typed(capsys, "search", "일기", "보일러", "--json").splitlines())} == {
        json.loads(line)["text"] for line in before.splitlines()
    }


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["add", "일기", "없는 폴더"], 2, "no such file or folder: 없는 폴더"),
        (["add", "일기", ".", "--embedder", "없음"], 2, "no embedder '없음'"),
        (["add", "일\n기", "."], 2, "cannot be the name"),
        (["add", "일기", ".", "--max-megabytes", "0"], 2, "--max-megabytes"),
        (["search", "일기", "무엇"], 3, "There is no collection '일기'"),
        (["search", "일기", "무엇", "--filter", "page"], 2, "KEY=VALUE"),
        (["search", "일기", "무엇", "--filter", "page=셋"], 2, "a page is a number"),
        (["search", "일기", "무엇", "-k", "0"], 2, "-k is 1 or more"),
        (["rebuild", "일기"], 3, "There is no collection '일기'"),
        (["export", "일기", "x.jsonl"], 3, "There is no collection '일기'"),
    ],
)
def test_what_cannot_be_is_said(
    arguments: list[str],
    code: int,
    said: str,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in typed(capsys, *arguments, code=code)
    assert Collection.names() == []


def test_names_in_any_script_lead_to_one_folder(home: Path) -> None:
    import unicodedata

    assert folder_of(unicodedata.normalize("NFD", "일기")) == folder_of(" 일기 ") != folder_of("일기2")
    assert folder_of("../../etc").parent == folder_of("日記 🙂").parent
    for wrong in ("", "  ", "가" * 61, "일\x1b[31m기", "일\n기"):
        with pytest.raises(UsageError):
            spelled(wrong)


def test_interrupted_it_keeps_what_was_finished(diary: Path, home: Path) -> None:
    for number in range(200):
        (diary / f"{number}.txt").write_text(f"{number}번째 날의 이야기. " * 30, encoding="utf-8")
    command = [sys.executable, "-m", "kosent", "rag", "add", "일기", str(diary)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    index = folder_of("일기") / "1" / "index.sqlite3"
    while process.poll() is None and not (index.exists() and counted() > 0):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "What was finished is kept." in said and "Traceback" not in said
    kept = counted()
    assert 0 < kept < 203
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{203 - kept} added, {kept} unchanged" in done.stdout


def counted() -> int:
    collection = Collection.open("일기")
    with collection.look() as (index, _):
        documents, _ = index.counts()
    collection.close()
    return documents


def test_in_a_terminal_a_bar_is_drawn_and_a_question_asked(added: Path) -> None:
    master, other = pty.openpty()
    command = [sys.executable, "-m", "kosent", "rag", "remove", "일기"]
    process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, start_new_session=True)
    os.close(other)
    seen = b""
    while b"[y/N]" not in seen:
        seen += os.read(master, 4096)
    os.write(master, "ㅜ\n".encode())
    assert process.wait(30) == 1
    os.close(master)
    assert Collection.names() == ["일기"]
