"""`kosent sweep` on the tiny base: values, tables, picture and page, interrupted runs that go on, and runs that fail."""

from __future__ import annotations

import csv
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import pytest

from kosent import hf
from kosent.cli import main
from kosent.errors import UsageError
from kosent.files import read_json, sha256, write_json, write_jsonl
from kosent.finetune import sweep, sweep_replies
from kosent.finetune.checkpoints import COMPLETE
from kosent.finetune.sweep import plan, split_values
from kosent.finetune.sweep_page import page
from kosent.finetune.sweep_replies import answer, asked, prompts
from kosent.finetune.sweep_report import cells, markdown, measures, verdict
from kosent.prompts import SYSTEM_MESSAGE
from kosent.stages import KOSENT, Ended, Stages, call, locked

RUNS = ("lora.rank=0", "lora.rank=4")


@pytest.fixture(scope="module")
def few_data(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four dialogues to train on and one to validate with."""
    folder = tmp_path_factory.mktemp("few") / "data"
    shutil.copytree(small_data, folder)
    for split, count in (("train", 4), ("validation", 1)):
        lines = (small_data / "train.jsonl").read_text(encoding="utf-8").splitlines()
        chosen = lines[:count] if split == "train" else lines[-count:]
        (folder / f"{split}.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return folder


def arguments(data: Path, output: Path, base: Path, *more: str, checkpoint_steps: int = 8) -> list[str]:
    """All weights, and an adapter: two runs of eight steps."""
    fixed = ["training.batch_dialogues=1", "training.epochs=2", "training.validation_steps=3", "training.learning_rate=5e-3"]
    settings = ["lora.rank=0,4", *fixed, f"training.checkpoint_steps={checkpoint_steps}", "precision=float32"]
    changes = [part for setting in settings for part in ("--set", setting)]
    places = ["--data", str(data), "--output", str(output), "--base", str(base)]
    return ["sweep", "--recipe", "starter-cpu", *places, *changes, *more]


def in_this_process(command: Sequence[str], keep: str) -> Ended:
    """What `call` does for a command that ends well, without the seconds that a process of its own takes to begin."""
    ours = tuple(command[:3]) == KOSENT
    assert ours or command[2] == "kosent.finetune.sweep_replies"
    assert (main if ours else sweep_replies.main)(command[3:]) == 0
    return Ended(0, 0.0, "")


@pytest.fixture(scope="module")
def swept(few_data: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A sweep that nothing interrupted; those that are interrupted below run in processes, and end as this one does."""
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "call", in_this_process)
        assert main(arguments(few_data, folder, tiny_base)) == 0
    yield folder


