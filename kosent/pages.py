"""What every HTML page of KoSent shares: templates, numbers, bars as inline SVG, and texts whose hidden characters show.

A page is one file without anything fetched: `render` fills a template of a package; the layout and the style stand in
`kosent/templates/page.html.jinja`. Only the page of `kosent evaluate` has a script, for searching replies, which it gets as
`embedded` data and writes with the marks of `script_marks`. Every text that a template writes passes through `visible`, so a
corpus can bring neither HTML nor control characters into the page. Texts of a corpus therefore belong between tags, never into
attributes.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

Tone = Literal["before", "after", "good", "bad", "warn", "first", "second", "third", "fourth", "fifth", "quiet"]
"""The colours of the layout."""

COARSE = 100_000
"""Where more pairs of pieces than this are alike, comparing would take too long: the whole stretch counts as changed."""

LEAST = 0.8
"""Percent of the width that a bar of a number above zero takes at least."""

_ANSI = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])"
_PICTURE = "[\u00a9\u00ae\u203c\u2049\u2122\u2190-\u21ff\u2300-\u2bff\U0001f000-\U0001faff]"
_EMOJI = f"{_PICTURE}[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]*(?:\u200d{_PICTURE}[\ufe0f\U0001f3fb-\U0001f3ff]*)*"
_PIECES = {
    "characters": re.compile(f"{_ANSI}|{_EMOJI}|.", re.DOTALL),
    "words": re.compile(rf"{_ANSI}|{_EMOJI}|\w+|.", re.DOTALL),
}
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u3164\uffa0")
_UNUSUAL = re.compile("[^ !-%'-;=?-~가-힣]")
_SHORT_NAMES = {
    "\0": "NUL", "\a": "BEL", "\b": "BS", "\t": "TAB", "\n": "↵", " ": "␣", "\r": "CR", "\x1b": "ESC", "\x7f": "DEL",
    "\xa0": "NBSP", "\xad": "SHY", "\u200b": "ZWSP", "\u200c": "ZWNJ", "\u200d": "ZWJ", "\u200e": "LRM", "\u200f": "RLM",
    "\u202a": "LRE", "\u202b": "RLE", "\u202c": "PDF", "\u202d": "LRO", "\u202e": "RLO", "\u2060": "WJ", "\u3000": "IDSP",
    "\u3164": "FILLER", "\ufe0f": "VS16", "\ufeff": "BOM",
}  # fmt: skip


def render(template_name: str, package: str, **values: Any) -> str:
    """The page that `templates/<template_name>` of `package` makes of `values`; what `package` lacks, `kosent` has."""
    return _environment(package).get_template(template_name).render(**values)


@lru_cache(maxsize=8)
def _environment(package: str) -> Environment:
    def source(name: str) -> str | None:
        for owner in (package, "kosent"):
            file = files(owner).joinpath("templates", name)
            if file.is_file():
                return file.read_text(encoding="utf-8")
        return None

    environment = Environment(
        loader=FunctionLoader(source),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(bars=bars, highlight=highlight, histogram=histogram, legend=legend, percent=percent)
    environment.globals.update(stack=stack, visible=visible, zoomed=zoomed)
    environment.filters.update(number=number)
    return environment


def number(value: float) -> str:
    """51630 -> 51,630; 0.25 -> 0.25"""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def percent(part: float, whole: float) -> str:
    """A share with one decimal. What is not quite nothing or not quite all is never written as 0 or 100."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "< 0.1 %"
    return "> 99.9 %" if 99.9 < share < 100 else f"{share:.1f} %"


def _hidden(character: str) -> bool:
    return not character.isprintable() or character in _FILLERS or "\ufe00" <= character <= "\ufe0f" or character >= "\U000e0100"


def _marker(character: str) -> Markup:
    code = f"U+{ord(character):04X}"
    name = unicodedata.name(character, "control character" if unicodedata.category(character) == "Cc" else "no character")
    return Markup('<span class="mark" title="{} {}">{}</span>').format(code, name, _SHORT_NAMES.get(character, code))


def _written(piece: str, changed: bool) -> Markup:
    """One piece of a text as HTML. A line break shows as a sign only where it is part of a change."""
    if len(piece) > 1 and piece[0] == "\x1b":
        inside = "".join(f"<{_SHORT_NAMES.get(c, f'U+{ord(c):04X}')}>" if _hidden(c) else c for c in piece[1:])
        return Markup('<span class="mark" title="terminal escape sequence">ESC{}</span>').format(inside)
    if re.match(_PICTURE, piece) or not any(map(_hidden, piece)):
        return escape(piece)
    broken = _marker("\n") + "\n" if changed else Markup("\n")
    return Markup("").join(broken if c == "\n" else _marker(c) if _hidden(c) else escape(c) for c in piece)


