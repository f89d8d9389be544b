"""Gemma 3, text only."""

from __future__ import annotations

from gguf import MODEL_ARCH, GGUFWriter

from kosent.export.architectures import Architecture, Config


def _add_metadata(writer: GGUFWriter, config: Config) -> None:
    writer.add_sliding_window(config["sliding_window"])


# the head is the embedding, which llama.cpp knows; some tools write it twice
ARCHITECTURES = {
    "gemma3_text": Architecture(MODEL_ARCH.GEMMA3, norm_offset=1.0, dropped=("lm_head.weight",), add_metadata=_add_metadata)
}
