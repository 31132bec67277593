"""A model hub of a few lines on this machine: repositories in memory, with the calls that an upload makes."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "a" * 34
READ_ONLY = "hf_" + "r" * 34


@dataclass
class Repository:
    """Files of each branch, and whether it is private."""

    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {".gitattributes": b""}})
    commits: int = 0

    def head(self, branch: str) -> str:
        """A commit's name: it changes with what is there."""
        content = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in self.branches[branch].items())
        return hashlib.sha1(json.dumps([self.commits, content]).encode()).hexdigest()


@dataclass
class Hub:
    """What is on the hub, and what it was asked."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    ignored: tuple[str, ...] = ()
    """Files that it leaves out, as for a .gitignore."""
    full: bool = False
    """Is there no room for objects?"""
    branches: bool = True
    """May branches be made?"""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def _route(self, method: str) -> None:
        path, body = unquote(urlsplit(self.path).path), self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(f"{method} {path}")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if path.startswith("/objects/"):
            if self.hub.full:
                return self._answer({"error": "no room"}, 507)
            self.hub.objects[path.removeprefix("/objects/")] = body
            return self._answer({})
        if token not in (TOKEN, READ_ONLY):
            return self._answer({"error": "Invalid user token."}, 401)
        if path == "/api/whoami-v2":
            return self._answer({"name": "user", "type": "user", "auth": {"accessToken": {"role": "write"}}})
        if method == "POST" and token == READ_ONLY:
            return self._answer({"error": "You don't have the rights to write there."}, 403)
        if path == "/api/validate-yaml":
            return self._answer({"warnings": [], "errors": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        return self._repository(method, path.removeprefix("/api/models/").split("/"), body)

    def _create(self, told: dict[str, Any]) -> None:
        name = f"{told.get('organization') or 'user'}/{told['name']}"
        self.hub.repositories[name] = Repository(
            private=told.get("visibility") == "private" or bool(told.get("private"))
        )
        self._answer({"url": f"{self.hub.url}/{name}", "name": name})

    def _batch(self, told: dict[str, Any]) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/objects/{one['oid']}", "header": {}}}}
            for one in told["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def _repository(self, method: str, parts: list[str], body: bytes) -> None:
        name, what, branch = "/".join(parts[:2]), (parts[2:] or [""])[0], (parts[3:] or ["main"])[0]
        found = self.hub.repositories.get(name)
        if found is None:
            return self._answer({"error": "Repository not found"}, 404, "RepoNotFound")
        if what == "branch" and not self.hub.branches:
            return self._answer({"error": "no branches here"}, 403)
        if what == "branch":
            found.branches[branch] = dict(found.branches["main"])
            return self._answer({})
        if branch not in found.branches:
            return self._answer({"error": f"Invalid rev id: {branch}"}, 404, "RevisionNotFound")
        files = found.branches[branch]
        if what in ("", "revision"):
            siblings = [{"rfilename": one} for one in sorted(files)]
            return self._answer({"id": name, "sha": found.head(branch), "private": found.private, "siblings": siblings})
        if what == "tree":
            return self._answer(
                [{"type": "file", "path": one, "size": len(data), "oid": "0" * 40} for one, data in files.items()]
            )
        if what == "preupload":
            asked = json.loads(body)["files"]
            told = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith((".safetensors", ".gguf")) else "regular",
                    "shouldIgnore": one["path"] in self.hub.ignored,
                }
                for one in asked
            ]
            return self._answer({"files": told})
        if what == "commit" and method == "POST":
            return self._commit(found, branch, [json.loads(line) for line in body.decode().splitlines()])
        return self._answer({"error": f"the stand-in has no {method} {'/'.join(parts)}"}, 500)

    def _commit(self, found: Repository, branch: str, lines: list[dict[str, Any]]) -> None:
        files = dict(found.branches[branch])
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                if value.get("parentCommit") not in (None, found.head(branch)):
                    return self._answer({"error": "A commit has happened since. Please refresh and try again."}, 412)
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        found.branches[branch], found.commits = files, found.commits + 1
        head = found.head(branch)
        name = next(one for one, repository in self.hub.repositories.items() if repository is found)
        self._answer({"commitUrl": f"{self.hub.url}/{name}/commit/{head}", "commitOid": head, "success": True})

    def _answer(self, content: Any, status: int = 200, code: str | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that is there meanwhile."""
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": found}))
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
