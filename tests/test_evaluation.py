"""Straw men, prompts, and whole evaluations of real small models: what they leave, how they go on, what fails."""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kosent.cli import main
from kosent.embedders import UniversalSentenceEncoder
from kosent.errors import DataError, ModelError, ServerDownError, UsageError
from kosent.evaluation.answering import answer
from kosent.evaluation.definitions import METRICS
from kosent.evaluation.evaluate import asked, central_reply, labelled
from kosent.evaluation.folder import CONSTANT, RANDOM, Answer, Turn, read_report, replies_file
from kosent.evaluation.generate import Decoding, generate, generate_each, log_likelihoods, reply_tokens
from kosent.evaluation.prompts import held_out_turns, prompt_set, training_replies
from kosent.evaluation.statistics import mean_interval, resamples
from kosent.files import read_json, read_jsonl, write_json, write_jsonl
from kosent.hf import Trained, load_for_inference

LIKELIHOOD = {"perplexity", "bits_per_byte"}


@pytest.fixture(scope="module")
def embedder() -> UniversalSentenceEncoder:
    return UniversalSentenceEncoder()


@pytest.fixture(scope="module")
def tiny(tiny_base: Path) -> Trained:
    return load_for_inference(str(tiny_base))


def test_the_embedder_tells_paraphrase_from_unrelated(embedder: UniversalSentenceEncoder) -> None:
    vectors = embedder.embed(["회사에서 실수해서 속상해요", "직장에서 잘못을 해서 마음이 아파요", "고양이가 창가에서 잔다", ""])
    assert vectors.shape == (4, 512)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_intervals_hold_the_mean_and_draw_whole_dialogues() -> None:
    groups = [0, 0, 0, 1, 1, 2, 3, 3, 4, 5]
    draws = resamples(groups)
    assert len(draws) == 1000
    assert draws == resamples(groups)
    for indices in draws[:20]:
        counts = np.bincount(indices, minlength=10)
        assert counts[0] == counts[1] == counts[2] and counts[3] == counts[4]
    low, high = mean_interval([0.0, 1.0] * 5, draws)
    assert low < 0.5 < high
    assert mean_interval([0.3] * 10, draws) == (pytest.approx(0.3), pytest.approx(0.3))


def test_the_constant_straw_man_is_the_reply_nearest_to_all(embedder: UniversalSentenceEncoder) -> None:
    replies = ["많이 속상하셨겠어요.", "정말 속상하셨겠네요.", "속상한 하루였군요.", "기차는 두 시에 출발합니다."]
    assert central_reply(replies, embedder) != replies[3]


# --- prompts


def test_the_prompt_sets_that_come_with_kosent() -> None:
    baseline, talks = prompt_set("baseline"), prompt_set("multi-turn")
    assert [len(turn.messages) for turn in baseline] == [2] * 10
    assert len({turn.dialogue for turn in talks}) == 8
    assert max(len(turn.messages) for turn in talks) == 8
    for turn in (*baseline, *talks):
        assert turn.reference is None
        assert [message["role"] for message in turn.messages[1:]] == ["user", "assistant"] * (len(turn.messages) // 2 - 1) + [
            "user"
        ]


def test_prompts_of_a_file(tmp_path: Path) -> None:
    lines = tmp_path / "mine.txt"
    lines.write_text("\ufeff잠이 안 와\n\n배고파\n", encoding="utf-8")
    assert [(turn.user, turn.prompt_set) for turn in prompt_set(str(lines))] == [("잠이 안 와", "mine"), ("배고파", "mine")]
    rows = tmp_path / "talks.jsonl"
    asked_for = {"messages": [{"role": "user", "content": "안녕"}], "reference": "반가워요.", "emotion": "기쁨"}
    write_jsonl(rows, [asked_for])
    assert prompt_set(str(rows)) == [Turn("talks 1", asked_for["messages"], "반가워요.", "기쁨", "talks")]  # type: ignore[arg-type]
    for broken in ([{"role": "assistant", "content": "네"}], "x", [{"role": "user"}], [], None):
        write_jsonl(rows, [asked_for, {"messages": broken}])
        with pytest.raises(DataError, match="line 2"):
            prompt_set(str(rows))
    with pytest.raises(DataError, match="no prompt set"):
        prompt_set("basline")


