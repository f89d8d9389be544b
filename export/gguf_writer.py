"""Merges an adapter into its base and writes GGUF, a few rows at a time: no merged model is ever whole, in memory or on disk.

Matrices are stored in the chosen type, vectors in float32. All is computed in float32 from the base's values. A few blocks of
rows are in work at once, one a processor, and written in their order.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import quant_shape_to_byte_shape, quantize

from kosent.errors import ModelError
from kosent.export.adapter import NOTHING, read_adapter
from kosent.export.architectures import Architecture, add_common_metadata, architecture_of, base_config, row_order
from kosent.export.checkpoint import Checkpoint, readable
from kosent.export.tokenizer import add_tokenizer
from kosent.prompts import Layout

TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
BLOCK = 2**22
"""Values in one block of rows: 16 MiB in float32."""
F16_LARGEST = 65504.0
ADD_BOS = "tokenizer.ggml.add_bos_token"
Advance = Callable[[int, str], None]


@dataclass(frozen=True)
class Stored:
    """A tensor of the file."""

    name: str
    source: str
    """Its name in the base; empty where it follows from the config."""
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    heads: int = 0
    """By how many heads its rows are reordered; 0: not at all."""
    offset: float = 0.0

    @property
    def nbytes(self) -> int:
        if self.kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            return int(np.prod(self.shape)) * (4 if self.kind == GGMLQuantizationType.F32 else 2)
        return int(np.prod(quant_shape_to_byte_shape(self.shape, self.kind)))

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows of about `BLOCK` values, of whole heads where heads are reordered."""
        rows, width = self.shape[0], int(np.prod(self.shape[1:]))
        unit = rows // self.heads if self.heads else 1
        step = max(1, BLOCK // (unit * width)) * unit
        for start in range(0, rows, step):
            yield start, min(start + step, rows)


class Export:
    """What was trained, ready to be written: `with Export(base, adapter, template, layout) as export: export.write(path, "f16")`.

    `adapter` is None where `base` holds all that was trained. Raises `ModelError` when base and adapter do not fit, a file lacks
    or is damaged, or llama.cpp does not know the kind.
    """

    def __init__(self, base: Path, adapter: Path | None, template: str, layout: Layout) -> None:
        self.config = base_config(base)
        self.architecture: Architecture = architecture_of(self.config)
        self.adapter = read_adapter(adapter) if adapter else NOTHING
        self.base = Checkpoint(base)
        self.template, self.layout = template, layout
        self.extra = self.architecture.extra_tensors(self.config)

    def __enter__(self) -> Export:
        with ExitStack() as stack:
            stack.enter_context(self.base)
            self.adapter.check(self._base_shapes, str(self.base.folder))
            self._check_head()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.close()

    @property
    def _base_shapes(self) -> dict[str, tuple[int, ...]]:
        unread = [".rotary_emb.inv_freq", *(["lm_head.weight"] if self.config["tie_word_embeddings"] else [])]
        return {name: tensor.shape for name, tensor in self.base.tensors.items() if not name.endswith(tuple(unread))}

    def _check_head(self) -> None:
        replaced = self.adapter.replaced.keys()
        trained = any(name.endswith("embed_tokens.weight") for name in replaced) and "lm_head.weight" not in replaced
        if trained and self.config["tie_word_embeddings"] and not self.adapter.keeps_ties:
            raise ModelError(
                "The adapter trained a copy of the embedding and left the head, which is the same matrix in the base, as it was.",
                hint="train again with lm_head in modules_to_save, or with ensure_weight_tying",
            )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the trained model's tensors, by their Hugging Face names."""
        return self._base_shapes | {name: tuple(tensor.shape) for name, tensor in self.adapter.replaced.items()}

    @property
    def count(self) -> int:
        return len(self.tensors("f16"))

    def nbytes(self, quantization: str) -> int:
        """Size of the tensors in one of `TYPES`; the rest of the file is a few MB."""
        return sum(stored.nbytes for stored in self.tensors(quantization))

    def tensors(self, quantization: str) -> list[Stored]:
        """In the order of the base's files, what follows from the config first."""
        kind, _ = TYPES[quantization]
        namer = self.architecture.namer(self.config)
        found = [Stored(name, "", values.shape, GGMLQuantizationType.F32) for name, values in self.extra.items()]
        for source, shape in self.shapes.items():
            offset = self.architecture.norm_offset if source.endswith("norm.weight") else 0.0
            heads = self.architecture.heads_of(source, self.config)
            found.append(Stored(namer(source), source, shape, _stored_kind(shape, kind), heads, offset))
        return found

    def rows(self, stored: Stored, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) as they are written."""
        values = self.merged(stored.source, start, stop) if stored.source else self.extra[stored.name][start:stop]
        if stored.offset:
            values = values + np.float32(stored.offset)
        if not np.isfinite(values).all() or (stored.kind == GGMLQuantizationType.F16 and np.abs(values).max() > F16_LARGEST):
            raise ModelError(
                f"{stored.source} has a value that is infinite, not a number, or too large for {stored.kind.name.lower()}.",
                hint="look at the losses of the run (metrics.jsonl); for a value that is too large, --quantization bf16",
            )
        if stored.heads:
            size = stored.shape[0] // stored.heads
            values = values[row_order(stop - start, (stop - start) // size)]
        return np.ascontiguousarray(quantize(values, stored.kind))

    def merged(self, source: str, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of the trained model's tensor, float32, in Hugging Face's order."""
        if source in self.adapter.replaced:
            return self.adapter.replaced[source][start:stop]
        values = self.base.tensors[source].rows(start, stop)
        delta = self.adapter.deltas.get(source)
        with np.errstate(all="ignore"):  # what is no number is refused when it is written
            return delta.apply(values, start) if delta else values

    def write(self, path: Path, quantization: str, advance: Advance = lambda done, note: None) -> None:
        """Writes the file, in one of `TYPES`; `advance(done, tensor)` is told how many MB (10^6 bytes) are done."""
        tensors = self.tensors(quantization)
        writer = GGUFWriter(path, self.architecture.name)
        self._add_metadata(writer, quantization)
        for stored in tensors:
            writer.add_tensor_info(stored.name, stored.shape, np.dtype(np.float32), stored.nbytes, raw_dtype=stored.kind)
        writer.add_size_label(gguf.size_label(*writer.get_total_parameter_count()))
        try:
            _write(writer, path, self, tensors, advance)
        finally:
            writer.close()

    def check(self) -> None:
        """Raises `ModelError` for what `write` would find only after other work."""
        self.tensors("f16")
        self._add_metadata(GGUFWriter(None, self.architecture.name), "f16")

    def _add_metadata(self, writer: GGUFWriter, quantization: str) -> None:
        with readable(self.base.folder):
            self._add_metadata_to(writer, quantization)

    def _add_metadata_to(self, writer: GGUFWriter, quantization: str) -> None:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name("KoSent")
        add_common_metadata(writer, self.config)
        self.architecture.add_metadata(writer, self.config)
        writer.add_file_type(TYPES[quantization][1])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        tokens = add_tokenizer(writer, self.base.folder, self.config["vocab_size"])
        if self.layout.end_of_turn not in tokens:
            raise ModelError(
                f"The tokenizer in {self.base.folder} has no {self.layout.end_of_turn}, which ends every reply of this run.",
                hint="fetch the base again, with tokenizer.json",
            )
        writer.add_eot_token_id(tokens.index(self.layout.end_of_turn))
        writer.add_chat_template(self.template)
        # what a template does not write must not be added by a server either, whatever the tokenizer's habit
        writer.kv_data[0].pop(ADD_BOS, None)
        writer.add_add_bos_token("bos_token" in self.template)


def _stored_kind(shape: tuple[int, ...], kind: GGMLQuantizationType) -> GGMLQuantizationType:
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    block = gguf.GGML_QUANT_SIZES[kind][0]
    return kind if shape[-1] % block == 0 else GGMLQuantizationType.F16  # as llama.cpp's converter does


def _write(writer: GGUFWriter, path: Path, export: Export, tensors: list[Stored], advance: Advance) -> None:
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    files: Any = writer.fout
    file = files[0]
    writer.write_padding(file, file.tell())
    began = file.tell()
    for stored, array in _in_order(export, tensors):
        if array is None:
            writer.write_padding(file, stored.nbytes)
        else:
            file.write(array.data.cast("B"))
            advance((file.tell() - began) // 10**6, stored.name)


def _in_order(export: Export, tensors: list[Stored]) -> Iterator[tuple[Stored, np.ndarray | None]]:
    """The blocks of all tensors as arrays, and None at the end of each tensor; as many in work as there are processors."""
    workers = min(8, os.cpu_count() or 1)
    waiting: deque[tuple[Stored, Future[np.ndarray] | None]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for stored in tensors:
                for start, stop in stored.blocks():
                    waiting.append((stored, pool.submit(export.rows, stored, start, stop)))
                    while len(waiting) > 2 * workers:
                        yield _taken(waiting)
                waiting.append((stored, None))
            while waiting:
                yield _taken(waiting)
        finally:
            pool.shutdown(cancel_futures=True)


def _taken(waiting: deque[tuple[Stored, Future[np.ndarray] | None]]) -> tuple[Stored, np.ndarray | None]:
    stored, future = waiting.popleft()
    return stored, future.result() if future else None
