"""The rule `script`: letters and languages that do not belong into Korean text, judged by place, form and share."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

from kosent.finetune.rules import CleaningSettings
from kosent.finetune.text_rules import HANGUL_OR_JAMO, LINK, Reject
from kosent.text import is_foreign

_NOT_PLAIN = re.compile("[^\x00-\x7f가-힣ㄱ-ㅣ\u2000-\u206f\u2190-\u2bff\u3000-\u3003\u3008-\u301f]")
_LETTERS = re.compile(r"[A-Za-z]")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
# an apostrophe within a word is no quotation mark; a bracket does not reach over the next one that opens
_QUOTED = r"\"[^\"]*\"|“[^“”]*”|‘[^‘’]*’|(?<![A-Za-z])'[^'\n]*'(?![A-Za-z])|「[^「」]*」|『[^『』]*』|《[^《》]*》|<[^<>]*>"
_ASIDE = re.compile(_QUOTED + r"|\([^()]*\)|（[^（）]*）|\[[^\[\]]*\]")
_CITED = re.compile(rf"(?:{_QUOTED})(?=이?라[고는며]|이?란 )")

_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
# Han that Korean writes alone: the countries of headlines (also joined, 韓美), what stands before a name, 辛라면, parties to a
# contract; the last group only before a space, as 女자 and 母친 are Korean words half replaced
_LONE_HAN = re.compile(
    "(?<![\u3400-\u9fff])"
    "(?:[美中日韓北南英獨佛露伊印濠]{1,3}|[故前現舊新反親脫訪駐辛甲乙丙]|[男女父母與野軍檢靑](?![가-힣]))"
    "(?![\u3400-\u9fff])"
)
_GLOSS = re.compile(
    "(?<![\u3400-\u9fff])[\u3400-\u9fff]{1,20}[(（][가-힣 ]{1,40}[)）]"  # 塞翁之馬(새옹지마)
    r"|(?<=[가-힣])[(（][^()（）]{1,40}[)）]"  # 사과(謝過), 도스토옙스키(Достоевский)
)
_SPLICED = re.compile(
    "[가-힣][\u4e00-\u9fff](?![(（])|[\u4e00-\u9fff](?!(?:은|는|이|가|을|를|의|와|과|로|도|에|만|란|라는|라고)(?![가-힣]))[가-힣]"
)
_SPEAKS_OF_IT = re.compile("한자|한문|일본[어말]|일어로|중국[어말]|러시아어|태국어|베트남어|그리스어|영어로|라는 뜻|무슨 뜻")

# ª º µ ー, modifier letters, ℓ ℹ № ™, and Canadian syllabics, which Korean knows as mouths: ᐛ ᗜ
_SIGN = re.compile("[ªºµーｰﾞﾟ\u02b0-\u02ff\u2100-\u214f\u1400-\u167f]")
_PIECE = re.compile(r"[^\s가-힣ㄱ-ㅣ]+")
_FACE_PART = re.compile(r"[^\w\s.,!?…~:;'\"‘’“”。、！？「」『』]|_")
_HANDS = frozenset("ツッつづシ")
MOST_LETTERS_OF_A_FACE = 3

_ENGLISH_RUN = re.compile(r"[A-Za-z][A-Za-z'’]*(?:[ .!?-]+[A-Za-z][A-Za-z'’]*)*")
_WORD = re.compile(r"[A-Za-z][A-Za-z'’]*")
_FUNCTION_WORDS = """
you your yours yourself you're you've you'll i'm i've i'll i'd it's that's don't can't isn't am is are was were been have has had
does did can could will would should might must the of to and that they them their there we our my he she his her what how about
because"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
# of these alone titles are made: Lord of the Rings
_SMALL_WORDS = frozenset(("a", "an", "the", "and", "or", "of", "to", "in", "on", "at", "by", "for", "from", "with"))
# a thank-you or a cry is no answer in English
_STOCK = re.compile(
    r"\b(?:(?:i )?(?:love|miss) you|(?:thank|see|nice to meet|how are|happy birthday to) you|you too|oh my \w+|what the \w+)\b",
    re.IGNORECASE,
)
_PROGRAM = re.compile(r"[{}=]|\w\(")
_AS_AN_AI = re.compile(r"\bas an ai\b", re.IGNORECASE)
_GLUED = re.compile(r"(?<=[가-힣])[a-z]{3,}(?=[가-힣])")
LONGEST_WORD = 30


@lru_cache(maxsize=16384)
def _strange(character: str) -> bool:
    """A letter that is neither Hangul nor Latin, nor Greek as in α, nor a sign (º, µ, ℓ, ℹ, ー); Vietnamese is strange."""
    if "\u1e00" <= character <= "\u1eff":
        return True
    if _SIGN.match(character):
        return False
    return is_foreign(character) and not "\u0370" <= character <= "\u03ff"


