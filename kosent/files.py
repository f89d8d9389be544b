"""Writing files so that an interruption leaves the old one or the new one, never half of one; and hashing them."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Gives a temporary path beside `target`; renamed onto it when the block ends well, removed when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if temporary.is_file():
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        _remove(temporary)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Gives an empty temporary folder beside `target` that takes its place, whole, when the block ends well.

    Until then `target` stays as it is; what it holds is then removed, its permissions stay. On Linux the two are exchanged in
    one step where the file system can; elsewhere there is a moment without `target`, and the next call puts the old one back.
    """
    target = target.resolve()
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is there and is no folder", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.old")
    if aside.is_dir() and not target.exists():
        aside.rename(target)
    sweep(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        if not target.exists():
            temporary.rename(target)
        elif not _exchange(temporary, target):
            _remove(aside)
            target.rename(aside)
            temporary.rename(target)
            _remove(aside)
    finally:
        _remove(temporary)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two paths of one file system in one step (renameat2, Linux 3.15). False where that is not to be had."""
    at_current_folder, exchange = -100, 2
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return bool(renameat2(at_current_folder, os.fsencode(one), at_current_folder, os.fsencode(other), exchange) == 0)


def sweep(target: Path) -> None:
    """Removes what a killed process left beside `target`."""
    for left in target.parent.glob(f".{target.name}.*.tmp"):
        process = left.name.removesuffix(".tmp").rpartition(".")[2]
        try:
            os.kill(int(process), 0)
        except (ValueError, ProcessLookupError):
            _remove(left)
        except PermissionError:
            continue  # somebody else's process, at work


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(target: Path, text: str, *, encoding: str = "utf-8") -> None:
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding=encoding, newline="\n")


def write_json(target: Path, value: Any) -> None:
    """Pretty; keys stay in the order they were put in."""
    write_text(target, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(target: Path, rows: Iterable[Any]) -> None:
    write_text(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> list[Any]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(folder: Path) -> dict[str, str]:
    """`{relative path: sha256}` for every file under `folder` that matches, sorted by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}
