"""The Hugging Face hub in a thread: repositories of a few files, over HTTP as its client expects them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

# The hub keeps large files, and those of some endings, in LFS.
_LFS = (".parquet", ".safetensors", ".bin", ".h5", ".model")


def commit_of(files: dict[str, bytes]) -> str:
    """A commit id that follows from the files."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@dataclass
class FakeRepository:
    """A repository with one commit.

    Attributes:
        files: content by path.
        names: the branches that it answers to, apart from the commit.
        gated: whether only `token` may read it.
    """

    files: dict[str, bytes]
    names: tuple[str, ...] = ("main",)
    gated: bool = False

    @property
    def commit(self) -> str:
        return commit_of(self.files)


@dataclass
class FakeHub:
    """Repositories by `datasets/<id>` or `<id>`.

    Attributes:
        token: opens the gated ones.
        damaged: paths whose next answer has a wrong byte, once for each time that they are listed.
        dropped: paths whose next answer ends in the middle.
        served: how often each file was sent; a range of it counts as well.
        resumed: where an answer began that was not asked from the start.
        asked: all requests.
    """

    repositories: dict[str, FakeRepository]
    token: str = "a-token"
    damaged: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    resumed: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append(f"{self.command} {path}")
        api = path.startswith("api/")
        path = path.removeprefix("api/").removeprefix("models/")
        key = max(
            (key for key in self.hub.repositories if f"{path}/".startswith(f"{key}/")), key=len, default=""
        )
        if not key:
            return self._refuse(401, "RepoNotFound", "Repository not found")
        found, rest = self.hub.repositories[key], path.removeprefix(key).strip("/")
        allowed = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        verb, _, rest = rest.partition("/")
        if found.gated and not allowed and verb == "resolve":
            return self._refuse(401, "GatedRepo", f"Access to model {key} is restricted")
        name = next((n for n in (*found.names, found.commit) if f"{rest}/".startswith(f"{n}/")), None)
        if verb and name is None:
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        file = rest.removeprefix(name or "").strip("/")
        if api and verb == "tree":
            return self._json([self._entry(path, content) for path, content in found.files.items()])
        if api:
            siblings = [{"rfilename": path} for path in found.files]
            return self._json(
                {"id": key.removeprefix("datasets/"), "sha": found.commit, "siblings": siblings}
            )
        if file not in found.files:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        self._file(found, file)

    def _file(self, found: FakeRepository, file: str) -> None:
        content = found.files[file]
        entry = self._entry(file, content)
        headers = {"X-Repo-Commit": found.commit, "ETag": f'"{entry.get("lfs", entry)["oid"]}"'}
        if self.command == "HEAD":
            headers["Content-Length"] = str(len(content))
            return self._send(200, b"", headers)
        self.hub.served[file] += 1
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        body = content[start:]
        headers["Content-Length"] = str(len(body))
        if start:
            self.hub.resumed.append(start)
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if file in self.hub.damaged:
            self.hub.damaged.remove(file)
            body = bytes([body[0] ^ 1]) + body[1:]
        if file in self.hub.dropped:
            self.hub.dropped.remove(file)
            body = body[: len(body) // 2]
            self.close_connection = True
        self._send(206 if start else 200, body, headers)

    def _entry(self, path: str, content: bytes) -> dict:
        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        entry = {"type": "file", "path": path, "size": len(content), "oid": blob}
        if path.endswith(_LFS):
            lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            entry["lfs"] = lfs  # type: ignore[assignment]
        return entry

    def _json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self._send(200, body, {"Content-Type": "application/json", "Content-Length": str(len(body))})

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, "Content-Length": "0"}
        self._send(status, b"", headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def served(repositories: dict[str, FakeRepository], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub with these repositories, as the one that the client asks."""
    hub = FakeHub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def in_cache(
    cache: Path, key: str, files: dict[str, bytes], *, name: str = "main", listed: bool = False
) -> Path:
    """A snapshot as the client leaves it in its cache, or as a person copies it: without its listing."""
    commit = commit_of(files)
    kind = "datasets" if key.startswith("datasets/") else "models"
    folder = cache / "--".join([kind, *key.removeprefix("datasets/").split("/")])
    for path, content in files.items():
        target = folder / "snapshots" / commit / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    ref = folder / "refs" / name
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit)
    return folder