class Page(HTMLParser):
    """The texts of a page and everything that it would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.sources: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def made_up(runs: dict[str, tuple[float, float, float]], steps: int = 90) -> dict[str, Any]:
    """A record whose runs have these (training, last validation, best validation) losses."""
    entries = {
        name: {
            "status": "finished", "error": "", "last_words": "", "replies": [],
            "measures": {
                "trainable_parameters": None, "steps": steps, "training_loss": training, "validation_loss": last,
                "best_validation_loss": best, "best_validation_step": steps if best == last else 30, "seconds": 61.2,
                "tokens_per_second": 100.0, "peak_memory_gb": 2.0,
            },
        }
        for name, (training, last, best) in runs.items()
    }  # fmt: skip
    bases = {"base": {"model": "starter", "error": "", "replies": []}}
    return {"kosent": "0", "prompts": prompts(), "max_tokens": 64, "bases": bases, "runs": entries}


def test_a_sweep_shows_its_runs_side_by_side(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = read_json(swept / "sweep.json")
    assert list(record["runs"]) == list(RUNS)
    for name in RUNS:
        assert record["runs"][name]["status"] == "finished"
        assert record["runs"][name]["measures"] == measures(swept / name)
        assert read_json(swept / name / "run.json")["recipe"]["lora"]["rank"] == int(name[-1])
        assert record["runs"][name]["replies"] == read_json(swept / name / "replies.json")["replies"]
    assert record["bases"]["base"]["replies"] == read_json(swept / "base" / "replies.json")["replies"]
    assert len(record["prompts"]) == len(set(record["prompts"])) == len(record["bases"]["base"]["replies"]) == 10
    full, trained = (record["runs"][name] for name in RUNS)
    parameters = read_json(swept / "lora.rank=0" / "run.json")["parameters"]
    assert full["measures"]["trainable_parameters"] == parameters["total"] > trained["measures"]["trainable_parameters"] > 0
    assert trained["measures"]["seconds"] > 0 and trained["measures"]["peak_memory_gb"] > 0.1

    text = (swept / "sweep.md").read_text(encoding="utf-8")
    assert verdict(record)[0] in text and "**" + f"{min_of(record, 'validation_loss'):.3f}" + "**" in text
    with (swept / "replies.csv").open(encoding="utf-8", newline="") as file:
        assert file.read(1) == "\ufeff", "or Excel takes it for cp949"
        rows = list(csv.reader(file))
    assert rows[0] == ["prompt", "base", *RUNS] and [row[0] for row in rows[1:]] == prompts()
    assert (swept / "losses.png").read_bytes().startswith(b"\x89PNG")
    shown = Page((swept / "sweep.html").read_text(encoding="utf-8"))
    assert verdict(record)[0] in shown.text and all(prompt in shown.text for prompt in prompts())
    assert [source.partition(",")[0] for source in shown.sources] == ["data:image/png;base64"]
    assert str(swept.parent) not in "".join(path.read_text(encoding="utf-8") for path in swept.glob("sweep.*"))


def min_of(record: dict[str, Any], key: str) -> float:
    return min(float(entry["measures"][key]) for entry in record["runs"].values())


def test_a_model_answers_the_prompts_once(starter_base: Path, tmp_path: Path) -> None:
    target = tmp_path / "replies.json"
    answer(str(starter_base), target, SYSTEM_MESSAGE)
    found = read_json(target)
    texts = [reply["text"] for reply in found["replies"]]
    assert len(texts) == 10 and len(set(texts)) > 5 and any("가" <= letter <= "힣" for letter in "".join(texts))
    tokenizer = hf.load_tokenizer(str(starter_base))
    assert max(len(tokenizer.encode(text)) for text in texts) <= 65
    written = target.stat().st_mtime_ns
    answer(str(starter_base), target, SYSTEM_MESSAGE)
    assert target.stat().st_mtime_ns == written
    assert found == asked(str(starter_base), SYSTEM_MESSAGE) | {"replies": found["replies"]}


def test_replies_belong_to_weights_template_and_system_message(swept: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(swept / "lora.rank=4", run)
    facts = asked(str(run), "가")
    assert facts == asked(str(swept / "lora.rank=4"), "가") != asked(str(run), "나")
    assert {"adapter/adapter_model.safetensors", "base/model.safetensors"} <= set(facts["sha256"])
    assert "model/model.safetensors" in asked(str(swept / "lora.rank=0"), "가")["sha256"]
    for name in ("adapter/adapter_model.safetensors", "chat_template.jinja"):
        before = (run / name).read_bytes()
        (run / name).write_bytes(b"other")
        assert asked(str(run), "가") != facts
        (run / name).write_bytes(before)
    assert asked(str(run), "가") == facts


def test_a_sweep_that_is_finished_is_kept(
    swept: Path, few_data: Path, tiny_base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(swept, folder)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("replies.json")}
    before = {path: sha256(path) for path in folder.rglob("*") if path.is_file()}
    command = arguments(few_data, folder, tiny_base)
    assert main(command) == 2
    assert "already holds a sweep" in (said := capfd.readouterr().err) and "--resume" in said
    assert main([*command, "--resume"]) == 0
    shown = capfd.readouterr()
    assert [f"[{number}/2] {name}: kept" in shown.err for number, name in enumerate(RUNS, 1)] == [True, True]
    assert "* lowest of its column" in shown.out and f"kosent export {folder}" in shown.out
    assert {path: path.stat().st_mtime_ns for path in times} == times, "the replies were not made again"
    assert {path: sha256(path) for path in before} == before

    changed = [part.replace("epochs=2", "epochs=1") for part in command]
    assert main([*changed, "--resume"]) == 2
    assert "other settings for lora.rank=0, lora.rank=4" in capfd.readouterr().err
    other = tmp_path / "data"
    shutil.copytree(few_data, other)
    shutil.copy(other / "test.jsonl", other / "validation.jsonl")
    assert main([*arguments(other, folder, tiny_base), "--resume"]) == 2
    assert "other data" in capfd.readouterr().err
    with locked(folder, "kosent sweep"):
        assert main([*command, "--resume"]) == 1
    assert "Another `kosent sweep` is working" in capfd.readouterr().err


def started(command: list[str]) -> subprocess.Popen[str]:
    ours = [sys.executable, "-m", "kosent", *command]
    return subprocess.Popen(ours, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def begun(command: list[str], folder: Path, name: str) -> subprocess.Popen[str]:
    """Starts a sweep and returns once the run `name` has a checkpoint of this process."""
    before = set(folder.glob(f"{name}/checkpoints/*/{COMPLETE}"))
    process = started(command)
    deadline = time.monotonic() + 240
    while not set(folder.glob(f"{name}/checkpoints/*/{COMPLETE}")) - before:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def child_of(process: subprocess.Popen[str]) -> int:
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def test_interrupted_and_killed_it_ends_with_the_same_numbers(
    swept: Path, few_data: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "sweep"
    command = arguments(few_data, folder, tiny_base, checkpoint_steps=1)

    first = begun(command, folder, "lora.rank=0")
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=120)[1]
    assert first.returncode == 130 and "Traceback" not in said, said
    assert "To go on: kosent sweep --recipe starter-cpu" in said and f"--output {folder}" in said
    assert "kosent finetune: stopped" in said, "the training had time to write a checkpoint"

    second = begun([*command, "--resume"], folder, "lora.rank=0")
    os.kill(child_of(second), signal.SIGKILL)  # as the system does when memory runs out
    deadline = time.monotonic() + 240
    while not list(folder.glob(f"lora.rank=4/checkpoints/*/{COMPLETE}")):
        assert second.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    failed = read_json(folder / "sweep.json")["runs"]["lora.rank=0"]
    assert failed["status"] == "failed" and "memory ran out" in failed["error"]
    second.send_signal(signal.SIGTERM)
    said = second.communicate(timeout=120)[1]
    assert second.returncode == 130, said

    third = started([*command, "--resume"])
    said = ""
    while "Going on after step" not in said.partition("[2/2] lora.rank=4: training")[2]:
        said += (line := third.stderr.readline())  # type: ignore[union-attr]
        assert line, said
    training = child_of(third)
    third.kill()
    third.wait(60)
    while Path(f"/proc/{training}").exists() and "Z" not in Path(f"/proc/{training}/stat").read_text().split()[2]:
        time.sleep(0.02)
    assert read_json(folder / "lora.rank=4" / "run.json")["status"] == "training", "it ended with the sweep"

    done = subprocess.run([sys.executable, "-m", "kosent", *command, "--resume"], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "[1/2] lora.rank=0: kept" in done.stderr and "Going on after step" in done.stderr
    ours, theirs = read_json(folder / "sweep.json"), read_json(swept / "sweep.json")
    for name in RUNS:
        for key in ("training_loss", "validation_loss", "best_validation_loss", "best_validation_step", "trainable_parameters"):
            assert ours["runs"][name]["measures"][key] == theirs["runs"][name]["measures"][key], (name, key)
        assert ours["runs"][name]["replies"] == theirs["runs"][name]["replies"]
    assert sha256(folder / "losses.png") == sha256(swept / "losses.png")
    assert ours["verdict"] == theirs["verdict"]


def test_a_run_that_fails_is_reported_and_the_others_go_on(
    few_data: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What fails runs in processes of its own."""
    broken, folder = tmp_path / "broken", tmp_path / "sweep"

    def carry_out(command: Sequence[str], keep: Literal["stderr"]) -> Ended:
        return (call if any(str(broken) in part for part in command) else in_this_process)(command, keep)

    monkeypatch.setattr(sweep, "call", carry_out)
    shutil.copytree(tiny_base, broken)
    (broken / "model.safetensors").write_bytes(b"cut off")
    command = ["sweep", "--recipe", "starter-cpu", "--data", str(few_data), "--output", str(folder)]
    command += ["--set", f"base={broken},{tiny_base}", "--set", "training.epochs=1", "--set", "precision=float32"]
    assert main(command) == 1
    record = read_json(folder / "sweep.json")
    bad, good = record["runs"].values()
    assert (bad["status"], good["status"]) == ("failed", "finished")
    assert bad["error"] and bad["error"] in bad["last_words"] and "Traceback" not in bad["error"]
    assert record["bases"]["base 1"]["error"].startswith("no replies: ") and not record["bases"]["base 2"]["error"]
    name = next(iter(record["runs"]))
    shown = capfd.readouterr().out
    assert f"{name} failed: {bad['error']}" in shown and "is the only run that has finished" in shown
    assert [row[0] for row in dict(cells(record))[name]][:2] == ["failed", "–"]
    for file in ("sweep.md", "sweep.html"):
        assert f"{name} failed: " in (folder / file).read_text(encoding="utf-8")
    assert not list(folder.glob("*/model.safetensors"))