def test_most_takes_whole_dialogues_always_the_same(small_data: Path) -> None:
    every = held_out_turns(small_data)
    some = held_out_turns(small_data, 3)
    assert len(every) > 3 == len(some)
    assert [turn for turn in every if turn in some] == some == held_out_turns(small_data, 3)
    assert every[0].emotion


def test_there_must_be_something_to_ask(tmp_path: Path, small_data: Path) -> None:
    with pytest.raises(UsageError, match="nothing to ask"):
        asked(None, [], 0)
    with pytest.raises(DataError, match=r"test\.jsonl"):
        held_out_turns(tmp_path)
    shutil.copy(small_data / "test.jsonl", tmp_path)
    with pytest.raises(DataError, match=r"train\.jsonl"):
        training_replies(tmp_path)
    assert [turn.reference is None for turn in asked(small_data, ["baseline"], 2)] == [False] * 2 + [True] * 10


def test_labels() -> None:
    assert labelled(["base=starter", "a/run", "ollama:kosent", "it=openai:x@http://127.0.0.1:1/v1"]) == {
        "base": "starter", "run": "a/run", "ollama:kosent": "ollama:kosent", "it": "openai:x@http://127.0.0.1:1/v1",
    }  # fmt: skip
    with pytest.raises(UsageError, match="Two models"):
        labelled(["a/run", "b/run"])


# --- transformers


def test_batched_replies_are_the_replies_of_each_prompt_alone(starter_base: Path, small_data: Path) -> None:
    turns = held_out_turns(small_data)[:3]
    trained = load_for_inference(str(starter_base))
    together = generate(trained, turns, max_tokens=16)
    assert [generate(trained, [turn], max_tokens=16)[0].text for turn in turns] == [reply.text for reply in together]


def test_a_sampled_reply_depends_on_its_seed_and_not_on_its_neighbours(tiny: Trained, small_data: Path) -> None:
    turns = held_out_turns(small_data)

    def sampled(chosen: list[int], seed: int) -> dict[int, str]:
        found: dict[int, str] = {}
        decoding = Decoding(12, temperature=1.0, top_p=0.95, seed=seed)
        generate_each(
            tiny, [turns[n] for n in chosen], decoding, lambda place, one: found.update({chosen[place]: one.text}), numbers=chosen
        )
        return found

    every = sampled(list(range(len(turns))), 1)
    assert {**sampled([0, 2], 1), **sampled([1, *range(3, len(turns))], 1)} == every
    assert sampled(list(range(len(turns))), 2) != every


@pytest.mark.parametrize("top_p", [1.0, 0.75])
def test_tokens_are_sampled_as_often_as_they_are_likely(top_p: float) -> None:
    import torch

    from kosent.evaluation.generate import _Sampled

    likely, rows = [0.05, 0.5, 0.15, 0.3], 4000
    scores = torch.tensor(likely).log().repeat(rows, 1) * 0.7  # at temperature 0.7 it is what was likely
    kept = _Sampled(Decoding(temperature=0.7, top_p=top_p, seed=3), range(rows))(None, scores)
    assert (kept.isfinite().sum(-1) == 1).all()
    shares = kept.isfinite().float().mean(0)
    expected = torch.tensor(likely if top_p == 1 else [0.0, 0.5 / 0.8, 0.0, 0.3 / 0.8])
    assert torch.allclose(shares, expected, atol=0.03)
    flat = _Sampled(Decoding(temperature=1.0, top_p=0.9, seed=3), range(8))(None, torch.zeros(8, 5000))
    assert len(set(flat.argmax(-1).tolist())) > 6, "more tokens are in the nucleus than are looked at first"


def test_likelihoods_are_those_of_the_whole_text_at_once(tiny: Trained, small_data: Path) -> None:
    import torch

    turns = held_out_turns(small_data)
    for turn, (total, count) in zip(turns, log_likelihoods(tiny, turns), strict=True):
        prompt, reply = reply_tokens(tiny, turn)
        assert tiny.tokenizer.decode(reply) == f"{turn.reference}<end_of_turn>"
        with torch.no_grad():
            logs = tiny.model(torch.tensor([prompt + reply])).logits[0].float().log_softmax(-1)
        expected = sum(float(logs[len(prompt) - 1 + place, token]) for place, token in enumerate(reply))
        assert (total, count) == (pytest.approx(expected, rel=1e-4), len(reply))


