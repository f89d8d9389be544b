"""The README says what the commands say, and both languages have the same parts."""

from __future__ import annotations

import re

import pytest

from helpers import ROOT
from kosent.cli import COMMANDS, overview

READMES = ("README.md", "README.ko.md")


@pytest.mark.parametrize("name", READMES)
def test_the_list_of_commands_is_the_real_one(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.search(r"<!-- kosent --help -->\n\n(.*?)\n\n<!-- end -->", text, re.DOTALL)
    assert found
    assert found.group(1) == "\n".join(f"    {line}".rstrip() for line in overview().splitlines())


@pytest.mark.parametrize("name", READMES)
def test_what_the_readme_links_and_types_is_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (ROOT / target).is_file(), target
    for command in re.findall(r"^    kosent (\w+)", text, re.MULTILINE):
        assert command in COMMANDS
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^    |`)make (\w+)", text, re.MULTILINE):
        assert f"\n{target}:" in makefile, target


def test_both_languages_have_the_same_parts() -> None:
    english, korean = ((ROOT / name).read_text(encoding="utf-8") for name in READMES)
    assert english.count("\n## ") == korean.count("\n## ")
    assert re.findall(r"^\| .*", english, re.MULTILINE)[2:] == re.findall(r"^\| .*", korean, re.MULTILINE)[2:]


def test_no_placeholder_is_left() -> None:
    for path in [*(ROOT / name for name in READMES), *(ROOT / "docs").glob("*.md")]:
        assert not re.search(r"\b[A-Z]+_[A-Z]+(?:_[A-Z]+)*$|^[A-Z]{6,}$", path.read_text(encoding="utf-8"), re.MULTILINE), path


def test_nothing_in_the_repository_names_a_place_of_one_machine() -> None:
    unwanted = re.compile("/" + "root/|/" + "home/[a-z]+/|python" + "hosted|py" + "pi\\.org")
    for path in ROOT.rglob("*"):
        inside = path.relative_to(ROOT).parts
        if path.suffix in (".py", ".md", ".toml", ".txt", ".jinja") and not any(part.startswith(".") for part in inside):
            if inside[0].startswith(("kosent-demo", "runs")):
                continue
            assert not unwanted.search(path.read_text(encoding="utf-8")), path


def test_the_page_on_corpora_lists_what_the_program_knows() -> None:
    from kosent.finetune.corpus import FORMATS
    from kosent.finetune.prepare import MADE
    from kosent.finetune.rules import RULES, CleaningSettings, flat_settings

    text = (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8")
    for name, what in [*FORMATS.items(), *RULES.items()]:
        assert f"| `{name}` | {what} |" in text
    for name, value in flat_settings(CleaningSettings()).items():
        assert f"| `{name}` | {value:g} | " in text
    for name in MADE - {"report.md"}:
        assert f"`{name}`" in text or name.partition(".")[0] in ("validation", "test"), name


def test_the_page_on_evaluation_defines_every_metric() -> None:
    from kosent.evaluation.definitions import sections

    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- python -m kosent.evaluation.definitions -->\n\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert found
    assert found.group(1) == sections()
