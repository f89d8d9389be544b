"""What the packages may import, what must stay unloaded, and what the distributions hold."""

from __future__ import annotations

import ast
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from helpers import ROOT

HEAVY = ("torch", "transformers", "langchain", "langchain_core", "langchain_ollama", "chromadb", "textual", "llama_cpp", "numpy")
MAY_IMPORT = {
    "kosent": {"kosent"},
    "finetune": {"kosent", "kosent.finetune"},
    "export": {"kosent", "kosent.export", "kosent.finetune"},
    "rag": {"kosent", "kosent.rag", "kosent.finetune"},
    "tui": {"kosent", "kosent.rag", "kosent.tui"},
}
DEMO_MAY = {"kosent.finetune"}
"""`demo` runs commands as a user would and shares how a corpus is named; nothing else in `kosent` looks below."""
SUBPACKAGES = {"kosent.finetune", "kosent.export", "kosent.rag", "kosent.tui"}


def owner(module: str) -> str:
    return next((package for package in SUBPACKAGES if module == package or module.startswith(f"{package}.")), "kosent")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {owner(name) for name in found if name == "kosent" or name.startswith("kosent.")}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_package_imports_only_what_the_table_allows(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*.py") if not any(part.is_symlink() for part in path.parents)]
    assert files
    for path in files:
        allowed = MAY_IMPORT[folder] | (DEMO_MAY if path == ROOT / "kosent" / "demo.py" else set())
        assert imports(path) <= allowed, path


@pytest.mark.parametrize("code", ["import kosent", "from kosent.cli import main; main(['--help'])"])
def test_import_and_help_load_nothing_heavy(code: str) -> None:
    script = f"{code}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_wheel_and_sdist_hold_the_listed_packages_and_the_data(tmp_path: Path) -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert len(names) == len(set(names))
    assert {str(Path(name).parent).replace("/", ".") for name in names if name.endswith(".py")} == set(listed)
    sources = {
        "kosent": "kosent", "kosent/conversations": "kosent/conversations",
        "kosent/evaluation": "kosent/evaluation", "finetune": "kosent/finetune",
        "finetune/recipes": "kosent/finetune/recipes", "export": "kosent/export", "rag": "kosent/rag", "tui": "kosent/tui",
    }  # fmt: skip
    expected = {f"{inside}/{path.name}" for folder, inside in sources.items() for path in (ROOT / folder).glob("*.py")}
    expected |= {f"kosent/templates/{path.name}" for path in (ROOT / "kosent" / "templates").iterdir()}
    expected |= {f"kosent/finetune/templates/{name}.html.jinja" for name in ("prepare", "sweep")}
    expected |= {"kosent/data/sweep_prompts.txt", "kosent/data/evaluation_prompts.json"}
    expected |= {
        "kosent/data/reply_weights.bin",
        "kosent/data/safety_weights.bin",
        "kosent/data/starter_corpus.csv",
        "kosent/py.typed",
        *(f"kosent/finetune/recipes/{path.name}" for path in (ROOT / "finetune" / "recipes").glob("*.toml")),
    }
    assert set(names) == expected
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"finetune/train.py", "kosent/data/starter_corpus.csv", "LICENSE", "README.md"} <= inside
