"""Qwen 2, 2.5 and 3."""

from __future__ import annotations

from gguf import MODEL_ARCH

from kosent.export.architectures import Architecture

ARCHITECTURES = {"qwen2": Architecture(MODEL_ARCH.QWEN2), "qwen3": Architecture(MODEL_ARCH.QWEN3)}
