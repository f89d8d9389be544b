"""LangChain's own conformance suite, on the starter base's GGUF.

Tool calling and media are what a text model of this size lacks, and all that is declared absent. The suite leaves out by itself
what needs a model server (another model by name, recorded traffic).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from kosent.llama_cpp_model import LlamaCppChat


class Declared:
    """What both suites are told."""

    file: Path

    @pytest.fixture(autouse=True)
    def _file(self, starter_gguf: Path) -> None:
        type(self).file = starter_gguf

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return LlamaCppChat

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"path": str(self.file), "context": 512}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0.0, "max_tokens": 28}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_tool_choice(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestUnit(Declared, ChatModelUnitTests):
    pass


class TestIntegration(Declared, ChatModelIntegrationTests):
    pass
