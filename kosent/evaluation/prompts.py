"""Who asks: the held-out turns of prepared data, and the prompt sets that come with KoSent.

baseline      ten questions on everything, the first ten of KoChatGPT's list (airobotlab/KoChatGPT): what the first study showed
              of each of its models. They have no reference; they show what a model does with what is no feeling
multi-turn    eight conversations on feelings of three to five turns, written for KoSent; every turn of the user is a prompt
              after the turns before it, so that all models see the same history
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from kosent.errors import DataError
from kosent.evaluation.folder import Turn
from kosent.files import read_jsonl
from kosent.prompts import SYSTEM_MESSAGE, Message

PROMPT_SETS = ("baseline", "multi-turn")
EMOTION = "감정_대분류"
"""Key of a dialogue's emotion in its `meta`, as in AI Hub's corpus."""
SEED = 0


def held_out_turns(folder: Path, most: int = 0) -> list[Turn]:
    """Every reply of the test split, in order; of more than `most` of them (0: all), those of dialogues drawn with a fixed seed
    until there are `most`. Raises `DataError`."""
    file = folder / "test.jsonl"
    if not file.is_file():
        raise DataError(f"There is no file {file}.", hint=f"kosent prepare SOURCE --output {folder}")
    turns = []
    for dialogue, row in enumerate(read_jsonl(file)):
        messages, emotion = row["messages"], str(row.get("meta", {}).get(EMOTION, ""))
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                turns.append(Turn(str(dialogue), messages[:index], message["content"], emotion))
    return _drawn(turns, most)


def _drawn(turns: list[Turn], most: int) -> list[Turn]:
    if not most or len(turns) <= most:
        return turns
    dialogues = list(dict.fromkeys(turn.dialogue for turn in turns))
    random.Random(SEED).shuffle(dialogues)
    places = {dialogue: place for place, dialogue in enumerate(dialogues)}
    order = sorted(range(len(turns)), key=lambda number: (places[turns[number].dialogue], number))
    return [turns[number] for number in sorted(order[:most])]


def training_replies(folder: Path) -> list[str]:
    """Every reply of the training split. Raises `DataError` when the file is missing."""
    file = folder / "train.jsonl"
    if not file.is_file():
        raise DataError(f"There is no file {file}.", hint=f"kosent prepare SOURCE --output {folder}")
    return [m["content"] for row in read_jsonl(file) for m in row["messages"] if m["role"] == "assistant"]


def prompt_set(name: str) -> list[Turn]:
    """The prompts of `PROMPT_SETS`, or of a file `name`: one prompt a line, or, in a .jsonl, {"messages": [...]} and where known
    "reference" and "emotion". Raises `DataError`."""
    if name not in PROMPT_SETS:
        return _of_file(Path(name))
    rows = json.loads(files("kosent").joinpath("data", "evaluation_prompts.json").read_text(encoding="utf-8"))[name]
    turns = []
    for number, row in enumerate(rows):
        dialogue, emotion = f"{name} {number + 1}", row["emotion"]
        for place in range(0, len(row["turns"]), 2):
            turns.append(Turn(dialogue, _messages(row["turns"][: place + 1]), None, emotion, name))
    return turns


def _messages(texts: Sequence[str]) -> list[Message]:
    said = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return [{"role": "system", "content": SYSTEM_MESSAGE}, *said]


def _asks(messages: Any) -> bool:
    """Whether they are messages of known roles with texts, the last of them the user's."""
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(one, dict) and isinstance(one.get("content"), str) for one in messages)
        and all(one.get("role") in ("system", "user", "assistant") for one in messages)
        and messages[-1]["role"] == "user"
    )


def _of_file(file: Path) -> list[Turn]:
    if not file.is_file():
        raise DataError(f"There is no prompt set and no file {file}.", hint=f"--prompts {' | '.join(PROMPT_SETS)} | FILE")
    if file.suffix == ".jsonl":
        found = []
        for number, row in enumerate(read_jsonl(file), 1):
            messages = row.get("messages") if isinstance(row, dict) else None
            if messages is None or not _asks(messages):
                raise DataError(
                    f'{file}, line {number}: not {{"messages": [...]}} with a last message of the user.',
                    hint="see docs/evaluation.md",
                )
            found.append(Turn(f"{file.stem} {number}", messages, row.get("reference"), row.get("emotion", ""), file.stem))
        return found
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{file} is empty.", hint="one prompt a line")
    return [Turn(f"{file.stem} {number}", _messages([line]), None, "", file.stem) for number, line in enumerate(lines, 1)]