def visible(text: str) -> Markup:
    """The text as HTML in which characters that one cannot see (zero width, control, escape sequences) are written out."""
    if not any(map(_hidden, text)):
        return escape(text)
    return Markup("").join(_written(piece, False) for piece in _PIECES["characters"].findall(text))


def spelled_out(text: str) -> str:
    """As `visible`, for a terminal: what one cannot see is written as <U+200B>; line breaks, tabs and joined emoji stay."""

    def seen(piece: str) -> str:
        if re.match(_PICTURE, piece):
            return piece
        return "".join(f"<U+{ord(c):04X}>" if _hidden(c) and c not in "\n\t" else c for c in piece)

    return "".join(map(seen, _PIECES["characters"].findall(text.replace("\r\n", "\n"))))


def script_marks() -> dict[str, Any]:
    """What `visible` goes by, for a script: regular expressions of what stays whole, the other hidden characters, the names."""
    fillers = "".join(sorted(_FILLERS))
    return {
        "ansi": _ANSI,
        "emoji": _EMOJI,
        "hidden": f"[\\p{{C}}\\p{{Z}}{fillers}\ufe00-\ufe0f\U000e0100-\U000e01ef]",
        "names": _SHORT_NAMES,
    }


def embedded(value: Any) -> Markup:
    """JSON that can stand in a <script> element: no character that ends the element, cannot be seen or cannot be encoded."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(_UNUSUAL.sub(_escaped, text))


def _escaped(match: re.Match[str]) -> str:
    if match[0] not in "<>&" and not _hidden(match[0]):
        return match[0]
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def highlight(before: str, after: str, by: Literal["characters", "words"] = "characters") -> tuple[Markup, Markup]:
    """Both texts as HTML: what went stands in <del> of the first, what came in <ins> of the second; spaces alone show as ␣."""
    old, new = _PIECES[by].findall(before), _PIECES[by].findall(after)
    sides: tuple[list[Markup], list[Markup]] = ([], [])
    for changed, i1, i2, j1, j2 in _stretches(old, new):
        for pieces, out, tag in ((old[i1:i2], sides[0], "del"), (new[j1:j2], sides[1], "ins")):
            blank = changed and not "".join(pieces).strip(" ")
            inside = Markup("").join(_marker(piece) if blank else _written(piece, changed) for piece in pieces)
            if pieces:
                out.append(Markup(f"<{tag}>{{}}</{tag}>").format(inside) if changed else inside)
    return Markup("").join(sides[0]), Markup("").join(sides[1])


def _alike(one: list[str], other: list[str]) -> int:
    """How many pieces at the beginning are the same."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _stretches(old: list[str], new: list[str]) -> list[tuple[bool, int, int, int, int]]:
    """(changed, old from, old to, new from, new to) in order; one equal piece between two replacements counts as changed."""
    head = _alike(old, new)
    tail = _alike(old[head:][::-1], new[head:][::-1])
    end, new_end = len(old) - tail, len(new) - tail
    times = Counter(new[head:new_end])
    if sum(times[piece] for piece in old[head:end]) > COARSE:
        found = [("replace", head, end, head, new_end)]
    else:
        opcodes = SequenceMatcher(None, old[head:end], new[head:new_end], autojunk=False).get_opcodes()
        found = [(kind, head + i1, head + i2, head + j1, head + j2) for kind, i1, i2, j1, j2 in opcodes]
    whole = [("equal", 0, head, 0, head), *found, ("equal", end, len(old), new_end, len(new))]
    kinds = [kind for kind, *_ in whole]
    for index in range(1, len(whole) - 1):
        if kinds[index - 1] == kinds[index + 1] == "replace" and whole[index][2] - whole[index][1] == 1:
            kinds[index] = "replace"
    merged: list[tuple[bool, int, int, int, int]] = []
    for kind, (_, i1, i2, j1, j2) in zip(kinds, whole, strict=True):
        if merged and merged[-1][0] == (kind != "equal"):
            i1, j1 = merged[-1][1], merged[-1][3]
            merged.pop()
        merged.append((kind != "equal", i1, i2, j1, j2))
    return merged


@dataclass(frozen=True)
class Bar:
    """A number to draw."""

    name: str
    value: float
    tone: Tone
    text: str = ""
    """What is written beside it, where that is not the number itself."""
    strength: float = 1.0
    """Opacity, for many bars of one tone."""

    @property
    def label(self) -> str:
        return self.text or number(self.value)


_SVG = Markup('<svg class="{}" width="100%" height="{}" role="img" aria-label="{}">{}</svg>')
_RECT = Markup('<rect class="{}" x="{:.3f}%" y="{}" width="{:.3f}%" height="{}" fill-opacity="{:.2f}"/>')