def test_wrong_values_are_named_before_anything_is_trained(
    few_data: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "--recipe", "starter-cpu", "--data", str(few_data), "--output", str(tmp_path / "sweep")]
    wrong = ["--set", "lora.rank=2,big", "--set", "training.epochs=1,none", "--set", "training.sed=1"]
    assert main([*command, *wrong]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in ("lora.rank", "'big'", "training.epochs", "'none'", "training.sed"))
    assert main(["sweep", "--recipe", "starter-cpu", "--data", str(tmp_path), *command[5:], "--set", "lora.rank=0,4"]) == 3
    assert "kosent prepare" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["lora.rank"], "KEY=V1,V2"),
        (["=1,2"], "KEY=V1,V2"),
        (["lora.rank=8"], "nothing to compare"),
        (["lora.rank=8,"], "a value is empty"),
        (["lora.rank="], "a value is empty"),
        (["lora.targets=['a,b"], "not closed"),
        (["lora.rank=8,16", "lora.rank=32"], "given twice"),
        (["training.learning_rate=1e-4,0.0001"], "the same training"),
    ],
)
def test_a_set_that_cannot_be_compared_is_refused(settings: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        plan("starter-cpu", settings, None)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("8,16", ["8", "16"]),
        (" 8 , 16 ", ["8", "16"]),
        ('all-linear,["q_proj","v_proj"]', ["all-linear", '["q_proj","v_proj"]']),
        ('\'a,b\',"c\\",d"', ["'a,b'", '"c\\",d"']),
        ("it's,that's", ["it's", "that's"]),
        ("{ a = 1, b = [2, 3] },4", ["{ a = 1, b = [2, 3] }", "4"]),
    ],
)
def test_commas_split_values_but_not_lists_and_quotations(text: str, values: list[str]) -> None:
    assert split_values(text) == values


