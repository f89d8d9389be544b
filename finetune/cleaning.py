"""Cleaning one row: what the rules that need no other row make of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

from kosent.finetune.encoding_rule import fix_encoding
from kosent.finetune.records import Record
from kosent.finetune.repetition_rule import limit_repetition
from kosent.finetune.rules import CleaningSettings
from kosent.finetune.script_rule import check_script
from kosent.finetune.text_rules import Reject
from kosent.personal import mask_personal
from kosent.text import clean, normalized

NOTHING = frozenset(
    ("", "nan", "none", "null", "n/a", "#n/a", "#value!", "#ref!", "#name?", "#div/0!", "#num!", "undefined", "<na>")
)
MAX_CHARACTERS = 20_000
"""Longest utterance that is looked at, in characters, whatever the rules."""
_PLAIN = re.compile(r"[가-힣ㄱ-ㅎㅏ-ㅣ0-9.,!~…]+(?: [가-힣ㄱ-ㅎㅏ-ㅣ0-9.,!?~…]+)*\??")


@dataclass(frozen=True)
class Change:
    rule: str
    before: str
    after: str
    role: str
    """Who says it; "dialogue" where the order or the number of turns changed."""


@dataclass
class Cleaned:
    """What became of a row."""

    record: Record
    raw: list[tuple[str, str]]
    """As they stood in the corpus."""
    turns: list[tuple[str, str]]
    """(role, text) with the roles system, user, assistant and, in a preference, chosen and rejected."""
    changes: list[Change] = field(default_factory=list)
    rule: str = ""
    """The rule that rejected it; empty where none did."""
    why: str = ""

    def reject(self, rule: str, why: str) -> None:
        self.rule, self.why = rule, why

    def key(self, *, with_system: bool = False) -> str:
        """All that is said, reduced to letters and digits: an utterance a line."""
        return "\n".join(normalized(text) for role, text in self.turns if with_system or role != "system")

    def users(self) -> list[str]:
        return [normalized(text) for role, text in self.turns if role == "user"]

    def replies(self) -> list[str]:
        """What a model would learn to say."""
        return [text for role, text in self.turns if role in ("assistant", "chosen")]


class Cleaner:
    """Applies the rules `on` to one row at a time; keeps nothing between rows."""

    def __init__(self, settings: CleaningSettings, on: frozenset[str]) -> None:
        self.settings, self.on = settings, on

    def __call__(self, record: Record) -> Cleaned:
        turns = [(message["role"], message["content"]) for message in record.messages]
        if record.kind == "preference":
            turns += [("chosen", record.chosen), ("rejected", record.rejected)]
        outcome = Cleaned(record, turns, turns)
        for step in (self._readable, self._characters, self._empty, self._roles, self._judge, self._preference):
            step(outcome)
            if outcome.rule:
                break
        return outcome

    def _readable(self, outcome: Cleaned) -> None:
        longest = max((len(text) for _, text in outcome.turns), default=0)
        if all(role == "system" for role, _ in outcome.turns):
            outcome.reject("unreadable", "there is not one turn")
        elif longest > MAX_CHARACTERS:
            outcome.reject("unreadable", f"an utterance of {longest:,} characters; the most is {MAX_CHARACTERS:,}")

    def _characters(self, outcome: Cleaned) -> None:
        turns = []
        for role, text in outcome.turns:
            if not _PLAIN.fullmatch(text):
                if "encoding" in self.on and role != "system":
                    text = self._apply(outcome, "encoding", role, text, fix_encoding(text))
                    if outcome.rule:
                        return
                if "unicode" in self.on:
                    text = self._apply(outcome, "unicode", role, text, clean(text))
            turns.append((role, text))
        outcome.turns = turns

    def _apply(self, outcome: Cleaned, rule: str, role: str, before: str, after: str | Reject) -> str:
        """What a rule made of an utterance, with the change or the rejection remembered."""
        if isinstance(after, Reject):
            outcome.reject(rule, after.why)
            return before
        if after != before:
            outcome.changes.append(Change(rule, before, after, role))
        return after

    def _empty(self, outcome: Cleaned) -> None:
        empty = [role for role, text in outcome.turns if role != "system" and _is_nothing(text)]
        if not empty or "empty" not in self.on:
            return
        if outcome.record.kind != "dialogue":
            outcome.reject("empty", f"nothing is said by {empty[0]}")
            return
        kept: list[tuple[str, str]] = []
        for role, text in outcome.turns:
            if role != "system" and _is_nothing(text):
                if role == "assistant" and all(earlier == "system" for earlier, _ in kept):
                    continue  # a greeting that was left blank
                break
            kept.append((role, text))
        while kept and kept[-1][0] != "assistant":
            kept.pop()
        if not any(role == "user" for role, _ in kept):
            outcome.reject("empty", "there is not one whole pair of turns")
            return
        outcome.changes.append(Change("empty", script(outcome.turns), script(kept), "dialogue"))
        outcome.turns = kept

    def _roles(self, outcome: Cleaned) -> None:
        if "roles" not in self.on:
            return
        system = [turn for turn in outcome.turns if turn[0] == "system"][:1]
        ends = [turn for turn in outcome.turns if turn[0] in ("chosen", "rejected")]
        spoken = [turn for turn in outcome.turns if turn[0] in ("user", "assistant")]
        while spoken and spoken[0][0] == "assistant":
            spoken = spoken[1:]
        last = "assistant" if outcome.record.kind == "dialogue" else "user"
        while spoken and spoken[-1][0] != last:
            spoken = spoken[:-1]
        joined = [(role, "\n".join(text for _, text in group)) for role, group in groupby(spoken, key=lambda turn: turn[0])]
        if not joined:
            outcome.reject("roles", f"there is no user turn{' with a reply' if last == 'assistant' else ''}")
        elif system + joined + ends != outcome.turns:
            outcome.changes.append(Change("roles", script(outcome.turns), script(system + joined + ends), "dialogue"))
            outcome.turns = system + joined + ends

    def _judge(self, outcome: Cleaned) -> None:
        turns = []
        for role, text in outcome.turns:
            if role not in ("system", "rejected"):  # a reply that is there to be avoided may be as bad as it is
                if "script" in self.on:
                    text = self._apply(outcome, "script", role, text, check_script(text, self.settings))
                if "repetition" in self.on and not outcome.rule:
                    text = self._apply(outcome, "repetition", role, text, limit_repetition(text, self.settings))
            if outcome.rule:
                return
            if "personal" in self.on:
                text = self._apply(outcome, "personal", role, text, mask_personal(text))
            turns.append((role, text))
        outcome.turns = turns

    def _preference(self, outcome: Cleaned) -> None:
        if outcome.record.kind == "preference":
            (_, chosen), (_, rejected) = outcome.turns[-2:]
            if normalized(chosen) == normalized(rejected):
                outcome.reject("preference", "both replies say the same")


def _is_nothing(text: str) -> bool:
    return text.strip().lower() in NOTHING


def script(turns: Iterable[tuple[str, str]]) -> str:
    """A dialogue as one text, a turn a line."""
    return "\n".join(f"{role}: {text}" for role, text in turns)
