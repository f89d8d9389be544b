"""A finished evaluation, written by hand: for what judges and people make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kosent.evaluation.folder import Answer, Turn, replies_file, write_turns
from kosent.files import read_jsonl, write_json, write_jsonl

USERS = ("오늘 회사에서 혼났어", "시험에 떨어졌어", "친구가 연락을 안 받아", "잠이 안 와", "강아지가 아파", "승진했어!")


def evaluation(folder: Path, replies: Mapping[str, Sequence[str | Answer]], users: Sequence[str] = USERS) -> Path:
    """`replies` by model, to the first of `users`; straw men by their own names."""
    turns = [Turn(f"d{place}", [{"role": "user", "content": user}], "그랬군요.") for place, user in enumerate(users)]
    longest = max(len(texts) for texts in replies.values())
    write_turns(folder, turns[:longest])
    for model, texts in replies.items():
        answers = [text if isinstance(text, Answer) else Answer(text, True) for text in texts]
        rows = [{"turn": place, **asdict(answer)} for place, answer in enumerate(answers)]
        write_jsonl(replies_file(folder, model), [{"settings": {}}, *rows])
    write_json(folder / "results.json", {"models": {model: {"values": {}, "intervals": {}} for model in replies}})
    write_json(folder / "scores.json", {})
    return folder


def kept(folder: Path, name: str = "*") -> list[dict[str, Any]]:
    """The rows of judgements."""
    return [row for file in sorted(folder.glob(f"judgements/{name}.jsonl")) for row in read_jsonl(file)]
