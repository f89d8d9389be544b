"""The tensors of safetensors files, read a few rows at a time into memory of our own: a mapped file would count as the process's.

The format: the length of a header (8 bytes, little-endian), the header (JSON: name -> dtype, shape, data_offsets from its end),
the data (https://huggingface.co/docs/safetensors). It is read without torch, whose import alone takes longer and holds more
than the export of a small model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from kosent import hub
from kosent.errors import KosentError, ModelError

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
        data = _read(self.descriptor, (stop - start) * size, self.start + start * size)
        shape = (stop - start, *self.shape[1:])
        if self.dtype == "BF16":
            return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
        return np.frombuffer(data, np.float16 if self.dtype == "F16" else np.float32).astype(np.float32).reshape(shape)


def _read(descriptor: int, size: int, offset: int) -> bytearray:
    """Linux reads at most 2 GiB at a time. Raises `ModelError` where the file ends before."""
    data = bytearray(size)
    done = 0
    while done < size:
        count = os.preadv(descriptor, [memoryview(data)[done:]], offset + done)
        if not count:
            raise ModelError("A file of the base or the adapter became shorter while it was read.", hint="the same command again")
        done += count
    return data


@contextmanager
def readable(what: object) -> Iterator[None]:
    """Makes a `ModelError` of what reading a damaged or unexpected file raises."""
    try:
        yield
    except KosentError:
        raise
    except (LookupError, ValueError, TypeError, AttributeError, OSError, RuntimeError) as error:
        reason = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise ModelError(f"{what} cannot be used: {reason}", hint="fetch or copy it again, then the same command") from error


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
        """The files that were hashed and trained on."""
        with readable(self.folder):
            files = hub.weight_files(self.folder)
        missing = [file.name for file in files if not file.is_file()]
        if missing and len(files) == 1:
            raise ModelError(f"{self.folder} holds no {missing[0]}.", hint="name a folder with safetensors as the base")
        if missing:
            raise ModelError(
                f"{self.folder} lacks {len(missing)} of its {len(files)} shards: {', '.join(missing)}.",
                hint="fetch the base again, then the same command",
            )
        return files
