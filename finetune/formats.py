"""From a row of a corpus file (a dict) to records, by the shape of the row.

The names of a row decide which format it is; nothing is cleaned, and nothing is guessed that the row does not say. Rows
that are chats already are read in `chat_formats`; how rows come out of a file is the business of `containers`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Any

from kosent.finetune.chat_formats import (
    Messages,
    Place,
    RowError,
    pair,
    read_alpaca,
    read_messages,
    read_preference,
    read_sharegpt,
    text,
)
from kosent.finetune.records import Record

META_COLUMNS = ("연령", "성별", "상황키워드", "신체질환", "감정_대분류", "감정_소분류")
BORROWED = "from the same category"
"""`meta.reply` of a wellness row that has none of its own."""
REPLIES_A_CATEGORY = 50
CATEGORIES = 5_000
"""wellness: more categories than these are read, but no replies are remembered for them."""

_META = {name.replace("_", ""): name for name in META_COLUMNS}
_TURN = re.compile(r"(사람|시스템)(?:문장|응답)(\d{1,3})")
_COMPLETION = re.compile(r"completion_\d{1,3}")
_SPOKEN = re.compile(r"([HS])S(\d{1,3})")
_AGES = {"A01": "청소년", "A02": "청년", "A03": "중년", "A04": "노년"}
_SEXES = {"G01": "남성", "G02": "여성"}
_EMOTIONS = {"E1": "분노", "E2": "슬픔", "E3": "불안", "E4": "상처", "E5": "당황", "E6": "기쁨"}

Reader = Callable[[Place, dict[str, Any]], list[Record]]


@dataclass(frozen=True)
class Format:
    """One shape of rows."""

    name: str
    title: str
    """What people call it."""
    shape: str
    """Its columns or keys, in words."""
    needs: tuple[str, ...]
    """Names without which a row is not of this format, as `meaning` gives them."""
    start: Callable[[], Reader]
    """A reader for one file; some remember what came before."""
    also: tuple[str, ...] = ()
    """Names that are used when they are there."""
    pattern: re.Pattern[str] | None = None
    """Further names that are used when they are there."""
    nested: bool = False
    """Whether a value is a list or an object, so that CSV and Excel cannot hold it."""
    all_into_meta: bool = False
    """Whether every other name goes into `Record.meta`."""
    only: frozenset[str] = frozenset()
    """When not empty: recognised only among these names."""

    def missing(self, names: Collection[str]) -> list[str]:
        """Needed names that are not among `names`."""
        found = {meaning(name) for name in names}
        return [name for name in self.needs if name not in found]

    def fits(self, names: Collection[str], *, nested: bool) -> bool:
        """Whether rows with `names` are of this format; `nested` says whether their values can be lists and objects."""
        allowed = nested or not self.nested
        return allowed and not self.missing(names) and (not self.only or {meaning(name) for name in names} <= self.only)

    def uses(self, name: str) -> bool:
        known = meaning(name)
        return known in self.needs or known in self.also or bool(self.pattern and self.pattern.fullmatch(known))

    def twins(self, names: Sequence[str]) -> tuple[str, list[str]] | None:
        """A used name and the several of `names` that mean it, if there is such a name."""
        for name in names:
            same = [other for other in names if meaning(other) == meaning(name)]
            if len(same) > 1 and self.uses(name):
                return meaning(name), same
        return None

    def row(self, values: dict[str, Any]) -> dict[str, Any]:
        """`values` under the names as `meaning` gives them. Raises `RowError` when one is missing or there twice."""
        row = {meaning(name): value for name, value in values.items()}
        if len(row) < len(values) and (twins := self.twins(list(values))):
            raise RowError(f"{' and '.join(twins[1])} both mean {twins[0]}")
        if missing := [name for name in self.needs if name not in row]:
            raise RowError(f"has no {', '.join(missing)}; found: {', '.join(list(values)[:12]) or 'nothing'}")
        return row


@lru_cache(maxsize=4096)
def meaning(name: str) -> str:
    """A column or key name without what writers vary: "사람 응답 01" is 사람문장1, "감정 대분류" is 감정_대분류."""
    bare = name.replace("\ufeff", "").strip()
    compact = re.sub(r"[\s_]", "", bare)
    if match := _TURN.fullmatch(compact):
        return f"{match[1]}문장{int(match[2])}"
    return _META.get(compact, bare)


def _turns_of(pairs: list[tuple[str, str]]) -> Messages:
    while pairs and not any(said.strip() for said in pairs[-1]):
        pairs.pop()
    return [message for user, assistant in pairs for message in pair(user, assistant)]


def _aihub(place: Place, row: dict[str, Any]) -> list[Record]:
    numbers = sorted({int(match[2]) for name in row if (match := _TURN.fullmatch(name))})
    pairs = [(text(row.get(f"사람문장{n}"), f"사람문장{n}"), text(row.get(f"시스템문장{n}"), f"시스템문장{n}")) for n in numbers]
    meta = {name: known for name in META_COLUMNS if (known := text(row.get(name), name).strip())}
    return [Record(*place, messages=_turns_of(pairs), meta=meta)]


def _aihub_json(place: Place, row: dict[str, Any]) -> list[Record]:
    content = row["talk"].get("content") if isinstance(row["talk"], dict) else None
    if not isinstance(content, dict):
        raise RowError("talk has no content with HS01, SS01 …")
    said = {(match[1], int(match[2])): text(value, name) for name, value in content.items() if (match := _SPOKEN.fullmatch(name))}
    numbers = sorted({number for _, number in said})
    pairs = [(said.get(("H", number), ""), said.get(("S", number), "")) for number in numbers]
    return [Record(*place, messages=_turns_of(pairs), meta=_codes(row.get("profile")))]


def _codes(profile: Any) -> dict[str, str]:
    """What the codes of a profile say; a code that is not known stands for itself."""
    profile = profile if isinstance(profile, dict) else {}
    persona, emotion = profile.get("persona"), profile.get("emotion")
    human = persona.get("human") if isinstance(persona, dict) else None
    meta = {}
    for code in human if isinstance(human, list) else []:
        code = text(code, "human")
        if code.startswith("A"):
            meta["연령"] = _AGES.get(code, code)
        elif code.startswith("G"):
            meta["성별"] = _SEXES.get(code, code)
        elif code:
            meta["human"] = code
    if code := text(emotion.get("type"), "type") if isinstance(emotion, dict) else "":
        meta["감정_대분류"] = _EMOTIONS.get(code[:2], code)
        meta["감정_소분류"] = code
    return meta


def _wellness() -> Reader:
    replies: dict[str, list[str]] = {}
    turns: dict[str, int] = {}

    def read(place: Place, row: dict[str, Any]) -> list[Record]:
        category, user, reply = (text(row[name], name).strip() for name in ("구분", "유저", "챗봇"))
        meta = {"category": category} if category else {}
        if reply and category:
            known = replies.setdefault(category, []) if len(replies) < CATEGORIES else replies.get(category, [])
            if len(known) < REPLIES_A_CATEGORY:
                known.append(reply)
        elif not reply and (known := replies.get(category, [])):
            turn = turns.get(category, 0)
            turns[category] = turn + 1
            reply = known[turn % len(known)]
            meta["reply"] = BORROWED
        return [Record(*place, messages=pair(user, reply), meta=meta)]

    return read


def _songys(place: Place, row: dict[str, Any]) -> list[Record]:
    label = text(row.get("label"), "label").strip()
    return [Record(*place, messages=pair(text(row["Q"], "Q"), text(row["A"], "A")), meta={"label": label} if label else {})]


def _sft(place: Place, row: dict[str, Any]) -> list[Record]:
    return [Record(*place, messages=pair(text(row["prompt"], "prompt"), text(row["completion"], "completion")))]


def _rm(place: Place, row: dict[str, Any]) -> list[Record]:
    names = sorted((name for name in row if _COMPLETION.fullmatch(name)), key=lambda name: int(name.partition("_")[2]))
    completions = [text(row[name], name) for name in names]
    ranking = row.get("ranking")
    if ranking is None:
        raise RowError("has no ranking")
    if not isinstance(ranking, list) or not all(type(rank) is int for rank in ranking):
        raise RowError("ranking is not a list of whole numbers")
    if len(ranking) != len(completions):
        raise RowError(f"ranking has {len(ranking)} numbers for {len(completions)} completions")
    prompt = [{"role": "user", "content": text(row["prompt"], "prompt")}]
    ranked = permutations(zip(ranking, completions, strict=True), 2)
    pairs = [(better, worse) for (high, better), (low, worse) in ranked if high < low]
    return [Record(*place, messages=prompt, kind="preference", chosen=better, rejected=worse) for better, worse in pairs]


def _ppo(place: Place, row: dict[str, Any]) -> list[Record]:
    return [Record(*place, messages=[{"role": "user", "content": text(row["prompt"], "prompt")}], kind="prompt")]


_HARMLESS = frozenset({"prompt", "tokens", "id", "idx", "index", "no", "번호", ""})
_ALL = (
    Format("aihub", "AI Hub 감성대화말뭉치", "columns 사람문장1, 시스템문장1, 사람문장2, 시스템문장2 …, and 연령, 감정_대분류 …",
           ("사람문장1", "시스템문장1"), lambda: _aihub, also=META_COLUMNS, pattern=_TURN),
    Format("aihub-json", "AI Hub 감성대화말뭉치 (JSON)", "talk.content with HS01, SS01 …, and profile",
           ("talk",), lambda: _aihub_json, also=("profile",), nested=True),
    Format("wellness", "AI Hub 웰니스 대화 스크립트", "columns 구분, 유저, 챗봇", ("구분", "유저", "챗봇"), _wellness),
    Format("messages", "OpenAI messages", "messages with role and content",
           ("messages",), lambda: read_messages, also=("meta",), nested=True, all_into_meta=True),
    Format("sharegpt", "ShareGPT", "conversations with from and value",
           ("conversations",), lambda: read_sharegpt, also=("system",), nested=True),
    Format("preference", "preference pairs", "prompt, chosen, rejected",
           ("chosen", "rejected"), lambda: read_preference, also=("prompt",)),
    Format("kochatgpt-rm", "KoChatGPT 2 (RM)", "prompt, completion_0, completion_1 …, ranking (0 or 1 is the best)",
           ("prompt", "completion_0", "completion_1"), lambda: _rm, also=("ranking",), pattern=_COMPLETION, nested=True),
    Format("kochatgpt-sft", "KoChatGPT 1 (SFT)", "prompt, completion", ("prompt", "completion"), lambda: _sft),
    Format("alpaca", "Alpaca", "instruction, output, and input, system, history if there",
           ("instruction", "output"), lambda: read_alpaca, also=("input", "system", "history")),
    Format("songys", "songys ChatbotData", "columns Q, A, label", ("Q", "A"), lambda: _songys, also=("label",)),
    Format("kochatgpt-ppo", "KoChatGPT 3 (PPO)", "prompt alone", ("prompt",), lambda: _ppo, only=_HARMLESS),
)  # fmt: skip
BY_NAME = {known.name: known for known in _ALL}


def recognise(names: Collection[str], *, nested: bool) -> Format | None:
    """The format of rows with `names`; `nested` says whether their values can be lists and objects (JSON, Parquet)."""
    return next((known for known in _ALL if known.fits(names, nested=nested)), None)
