"""A LangGraph app with the chain as its node; each conversation is kept in a SQLite file and goes on where it was left.

pip install 'kosent[embedded]' langgraph langgraph-checkpoint-sqlite
python examples/langgraph_app.py --thread mina "오늘 시험을 망쳤어요."
python examples/langgraph_app.py --thread mina "엄마한테 뭐라고 하죠?"
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph

from kosent import build_chain
from kosent.reply import Reply


def graph(chain: Runnable[Any, Reply], checkpointer: Any) -> Any:
    """One node that answers the last message; what it knows about its reply goes into the message's metadata."""

    def answer(state: MessagesState) -> dict[str, Any]:
        *history, last = state["messages"]
        reply = chain.invoke({"message": last.text, "history": history})
        facts = {"finish_reason": reply.finish_reason, "level": reply.safety.level if reply.safety else None}
        return {"messages": [AIMessage(reply.text, response_metadata=facts, usage_metadata=reply.usage)]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=checkpointer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("message")
    parser.add_argument("--thread", default="main", help="which conversation")
    parser.add_argument("--model", default="", help="ollama:NAME, FILE.gguf, openai:NAME@URL")
    parser.add_argument("--file", type=Path, default=Path("conversations.sqlite"))
    args = parser.parse_args()
    os.umask(0o077)  # conversations are readable by their owner alone
    with SqliteSaver.from_conn_string(str(args.file)) as saver:
        app = graph(build_chain(args.model, output="reply"), saver)
        state = app.invoke({"messages": [("user", args.message)]}, {"configurable": {"thread_id": args.thread}})
        print(state["messages"][-1].text)
        print(f"({len(state['messages'])} messages in this conversation)")


if __name__ == "__main__":
    main()
