"""The cleaning rules: their names, what each one does, and the numbers that they go by.

Every rule can be switched off (`--without NAME`) and is counted; what it rejects or changes is kept with the reason.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from kosent.errors import UsageError

RULES = {
    "unreadable": "a row that cannot be read (with --skip-broken; without it that is an error), has no turn, or an utterance of "
    "more than 20,000 characters",
    "encoding": "text saved in one encoding and read in another is put right where that can be undone, rejected where it cannot; "
    "HTML entities become characters",
    "unicode": "NFC; control, escape, zero-width and direction characters removed; white space folded",
    "empty": "a dialogue ends before its first turn that is empty, NaN or an error value of a spreadsheet; without a whole pair "
    "of turns it is rejected",
    "roles": "user and assistant take turns, the user first, the assistant last: turns of one speaker in a row are joined, "
    "a greeting before the first user turn and a last turn without a reply are cut",
    "script": "Han, Kana, Cyrillic and other letters in the middle of Korean, and English sentences in place of Korean; names, "
    "glosses in brackets, quotations, code and faces stay",
    "repetition": "long runs of one character are shortened; an utterance that says the same thing over and over is rejected",
    "personal": "resident numbers, phone numbers, e-mail addresses, cards, accounts and addresses become placeholders such as "
    "<전화번호>",
    "length": "a dialogue with an utterance shorter or longer than the bounds is rejected",
    "preference": "a preference whose two replies are the same is rejected",
    "duplicate": "the same letters and digits as in an earlier row",
    "near": "nearly the same as an earlier dialogue or prompt: equal in most of its runs of three letters",
    "frequent": "a reply, or an opening or a last sentence of replies, that far too many dialogues share is down-sampled",
    "contradiction": "the same question with different answers is listed in contradictions.jsonl; nothing is left out",
    "leak": "a training row that shares a longer user utterance with validation or test is left out",
    "balance": "validation and test give up a few dialogues where an emotion would have another share in them than in training",
}
SHARES = (
    *("script_max_foreign", "script_max_bracketed", "near_threshold"),
    *("frequent_max_reply", "frequent_max_opening", "balance_max_share"),
)
"""Numbers from 0 to 1."""
FIXED = ("unreadable", "preference")
"""Rules without which the output could not be written or learnt from."""

Action = Literal["changed", "rejected"]


@dataclass(frozen=True)
class CleaningSettings:
    """Numbers of the rules; `--set RULE.NAME=VALUE` changes one (`script.max_foreign` is `script_max_foreign`)."""

    script_max_foreign: float = 0.1
    """Largest share of letters that are neither Hangul nor Latin, outside brackets and quotation marks, 0 to 1. Where a language
    is spoken of ("일본어로 …"), it does not count."""
    script_max_bracketed: float = 0.4
    """The same for the whole utterance, brackets and quotation marks included, 0 to 1."""
    script_max_latin_words: int = 6
    """Longest run of English words outside quotation marks that may hold function words (I, the, is …), in words."""
    repetition_laughter: int = 12
    """Longest run of ㅋ, ㅎ, ㅠ, ㅜ, !, ?, ~ or dots, in characters; longer ones are shortened to it."""
    repetition_run: int = 8
    """Longest run of any other character but digits; longer ones are shortened to three."""
    length_min: int = 1
    """Shortest utterance, in tokens (in characters without --tokenizer)."""
    length_max_tokens: int = 512
    """Longest utterance in tokens of --tokenizer."""
    length_max_characters: int = 2000
    """Longest utterance in characters; counts where no --tokenizer is given."""
    near_threshold: float = 0.85
    """Jaccard similarity of the letter trigrams from which two rows are nearly the same, 0 to 1."""
    frequent_max_reply: float = 0.005
    """Largest share of all replies that one reply may have, 0 to 1."""
    frequent_max_opening: float = 0.03
    """Largest share of all replies that one opening, or one last sentence, may have, 0 to 1."""
    frequent_opening_letters: int = 8
    """Letters that count as the opening of a reply; a shorter last sentence is not looked at."""
    frequent_min_count: int = 20
    """Replies and openings that occur at most this often are never down-sampled."""
    leak_letters: int = 6
    """Shortest user utterance, in letters (Hangul: syllables), whose repetition in a held-out split counts as a leak."""
    balance_points: float = 1.0
    """Largest difference of an emotion's share between two splits, in percentage points."""
    balance_max_share: float = 0.15
    """Largest share of a held-out split that may be given up for it; where more would be needed nothing is, 0 to 1."""


def resolve_settings(changes: Iterable[str]) -> CleaningSettings:
    """The settings with `RULE.NAME=VALUE` changes. Raises `UsageError` for a name or a value that cannot be right."""
    settings = CleaningSettings()
    kinds = {field.name: type(getattr(settings, field.name)) for field in fields(settings)}
    for change in changes:
        key, equals, value = change.partition("=")
        name = key.strip().replace(".", "_", 1)
        if not equals or name not in kinds:
            known = list(flat_settings(settings))
            meant = difflib.get_close_matches(key.strip(), known, n=1)
            hint = f"--set {meant[0]}={value or 'VALUE'}" if meant else None
            raise UsageError(f"--set {change}: give RULE.NAME=VALUE; known are {', '.join(known)}.", hint=hint)
        try:
            converted = kinds[name](value)
        except ValueError:
            raise UsageError(f"--set {change}: {value!r} is not {kinds[name].__name__}.") from None
        most = 1 if name in SHARES else math.inf
        if not 0 <= converted <= most or not math.isfinite(converted) or (name == "near_threshold" and not converted):
            raise UsageError(f"--set {change}: the value must lie between 0 and {most:g}.")
        settings = replace(settings, **{name: converted})
    return settings


def flat_settings(settings: CleaningSettings) -> dict[str, float]:
    """`{"script.max_foreign": 0.1, …}`."""
    return {field.name.replace("_", ".", 1): getattr(settings, field.name) for field in fields(settings)}


def switched_on(without: Sequence[str]) -> frozenset[str]:
    """Names of the rules that act. `all` stands for every rule that can be switched off. Raises `UsageError`."""
    names = [name.strip() for part in without for name in part.split(",") if name.strip()]
    unknown = sorted(set(names) - RULES.keys() - {"all"})
    if unknown:
        meant = difflib.get_close_matches(unknown[0], RULES, n=1)
        hint = f"--without {meant[0]}" if meant else None
        raise UsageError(f"--without {','.join(unknown)}: there is no such rule; known are {', '.join(RULES)}.", hint=hint)
    fixed = sorted(set(names) & set(FIXED))
    if fixed:
        raise UsageError(f"--without {','.join(fixed)}: this rule cannot be switched off.")
    return frozenset(FIXED if "all" in names else RULES.keys() - set(names))
