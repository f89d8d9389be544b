"""Replies as JSON of a given schema, for `LlamaCppChat.with_structured_output`."""

from __future__ import annotations

import json
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel, LanguageModelInput


def structured(
    model: BaseChatModel, schema: dict[str, Any] | type, include_raw: bool, method: str
) -> Runnable[LanguageModelInput, Any]:
    """`model | parser`, the model bound to `schema` as `json_schema` (text); with `include_raw` a dict of raw, parsed and
    parsing_error, as LangChain's models give it."""
    described = convert_to_json_schema(schema)
    parser: Any = JsonOutputParser()
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        parser = PydanticOutputParser(pydantic_object=schema)
    llm = model.bind(
        json_schema=json.dumps(described),
        ls_structured_output_format={"kwargs": {"method": method}, "schema": described},
    )
    if not include_raw:
        plain: Runnable[LanguageModelInput, Any] = llm | parser
        return plain
    nothing: Runnable[Any, None] = RunnableLambda(lambda _: None)
    attempt = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=nothing)
    failed = RunnablePassthrough.assign(parsed=nothing)
    return {"raw": llm} | attempt.with_fallbacks([failed], exception_key="parsing_error")
