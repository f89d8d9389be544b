"""The files of Chroma's vector index: a copy from before each change, and whether they can be loaded at all.

Chroma (1.5.9) writes its HNSW graph (Malkov & Yashunin 2016) into its files in place, after every thousand changes. Killed
meanwhile, it leaves files that it cannot read, or that end the process which tries. So they are copied before the first change
after each writing, and put back where the last of them was not finished; what changed since then stands in Chroma's log. Where
the disk does not take all, Chroma does not notice, and empties its log: so there must be room before, and the lengths are looked
at after.
"""

from __future__ import annotations

import errno
import os
import pickletools
import shutil
import struct
from pathlib import Path
from typing import Any

from kosent.files import read_json, write_json

LAST = "index_metadata.pickle"
"""Which vector is which chunk; written after all the others."""
HEADER = struct.Struct("<i6QiI3Q")
"""hnswlib's: version; offset, capacity, elements, bytes of one, offsets of its label and its vector; levels, where to enter;
neighbours on the upper levels, on the lowest, wanted."""
ROOM = 64 << 20
"""Bytes that stay free on the disk."""


class HnswFiles:
    """Of the Chroma folder `folder`; the copy lies beside it. Raises `OSError`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._copy = folder, folder.with_name(f"{folder.name}-before")
        self._kept: dict[str, Any] | None = None

    def put_back(self) -> None:
        """What an interrupted change left behind is made good. Only while nobody has the folder open to write."""
        if not (self._copy / "kept.json").exists():
            return
        if read_json(self._copy / "kept.json") == _last_of(self._folder) or not _whole(self._folder):
            for segment in _segments(self._folder):
                shutil.rmtree(segment)
            for segment in _segments(self._copy):
                shutil.copytree(segment, self._folder / segment.name)
        self._kept = {}

    def keep(self) -> None:
        """Before a change."""
        needed = 0 if self.kept else sum(path.stat().st_size for one in _segments(self._folder) for path in one.iterdir())
        if shutil.disk_usage(self._folder).free < needed + ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))
        if self.kept:
            return
        self.forget()
        for segment in _segments(self._folder):
            shutil.copytree(segment, self._copy / segment.name)
        self._kept = _last_of(self._folder)
        write_json(self._copy / "kept.json", self._kept)

    def changed(self) -> bool:
        """After a change: False where it was written and the disk did not take all of it."""
        if self._kept == _last_of(self._folder):
            return True
        if not all(_complete(segment) for segment in _segments(self._folder)):
            return False
        self.forget()
        return True

    def forget(self) -> None:
        """Removes the copy that `keep` made, or `put_back` used."""
        self._kept = None
        (self._copy / "kept.json").unlink(missing_ok=True)
        shutil.rmtree(self._copy, ignore_errors=True)

    @property
    def kept(self) -> bool:
        return self._kept is not None

    def damage(self) -> str:
        """What makes them unfit to be loaded, "" for nothing."""
        for segment in _segments(self._folder):
            if (segment / LAST).exists() and not (_complete(segment) and _connected(segment)):
                return f"the vector index in {segment} is damaged"
        return ""


def _segments(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _last_of(folder: Path) -> dict[str, Any]:
    """What changes when the last file is written anew."""
    files = {segment.name: segment / LAST for segment in _segments(folder)}
    return {name: [path.stat().st_mtime_ns, path.stat().st_size] for name, path in files.items() if path.exists()}


def _whole(folder: Path) -> bool:
    """Whether the last file of the segment is there to its end."""
    segments = _segments(folder)
    try:
        for segment in segments:
            for _ in pickletools.genops((segment / LAST).read_bytes()):
                pass
    except (OSError, ValueError):
        return False
    return bool(segments)


def _header(segment: Path) -> tuple[int, ...]:
    with (segment / "header.bin").open("rb") as file:
        return HEADER.unpack(file.read(HEADER.size))


def _complete(segment: Path) -> bool:
    """Whether the files are as long as their header says."""
    try:
        version, _, capacity, elements, size, *_ = _header(segment)
        long_enough = (segment / "data_level0.bin").stat().st_size >= elements * size
        return version == 1 and elements <= capacity and size > 0 and long_enough and _upper_levels(segment, elements)
    except (OSError, struct.error):
        return False


def _upper_levels(segment: Path, elements: int) -> bool:
    """Whether link_lists.bin holds its length and so many bytes for each element."""
    data, place = (segment / "link_lists.bin").read_bytes(), 0
    for _ in range(elements):
        (length,) = struct.unpack_from("<I", data, place)
        place += 4 + length
    return place <= len(data)


def _connected(segment: Path) -> bool:
    """Whether every element's neighbours on the lowest level are elements; hnswlib does not look."""
    import numpy as np

    _, _, _, elements, size, label, vector, levels, enter, _, most, _ = _header(segment)
    if not elements:
        return True
    if not 4 + 4 * most <= vector < label <= size - 8 or enter >= elements or not 0 <= levels < 64:
        return False
    rows = np.memmap(segment / "data_level0.bin", np.uint8, "r", shape=(elements, size))
    numbers = np.ascontiguousarray(rows[:, :2]).view(np.uint16)
    neighbours = np.ascontiguousarray(rows[:, 4 : 4 + 4 * most]).view(np.uint32)
    used = np.arange(most) < numbers
    return bool((numbers <= most).all() and (neighbours[used] < elements).all())
