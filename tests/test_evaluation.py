"""Intervals, straw men, and a whole evaluation of two real small models."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from kosent.cli import main
from kosent.embedders import UniversalSentenceEncoder
from kosent.errors import DataError
from kosent.evaluation.definitions import METRICS
from kosent.evaluation.evaluate import central_reply, training_replies
from kosent.evaluation.generate import generate, held_out_turns
from kosent.evaluation.statistics import mean_interval, resamples
from kosent.files import read_json
from kosent.hf import load_for_inference


@pytest.fixture(scope="module")
def embedder() -> UniversalSentenceEncoder:
    return UniversalSentenceEncoder()


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


def test_batched_replies_are_the_replies_of_each_prompt_alone(starter_base: Path, small_data: Path) -> None:
    turns = held_out_turns(small_data)[:3]
    trained = load_for_inference(str(starter_base))
    together = generate(trained, turns, max_tokens=16)
    assert [generate(trained, [turn], max_tokens=16)[0].text for turn in turns] == [reply.text for reply in together]


def test_an_evaluation_writes_table_replies_and_picture(
    tiny_home: Path, tiny_run: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    command = [
        "evaluate",
        "--data",
        str(small_data),
        "--model",
        "base=starter",
        "--model",
        f"tuned={tiny_run}",
        "--report",
        str(report),
    ]
    assert main(command) == 0
    assert "| best constant reply |" in capsys.readouterr().out
    results = read_json(report / "results.json")
    assert list(results["models"]) == ["base", "tuned", "best constant reply", "random training reply"]
    turns = held_out_turns(small_data)
    assert results["replies"] == len(turns)
    assert results["models"]["random training reply"]["values"]["cosine"] < 1
    for row in results["models"].values():
        assert set(row["values"]) == set(METRICS) - {"bertscore"}
        assert set(row["intervals"]) == set(row["values"]) - {"distinct_1", "distinct_2", "self_bleu"}
        assert all(
            low <= row["values"][name] <= high for name, (low, high) in row["intervals"].items() if name.startswith("rouge")
        )
    assert set(results["signatures"]) == {"bleu_morpheme", "bleu_char", "bleu_13a", "chrf"}
    with (report / "replies.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["reference"] for row in rows] == [turn.reference for turn in turns]
    assert {row["random training reply"] for row in rows} <= set(training_replies(small_data))
    assert (report / "comparison.png").read_bytes().startswith(b"\x89PNG")
    written = (report / "report.md").read_text(encoding="utf-8")
    assert "## Examples" in written
    for name in set(METRICS) - {"bertscore"}:
        assert f"| {METRICS[name].label_en}" in written


def test_missing_data_is_an_error(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test\.jsonl"):
        held_out_turns(tmp_path)
    shutil.copy(small_data / "test.jsonl", tmp_path)
    with pytest.raises(DataError, match=r"train\.jsonl"):
        training_replies(tmp_path)
