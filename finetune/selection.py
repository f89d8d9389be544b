"""Rules about the whole corpus, decided from a few numbers a row: split, over-represented replies, leaks, balance.

The split of a row depends on a hash of its own words alone, so it stays when the corpus is put into another order or grows.
What balances the emotions never moves a row from one split to another; it leaves a few held-out rows out.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from typing import Any

from kosent.finetune.cleaning import Cleaned
from kosent.finetune.records import SPLITS
from kosent.finetune.rules import CleaningSettings
from kosent.finetune.tally import closing_key, opening_key, shares
from kosent.text import content_hash, normalized

_PLACES = 2**64


def split_of(key: str, validation: float, test: float) -> tuple[int, int]:
    """The split of a row as an index into `SPLITS`, and a number that orders rows by chance, both from a hash of `key`."""
    digest = hashlib.sha256(key.encode()).digest()
    place = int.from_bytes(digest[:8], "big") / _PLACES
    order = int.from_bytes(digest[8:16], "big")
    return (2 if place < test else 1 if place < test + validation else 0), order


class Selection:
    """Remembers about 100 bytes a row; `decide` fills `dropped`."""

    def __init__(self, settings: CleaningSettings, on: frozenset[str], validation: float, test: float) -> None:
        self.settings, self.on, self.validation, self.test = settings, on, validation, test
        self.dropped: dict[int, tuple[str, str]] = {}
        """Row number -> (rule, why)."""
        self.unbalanced: list[str] = []
        """Splits that would have had to give up too much for the rule balance."""
        self._kinds: list[str] = []
        self._splits, self._emotions = bytearray(), bytearray()
        self._orders = array("Q")
        self._users, self._replies, self._openings, self._closings = array("Q"), array("Q"), array("Q"), array("Q")
        self._user_ends, self._reply_ends = array("Q"), array("Q")
        self._questions: Counter[int] = Counter()
        self._names: dict[str, int] = {"": 0}

    def add(self, row: Cleaned) -> None:
        """Remembers a row; rows are numbered in the order they come."""
        kind = row.record.kind
        users = row.users()
        key = row.key() if kind == "dialogue" else "\n".join(users)
        split, order = split_of(key, self.validation, self.test)
        self._kinds.append(kind)
        self._splits.append(split)
        self._orders.append(order)
        emotion = str(row.record.meta.get("감정_대분류", ""))
        if len(self._names) < 256:
            self._names.setdefault(emotion, len(self._names))
        self._emotions.append(self._names.get(emotion, 0))
        long_enough = self.settings.leak_letters
        self._users.extend(content_hash(user) if len(user) >= long_enough else 0 for user in users)
        self._user_ends.append(len(self._users))
        letters = self.settings.frequent_opening_letters
        for reply in row.replies():
            self._replies.append(content_hash(normalized(reply)))
            start, end = opening_key(reply, letters), closing_key(reply, letters)
            self._openings.append(content_hash(start) if start else 0)
            self._closings.append(content_hash(end) if end else 0)
        self._reply_ends.append(len(self._replies))

    @property
    def rows(self) -> int:
        return len(self._splits)

    def split(self, row: int) -> str:
        return SPLITS[self._splits[row]]

    def decide(self) -> None:
        """Fills `dropped` by the rules frequent, leak and balance, in this order."""
        if "frequent" in self.on:
            self._thin(self._replies, self.settings.frequent_max_reply, "reply")
            self._thin(self._openings, self.settings.frequent_max_opening, "opening")
            self._thin(self._closings, self.settings.frequent_max_opening, "last sentence")
        if "leak" in self.on:
            self._close_leaks()
        if "balance" in self.on:
            for split in (1, 2):
                self._balance(split)
        if "contradiction" in self.on:
            self._questions = Counter(
                question for row in range(len(self._splits)) if row not in self.dropped and (question := self._question(row))
            )

    def repeated_question(self, row: int) -> int | None:
        """The hash of the question of a dialogue of one pair where another row has it too."""
        question = self._question(row)
        return question if question and self._questions[question] > 1 else None

    def _question(self, row: int) -> int:
        users = self._of(self._users, self._user_ends, row)
        replies = self._of(self._replies, self._reply_ends, row)
        return users[0] if len(users) == len(replies) == 1 and self._kinds[row] == "dialogue" else 0

    @staticmethod
    def _of(values: array[int], ends: array[int], row: int) -> array[int]:
        return values[ends[row - 1] if row else 0 : ends[row]]

    def _thin(self, values: array[int], max_share: float, what: str) -> None:
        counts = Counter(values)
        counts.pop(0, None)
        limit = max(self.settings.frequent_min_count, int(max_share * len(values)))
        frequent = {value: count for value, count in counts.items() if count > limit}
        if not frequent:
            return
        holders: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for row, order in enumerate(self._orders):
            for value in set(self._of(values, self._reply_ends, row)) & frequent.keys():
                if row not in self.dropped:
                    holders[value].append((order, row))
        for value, rows in sorted(holders.items()):
            for _, row in sorted(rows)[limit:]:
                self.dropped.setdefault(
                    row, ("frequent", f"{frequent[value]} replies have this {what}; {limit} of them are kept")
                )

    def _held_out(self) -> dict[int, int]:
        """Hashes of the user utterances of validation and test, and the split each one stands in."""
        return {
            user: self._splits[row]
            for row in range(len(self._splits))
            if self._splits[row] and row not in self.dropped
            for user in self._of(self._users, self._user_ends, row)
            if user
        }

    def _close_leaks(self) -> None:
        held_out = self._held_out()
        for row, split in enumerate(self._splits):
            if split == 0 and row not in self.dropped:
                shared = next((user for user in self._of(self._users, self._user_ends, row) if user in held_out), None)
                if shared is not None:
                    self.dropped[row] = ("leak", f"a user utterance of it is in {SPLITS[held_out[shared]]} too")

    def _balance(self, split: int) -> None:
        """Leaves out rows of emotions that are over-represented in `split` until no share is off by more than the limit."""
        counts = self._emotion_counts(split)
        goal = shares(self._emotion_counts(0))
        # against training by half the limit, so that validation and test differ by no more than the whole of it
        limit = self.settings.balance_points / 2
        surplus: Counter[int] = Counter()
        most = self.settings.balance_max_share * counts.total()
        while counts.total():
            found = shares(counts)
            excess = {emotion: found.get(emotion, 0.0) - goal.get(emotion, 0.0) for emotion in goal.keys() | found.keys()}
            if max(map(abs, excess.values())) <= limit:
                break
            emotion = max(found, key=lambda emotion: (excess[emotion], emotion))
            counts[emotion] -= 1
            surplus[emotion] += 1
            if surplus.total() > most:
                self.unbalanced.append(SPLITS[split])
                return
        rows: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for row, place in enumerate(self._splits):
            if place == split and row not in self.dropped and self._kinds[row] == "dialogue" and surplus[self._emotions[row]]:
                rows[self._emotions[row]].append((self._orders[row], row))
        for emotion, candidates in rows.items():
            for _, row in sorted(candidates)[: surplus[emotion]]:
                self.dropped[row] = ("balance", f"{SPLITS[split]} has more of this emotion than training")

    def _emotion_counts(self, split: int) -> Counter[int]:
        return Counter(
            self._emotions[row]
            for row, place in enumerate(self._splits)
            if place == split and row not in self.dropped and self._emotions[row]
        )

    # ---- for the report

    def split_counts(self) -> dict[str, dict[str, Any]]:
        """Per split: dialogues, replies, preferences, prompts and the number of dialogues of each emotion."""
        names = {number: name for name, number in self._names.items() if name}
        found: dict[str, dict[str, Any]] = {}
        for number, split in enumerate(SPLITS):
            rows = [row for row, place in enumerate(self._splits) if place == number and row not in self.dropped]
            kinds = Counter(self._kinds[row] for row in rows)
            replies = sum(len(self._of(self._replies, self._reply_ends, row)) for row in rows if self._kinds[row] == "dialogue")
            emotions = {names[key]: count for key, count in self._emotion_counts(number).items()}
            found[split] = {
                "dialogues": kinds["dialogue"], "replies": replies, "preferences": kinds["preference"],
                "prompts": kinds["prompt"], "emotions": dict(sorted(emotions.items())),
            }  # fmt: skip
        return found

    def leakage(self) -> dict[str, int]:
        """How many user utterances of `leak_letters` or more letters two splits share, counted anew from what is kept."""
        users: list[set[int]] = [set(), set(), set()]
        for row, split in enumerate(self._splits):
            if row not in self.dropped:
                users[split].update(user for user in self._of(self._users, self._user_ends, row) if user)
        train, validation, test = users
        left_out = sum(rule == "leak" for rule, _ in self.dropped.values())
        return {
            "train_validation": len(train & validation), "train_test": len(train & test),
            "validation_test": len(validation & test), "left_out": left_out,
        }  # fmt: skip
