"""Gemma 3, text only."""

from __future__ import annotations

from gguf import MODEL_ARCH, GGUFWriter

from kosent.export.architectures import Architecture, Config


def _add_metadata(writer: GGUFWriter, config: Config) -> None:
    writer.add_sliding_window(config["sliding_window"])


ARCHITECTURES = {"gemma3_text": Architecture(MODEL_ARCH.GEMMA3, tied=True, norm_offset=1.0, add_metadata=_add_metadata)}
