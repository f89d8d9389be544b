"""The HTML report of `prepare`, and what the HTML pages of KoSent share."""

from __future__ import annotations

import copy
import re
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest

from helpers import ROOT
from kosent.finetune.page import page
from kosent.pages import Bar, bars, highlight, histogram, number, percent, stack, visible, zoomed

VOID = {"meta", "br", "img", "link", "input", "hr"}
NASTY = "<img src=x onerror=alert(1)>\x1b[31m\x00\u202e빨강\u200b\ud800 {{ 7*7 }}"
FIVE = {"슬픔": 9000, "기쁨": 7000, "<b>불안</b>": 30}


class Parsed(HTMLParser):
    """The texts, tags and attributes of a page; fails on a tag that is not closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.styles: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.styles if self.open and self.open[-1] == "style" else self.texts).append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def split(dialogues: int, replies: int) -> dict[str, Any]:
    return {"dialogues": dialogues, "replies": replies, "preferences": 5, "prompts": 7, "emotions": dict(FIVE)}


def report() -> dict[str, Any]:
    """Every key filled; every text once nasty somewhere."""
    shown = {
        "source": "가.csv",
        "row": 4321,
        "action": "changed",
        "before": NASTY,
        "after": "빨강 {{ 7*7 }}",
        "why": "hidden <u>",
    }
    gone = {"source": "나.csv", "row": 17, "action": "rejected", "before": "休息하세요", "after": None, "why": "foreign letters"}
    most = [{"text": "그렇군요. http://example.com/", "count": 1201}, {"text": NASTY, "count": 98}]
    lengths = {"before": [603, 2200, 51020, 11], "after": [4, 2140, 50110, 3]}
    return {
        "kosent": "0.1.0",
        "sources": [{"name": "가.csv", "understood": "가.csv: CSV, cp949", "rows": 51630, "broken": 13, "sha256": "9f86d081"}],
        "settings": {"script.max_foreign": 0.1, "repeats.on": True, "system": "당신은 <챗봇>입니다.", "nothing": None},
        "totals": {"rows": 51630, "records": 51643, "kept": 50000, "rejected": 1643, "changed": 2100},
        "splits": {"test": split(6001, 15020), "train": split(41002, 102310), "validation": split(3003, 7480)},
        "emotion_difference": {"points": 0.8, "between": "train and test", "emotion": "슬픔"},
        "rules": [
            {"name": "hidden", "what": "what <hides>", "on": True, "rejected": 0, "changed": 812, "examples": [shown]},
            {"name": "script", "what": "Han, Kana", "on": True, "rejected": 212, "changed": 34, "examples": [gone, dict(shown)]},
            {"name": "spelling", "what": "broken spacing", "on": False, "rejected": 0, "changed": 0, "examples": []},
        ],
        "lengths": {"unit": "tokens", "bins": [0, 5, 6, 320], "user": lengths, "reply": lengths},
        "letters": {"before": {"Hangul": 100001, "Han": 30}, "after": {"Hangul": 99001, "Latin": 2}},
        "emotions": {"before": FIVE, "after": {"슬픔": 8000}},
        "ages": {"before": {"청년": 123}, "after": {"청년": 122}},
        "top_replies": {"before": most, "after": most[:1]},
        "top_openings": {"before": most, "after": []},
        "contradictions": {
            "questions": 41,
            "opposed": 1,
            "examples": [
                {"question": "사랑이 뭐야?", "answers": ["마음이에요.", "몰라요."], "opposed": False},
                {"question": "너는 사람이야?", "answers": ["네.", f"아니요. {NASTY}"], "opposed": True},
            ],
        },
        "leakage": {"train_validation": 0, "train_test": 0, "validation_test": 0, "left_out": 19},
        "notes": ["가.csv: everything from row 9 on is lost"],
    }


def empty_report() -> dict[str, Any]:
    nothing: dict[str, Any] = {"before": {}, "after": {}}
    none = {"dialogues": 0, "replies": 0, "preferences": 0, "prompts": 0, "emotions": {}}
    return {
        "kosent": "0.1.0", "sources": [], "settings": {}, "emotion_difference": None, "rules": [],
        "totals": dict.fromkeys(("rows", "records", "kept", "rejected", "changed"), 0),
        "splits": {"train": none, "validation": none, "test": none},
        "lengths": {"unit": "characters", "bins": [0, 5], "user": {"before": [0, 0], "after": [0, 0]},
                    "reply": {"before": [0, 0], "after": [0, 0]}},
        "letters": nothing, "emotions": nothing, "ages": nothing,
        "top_replies": {"before": [], "after": []}, "top_openings": {"before": [], "after": []},
        "contradictions": {"questions": 0, "opposed": 0, "examples": []},
        "leakage": {"train_validation": 0, "train_test": 0, "validation_test": 0, "left_out": 0},
        "notes": [],
    }  # fmt: skip


@cache
def full() -> Parsed:
    return Parsed(page(report()))


def section(html: str, name: str) -> str:
    return html.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def test_the_page_fetches_and_runs_nothing() -> None:
    parsed = full()
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form", "u", "hides"} & set(parsed.tags)
    for tag, name, value in parsed.attributes:
        assert not name.startswith("on"), (tag, name)
        assert "//" not in value and "javascript:" not in value, (tag, name, value)
        assert name not in {"src", "srcset", "xlink:href", "action", "http-equiv", "data"}, (tag, name)
        assert name != "href" or value.startswith("#"), (tag, name, value)
    style = "".join(parsed.styles)
    assert style and not re.search(r"//|url\(|@import|@font-face|expression", style)


def test_links_within_the_page_have_a_target() -> None:
    ids = [value for _, name, value in full().attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for _, name, value in full().attributes if name == "href"} == set(ids)


def test_texts_of_a_corpus_stay_texts_and_hidden_characters_show() -> None:
    html = page(report())
    assert "<img" not in html and "<b>불안" not in html and "{{ 7*7 }}" in full().text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060\ufeff\ud800-\udfff]", html)
    html.encode("utf-8")
    for marker in ("ESC[31m", "NUL", "RLO", "ZWSP", "U+D800"):
        assert f">{marker}</span>" in html
    assert 'title="U+200B ZERO WIDTH SPACE"' in html


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in leaves(inner)]
    return [leaf for inner in value for leaf in leaves(inner)] if isinstance(value, list) else [value]


def test_everything_of_the_report_is_on_the_page() -> None:
    data, text = report(), full().text
    bins = data["lengths"].pop("bins")
    assert bins == [0, 5, 6, 320] and all(f">{name}</text>" in page(report()) for name in ("0–4", "5", "6–319", "320+"))
    settings = data.pop("settings")
    assert set(settings) <= set(full().texts)
    assert all(written in text for written in ("0.1", "true", "당신은 <챗봇>입니다.", "null"))
    data["sources"][0]["understood"] = "CSV, cp949"
    rows = [shown.pop("row") for rule in data["rules"] for shown in rule["examples"]]
    assert all(f"row {row}" in text for row in rows)
    for split in data["splits"].values():
        split.pop("emotions")  # as shares, tested below
    for leaf in leaves(data):
        if isinstance(leaf, str) and NASTY not in leaf:
            assert leaf in text, leaf
        elif isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
            assert re.search(rf"(?<![\d,.]){re.escape(number(leaf))}(?!,?\d)", "|".join(full().texts)), leaf
    for names in ("splits", "letters", "ages", "emotions"):
        inner = report()[names]
        assert set(inner.get("before", inner)) <= {t.strip() for t in full().texts}
    assert text.count("<b>불안</b>") == 2 and text.count("56.1 %") == 3 and text.count("0.2 %") >= 3


@pytest.mark.parametrize(
    ("totals", "others", "sentence"),
    [
        ((51630, 50000, 1630, 2100), 0, "51,630 dialogues in, 50,000 kept (96.8 %), 1,630 left out, 2,100 changed"),
        ((51630, 50000, 1630, 2100), 2, "51,630 records in, 50,000 kept (96.8 %), 1,630 left out, 2,100 changed"),
        ((1, 1, 0, 0), 0, "1 dialogue in, 1 kept (100.0 %), 0 left out, 0 changed"),
        ((0, 0, 0, 0), 0, "0 dialogues in, 0 kept, 0 left out, 0 changed"),
    ],
)
def test_the_verdict_is_one_sentence(totals: tuple[int, ...], others: int, sentence: str) -> None:
    data = empty_report()
    data["totals"].update(zip(("records", "kept", "rejected", "changed"), totals, strict=True))
    data["splits"]["train"] = {**data["splits"]["train"], "preferences": others}
    html = page(data)
    heading = html.partition('<p class="verdict">')[2].partition("</p>")[0]
    assert Parsed(heading).text.strip() == sentence
    assert f"<title>KoSent prepare: {sentence}</title>" in html


def test_leakage_is_said_clearly() -> None:
    data = report()
    assert '<p class="statement good">Separate: training shares 0 longer user utterances with validation and test.</p>' in page(
        data
    )
    data["leakage"].update(train_test=3, validation_test=1)
    leaking = section(page(data), "leakage")
    assert (
        '<p class="statement bad">Not separate: training shares 3 user utterances' in leaking and "statement good" not in leaking
    )
    assert "validation and test <b>1</b>" in leaking and "train and test <b>3</b>" in leaking


def test_order_is_that_of_meaning() -> None:
    html = page(report())
    assert html.index("너는 사람이야?") < html.index("사랑이 뭐야?")
    splits = section(html, "splits")
    assert splits.index(">train<") < splits.index(">validation<") < splits.index(">test<")
    flow = section(html, "flow")
    assert flow.index("in no split <b>212") < flow.index("script <b>212")
    assert "spelling" not in flow


def test_empty_corners_render() -> None:
    text = Parsed(page(empty_report())).text
    assert "Nothing was read." in text and "name no emotions" in text and "name no ages" in text and "No rules." in text
    for key in (
        "sources",
        "settings",
        "rules",
        "emotion_difference",
        "splits",
        "contradictions",
        "ages",
        "letters",
        "top_openings",
    ):
        assert Parsed(page({**report(), key: empty_report()[key]})).text
    assert "percentage points" not in Parsed(page({**report(), "emotion_difference": None})).text


def test_the_same_report_gives_the_same_bytes_and_stays_as_it_was() -> None:
    data, kept = report(), report()
    first = page(data)
    assert data == kept and first == page(copy.deepcopy(data))
    for key in ("splits", "settings", "emotions", "letters"):
        data[key] = dict(reversed(data[key].items()))
    data["emotions"]["before"] = dict(reversed(FIVE.items()))
    assert page(data) == first
    assert str(ROOT) not in first and not re.search(r"\b20\d\d-\d\d-\d\d", first)


def test_bars_have_widths_in_proportion_and_stay_inside() -> None:
    drawn = bars({"a": [Bar("", 200, "before"), Bar("", 50, "after")]})
    widths = [float(w) for w in re.findall(r'<rect .*? width="([\d.]+)%"', drawn)]
    assert widths == [100, 25]
    tiny = [Bar("", 1_000_000, "first"), *[Bar("", 1, "bad")] * 9, Bar("", 0, "bad")]
    for drawn in (stack(tiny), zoomed(tiny, tiny)):
        rects = [(float(x), float(w)) for x, w in re.findall(r'x="([\d.]+)%" y="\d+" width="([\d.]+)%"', drawn)]
        assert len(rects) in (10, 20) and all(w > 0.5 for _, w in rects) and max(x + w for x, w in rects) < 100.01
    assert "<rect" not in stack([Bar("", 0, "bad")]) and "polygon" not in zoomed(tiny, [])
    columns = histogram(["0–4", "5+"], [10, 100], [0, 50])
    heights = [float(h) for h in re.findall(r'<rect class="\w+".*?height="([\d.]+)"', columns)]
    assert heights == [12.4, 0, 124, 62]


def test_numbers() -> None:
    assert [number(n) for n in (0, 51630, 0.8, 12.34567)] == ["0", "51,630", "0.8", "12.35"]
    shares = [percent(*pair) for pair in ((0, 7), (7, 7), (49999, 50000), (1, 50000), (1, 8), (0, 0))]
    assert shares == ["0.0 %", "100.0 %", "> 99.9 %", "< 0.1 %", "12.5 %", "–"]


def text_of(html: str, without: str = "") -> str:
    """The text, markers left out, with the elements `without` left out."""
    html = re.sub(rf"<{without}>.*?</{without}>", "", html, flags=re.DOTALL) if without else html
    return Parsed(re.sub(r'<span class="mark".*?</span>', "", html)).text


@pytest.mark.parametrize("by", ["characters", "words"])
def test_highlight_marks_exactly_the_difference(by: Any) -> None:
    pairs = [
        ("제 번호는 010-1234-5678이에요.", "제 번호는 [전화]이에요."),
        ("웃겨ㅋㅋㅋㅋㅋㅋ 진짜", "웃겨ㅋㅋ 진짜"),
        ("같다", "같다"),
        ("", "새로"),
        ("지움", ""),
        ("가나다 라마바", "가나라 다마사"),
        ("가나" * 800, "가" * 800),
    ]
    for before, after in pairs:
        old, new = highlight(before, after, by)
        assert (text_of(old), text_of(new)) == (before, after)
        assert text_of(old, "del") == text_of(new, "ins")
        assert ("<del>" in old or "<ins>" in new) == (before != after)


def test_highlight_shows_what_cannot_be_seen() -> None:
    old, new = highlight("안\u200b녕\x1b[1;31m하\ufeff", "안녕하")
    assert new == "안녕하" and old.count("<del>") == 3
    assert [marker in old for marker in (">ZWSP<", ">ESC[1;31m<", ">BOM<")] == [True] * 3
    assert highlight("가  나", "가 나")[0].count("␣") == 1
    assert "↵</span>\n</del>" in highlight("가\n나", "가나")[0]
    assert highlight("<i>", "<b>") == ("&lt;<del>i</del>&gt;", "&lt;<ins>b</ins>&gt;")


def test_visible_leaves_plain_texts_and_pictures_alone() -> None:
    assert visible("한글 & text\n❤️ 👨‍👩‍👧 ㅋㅋ") == "한글 &amp; text\n❤️ 👨‍👩‍👧 ㅋㅋ"
    assert (
        Parsed(visible("가\u3164나\u200d다\xa0라\t\r\x85\x1b]0;<t>\x07끝")).text
        == "가FILLER나ZWJ다NBSP라TABCRU+0085ESC]0;<t><BEL>끝"
    )


def colours(block: str) -> dict[str, tuple[float, ...]]:
    return {
        name: tuple(int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))
        for name, code in re.findall(r"--([\w-]+): #(\w{6})", block)
    }


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    def light(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_colours_have_the_contrast_of_wcag_aa(mode: str) -> None:
    light, _, dark = "".join(full().styles).partition("@media screen and (prefers-color-scheme: dark)")
    of = colours(light if mode == "light" else dark)
    assert set(of) == set(colours(light))
    pairs = [(ink, paper) for ink in ("ink", "soft", "after") for paper in ("paper", "panel")]
    pairs += [(f"{name}-text", f"{name}-back") for name in ("good", "bad", "warn", "mark")] + [("mark-text", "bad-back")]
    assert {
        pair: round(contrast(of[pair[0]], of[pair[1]]), 2) for pair in pairs if contrast(of[pair[0]], of[pair[1]]) < 4.5
    } == {}
    drawn = ("before", "after", "good", "bad", "warn", "first", "second", "third", "quiet")
    assert {name: round(contrast(of[name], of["paper"]), 2) for name in drawn if contrast(of[name], of["paper"]) < 3} == {}
