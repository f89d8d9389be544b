"""A model hub on 127.0.0.1: local folders behind as much of the Hugging Face hub's HTTP as loading a model takes.

It answers what huggingface.co answers, headers and error codes included: a repository's page and list of files are public, but
the files of a gated one are not; a token that nobody has is refused everywhere; a repository that is not there is 401 to
somebody without a token and 404 to others.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kosent.files import sha256, sha256_folder

MEMBER, STRANGER, NARROW = "hf_member", "hf_stranger", "hf_narrow"
"""Tokens: of an account with access to gated models, of one without, and one that is not allowed to read gated models."""


@dataclass
class Repository:
    gated: bool
    commits: dict[str, Path] = field(default_factory=dict)
    """Commit -> folder, oldest first; the last one is `main`."""

    def folder(self, revision: str) -> tuple[str, Path] | None:
        commit = list(self.commits)[-1] if revision == "main" else revision
        return (commit, self.commits[commit]) if commit in self.commits else None


class Hub:
    """`with Hub() as hub: hub.add("org/name", folder)`; `hub.requests` says what was asked, `hub.down` makes it answer 503."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.down = False
        hub = self

        class Handler(_Handler):
            site = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, name: str, folder: Path, *, gated: bool = False) -> str:
        """Publishes `folder` as the newest state of a repository and returns its commit."""
        listing = json.dumps(sha256_folder(folder), sort_keys=True)
        commit = hashlib.sha1(listing.encode()).hexdigest()
        self.repositories.setdefault(name, Repository(gated)).commits[commit] = folder
        return commit

    def environment(self, cache: Path, token: str = "") -> dict[str, str]:
        """The environment of a process that uses this hub, with a cache of its own and nobody's stored token."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        return clean | ours | ({"HF_TOKEN": token} if token else {})

    def downloaded(self) -> list[str]:
        """Names of the files whose bytes were asked for."""
        return sorted(line.rpartition("/")[2] for line in self.requests if line.startswith("GET") and "/resolve/" in line)


class _Handler(BaseHTTPRequestHandler):
    site: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.site.requests.append(f"{self.command} {path}")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.site.down:
            return self.refuse(503, "", "Service Unavailable")
        if token not in ("", MEMBER, STRANGER, NARROW):
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(/.*)?)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not path.startswith("/api/models/") and not file:
            return self.refuse(404, "", "Not Found")
        found = api or file
        name = found[1] if found else ""
        revision = (api[3] if api else file[2] if file else "") or "main"
        repository = self.site.repositories.get(name)
        if repository is None:
            return self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        state = repository.folder(revision)
        if state is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit, folder = state
        if api:
            return self.describe(name, repository, commit, folder, api)
        if repository.gated and token != MEMBER:
            return self.refuse_gated(name, token)
        return self.send_file(folder / found[3], commit)

    def describe(self, name: str, repository: Repository, commit: str, folder: Path, asked: re.Match[str]) -> None:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        if asked[2] != "tree":
            return self.send_json(
                {"_id": name, "id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "downloads": 0,
                 "gated": "manual" if repository.gated else False, "siblings": [{"rfilename": path.name} for path in files]}
            )  # fmt: skip
        if asked[4]:
            return self.refuse(404, "EntryNotFound", f"{asked[4]} does not exist", commit)
        return self.send_json(
            [{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": sha256(path)[:40]} for path in files]
        )

    def refuse_gated(self, name: str, token: str) -> None:
        if token == NARROW:
            return self.refuse(403, "", "Please enable access to public gated repositories in your fine-grained token settings")
        said = "ask for access" if token else "please log in"
        return self.refuse(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted; {said}.")

    def send_file(self, path: Path, commit: str) -> None:
        if not path.is_file():
            return self.refuse(404, "EntryNotFound", f"{path.name} does not exist", commit)
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted:
            headers["Content-Range"] = f"bytes {wanted[1]}-{len(data) - 1}/{len(data)}"
        return self.send(206 if wanted else 200, data[int(wanted[1]) if wanted else 0 :], headers)

    def refuse(self, status: int, code: str, message: str, commit: str = "") -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        if commit:
            headers["X-Repo-Commit"] = commit
        self.send(status, json.dumps({"error": message}).encode(), headers)

    def send_json(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
