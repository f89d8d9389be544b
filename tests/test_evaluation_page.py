"""The page of `kosent evaluate`, in a real browser without a window: it is whole, fetches nothing, and its search works."""

from __future__ import annotations

import csv
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from evaluation_reports import report_of
from helpers import browser_program
from kosent.embedders import UniversalSentenceEncoder
from kosent.evaluation.definitions import METRICS
from kosent.evaluation.folder import CONSTANT, RANDOM, Answer, Report, Turn
from kosent.evaluation.page import page
from kosent.evaluation.ranking import Vote, rank
from kosent.evaluation.summary import verdict
from kosent.pages import embedded
from kosent.starter import corpus_path

HOSTILE = (
    '</script><img src=x onerror="window.hit=1"><svg onload="window.hit=1">\u202e\u200b\x1b[31m빨강\x00\u3164\u2028\ue000 {{7*7}}'
)
EMOTIONS = ("슬픔", "<b>불안</b>", "기쁨")
SIZES = [(width, scheme) for width in (1280, 400) for scheme in ("light", "dark")]


def rows_of_the_corpus(count: int) -> list[tuple[str, str]]:
    with corpus_path().open(encoding="cp949", newline="") as file:
        return [(row["사람문장1"], row["시스템문장1"]) for row in list(csv.DictReader(file))[:count]]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Two invented models on sixty messages with a reference and three without; one of them collapses."""
    rows = rows_of_the_corpus(60)
    turns = [
        Turn(
            str(i),
            [{"role": "system", "content": "당신은 챗봇입니다."}, {"role": "user", "content": user}],
            reference,
            EMOTIONS[i % 3],
        )
        for i, (user, reference) in enumerate(rows)
    ]
    turns.append(Turn("b0", [{"role": "user", "content": "불고기용 고기 한우에요?"}], None, "", "baseline"))
    earlier = [{"role": "user", "content": "이사했어요."}, {"role": "assistant", "content": "새집은 어떠세요?"}]
    turns.append(Turn("m0", [*earlier, {"role": "user", "content": "아직 낯설어요."}], None, "기쁨", "multi-turn"))
    turns.append(Turn("m1", [{"role": "user", "content": HOSTILE}], None, "", "multi-turn"))
    others = [reference for _, reference in rows]
    base = [
        Answer(f"{user} {user} {user} {user}" if i % 4 == 0 else others[(i + 7) % 60], i % 5 != 0)
        for i, (user, _) in enumerate(rows)
    ]
    tuned = [Answer(reference if i % 2 else f"{reference} 그렇군요.", True) for i, reference in enumerate(others)]
    base[1], base[2], base[3] = Answer("", True), Answer("", False, f"the server is gone {HOSTILE}"), tuned[3]
    tuned[5], tuned[6] = Answer("그냥 죽어 버리세요.", True), Answer(HOSTILE, True)
    base += [Answer("とても 좋아요.", True), Answer("네.", True), Answer("네.", True)]
    tuned += [Answer("한우예요.", True), Answer("낯설 수 있어요.", True), Answer("네.", True)]
    straw = {CONSTANT: [Answer(others[0], True)] * 60, RANDOM: [Answer(others[(i * 11 + 3) % 60], True) for i in range(60)]}
    outcomes = [Vote(i, "tuned", "base", "a" if i % 4 else "b", 20 + i, 40 - i, "judge") for i in range(12)]
    judges = [
        {"judge": "ollama:judge", "kind": "pairwise", "ranking": rank(outcomes), "warnings": ["It often changes its mind."]},
        {"judge": "ollama:judge", "kind": "rubric", "warnings": [],
         "criteria": {"warmth": {"base": {"mean": 2.1, "interval": [1.9, 2.3]}, "tuned": {"mean": 3.4, "interval": None}}}},
    ]  # fmt: skip
    found = report_of(
        turns,
        {"base": base, "tuned": tuned, **straw},
        tmp_path_factory.mktemp("report"),
        UniversalSentenceEncoder(),
        judges=judges,
    )
    training = [{"step": step, "loss": 5 / step, "token_accuracy": 0.4} for step in range(1, 30)]
    split = {"dialogues": 1200, "replies": 1300, "preferences": 0, "prompts": 0, "emotions": {}}
    corpus = {
        "totals": {"rows": 1500, "records": 1500, "kept": 1300, "rejected": 200, "changed": 7},
        "sources": [{"name": "가.csv", "understood": "가.csv: CSV <b>", "rows": 1500, "broken": 0, "sha256": "0"}],
        "splits": {"train": split}, "rules": [{"name": "script", "rejected": 200, "changed": 0}],
        "leakage": {"train_validation": 0, "train_test": 3, "validation_test": 0, "left_out": 0},
    }  # fmt: skip
    return replace(found, training={"tuned": [*training, {"step": 29, "eval_loss": 1.25}]}, corpus=corpus)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = browser_program()
    if not program:
        pytest.skip("no browser: set KOSENT_TEST_BROWSER or put `chromium` on PATH (sudo apt install chromium fonts-noto-cjk)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield opened
        opened.close()


@dataclass
class Watched:
    """A page, and what it did that it should not."""

    page: Page
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def count(self, expected: str) -> None:
        """Waits until the status says how many prompts there are."""
        self.page.wait_for_function("text => document.getElementById('count').textContent.startsWith(text)", arg=expected)

    def prompts(self) -> list[str]:
        return self.page.locator("#found .prompt").all_text_contents()

    def choose(self, name: str, label: str) -> None:
        self.page.locator(f"#{name}").select_option(label=label)


def watch(context: BrowserContext, file: Path) -> Watched:
    watched = Watched(context.new_page())
    context.on("request", lambda request: watched.requests.append(request.url))
    watched.page.on("console", lambda message: watched.said.append(message.text))
    watched.page.on("pageerror", lambda error: watched.said.append(str(error)))
    watched.page.on("dialog", lambda dialog: (watched.said.append(dialog.message), dialog.dismiss()))
    watched.page.goto(file.as_uri())
    return watched


@pytest.fixture(scope="module")
def file(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("page") / "report.html"
    target.write_text(page(report), encoding="utf-8")
    return target


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[Watched]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        watched = watch(context, file)
        yield watched
        assert watched.said == []
        assert watched.requests == [file.as_uri()]


def users(report: Report, kept: Any) -> list[str]:
    return [turn.user for index, turn in enumerate(report.turns) if turn.user != HOSTILE and kept(index, turn)]


def test_everything_is_there_and_nothing_is_fetched(opened: Watched, report: Report) -> None:
    assert opened.page.title() == f"KoSent evaluation: {verdict(report)}"
    assert opened.page.locator(".verdict").inner_text() == f"{verdict(report)}."
    headings = opened.page.locator("h2").all_text_contents()
    assert headings == [
        "Findings", "At a glance", "Metric by metric", "Comparisons", "By emotion", "Judges", "The replies side by side",
        "Worst cases", "Prompts without a reference", "Training", "The corpus", "Settings",
    ]  # fmt: skip
    levels = opened.page.eval_on_selector_all("h1,h2,h3,h4", "all => all.map(one => Number(one.tagName[1]))")
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    links = opened.page.eval_on_selector_all("nav a", "all => all.map(a => !!document.querySelector(a.getAttribute('href')))")
    assert len(links) == 12 and all(links)
    unlabelled = opened.page.eval_on_selector_all("input,select", "all => all.filter(one => !one.labels.length).length")
    assert unlabelled == 0


def test_texts_of_models_do_nothing_and_hidden_characters_show(opened: Watched) -> None:
    for place in ("#found", "#worst", "#open"):
        opened.page.locator(place).get_by_text("</script><img src=x", exact=False).first.wait_for(state="attached")
    assert opened.page.evaluate("window.hit") is None
    assert opened.page.locator("img, [onerror], [onload], b:text-is('불안')").count() == 0
    opened.page.locator("#search").fill("{{7*7}}")
    opened.count("2 of 63 prompts")
    assert not opened.page.locator("#unscripted").is_visible()
    marks = opened.page.locator("#found .reply:has-text('tuned') .mark").all_text_contents()
    assert marks == ["RLO", "ZWSP", "ESC[31m", "NUL", "FILLER", "U+2028", "U+E000"]
    static = opened.page.locator("#open .prompt:has-text('onerror') .mark").all_text_contents()
    assert static == marks


def test_the_search_narrows_and_says_how_many(opened: Watched, report: Report) -> None:
    opened.count("63 of 63 prompts, 1 to 50 shown")
    assert len(opened.prompts()) == 50
    user = report.turns[8].user
    word = max(user.split(), key=len)
    texts = [
        "\n".join([*(m["content"] for m in turn.messages if m["role"] != "system"), turn.reference or "",
                   *(report.answers[model][i].text for model in ("base", "tuned"))])
        for i, turn in enumerate(report.turns)
    ]  # fmt: skip
    expected = [turn.user for turn, text in zip(report.turns, texts, strict=True) if word in text]
    assert 0 < len(expected) < 50
    for typed in (word, unicodedata.normalize("NFD", word)):
        opened.page.locator("#search").fill("")
        opened.count("63 of")
        opened.page.locator("#search").fill(typed)
        opened.count(f"{len(expected)} of 63 prompts")
        assert opened.prompts() == expected
    opened.page.locator("#search").fill("한우예요 불고기용")
    opened.count("1 of 63 prompts")
    opened.page.locator("#search").fill("어디에도없는말")
    opened.count("0 of 63 prompts")
    assert opened.prompts() == []
    assert opened.page.locator("#count").get_attribute("aria-live") == "polite"


def test_each_filter_keeps_what_it_says(opened: Watched, report: Report) -> None:
    opened.choose("set", "multi-turn")
    opened.count("2 of 63 prompts")
    assert "새집은 어떠세요?" in opened.page.locator("#found .before").inner_text()
    opened.choose("set", "all")
    opened.choose("emotion", "<b>불안</b>")
    opened.count("20 of 63 prompts")
    assert opened.prompts() == users(report, lambda index, turn: turn.emotion == EMOTIONS[1])
    opened.choose("emotion", "all")
    endless = users(report, lambda index, turn: not report.answers["base"][index].ended and index != 2)
    opened.choose("failure", "does not end")
    opened.count(f"{len(endless)} of 63 prompts")
    assert opened.prompts() == endless
    opened.choose("model", "tuned")
    opened.count("0 of 63 prompts")
    for failure, expected in (("harmful", 5), ("any", None)):
        opened.choose("failure", failure)
        if expected:
            opened.count("1 of 63 prompts")
            assert opened.prompts() == [report.turns[expected].user]
    opened.choose("model", "base")
    for failure, index in (("failed", 2), ("empty", 1)):
        opened.choose("failure", failure)
        opened.count("1 of 63 prompts")
        assert opened.prompts() == [report.turns[index].user]
    opened.choose("failure", "with or without")
    opened.page.locator("#differ").check()
    opened.count("61 of 63 prompts")
    opened.page.locator("#search").fill(report.turns[3].user)
    opened.count("0 of 63 prompts")


def test_the_order_is_that_of_the_cosine(opened: Watched, report: Report) -> None:
    cosines = {model: report.scores[model]["cosine"] for model in ("base", "tuned")}
    spread = [abs(a - b) for a, b in zip(*cosines.values(), strict=True)]
    orders = {
        "lowest cosine of base first": sorted(range(60), key=lambda i: round(cosines["base"][i], 4)),
        "highest cosine of tuned first": sorted(range(60), key=lambda i: -round(cosines["tuned"][i], 4)),
        "models furthest apart in cosine first": sorted(range(60), key=lambda i: -round(spread[i], 4)),
    }
    for label, order in orders.items():
        opened.choose("sort", label)
        opened.count("63 of")
        shown = [report.turns[i].user for i in order]
        assert opened.prompts()[:5] == shown[:5], label
    opened.page.locator("[data-step='1']").first.click()
    opened.count("63 of 63 prompts, 51 to 63 shown")
    assert opened.prompts()[:10] == shown[50:]
    assert len(opened.prompts()) == 13 and opened.page.locator("[data-step='1']").first.is_disabled()


def test_what_a_metric_means_opens_by_keyboard(opened: Watched) -> None:
    button = opened.page.locator("#table .what", has_text="chrF").first
    button.focus()
    opened.page.keyboard.press("Enter")
    shown = opened.page.locator(".definition:popover-open")
    assert shown.count() == 1
    text, metric = " ".join(shown.inner_text().split()), METRICS["chrf"]
    assert metric.definition in text and metric.weakness in text and metric.source in text and "0 to 100" in text
    opened.page.keyboard.press("Escape")
    assert shown.count() == 0
    assert opened.page.locator(".what").count() > opened.page.locator(".definition").count() > 25


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const low = {};
  let seen = 0;
  for (const element of document.querySelectorAll("body *:not(script):not(style):not(noscript)")) {
    const direct = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!direct || !element.checkVisibility() || element.disabled) continue;
    const svg = element.namespaceURI.endsWith("svg");
    const [a, b] = [light(parse(getComputedStyle(element)[svg ? "fill" : "color"])), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    seen += 1;
    if (contrast < 4.5) low[`${element.tagName}.${element.getAttribute("class")}`] = contrast;
  }
  return [seen, low];
}"""
WIDER = """() => [...document.querySelectorAll("main *, header *")].filter((one) =>
  one.checkVisibility() && one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".scroll, svg"))
  .map((one) => one.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_it_is_readable(width: int, scheme: Any, browser: Browser, file: Path) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        watched = watch(context, file)
        watched.page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
        assert watched.page.evaluate(WIDER) == []
        assert watched.page.evaluate("document.scrollingElement.scrollWidth") <= width
        seen, low = watched.page.evaluate(CONTRAST)
        assert seen > 500 and low == {}
        paper = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        watched.page.locator("#table .what").last.click()
        box = watched.page.locator(".definition:popover-open").bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width and 0 <= box["y"] < 900
        assert watched.said == []


def test_without_scripts_everything_is_there_but_the_search(browser: Browser, file: Path) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        plain = context.new_page()
        plain.goto(file.as_uri())
        assert plain.get_by_text("The search needs scripts").is_visible()
        assert not plain.locator("#controls").is_visible() and not plain.locator(".pager").first.is_visible()
        assert plain.locator("#table tbody tr").count() >= 8
        assert plain.locator("#worst .reply").count() > 10


def test_a_large_report_stays_quick_for_it_draws_fifty_at_a_time(browser: Browser, report: Report, tmp_path: Path) -> None:
    times = 300
    turns = [replace(turn, dialogue=f"{turn.dialogue} {n}") for n in range(times) for turn in report.turns[:60]]
    turns[12_345] = replace(turns[12_345], messages=[{"role": "user", "content": "바늘 하나"}])
    answers = {model: some[:60] * times for model, some in report.answers.items()}
    scores = {model: {metric: values[:60] * times for metric, values in each.items()} for model, each in report.scores.items()}
    target = tmp_path / "large.html"
    target.write_text(page(replace(report, turns=turns, answers=answers, scores=scores)), encoding="utf-8")
    with browser.new_context() as context:
        watched = watch(context, target)
        watched.count("18,000 of 18,000 prompts, 1 to 50 shown")
        assert len(watched.prompts()) == 50
        watched.page.locator("#search").fill("바늘")
        watched.count("1 of 18,000 prompts")
        assert watched.prompts() == ["바늘 하나"]
        assert watched.said == []


def test_the_best_is_marked_only_where_it_stands(report: Report) -> None:
    html = page(report)
    table = html.partition('<section id="table">')[2].partition("<details>")[0]
    rows = table.split("<tr")[2:]
    assert [row.count("num best") > 0 for row in rows] == [False, True, False, False]
    pairs = [row | {"p_holm": 1.0} for row in report.results["comparisons"]["pairs"]]
    unsure = replace(report, results=report.results | {"comparisons": report.results["comparisons"] | {"pairs": pairs}})
    assert "num best" not in page(unsure) and "No value is marked as the" in page(unsure)


def test_embedded_data_is_the_same_when_read_and_has_nothing_hidden() -> None:
    texts = [HOSTILE, "\ud800", "<!--", "&amp;", "😀 ❤️ 👨‍👩‍👧 ㅋㅋ 한글", "\U000e0041"]
    written = embedded(texts)
    assert json.loads(written) == texts
    written.encode()
    assert not re.search("[<>&\x00-\x1f\u200b\u202e\u2028\u3164]", written) and "😀" in written and "한글" in written


def test_corners() -> None:
    """One model, one prompt without a reference, no comparisons, no scores."""
    turn = Turn("0", [{"role": "user", "content": "안녕"}], None, "", "baseline")
    values = {"values": {"ended": 1.0}, "intervals": {"ended": None}, "failures": 0}
    html = page(Report({"models": {"only": values}}, [turn], {"only": [Answer("네", True)]}, {"only": {}}))
    assert "only was measured" in html and "The prompts name no emotions." in html
    for absent in ("comparisons", "judges", "training", "corpus"):
        assert f'<section id="{absent}">' not in html