def test_runs_are_every_combination_with_names_that_are_folders() -> None:
    runs = plan("starter-cpu", ["lora.rank=8,16", "training.epochs=1", "base=/a/b, ../b,가"], "starter")
    assert [run.name for run in runs[:3]] == ["lora.rank=8,base=a-b", "lora.rank=8,base=b", "lora.rank=8,base=-"]
    assert len({run.name for run in runs}) == 6 and not any("/" in run.name for run in runs)
    assert [(run.recipe.lora.rank, run.recipe.base) for run in runs[2:4]] == [(8, "가"), (16, "/a/b")]
    assert all(run.recipe.training.epochs == 1 for run in runs)
    alike = plan("starter-cpu", ["base=a/b,a-b"], None)
    assert [run.name for run in alike] == ["base=a-b", "base=a-b-2"]


def test_the_verdict_says_when_the_lowest_training_loss_is_not_the_best_model() -> None:
    apart = made_up({"a": (1.9, 2.6, 2.3), "b": (2.2, 2.5, 2.5), "c": (2.3, 2.51, 2.51)})
    first, *more = verdict(apart)
    assert first == (
        "b has the lowest validation loss, 2.500; the lowest training loss is that of another run, a, whose validation loss is "
        "2.600."
    )
    assert more == [
        "Within 1% of the lowest validation loss, too close to tell apart: c.",
        "The lowest validation loss at any time was that of a after step 30, 2.300: ended there, it would have been ahead.",
        "Trained beyond their best: a (2.300 after step 30, 2.600 at the end). With training.patience above 0 a run ends soon "
        "after its best and keeps those weights.",
    ]
    same = made_up({"a": (1.9, 2.1, 2.1), "b": (2.2, 2.5, 2.5)})
    assert verdict(same) == ["a has the lowest validation loss, 2.100, and the lowest training loss too."]
    marked = {name: [text for text, best in row if best] for name, row in cells(apart)}
    assert marked == {"base": [], "a": ["1.900", "2.300 (step 30)"], "b": ["2.500"], "c": []}
    assert "| **1.900** | 2.600 | **2.300 (step 30)** |" in markdown(apart)


