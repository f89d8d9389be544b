"""The chain in a few lines: a reply, a stream, history, what is known about a reply, and the chain as a tool.

pip install 'kosent[embedded]'
python examples/script.py --model ollama:kosent
"""

from __future__ import annotations

import argparse

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool

from kosent import build_chain, chat_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="", help="ollama:NAME, FILE.gguf, openai:NAME@URL (default: the one `kosent ask` takes)")
model = chat_model(parser.parse_args().model)  # one for both chains below, so that its weights are loaded once

# A reply, streamed.
chain = build_chain(model)
first = "오늘 회사에서 실수를 해서 너무 속상해요."
said = ""
for piece in chain.stream({"message": first}):
    print(piece, end="", flush=True)
    said += piece
print()

# History is a list of messages, and yours to keep.
history: list[BaseMessage] = [HumanMessage(first), AIMessage(said)]
reply = build_chain(model, output="reply").invoke({"message": "팀장님이 화를 내셨어요.", "history": history})
print(reply.text)
print(f"{reply.notice} · {reply.model} · {reply.usage} · {reply.finish_reason}")
print("safety:", reply.safety)


# A tool for an agent.
@tool
def comfort(message: str) -> str:
    """Answers somebody who is sad, in Korean."""
    return chain.invoke({"message": message})


print(comfort.invoke({"message": "잠이 안 와요."}))
