"""From corpora to clean splits in two passes over the rows, in memory that grows with the index of duplicates alone.

The first pass reads, cleans and compares every row and writes those that are left into a spool; of each it remembers a few
numbers. From these it is decided which rows the rules about the whole corpus leave out (`kosent.finetune.selection`). The
second pass writes the splits. Everything lies in the folder it is given until it is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from kosent.finetune.cleaning import MAX_CHARACTERS, Cleaned, Cleaner, script
from kosent.finetune.corpus import Corpus
from kosent.finetune.duplicates import DuplicateIndex
from kosent.finetune.formats import BORROWED
from kosent.finetune.records import SPLITS, BrokenRow, Record
from kosent.finetune.rules import CleaningSettings
from kosent.finetune.selection import Selection
from kosent.finetune.tally import Examples, Side, contradicting, denials
from kosent.finetune.tokens import Lengths

CHUNK = 256
SPOOL = ".spool.jsonl"
_ENCODER = json.JSONEncoder(ensure_ascii=False)
MAX_ANSWERS = 10
MAX_QUESTIONS = 20_000


class Pipeline:
    """One run of `kosent prepare`, written into `folder`."""

    def __init__(
        self,
        folder: Path,
        settings: CleaningSettings,
        on: frozenset[str],
        lengths: Lengths,
        *,
        in_tokens: bool,
        system: str,
        keep_system: bool,
        shares: tuple[float, float],
    ) -> None:
        self.folder, self.settings, self.on, self.lengths, self.in_tokens = folder, settings, on, lengths, in_tokens
        self.system, self.keep_system = system, keep_system
        self.cleaner = Cleaner(settings, on)
        self.examples = Examples()
        self.before, self.after = (Side(settings.frequent_opening_letters) for _ in range(2))
        self.selection = Selection(settings, on, *shares)
        exact, near, threshold = "duplicate" in on, "near" in on, settings.near_threshold
        # of two rankings of one prompt much is the same, and yet they say different things
        self.indexes = {
            kind: DuplicateIndex(exact=exact, near=near and kind != "preference", threshold=threshold)
            for kind in ("dialogue", "preference", "prompt")
        }
        self.places: list[tuple[str, int]] = []
        self.rows: dict[str, int] = {}
        self.broken: dict[str, int] = {}
        self.changed = self.records = 0
        self.notes: list[str] = []
        """What a person must know and no count says."""
        self.borrowed = 0
        self.contradictions: list[dict[str, Any]] = []
        self.opposed = self.questions = 0
        self._files: dict[str, IO[str]] = {}
        self._rejected, self._changed, self._spool = (self._private(name) for name in ("rejected.jsonl", "changed.jsonl", SPOOL))

    def close(self) -> None:
        """Closes every file; what has been written can then be moved."""
        for file in self._files.values():
            file.close()

    def _open(self, name: str) -> IO[str]:
        if name not in self._files:
            self._files[name] = (self.folder / name).open("w", encoding="utf-8", newline="\n")
        return self._files[name]

    def _private(self, name: str) -> IO[str]:
        """A file for its owner alone: it may hold personal data as it stood in the corpus."""
        descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._files[name] = os.fdopen(descriptor, "w", encoding="utf-8", newline="\n")
        return self._files[name]

    # ---- first pass

    def read(self, corpora: Iterable[tuple[str, Corpus]], advance: Callable[[int], None]) -> None:
        """Cleans every row of the corpora, given with the name that each has in the output. `advance(bytes)` is progress."""
        done = 0
        for name, corpus in corpora:
            self.rows.setdefault(name, 0)
            self.broken.setdefault(name, 0)
            records = corpus.records()
            while chunk := list(islice(records, CHUNK)):
                self._clean_chunk(name, chunk)
                advance(done + corpus.position())
            done += corpus.size
        self._spool.close()
        self.indexes.clear()  # the larger part of the memory

    def unreadable(self, name: str, broken: BrokenRow) -> None:
        """Keeps a row that could not be read."""
        self.records += 1
        self.rows[name] = max(self.rows.get(name, 0), broken.row)
        self.broken[name] = self.broken.get(name, 0) + 1
        if broken.rest_lost:
            self.notes.append(f"{name}: everything from row {broken.row:,} on is lost: {broken.problem}")
        self._reject("unreadable", name, broken.row, broken.problem, broken.raw, broken.raw)

    def _clean_chunk(self, name: str, chunk: list[Record]) -> None:
        cleaned = [self.cleaner(record) for record in chunk]
        texts = list(dict.fromkeys(text for row in cleaned for turns in (row.raw, row.turns) for _, text in turns))
        lengths = dict(zip(texts, self.lengths([text[:MAX_CHARACTERS] for text in texts]), strict=True))
        for row in cleaned:
            self._take(name, row, lengths)

    def _take(self, name: str, row: Cleaned, all_lengths: dict[str, int]) -> None:
        record = row.record
        lengths = [all_lengths[text] for _, text in row.turns]
        self.records += 1
        self.rows[name] = max(self.rows[name], record.row)
        self.before.add(row.raw, [all_lengths[text] for _, text in row.raw], record.meta)
        if not row.rule and "length" in self.on:
            self._check_length(row, lengths)
        for rule in {change.rule for change in row.changes}:
            change = next(change for change in row.changes if change.rule == rule)
            self.examples.add(rule, "changed", name, record.row, change.before, change.after, change.role)
        for change in row.changes:
            entry = {"rule": change.rule, "source": name, "row": record.row, "role": change.role}
            _write(self._changed, entry | {"before": change.before, "after": change.after})
        if not row.rule:
            self._compare(name, row)
        if row.rule:
            self._reject_turns(row.rule, name, record.row, row.why, row.turns)
            return
        self.selection.add(row)
        meta = record.meta | {"source": f"{name}:{record.row}"}
        if "source" in record.meta:
            meta["source_in_corpus"] = record.meta["source"]
        self.borrowed += record.meta.get("reply") == BORROWED
        _write(self._spool, [record.kind, name, record.row, row.turns, lengths, meta, bool(row.changes)])

    def _check_length(self, row: Cleaned, lengths: list[int]) -> None:
        settings = self.settings
        most = settings.length_max_tokens if self.in_tokens else settings.length_max_characters
        unit = "tokens" if self.in_tokens else "characters"
        for (role, _), length in zip(row.turns, lengths, strict=True):
            if role != "system" and not settings.length_min <= length <= most:
                row.reject("length", f"an utterance of {length} {unit}")
                return

    def _compare(self, name: str, row: Cleaned) -> None:
        # "괜찮아요" and "안 괜찮아요" differ in one letter: what denies more is never nearly the same
        group = min(255, sum(map(denials, row.replies())))
        found = self.indexes[row.record.kind].find(row.key(with_system=self.keep_system), len(self.places), group)
        if found is None:
            self.places.append((name, row.record.row))
            return
        rule, earlier, similarity = found
        source, number = self.places[earlier]
        equal = "the same as" if rule == "duplicate" else f"nearly the same (Jaccard {similarity:.2f}) as"
        row.reject(rule, f"{equal} {source}:{number}")

    def _reject(self, rule: str, name: str, number: int, why: str, before: Any, said: str) -> None:
        _write(self._rejected, {"rule": rule, "source": name, "row": number, "why": why, "before": before})
        self.examples.add(rule, "rejected", name, number, said, None, why)

    def _reject_turns(self, rule: str, name: str, number: int, why: str, turns: list[tuple[str, str]]) -> None:
        said = [{"role": role, "content": text} for role, text in turns]
        self._reject(rule, name, number, why, said, script(turn for turn in turns if turn[0] != "system"))

    # ---- second pass

    def write(self, advance: Callable[[int], None]) -> None:
        """Writes the splits from the spool, which is then removed."""
        self.selection.decide()
        questions: dict[int, list[dict[str, Any]]] = {}
        for split in SPLITS:
            self._open(f"{split}.jsonl")
        for place, (kind, name, number, turns, lengths, meta, changed) in enumerate(self._spooled()):
            turns = [(role, text) for role, text in turns]
            if place % 1000 == 0:
                advance(place)
            if dropped := self.selection.dropped.get(place):
                rule, why = dropped
                self._reject_turns(rule, name, number, why, turns)
                continue
            split = self.selection.split(place)
            file = f"{split}.jsonl" if kind == "dialogue" else f"{split}.{kind}s.jsonl"
            _write(self._open(file), self._row(kind, turns, meta))
            self.after.add(turns, lengths, meta)
            self.changed += changed
            question = self.selection.repeated_question(place)
            if question is not None and (question in questions or len(questions) < MAX_QUESTIONS):
                answers = questions.setdefault(question, [])
                if len(answers) < MAX_ANSWERS:
                    asked, answer = (next((text for role, text in turns if role == who), "") for who in ("user", "assistant"))
                    answers.append({"question": asked, "answer": answer, "source": name, "row": number, "split": split})
        advance(self.selection.rows)
        (self.folder / SPOOL).unlink()
        self._list_contradictions(questions.values())

    def _spooled(self) -> Iterator[list[Any]]:
        with (self.folder / SPOOL).open(encoding="utf-8") as file:
            yield from map(json.loads, file)

    def _row(self, kind: str, turns: list[tuple[str, str]], meta: dict[str, Any]) -> dict[str, Any]:
        own = [text for role, text in turns if role == "system"] if self.keep_system else []
        system = own[0] if own else self.system
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": role, "content": text} for role, text in turns if role in ("user", "assistant")]
        if kind == "dialogue":
            return {"messages": messages, "meta": meta}
        ends = {role: [{"role": "assistant", "content": text}] for role, text in turns if role in ("chosen", "rejected")}
        return {"prompt": messages, **ends, "meta": meta}

    def _list_contradictions(self, questions: Iterable[list[dict[str, Any]]]) -> None:
        listed = []
        for answers in questions:
            if len({answer["answer"] for answer in answers}) < 2:
                continue
            opposed = contradicting([answer["answer"] for answer in answers])
            self.questions += 1
            self.opposed += opposed
            rest = [{key: answer[key] for key in ("answer", "source", "row", "split")} for answer in answers]
            listed.append({"question": answers[0]["question"], "opposed": opposed, "answers": rest})
        listed.sort(key=lambda entry: not entry["opposed"])
        file = self._open("contradictions.jsonl")
        for entry in listed:
            _write(file, entry)
        self.contradictions = [{**entry, "answers": [answer["answer"] for answer in entry["answers"]]} for entry in listed[:12]]


def _write(file: IO[str], value: Any) -> None:
    file.write(_ENCODER.encode(value) + "\n")