def test_a_sweep_that_has_only_begun_can_be_read() -> None:
    record = made_up({"a": (1.9, 2.1, 2.1)})
    record["runs"]["b"] = {"status": "waiting", "error": "", "last_words": "", "measures": {}, "replies": []}
    assert "b not trained yet" in markdown(record)
    assert "a is the only run that has finished" in Page(page(record, b"")).text
    record["runs"].pop("a")
    assert verdict(record) == ["No run has finished."]
    assert "<img" not in page(record, b"")


def test_the_time_of_a_resumed_run_is_that_of_all_its_processes(tmp_path: Path) -> None:
    steps: list[dict[str, float]] = [{"step": step, "loss": 5 - step / 10, "seconds": 2.0} for step in range(1, 21)]
    write_jsonl(tmp_path / "metrics.jsonl", [*steps, {"step": 10, "eval_loss": 3.5}, {"step": 20, "eval_loss": 3.7}])
    write_json(tmp_path / "run.json", {"status": "finished", "parameters": {"total": 100, "trainable": 7}})
    write_json(tmp_path / "timing.json", {"seconds": 30.0, "resumed_after_step": 5, "peak_memory_gb": 1.5})
    found = measures(tmp_path)
    assert found["seconds"] == 40.0
    assert found["training_loss"] == pytest.approx(sum(5 - step / 10 for step in range(11, 21)) / 10)
    assert (found["validation_loss"], found["best_validation_loss"], found["best_validation_step"]) == (3.7, 3.5, 10)
    assert (found["trainable_parameters"], found["tokens_per_second"], found["peak_memory_gb"]) == (7, None, 1.5)
    write_json(tmp_path / "run.json", {"status": "finished", "best": {"step": 10, "eval_loss": 3.5}})
    assert measures(tmp_path)["validation_loss"] == 3.5, "the weights that were kept"
    del steps[2]["seconds"]
    write_jsonl(tmp_path / "metrics.jsonl", [*steps, {"step": 20, "eval_loss": 3.7}])
    assert measures(tmp_path)["seconds"] is None, "rather none than that of the last process alone"


def test_a_process_is_shown_and_its_last_words_are_kept(capfd: pytest.CaptureFixture[str]) -> None:
    ended = call([sys.executable, "-c", "import sys; print('out'); sys.exit('한글 went wrong')"], "stderr")
    assert (ended.code, ended.said, ended.how) == (1, "한글 went wrong\n", "failed with exit code 1")
    assert capfd.readouterr() == ("out\n", "한글 went wrong\n")
    with pytest.raises(KeyboardInterrupt):
        call([sys.executable, "-c", "raise SystemExit(130)"])


def test_on_a_terminal_a_process_sees_a_terminal() -> None:
    script = (
        "import sys; from kosent.stages import call; inner = 'import sys; print(sys.stderr.isatty(), file=sys.stderr)';"
        "print(call([sys.executable, '-c', inner], 'stderr').said)"
    )
    terminal, other = pty.openpty()
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=other, text=True, timeout=60)
    os.close(other)
    assert done.stdout.split() == ["True"] and b"True" in os.read(terminal, 100)
    os.close(terminal)


def test_a_demo_and_a_sweep_do_not_share_a_folder(tmp_path: Path) -> None:
    from kosent.errors import KosentError

    with Stages(tmp_path).locked(), pytest.raises(KosentError, match="Another `kosent sweep`"), locked(tmp_path, "kosent sweep"):
        pass
