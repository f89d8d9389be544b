"""Small OpenAI-compatible servers whose answers a test writes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any], "Handler"], None]


class Handler(BaseHTTPRequestHandler):
    answer: Answer
    asked: list[dict[str, Any]]
    keys: list[str | None]
    headers_seen: list[str]
    model: str

    def do_GET(self) -> None:
        self.keys.append(self.headers.get("Authorization"))
        self.send(200, {"object": "list", "data": [{"id": self.model, "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        self.headers_seen.append(str(self.headers))
        self.keys.append(self.headers.get("Authorization"))
        type(self).answer(body, self)

    def send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, *texts: str, finish: str | None = "stop") -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for text in texts:
            self.event({"content": text}, None)
        if finish:
            self.event({}, finish)
            self.wfile.write(b"data: [DONE]\n\n")

    def event(self, delta: dict[str, Any], finish: str | None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": self.model, "choices": [choice]}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def server(answer: Answer, port: int = 0, model: str = "tuned") -> Iterator[tuple[str, type[Handler]]]:
    """Its model's name for KoSent, and the handler, which remembers what was asked."""
    facts = {"answer": staticmethod(answer), "asked": [], "keys": [], "headers_seen": [], "model": model}
    handler = type("Answering", (Handler,), facts)
    running = ThreadingHTTPServer(("127.0.0.1", port), handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"openai:{model}@http://127.0.0.1:{running.server_address[1]}", handler
    finally:
        running.shutdown()
        running.server_close()


def refusing(status: int, message: str, code: str | None = None) -> Answer:
    return lambda body, handler: handler.send(status, {"error": {"message": message, "type": "x", "code": code}})
