"""Replies as server-sent events. Conversations stay with the client, which sends them along.

pip install 'kosent[embedded]' fastapi uvicorn
KOSENT_MODEL=ollama:kosent uvicorn --app-dir examples fastapi_stream:app
curl -N http://127.0.0.1:8000/reply -H 'Content-Type: application/json' -d '{"message": "오늘 너무 힘들었어요"}'

Events: `text` (a piece of the reply), `end` (why it ended, tokens, level of safety), `problem` (what went wrong).
When the reader closes the connection, the model stops.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import cache
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable
from pydantic import BaseModel, Field

from kosent import build_chain
from kosent.errors import KosentError
from kosent.reply import Reply


class Said(BaseModel):
    role: Literal["user", "assistant"]
    content: str


class Request(BaseModel):
    message: str = Field(min_length=1, max_length=4000)
    history: list[Said] = []


app = FastAPI(title="KoSent")


@cache
def chain() -> Runnable[Any, Reply]:
    """Made at the first request; the model is the configured one."""
    return build_chain(output="reply")


def event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


async def events(request: Request) -> AsyncIterator[str]:
    history: list[BaseMessage] = [
        HumanMessage(one.content) if one.role == "user" else AIMessage(one.content) for one in request.history
    ]
    whole = Reply()
    try:
        made = await asyncio.to_thread(chain)
        async for piece in made.astream({"message": request.message, "history": history}):
            whole += piece
            if piece.text:
                yield event("text", {"text": piece.text})
    except KosentError as error:
        yield event("problem", {"message": str(error), "hint": error.hint})
        return
    level = whole.safety.level if whole.safety else None
    yield event("end", {"finish_reason": whole.finish_reason, "usage": whole.usage, "safety": level, "notice": whole.notice})


@app.post("/reply")
async def reply(request: Request) -> StreamingResponse:
    return StreamingResponse(events(request), media_type="text/event-stream")