# --- asking, going on


class Scripted:
    """A backend that answers as it is told and counts; `fail` are prompts that cannot be answered, `stop` ends it there."""

    kind, precision = "scripted", "none"

    def __init__(self, fail: Sequence[int] = (), stop: int | None = None, weights: str = "one") -> None:
        self.fail, self.stop, self.weights, self.asked = fail, stop, weights, list[int]()

    def identity(self) -> str:
        return self.weights

    def answer(
        self, turns: Sequence[Turn], numbers: Sequence[int], decoding: Decoding, done: Callable[[int, Answer], None]
    ) -> None:
        for place, number in reversed(list(enumerate(numbers))):
            if number == self.stop:
                raise ServerDownError("gone")
            self.asked.append(number)
            done(place, Answer("", False, "no") if number in self.fail else Answer(f"답변 {number}", True, tokens=3))

    def log_likelihoods(self, turns: Sequence[Turn], advance: Any) -> list[tuple[float, int]] | None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def five() -> list[Turn]:
    return [Turn(str(number), [{"role": "user", "content": f"질문 {number}"}], "정답") for number in range(5)]


def test_what_was_interrupted_goes_on(five: list[Turn], tmp_path: Path) -> None:
    with pytest.raises(ServerDownError):
        answer("a/b: 가", "x", Scripted(stop=1), five, tmp_path, Decoding())
    file = replies_file(tmp_path, "a/b: 가")
    with file.open("a", encoding="utf-8") as out:
        out.write('{"turn": 1, "text": "반쪽')  # killed while it wrote
    backend = Scripted()
    found = answer("a/b: 가", "x", backend, five, tmp_path, Decoding())
    assert backend.asked == [1, 0]
    assert [one.text for one in found.answers] == [f"답변 {number}" for number in range(5)]
    assert len(read_jsonl(file)) == 6
    answer("a/b: 가", "x", idle := Scripted(), five, tmp_path, Decoding())
    assert idle.asked == []


def test_half_a_character_from_a_server_can_be_written(five: list[Turn], tmp_path: Path) -> None:
    class Broken(Scripted):
        def answer(self, turns: Any, numbers: Any, decoding: Any, done: Any) -> None:
            for place, _ in enumerate(turns):
                done(place, Answer("좋아요 \ud83d", True))

    assert answer("m", "x", Broken(), five, tmp_path, Decoding()).answers[0].text == "좋아요 ?"


