"""The tensors of safetensors files, read a few rows at a time into memory of our own: a mapped file would count as the process's.

The format: the length of a header (8 bytes, little-endian), the header (JSON: name -> dtype, shape, data_offsets from its end),
the data (https://huggingface.co/docs/safetensors). It is read without torch, whose import alone takes longer and holds more
than the export of a small model.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from kosent.errors import ModelError
from kosent.files import read_json

INDEX = "model.safetensors.index.json"
BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""Of one value, by the types that are read."""


@dataclass(frozen=True)
class Tensor:
    """Where a tensor stands."""

    descriptor: int
    start: int
    """Its first byte in the file."""
    dtype: str
    shape: tuple[int, ...]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop), or that part of a vector, as float32 that may be changed."""
        width = int(np.prod(self.shape[1:]))
        size = BYTES[self.dtype] * width
        data = os.pread(self.descriptor, (stop - start) * size, self.start + start * size)
        shape = (stop - start, *self.shape[1:])
        if self.dtype == "BF16":
            return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
        return np.frombuffer(data, np.float16 if self.dtype == "F16" else np.float32).astype(np.float32).reshape(shape)


def tensors_of(file: Path, descriptor: int) -> dict[str, Tensor]:
    """The tensors of one opened file. Raises `ModelError` when it is damaged or holds another type."""
    size = os.fstat(descriptor).st_size
    try:
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        if length > size - 8:
            raise ValueError(f"its header alone would be {length:,} bytes")
        header = json.loads(os.pread(descriptor, length, 8))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end != size:
            raise ValueError(f"it should be {end:,}")
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file} is damaged ({size:,} bytes): {error}", hint="copy or fetch it again, then the same command"
        ) from error
    other = {name: entry["dtype"] for name, entry in header.items() if entry["dtype"] not in BYTES}
    if other:
        name, dtype = next(iter(other.items()))
        raise ModelError(
            f"{file.name} holds {name} as {dtype}; possible: {', '.join(BYTES)}.",
            hint="export from the base before it was quantized",
        )
    return {
        name: Tensor(descriptor, 8 + length + entry["data_offsets"][0], entry["dtype"], tuple(entry["shape"]))
        for name, entry in header.items()
    }


class Checkpoint:
    """A model's folder: `with Checkpoint(folder) as base: base.tensors[name].rows(0, 128)`.

    Raises `ModelError` when a file lacks, is damaged, or holds a type that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, Tensor] = {}
        self._descriptors: list[int] = []

    def __enter__(self) -> Checkpoint:
        try:
            for file in self._files():
                self._descriptors.append(os.open(file, os.O_RDONLY))
                self.tensors |= tensors_of(file, self._descriptors[-1])
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _files(self) -> list[Path]:
        index = self.folder / INDEX
        if index.is_file():
            files = sorted({self.folder / name for name in read_json(index)["weight_map"].values()})
            if missing := [file.name for file in files if not file.is_file()]:
                raise ModelError(
                    f"{self.folder} lacks {len(missing)} of its {len(files)} shards: {', '.join(missing)}.",
                    hint="fetch the base again, then the same command",
                )
            return files
        files = sorted(self.folder.glob("*.safetensors"))
        if not files:
            raise ModelError(f"{self.folder} holds no safetensors.", hint="name a folder with model.safetensors as the base")
        return files