def _spoken(parts: Sequence[Bar]) -> str:
    return ", ".join(re.sub(r"[^ -~가-힣]", "", f"{part.name} {part.label}") for part in parts)


def _placed(parts: Sequence[Bar], maximum: float) -> list[tuple[float, float]]:
    """(x, width) in percent of stacked parts; none above zero thinner than LEAST, all together within 100."""
    widths = [max(LEAST, 100 * part.value / maximum) if part.value > 0 and maximum else 0.0 for part in parts]
    scale = min(1.0, 100 / sum(widths)) if sum(widths) else 1.0
    return [(scale * sum(widths[:index]), scale * width) for index, width in enumerate(widths)]


def _rects(parts: Sequence[Bar], maximum: float, y: int, height: int) -> Markup:
    pairs = zip(parts, _placed(parts, maximum), strict=True)
    return Markup("").join(_RECT.format(part.tone, x, y, w, height, part.strength) for part, (x, w) in pairs if w)


def stack(parts: Sequence[Bar], maximum: float | None = None, height: int = 14) -> Markup:
    """One horizontal bar of parts side by side; `maximum` fills the width (their sum unless given)."""
    whole = sum(part.value for part in parts) if maximum is None else maximum
    return _SVG.format("stack", height, _spoken(parts), _rects(parts, whole, 0, height))


def zoomed(parts: Sequence[Bar], detail: Sequence[Bar]) -> Markup:
    """A bar of parts, and below it the last part over the full width, made of `detail`; only the bar where that is empty."""
    whole = sum(part.value for part in parts)
    drawn = _rects(parts, whole, 0, 34)
    if not parts or not detail:
        return _SVG.format("stack", 34, _spoken(parts), drawn)
    x, width = _placed(parts, whole)[-1]
    drawn += Markup('<svg x="0" y="34" width="100%" height="26" viewBox="0 0 100 26" preserveAspectRatio="none">')
    drawn += Markup('<polygon class="fan" points="{:.3f},0 {:.3f},0 100,26 0,26"/></svg>').format(x, x + width)
    drawn += _rects(detail, sum(part.value for part in detail), 60, 18)
    return _SVG.format("stack", 78, _spoken([*parts, *detail]), drawn)


def legend(parts: Sequence[Bar], shares_of: float | None = None) -> Markup:
    """The names, colours and numbers of parts as a list, with shares of `shares_of` where that is given."""
    line = Markup('<li><span class="swatch {}" style="opacity:{:.2f}"></span>{} <b>{}</b>{}</li>')
    shares = [f" {percent(part.value, shares_of)}" if shares_of else "" for part in parts]
    rows = [line.format(p.tone, p.strength, visible(p.name), p.label, share) for p, share in zip(parts, shares, strict=True)]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(rows))


def bars(rows: Mapping[str, Sequence[Bar]], maximum: float | None = None) -> Markup:
    """Horizontal bars, one group a row, each with its number; the longest fills the width unless `maximum` is given."""
    whole = maximum or max((bar.value for group in rows.values() for bar in group), default=0)
    line = Markup('<div class="bar">{}<span class="n">{}</span></div>')
    row = Markup('<div class="row"><div class="name">{}</div><div>{}</div></div>')
    groups = [(name, [line.format(stack([bar], whole, 12), bar.label) for bar in group]) for name, group in rows.items()]
    drawn = [row.format(visible(name), Markup("").join(group)) for name, group in groups]
    return Markup('<div class="bars">{}</div>').format(Markup("").join(drawn))


def histogram(labels: Sequence[str], before: Sequence[int], after: Sequence[int], height: int = 130) -> Markup:
    """Columns before and after, bin by bin, and below each bin its label and both numbers."""
    most, step = max([*before, *after, 1]), 100 / max(1, len(labels))
    drawn = Markup('<line class="axis" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(height)
    text = Markup('<text class="{}" x="{:.3f}%" y="{}">{}</text>')
    for index, (label, old, new) in enumerate(zip(labels, before, after, strict=True)):
        for tone, value, shift in (("before", old, 0.12), ("after", new, 0.5)):
            tall = max(1.5, (height - 6) * value / most) if value else 0
            drawn += _RECT.format(tone, step * (index + shift), f"{height - tall:.1f}", step * 0.36, f"{tall:.1f}", 1)
        for kind, words, drop in (("bin", label, 16), ("n old", number(old), 33), ("n new", number(new), 48)):
            drawn += text.format(kind, step * (index + 0.5), height + drop, words)
    spoken = "; ".join(f"{label}: {old} before, {new} after" for label, old, new in zip(labels, before, after, strict=True))
    svg = _SVG.format("histogram", height + 54, spoken, drawn)
    return Markup('<div class="scroll"><div style="min-width:{}px">{}</div></div>').format(40 * len(labels), svg)