def test_failures_are_recorded_and_asked_again(five: list[Turn], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer("m", "x", Scripted(fail=[2]), five, tmp_path, Decoding())
    assert [bool(one.error) for one in found.answers] == [False, False, True, False, False]
    assert "1 of 5 prompts failed" in capsys.readouterr().err
    again = Scripted()
    assert not any(one.error for one in answer("m", "x", again, five, tmp_path, Decoding()).answers)
    assert again.asked == [2]
    with pytest.raises(ModelError, match="answered none of 5"):
        answer("n", "x", Scripted(fail=range(5)), five, tmp_path, Decoding())


def test_other_weights_or_decoding_ask_anew_and_keep_what_there_was(
    five: list[Turn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer("m", "x", Scripted(), five, tmp_path, Decoding())
    answer("m", "x", other := Scripted(weights="two"), five, tmp_path, Decoding())
    assert len(other.asked) == 5
    assert "other weights" in capsys.readouterr().err
    answer("m", "x", Scripted(weights="two"), five, tmp_path, Decoding(temperature=1.0))
    assert sorted(file.name for file in (tmp_path / "replies").glob("*.jsonl")) == [
        "m.earlier-1.jsonl", "m.earlier-2.jsonl", "m.jsonl",
    ]  # fmt: skip


# --- whole evaluations


@pytest.fixture(scope="module")
def evaluated(
    tiny_base: Path, tiny_run: Path, tiny_gguf: Path, small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[str]]]:
    """The report of base, run and its export on the held-out turns and the ten questions, and the command that made it."""
    folder = tmp_path_factory.mktemp("evaluated") / "report"
    command = [
        "evaluate", "--data", str(small_data), "--prompts", "baseline", "--model", f"base={tiny_base}",
        "--model", f"tuned={tiny_run}", "--model", f"exported={tiny_gguf}", "--max-tokens", "24", "--report", str(folder),
    ]  # fmt: skip
    assert main(command) == 0
    yield folder, command


def test_an_evaluation_writes_what_people_and_programs_read(evaluated: tuple[Path, list[str]], small_data: Path) -> None:
    folder, _ = evaluated
    results = read_json(folder / "results.json")
    assert list(results["models"]) == ["base", "tuned", "exported", CONSTANT, RANDOM]
    turns = held_out_turns(small_data)
    assert results["replies"] == len(turns)
    assert results["models"][RANDOM]["values"]["cosine"] < 1
    for name, row in results["models"].items():
        expected = set(METRICS) - {"bertscore"} - (LIKELIHOOD if name in (CONSTANT, RANDOM) else set())
        assert set(row["values"]) == expected
        assert set(row["intervals"]) == expected - {"distinct_1", "distinct_2", "self_bleu"}
    kinds = {name: row.get("kind") for name, row in results["models"].items()}
    assert kinds == {"base": "transformers", "tuned": "transformers", "exported": "llama.cpp", CONSTANT: None, RANDOM: None}
    run, export = (results["models"][name]["values"]["bits_per_byte"] for name in ("tuned", "exported"))
    assert export == pytest.approx(run, rel=0.03)
    assert set(results["prompt_sets"]["baseline"]["models"]) == {"base", "tuned", "exported"}
    assert results["prompt_sets"]["baseline"]["prompts"] == 10
    report = read_report(folder)
    assert len(report.answers["tuned"]) == len(turns) + 10
    assert len(report.answers[RANDOM]) == len(turns) == len(report.scores["tuned"]["chrf"])
    assert {one.text for one in report.answers[RANDOM]} <= set(training_replies(small_data))
    assert report.training["tuned"][0]["step"] == 1
    assert report.corpus is not None


def test_the_sheets_open_in_excel_and_compute_nothing(evaluated: tuple[Path, list[str]], small_data: Path) -> None:
    from kosent.evaluation.writing import _sheet

    folder, _ = evaluated
    assert (folder / "replies.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    with (folder / "replies.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    turns = held_out_turns(small_data)
    assert [row["reference"] for row in rows] == [turn.reference for turn in turns] + [""] * 10
    assert {row["set"] for row in rows} == {"held-out", "baseline"}
    with (folder / "metrics.csv").open(encoding="utf-8-sig", newline="") as file:
        cosine = next(row for row in csv.DictReader(file) if (row["model"], row["metric"]) == ("tuned", "cosine"))
    assert float(cosine["low_95"]) <= float(cosine["value"]) <= float(cosine["high_95"])
    assert cosine["name"] == "코사인 유사도"
    assert _sheet([["=HYPERLINK(1)", "-1", -1, "안녕, 나"]]) == "'=HYPERLINK(1),'-1,-1,\"안녕, 나\"\r\n"


def test_the_written_report_and_the_picture(evaluated: tuple[Path, list[str]]) -> None:
    folder, _ = evaluated
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    written = (folder / "report.md").read_text(encoding="utf-8")
    assert "| cosine (use) |" in written
    assert "### baseline" in written and "불고기용 고기 한우에요?" in written
    for name in set(METRICS) - {"bertscore"}:
        assert f"| {METRICS[name].label_en}" in written
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_given_again_it_asks_nobody_and_says_the_same(evaluated: tuple[Path, list[str]]) -> None:
    folder, command = evaluated
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.suffix != ".png"}
    replies = {file: file.read_bytes() for file in (folder / "replies").iterdir()}
    assert main(command) == 0
    assert {file: file.read_bytes() for file in (folder / "replies").iterdir()} == replies
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_killed_in_the_middle_it_goes_on_to_the_same_numbers(evaluated: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, command = evaluated
    other = tmp_path / "report"
    again = [*command[:-1], str(other)]
    first, second = replies_file(other, "base"), replies_file(other, "tuned")
    for file in (first, second):
        process = subprocess.Popen([sys.executable, "-m", "kosent", *again], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (file.is_file() and file.read_bytes().count(b"\n") > 3):
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()[1].decode()[-2000:]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (other / "results.json").exists()
    assert main(again) == 0
    results, expected = (read_json(one / "results.json") for one in (other, folder))
    assert results == expected
    assert read_json(other / "scores.json") == read_json(folder / "scores.json")


def test_ctrl_c_keeps_what_was_answered(evaluated: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, command = evaluated
    file = replies_file(tmp_path, "base")
    process = subprocess.Popen([sys.executable, "-m", "kosent", *command[:-1], str(tmp_path)], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (file.is_file() and file.read_bytes().count(b"\n") > 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    kept = read_jsonl(file)[1:]
    whole = {row["turn"]: row for row in read_jsonl(replies_file(folder, "base"))[1:]}
    assert kept and all(row == whole[row["turn"]] for row in kept)


def test_without_references_the_replies_are_measured_alone(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--prompts", "multi-turn", "--model", str(tiny_base), "--max-tokens", "8", "--report", str(tmp_path)]
    assert main(command) == 0
    results = read_json(tmp_path / "results.json")
    (row,) = results["models"].values()
    assert {"repetition", "echo", "foreign"} <= set(row["values"])
    assert not {"cosine", "bleu_char", "perplexity"} & set(row["values"])
    assert "greedy, at most 8 tokens" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["evaluate", "--report", str(tmp_path)])


def test_what_is_not_there_is_said_before_anyone_is_asked(
    tiny_base: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["evaluate", "--data", str(small_data), "--report", str(tmp_path / "report"), "--model", str(tiny_base)]
    for missing, code in (("no/such.gguf", 2), ("ollama:none", 5), ("openai:x@http://127.0.0.1:9", 5)):
        assert main([*common, "--model", f"second={missing}"]) == code
        assert not (tmp_path / "report" / "replies").exists()
    assert main([*common[:-1], str(tmp_path / "nowhere")]) == 5
    assert "Try: " in capsys.readouterr().err


def test_an_adapter_of_peft_is_a_model(tiny_base: Path, tiny_run: Path, small_data: Path, tmp_path: Path) -> None:
    from kosent.evaluation.backends import backend

    adapter = shutil.copytree(tiny_run / "adapter", tmp_path / "adapter")
    config = read_json(adapter / "adapter_config.json")
    write_json(adapter / "adapter_config.json", config | {"base_model_name_or_path": str(tiny_base)})
    turns = held_out_turns(small_data)[:2]
    of_the_run = generate(load_for_inference(str(tiny_run)), turns, max_tokens=8)
    for folder in (adapter, tiny_run / "adapter"):
        assert backend(str(folder)).identity()
        assert generate(load_for_inference(str(folder)), turns, max_tokens=8) == of_the_run


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--max-tokens", "0"], "--max-tokens is 1 or more"),
        (["--temperature", "-1"], "--temperature is 0 or more"),
        (["--top-p", "2"], "--top-p is above 0"),
        (["--parallel", "0"], "--parallel is 1 or more"),
        (["--most", "5"], "there is no --data"),
        (["--model", "=starter"], "not [LABEL=]MODEL"),
    ],
)
def test_what_cannot_be_meant(more: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "--prompts", "baseline", "--model", "m=starter", "--report", str(tmp_path / "report"), *more]
    assert main(command) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.html").write_text("mine", encoding="utf-8")
    command = ["evaluate", "--prompts", "baseline", "--model", "m=starter", "--report"]
    assert main([*command, str(tmp_path)]) == 2
    assert "something else than an evaluation" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "report.html")]) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "mine"


def test_a_damaged_evaluation_says_so(evaluated: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder = shutil.copytree(evaluated[0], tmp_path / "copy")
    whole = (folder / "results.json").read_text(encoding="utf-8")
    (folder / "results.json").write_text(whole[: len(whole) // 2], encoding="utf-8")
    with pytest.raises(DataError, match="is damaged"):
        read_report(folder)
    assert main(["rate", str(folder)]) == 3


def test_what_no_reply_has_may_still_come(evaluated: tuple[Path, list[str]]) -> None:
    """Wilson's interval where a bootstrap has nothing to draw."""
    row = read_json(evaluated[0] / "results.json")["models"][RANDOM]
    assert row["values"]["harmful"] == 0
    assert row["intervals"]["harmful"] == [0, pytest.approx(0.658, abs=0.001)]  # of 2 dialogues
