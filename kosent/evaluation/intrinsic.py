"""What replies show by themselves: variety, repetition, foreign script, echo, length, marks of empathy, harm (definitions.py)."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kosent.evaluation.words import Words, nfc
from kosent.reply_guard import ReplyGuard
from kosent.safety import Level, assess
from kosent.text import is_foreign

SAMPLE, SEED = 1000, 12345
"""Of self-BLEU."""
BEGINNING = 5
"""Morphemes that count as the beginning of a reply."""
ORDER = 4
"""Longest n-gram of BLEU."""

EMPATHY = {
    "acknowledging": re.compile(
        r"군요|네요|[으시들쁘프하았었했셨렸졌겼됐갔왔쳤났뻤팠썼]겠(?:어요|지요|죠)|그럴 ?(?:수|만)|당연|이해(?:해|돼|되|가)"
        r"|공감|고생|수고|애[쓰쓴썼]|잘 ?(?:했|하셨|하신|버[텼티]|견[디뎠])"
    ),
    "feeling": re.compile(
        r"마음|기분|감정|속상|슬[프퍼픈펐픔]|우울|외로|외롭|불안|걱정|두려|두렵|무서|무섭|화(?:가|도)? ?[나난났날]|짜증|답답"
        r"|억울|서운|섭섭|서러|서럽|허전|허탈|막막|괴로|괴롭|힘[들든]|지[치친쳤]|아[프픈팠파플]|부담|당황|부끄|창피|민망|후회"
        r"|그리[워웠운]|그립|기[쁘뻐쁜뻤쁨]|행복|뿌듯|설[레렜]|즐거|즐겁|다행|벅[차찬찼]|떨[리렸려]|놀[라랐란]|긴장|초조|실망|상처"
    ),
    "asking": re.compile(
        r"[?？]|(?:나요|까요|는지요|래요|던가요)(?=\s*[.!~…]|\s*$)|(?:들려|말해|얘기해|이야기해|말씀해) ?(?:줘|주)"
    ),
}
"""Kind -> what it looks like; a small list of words, no understanding."""


@dataclass(frozen=True)
class Users:
    """The last message before each reply."""

    tokens: list[list[str]]
    levels: list[Level]

    @classmethod
    def of(cls, messages: Sequence[str], words: Words) -> Users:
        found = nfc(messages)
        return cls(words(found), [assess(message).level for message in found])


def of_each(replies: Sequence[str], users: Users, ended: Sequence[bool], words: Words) -> dict[str, list[float]]:
    """One number a reply. `ended` says whether it ended by itself."""
    replies = nfc(replies)
    tokens = words(replies)
    return {
        "distinct": once(replies),
        "repetition": [repetition(reply) for reply in replies],
        "foreign": [float(has_foreign(reply)) for reply in replies],
        "echo": [echo(*both) for both in zip(tokens, users.tokens, strict=True)],
        "most_frequent": most_frequent([" ".join(reply.split()) for reply in replies]),
        "same_start": most_frequent([tuple(found[:BEGINNING]) if len(found) >= BEGINNING else () for found in tokens]),
        "empty": [float(not reply) for reply in replies],
        "ended": [float(one) for one in ended],
        "characters": [float(len(reply)) for reply in replies],
        "morphemes": [float(len(found)) for found in tokens],
        "empathy": [empathy(reply) for reply in replies],
        "harmful": [harmful(*both) for both in zip(replies, users.levels, strict=True)],
    }


def of_the_set(replies: Sequence[str], words: Words) -> dict[str, float]:
    tokens = words(nfc(replies))
    return {"distinct_1": distinct_n(tokens, 1), "distinct_2": distinct_n(tokens, 2), "self_bleu": self_bleu(tokens)}


def once(replies: Sequence[str]) -> list[float]:
    """1 for a reply that is there once."""
    folded = [" ".join(reply.split()) for reply in replies]
    counts = Counter(folded)
    return [float(counts[reply] == 1) for reply in folded]


def most_frequent(things: Sequence[Any]) -> list[float]:
    """1 for each that is the most frequent one, among those that are there twice; empty ones do not count."""
    counts = Counter(thing for thing in things if thing)
    thing, count = max(counts.items(), key=lambda item: item[1], default=(None, 0))
    return [float(count > 1 and one == thing) for one in things]


def repetition(reply: str) -> float:
    """Share of the word trigrams of `reply` that are repeats; 0 for fewer than four words."""
    words = reply.split()
    trigrams = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return 1 - len(set(trigrams)) / len(trigrams) if len(trigrams) > 1 else 0.0


def has_foreign(reply: str) -> bool:
    return any(map(is_foreign, reply))


def echo(reply: Sequence[str], user: Sequence[str]) -> float:
    """Share of the bigrams of the reply's tokens that are the user's, without punctuation; 0 for a reply of one token."""
    said, heard = (list(pairwise(token for token in tokens if any(map(str.isalnum, token)))) for tokens in (reply, user))
    known = set(heard)
    return sum(pair in known for pair in said) / len(said) if said else 0.0


def empathy(reply: str) -> float:
    """How many of the kinds of `EMPATHY` the reply has, as a share."""
    return sum(pattern.search(reply) is not None for pattern in EMPATHY.values()) / len(EMPATHY)


def harmful(reply: str, level: Level) -> float:
    """1 when the guard of the chat would replace something of the reply to a message of that level."""
    guard = ReplyGuard(level=level)
    guard.feed(f"{reply}\n")  # its last sentence is whole, too
    return float(guard.replaced > 0)


def distinct_n(tokens: Sequence[Sequence[str]], n: int) -> float:
    found = [tuple(one[i : i + n]) for one in tokens for i in range(len(one) - n + 1)]
    return len(set(found)) / len(found) if found else 0.0


def self_bleu(tokens: Sequence[Sequence[str]]) -> float:
    """Mean sentence BLEU (exponential smoothing, effective order) of each against all others; 0 for a single one.

    What n-grams all others have at most is the greatest count of all, or the second greatest for the one that has it.
    """
    from sacrebleu.metrics.bleu import BLEU

    chosen = random.Random(SEED).sample(list(tokens), SAMPLE) if len(tokens) > SAMPLE else list(tokens)
    if len(chosen) < 2:
        return 0.0
    counted = [Counter(tuple(one[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(one) - n + 1)) for one in chosen]
    greatest: Counter[tuple[str, ...]] = Counter()
    second: Counter[tuple[str, ...]] = Counter()
    for grams in counted:
        for gram, count in grams.items():
            if count > greatest[gram]:
                greatest[gram], second[gram] = count, greatest[gram]
            elif count > second[gram]:
                second[gram] = count
    lengths = Counter(map(len, chosen))
    total = 0.0
    for one, grams in zip(chosen, counted, strict=True):
        matched, all_of = [0] * ORDER, [0] * ORDER
        for gram, count in grams.items():
            others = second[gram] if count == greatest[gram] else greatest[gram]
            matched[len(gram) - 1] += min(count, others)
            all_of[len(gram) - 1] += count
        size = len(one)
        nearest = min((n for n, times in lengths.items() if times > (n == size)), key=lambda n: (abs(n - size), n))
        total += float(BLEU.compute_bleu(matched, all_of, size, nearest, "exp", effective_order=True).score)
    return total / len(chosen)
