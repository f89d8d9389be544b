"""`kosent prepare` from end to end: files in, files out, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import ROOT
from kosent import files
from kosent.cli import main
from kosent.files import atomic_folder, read_json, read_jsonl, sha256_folder
from kosent.finetune.prepare import MADE
from kosent.finetune.records import SPLITS
from kosent.prompts import SYSTEM_MESSAGE

EMOTIONS = ("기쁨", "당황", "분노", "불안", "상처", "슬픔")


def corpus(file: Path, rows: int) -> Path:
    """AI Hub-shaped rows, each with words of its own."""
    with file.open("w", encoding="cp949") as out:
        out.write("연령,감정_대분류,사람문장1,시스템문장1,사람문장2,시스템문장2\n")
        for i in range(rows):
            first = f"{i}번 사람의 {i * 7}번째 말,{i * 3}일 동안 {i}번 들었어요."
            out.write(f"청년,{EMOTIONS[i % 6]},{first},{i * 11}째 다시 {i},{i * 13}에 {i}요.\n")
    return file


def prepare(source: Path | str, output: Path, *more: str) -> int:
    return main(["prepare", str(source), "--output", str(output), *more])


def test_the_starter_corpus_is_prepared_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("starter", tmp_path / "data") == 0
    splits = {split: read_jsonl(tmp_path / "data" / f"{split}.jsonl") for split in SPLITS}
    assert sum(len(rows) for rows in splits.values()) == 240
    assert sum(m["role"] == "assistant" for row in splits["test"] for m in row["messages"]) >= 60
    assert all(row["messages"][0] == {"role": "system", "content": SYSTEM_MESSAGE} for row in splits["train"])
    assert splits["train"][0]["meta"]["source"].startswith("starter_corpus.csv:")
    assert (tmp_path / "data" / "rejected.jsonl").read_text(encoding="utf-8") == ""
    report = read_json(tmp_path / "data" / "report.json")
    assert report["splits"]["train"]["dialogues"] == len(splits["train"])
    said = capsys.readouterr().out
    assert "240 kept (100.0%)" in said and "Next: kosent finetune" in said


def test_twice_the_same_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    source = tmp_path / "planted.jsonl"
    faults = [
        json.dumps({"messages": row["messages"]}, ensure_ascii=False) for row in read_jsonl(ROOT / "tests/corpora/faults.jsonl")
    ]
    source.write_text("\n".join(faults), encoding="utf-8")
    hashes = []
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "kosent", "prepare", str(source), "starter", "--output", str(tmp_path / seed)]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": seed})
        hashes.append(sha256_folder(tmp_path / seed))
    assert hashes[0] == hashes[1]
    assert set(hashes[0]) <= MADE


def test_sources_mix_and_keep_their_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    corpus(tmp_path / "a" / "c.csv", 200)
    (tmp_path / "b" / "c.csv").write_text("Q,A,label\n막차를 놓쳐서 걷는 중이야,많이 추웠겠어요.,0\n", encoding="utf-8")
    one, other = str(tmp_path / "a" / "c.csv"), str(tmp_path / "b" / "c.csv")
    assert main(["prepare", one, other, "--output", str(tmp_path / "data")]) == 0
    report = read_json(tmp_path / "data" / "report.json")
    assert [(source["name"], source["rows"]) for source in report["sources"]] == [(one, 200), (other, 1)]


def test_rankings_become_preferences_in_the_split_of_their_prompt(tmp_path: Path) -> None:
    rows = []
    for i in range(60):
        replies = (f"{i}번 괜찮은 답이에요.", f"I am {i} tired of it all", f"{i}번 그럭저럭한 답")
        completions = {f"completion_{place}": reply for place, reply in enumerate(replies)}
        rows.append({"prompt": f"{i}번째 고민을 어떻게 말하면 좋을까", **completions, "ranking": [0, 2, 1]})
    (tmp_path / "rm.jsonl").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "ppo.jsonl").write_text(
        json.dumps([{"prompt": f"{i}번 물음에 답해 줄래"} for i in range(60)], ensure_ascii=False), encoding="utf-8"
    )
    assert main(["prepare", str(tmp_path / "rm.jsonl"), str(tmp_path / "ppo.jsonl"), "--output", str(tmp_path / "data")]) == 0
    splits = {split: read_jsonl(tmp_path / "data" / f"{split}.preferences.jsonl") for split in SPLITS}
    assert sum(map(len, splits.values())) == 180
    prompts = [{row["prompt"][-1]["content"] for row in rows} for rows in splits.values()]
    assert all(prompts) and not prompts[0] & prompts[1] and not prompts[0] & prompts[2] and not prompts[1] & prompts[2]
    first = splits["train"][0]
    assert [m["role"] for m in first["prompt"]] == ["system", "user"]
    assert first["chosen"][0]["content"].endswith("괜찮은 답이에요.") and first["rejected"][0]["role"] == "assistant"
    assert sum(len(read_jsonl(tmp_path / "data" / f"{split}.prompts.jsonl")) for split in SPLITS) == 60
    assert read_json(tmp_path / "data" / "report.json")["splits"]["train"]["dialogues"] == 0


def test_the_system_message_is_replaced_or_kept(tmp_path: Path) -> None:
    row = {"role": "system", "content": "너는 고양이야."}
    rows = [
        {
            "messages": [
                row,
                {"role": "user", "content": f"{i}번째 안부를 물어봐"},
                {"role": "assistant", "content": f"{i}번 야옹"},
            ]
        }
        for i in range(60)
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    found = []
    for name, flags in (("given", ["--system", "너는 개야."]), ("kept", ["--keep-system"]), ("none", ["--system", ""])):
        assert prepare(tmp_path / "c.jsonl", tmp_path / name, *flags) == 0
        found.append(read_jsonl(tmp_path / name / "train.jsonl")[0]["messages"][0]["content"])
    assert found[:2] == ["너는 개야.", "너는 고양이야."] and found[2].endswith("물어봐")


BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("rensa", "ftfy", "ijson", "openpyxl", "pyarrow", "tokenizers", "numpy"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import importlib.util
found = importlib.util.find_spec
absent = ("rensa", "numpy", "tokenizers", "ftfy", "ijson", "openpyxl", "pyarrow")
importlib.util.find_spec = lambda name: None if name in absent else found(name)
from kosent.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_without_its_extra_the_help_works_and_the_command_names_it(tmp_path: Path) -> None:
    def blocked(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", BLOCKED, "prepare", *arguments], capture_output=True, text=True)

    assert "--skip-broken" in blocked("--help").stdout
    done = blocked("starter", "--output", str(tmp_path / "data"))
    assert done.returncode == 4 and "Try: pip install 'kosent[prepare]'" in done.stderr


def test_lengths_are_counted_in_tokens_of_the_chosen_tokenizer(tmp_path: Path, tiny_base: Path) -> None:
    arguments = ["--tokenizer", str(tiny_base), "--set", "length.max_tokens=12"]
    assert prepare("starter", tmp_path / "data", *arguments) == 3
    assert prepare("starter", tmp_path / "data", "--tokenizer", str(tiny_base), "--set", "length.max_tokens=50") == 0
    report = read_json(tmp_path / "data" / "report.json")
    assert report["lengths"]["unit"] == "tokens"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_base / "tokenizer.json"))
    kept = [
        m["content"] for split in SPLITS for row in read_jsonl(tmp_path / "data" / f"{split}.jsonl") for m in row["messages"][1:]
    ]
    assert max(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in kept) <= 50


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    assert prepare("starter", tmp_path / "data", "--tokenizer", str(tmp_path / "model")) == 2
    assert "tokenizer.json" in capsys.readouterr().err


def test_what_may_hold_personal_data_is_for_its_owner_alone(tmp_path: Path) -> None:
    assert prepare("starter", tmp_path / "data") == 0
    for name in ("rejected.jsonl", "changed.jsonl"):
        assert stat.S_IMODE((tmp_path / "data" / name).stat().st_mode) == 0o600


def test_a_missing_file_is_an_error_with_the_next_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(tmp_path / "no.csv", tmp_path / "out") == 3
    assert f"Try: ls {tmp_path}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "감성대화.csv").write_text("", encoding="utf-8")
    assert prepare(tmp_path / "감성대화.cvs", tmp_path / "out") == 3
    assert "Is 감성대화.csv meant?" in capsys.readouterr().err


def test_the_hint_is_the_command_that_was_typed_and_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = corpus(tmp_path / "말뭉치 [1].csv", 100)
    with source.open("a", encoding="cp949") as file:
        file.write('청년,슬픔,"열린 따옴표,네,,\n')
    arguments = ["--output", str(tmp_path / "my data"), "--without", "near", "--set", "leak.letters=8", "--validation", "0.1"]
    assert main(["prepare", str(source), *arguments]) == 3
    said = capsys.readouterr().err
    assert "row 101" in said and "말뭉치 [1].csv" in said
    hint = shlex.split(said.partition("Try: ")[2])
    assert hint[:2] == ["kosent", "prepare"]
    assert main(hint[1:]) == 0
    report = read_json(tmp_path / "my data" / "report.json")
    assert report["sources"][0]["broken"] == 1 and report["settings"]["leak.letters"] == 8
    assert not next(rule for rule in report["rules"] if rule["name"] == "near")["on"]
    assert f"--data {shlex.quote(str(tmp_path / 'my data'))}" in capsys.readouterr().out


def test_a_lost_rest_is_said_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"Q": f"{i}번째 이야기를 들어 줘", "A": f"{i}번 듣고 있어요."} for i in range(100)]
    whole = json.dumps(rows, ensure_ascii=False)
    (tmp_path / "cut.json").write_text(whole[: len(whole) * 3 // 4], encoding="utf-8")
    assert prepare(tmp_path / "cut.json", tmp_path / "data", "--skip-broken") == 0
    assert "Note: cut.json: everything from row" in capsys.readouterr().out
    assert "cut.json: everything from row" in (tmp_path / "data" / "report.html").read_text(encoding="utf-8")
    (rejected,) = (row for row in read_jsonl(tmp_path / "data" / "rejected.jsonl") if row["rule"] == "unreadable")
    assert "is lost" in rejected["why"]


def test_borrowed_replies_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        "구분,유저,챗봇",
        *(f"감정/{i % 30},{i}번째로 우울한 이야기,{f'{i}번째 대답이에요.' if i < 30 else ''}" for i in range(90)),
    ]
    (tmp_path / "w.csv").write_text("\n".join(lines), encoding="utf-8")
    assert prepare(tmp_path / "w.csv", tmp_path / "data", "--without", "near") == 0
    assert "60 rows without a reply took one of their category" in capsys.readouterr().out


def test_what_the_corpus_says_about_its_sources_is_kept(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "{}번째 안부를 물어"}, {"role": "assistant", "content": "{}번 잘 지내요."}]
    with (tmp_path / "c.jsonl").open("w", encoding="utf-8") as file:
        for i in range(60):
            said = [message | {"content": message["content"].format(i)} for message in messages]
            file.write(json.dumps({"messages": said, "source": "위키", "tags": ["a"]}, ensure_ascii=False) + "\n")
    assert prepare(tmp_path / "c.jsonl", tmp_path / "data") == 0
    meta = read_jsonl(tmp_path / "data" / "train.jsonl")[0]["meta"]
    assert meta["source"].startswith("c.jsonl:") and meta["source_in_corpus"] == "위키" and meta["tags"] == ["a"]


def test_a_share_of_nothing_is_an_empty_file(tmp_path: Path) -> None:
    assert prepare("starter", tmp_path / "data", "--validation", "0") == 0
    assert (tmp_path / "data" / "validation.jsonl").read_text(encoding="utf-8") == ""


def test_the_same_file_twice_is_refused(tmp_path: Path) -> None:
    assert main(["prepare", "starter", "starter", "--output", str(tmp_path / "data")]) == 2


@pytest.mark.parametrize("shares", [("0.6", "0.5"), ("-0.1", "0.2"), ("nan", "0.1")])
def test_impossible_shares_are_refused(tmp_path: Path, shares: tuple[str, str]) -> None:
    assert prepare("starter", tmp_path / "o", "--validation", shares[0], "--test", shares[1]) == 2


def test_a_corpus_too_small_to_split_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(corpus(tmp_path / "c.csv", 1), tmp_path / "out") == 3
    assert "none is left for" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["c.csv"]


@pytest.mark.parametrize("name", ["notes.txt", "train.jsonl"])
def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine", encoding="utf-8")
    assert prepare("starter", tmp_path / "out") == 2
    assert name in capsys.readouterr().err
    assert (tmp_path / "out" / name).read_text(encoding="utf-8") == "mine"


def test_a_corpus_that_lies_in_the_output_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("starter", tmp_path / "data") == 0
    before = sha256_folder(tmp_path / "data")
    assert prepare(tmp_path / "data" / "train.jsonl", tmp_path / "data") == 2
    assert "lies in it" in capsys.readouterr().err
    assert sha256_folder(tmp_path / "data") == before


def test_the_current_folder_and_what_is_no_folder_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert prepare("starter", Path()) == 2
    assert prepare("starter", tmp_path) == 2
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for name in ("pipe", "file"):
        assert prepare("starter", tmp_path / name) == 2
        with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / name):
            pass
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine" and (tmp_path / "pipe").is_fifo()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert prepare("starter", tmp_path / "file" / "data") == 1
    assert "file" in (said := capsys.readouterr().err) and "Nothing was written" in said


def test_a_full_disk_is_named_and_leaves_the_old_output(tmp_path: Path) -> None:
    assert prepare("starter", tmp_path / "data") == 0
    before = sha256_folder(tmp_path / "data")
    source = corpus(tmp_path / "c.csv", 300)
    script = "import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\nimport signal\n"
    script += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nfrom kosent.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "prepare", str(source), "--output", str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "File too large" in done.stderr and "Nothing was written" in done.stderr
    assert sha256_folder(tmp_path / "data") == before and not list(tmp_path.glob(".data*"))


def test_the_mode_of_the_folder_stays(tmp_path: Path) -> None:
    assert prepare("starter", tmp_path / "data") == 0
    (tmp_path / "data").chmod(0o700)
    assert prepare("starter", tmp_path / "data") == 0
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_an_error_leaves_the_old_output_whole(tmp_path: Path) -> None:
    assert prepare("starter", tmp_path / "data") == 0
    before = sha256_folder(tmp_path / "data")
    (tmp_path / "bad.csv").write_text('Q,A\n가나다라마바,"사아자차\n', encoding="utf-8")
    assert prepare(tmp_path / "bad.csv", tmp_path / "data") == 3
    assert sha256_folder(tmp_path / "data") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv", "data"]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_the_old_output_stays_whole(tmp_path: Path, sent: signal.Signals) -> None:
    assert prepare("starter", tmp_path / "data") == 0
    before = sha256_folder(tmp_path / "data")
    source = corpus(tmp_path / "c.csv", 6_000)
    command = [sys.executable, "-m", "kosent", "prepare", str(source), "--output", str(tmp_path / "data")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not any(spool.stat().st_size for spool in tmp_path.glob(".data.*.tmp/.spool.jsonl")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(sent)
    _, errors = process.communicate()
    assert sha256_folder(tmp_path / "data") == before
    if sent == signal.SIGINT:
        assert process.returncode == 130 and "Nothing was written." in errors and "Traceback" not in errors
        assert not list(tmp_path.glob(".data.*"))
    subprocess.run(command, check=True, capture_output=True)
    assert not list(tmp_path.glob(".data.*"))
    assert prepare(source, tmp_path / "straight") == 0
    assert sha256_folder(tmp_path / "data") == sha256_folder(tmp_path / "straight")


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_another_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool) -> None:
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    for content in ("one", "two"):
        with atomic_folder(tmp_path / "data") as folder:
            (folder / "a.txt").write_text(content, encoding="utf-8")
    assert (tmp_path / "data" / "a.txt").read_text(encoding="utf-8") == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_old_folder_comes_back_when_the_swap_was_cut_in_half(tmp_path: Path) -> None:
    (tmp_path / ".data.old").mkdir()
    (tmp_path / ".data.old" / "a.txt").write_text("old", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "data"):
        raise KeyboardInterrupt
    assert (tmp_path / "data" / "a.txt").read_text(encoding="utf-8") == "old"


def test_interrupting_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    target = tmp_path / "train.jsonl"
    target.write_text("old", encoding="utf-8")
    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(target, "new")
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]