def _without_face(match: re.Match[str]) -> str:
    """Nothing in place of a kaomoji: signs with a few foreign letters that do not touch one another, as in ヽ(´▽`)/."""
    piece = match.group()
    strange = [_strange(c) for c in piece]
    touching = any(left and right for left, right in pairwise(strange))
    if piece in _HANDS or (_FACE_PART.search(piece) and 0 < sum(strange) <= MOST_LETTERS_OF_A_FACE and not touching):
        return " "
    return piece


def check_script(text: str, settings: CleaningSettings) -> str | Reject:
    """Rejects foreign letters and English sentences in Korean; what is cited, glossed, listed or code stays."""
    foreign = bool(_NOT_PLAIN.search(text))
    if not foreign and not _LETTERS.search(text):
        return text
    bare = _PIECE.sub(_without_face, text) if foreign else text
    bare = LINK.sub(" \u00b7 ", _CODE.sub(" \u00b7 ", bare))
    found = _check_foreign(bare, settings) if foreign else None
    if not found and _LETTERS.search(bare):
        found = _check_english(bare, settings)
    return found or text


def _check_foreign(text: str, settings: CleaningSettings) -> Reject | None:
    if _SPEAKS_OF_IT.search(text):
        return None
    text = _LONE_HAN.sub(" ", _GLOSS.sub("", _CITED.sub("", text)))
    outside = _ASIDE.sub(" ", text)
    if spliced := _SPLICED.search(outside):
        return Reject(f"Han within a Korean word: {spliced.group()}")
    for whole, limit in ((text, settings.script_max_bracketed), (outside, settings.script_max_foreign)):
        letters = [c for c in whole if c.isalpha()]
        strange = [c for c in letters if _strange(c)]
        if len(strange) > limit * len(letters):
            return Reject(f"{len(strange)} of {len(letters)} letters are foreign: {''.join(strange)[:20]}")
    for match in re.finditer(r"[^\W\d_]+", outside):
        strange = [c for c in match.group() if _strange(c)]
        if len(strange) > 1 or any(not _HAN.match(c) for c in strange):
            return Reject(f"foreign letters in the middle of the text: {match.group()[:20]}")
    return None


def _function_words(words: list[str]) -> set[str]:
    """Those in small letters, as titles and names capitalise theirs, and I: sentences have many, lists of names hardly any."""
    found = {word.replace("’", "'") for word in words} & FUNCTION_WORDS
    if any(word == "I" or word.startswith(("I'", "I’")) for word in words):
        found.add("I")
    return found


def _check_english(text: str, settings: CleaningSettings) -> Reject | None:
    if not HANGUL_OR_JAMO.search(text):
        return _check_whole_english(text)
    outside = _ASIDE.sub(" \u00b7 ", text)
    if _AS_AN_AI.search(outside):
        return Reject("an English assistant introduces itself")
    if len(glued := _GLUED.findall(outside)) > 1:
        return Reject(f"English within Korean words: {', '.join(glued)[:40]}")
    outside = _STOCK.sub(" \u00b7 ", outside)
    words: list[str] = []
    for match in _ENGLISH_RUN.finditer(outside):
        run = _WORD.findall(match.group())
        if len(run) > settings.script_max_latin_words:
            found = _function_words(run)
            if len(found) > 1 and found - _SMALL_WORDS:
                return Reject(f"{len(run)} English words in a row: {match.group()[:40]}")
        if (longest := max(run, key=len)) and len(longest) > LONGEST_WORD:
            return Reject(f"a word of {len(longest)} Latin letters: {longest[:40]}")
        words += run
    latin = len(_LETTERS.findall(outside))
    if len(_function_words(words)) > 2 and latin > 0.5 * sum(c.isalpha() for c in outside):
        return Reject(f"{latin} letters of the text are English")
    return None


def _check_whole_english(text: str) -> Reject | None:
    """English sentences with no Korean around them, in quotation marks or not; a name, a title or a thank-you stays."""
    words = _WORD.findall(_STOCK.sub(" ", text))
    if words and (longest := max(words, key=len)) and len(longest) > LONGEST_WORD:
        return Reject(f"a word of {len(longest)} Latin letters: {longest[:40]}")
    found = {"i", *FUNCTION_WORDS} & {word.replace("’", "'").lower() for word in words}
    title = not any(word.islower() and word not in _SMALL_WORDS for word in words)
    if len(words) > 1 and (found - _SMALL_WORDS or len(found) > 1) and not title and not _PROGRAM.search(text):
        return Reject(f"the whole text is English: {' '.join(words)[:40]}")
    return None
