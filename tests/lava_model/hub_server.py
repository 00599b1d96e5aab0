"""A stand-in of the Hugging Face Hub on loopback: as much of its HTTP API as models need to go up and come down.

It speaks what huggingface_hub speaks: repositories, branches, the upload mode of each file, Git LFS with the basic
transfer, commits as NDJSON, trees, and files with their commit and hash in the headers. Xet is not there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_stand_in"
_LICENCES = {"apache-2.0", "mit", "other"}
_PIPELINES = {"feature-extraction", "video-classification", "zero-shot-classification"}


@dataclass
class Repo:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    lfs_paths: set[str] = field(default_factory=set)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(repr((branch, len(self.commits))).encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """State of the stand-in; ``faults`` answers requests whose ``METHOD path`` matches with a status."""

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@contextmanager
def serve_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps stderr for the tests."""

    def do_GET(self) -> None:
        self._route("GET")

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def _route(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.requests.append(f"{method} {path}")
        for pattern, status in self.state.faults.items():
            if re.search(pattern, f"{method} {path}"):
                return self._answer(status, {"error": "a fault\nof two lines"})
        for pattern, needs_token, handle in _ROUTES:
            match = re.fullmatch(pattern, f"{method} {path}")
            if match:
                if needs_token and not self._has_token():
                    return self._answer(
                        401, {"error": "no token"}, {"X-Error-Message": "Invalid username or password."}
                    )
                return handle(self, *match.groups())
        return self._answer(404, {"error": f"the stand-in has no {method} {path}"})

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def _repo(self, repo_id: str) -> Repo | None:
        repo = self.state.repos.get(repo_id)
        if repo is None or (repo.private and not self._has_token()):
            # As the Hub: it does not tell a stranger whether a repository is not there or private.
            status = 404 if self._has_token() else 401
            self._answer(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repo

    def _files(self, repo_id: str, revision: str) -> tuple[Repo, str, dict[str, bytes]] | None:
        repo = self._repo(repo_id)
        if repo is None:
            return None
        commit = repo.resolve(revision)
        if commit is None:
            self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repo, commit, repo.commits[commit]

    def create(self) -> None:
        asked = json.loads(self.body)
        repo_id = f"{asked['organization']}/{asked['name']}"
        content = {"url": f"{self.state.endpoint}/{repo_id}"}
        if repo_id in self.state.repos:
            return self._answer(409, {**content, "error": "You already created this model repo"})
        repo = Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self.state.repos[repo_id] = repo
        return self._answer(200, content)

    def validate_yaml(self) -> None:
        content = json.loads(self.body)["content"]
        match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        data = yaml.safe_load(match[1]) if match else {}
        errors = [
            name
            for name, known in (("license", _LICENCES), ("pipeline_tag", _PIPELINES))
            if data.get(name) not in known
        ]
        if data.get("license") == "other" and not data.get("license_name"):
            errors.append("license_name")
        if errors:
            return self._answer(400, {"errors": [{"message": name} for name in errors], "warnings": []})
        return self._answer(200, {"errors": [], "warnings": []})

    def branch(self, repo_id: str, branch: str) -> None:
        repo = self._repo(repo_id)
        if repo is None:
            return None
        if branch in repo.branches:
            return self._answer(409, {"error": "Reference already exists"})
        repo.branches[branch] = repo.branches["main"]
        return self._answer(200, {})

    def preupload(self, repo_id: str, revision: str) -> None:
        found = self._files(repo_id, revision)
        if found is None:
            return
        modes = [
            {
                "path": asked["path"],
                "uploadMode": "lfs" if asked["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for asked in json.loads(self.body)["files"]
        ]
        self._answer(200, {"files": modes})

    def lfs_batch(self, repo_id: str) -> None:
        asked = json.loads(self.body)
        assert "basic" in asked["transfers"]
        objects = []
        for wanted in asked["objects"]:
            upload = {"upload": {"href": f"{self.state.endpoint}/lfs/{wanted['oid']}", "header": {}}}
            objects.append({**wanted, **({} if wanted["oid"] in self.state.objects else {"actions": upload})})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.state.objects[oid] = self.body
        self._answer(200, {})

    def commit(self, repo_id: str, revision: str) -> None:
        found = self._files(repo_id, revision)
        if found is None:
            return
        repo, _, files = found
        files = dict(files)
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
                repo.lfs_paths.add(value["path"])
        oid = repo.commit(revision, files)
        url = f"{self.state.endpoint}/{repo_id}/commit/{oid}"
        self._answer(200, {"success": True, "commitOid": oid, "commitUrl": url})

    def info(self, repo_id: str, revision: str | None) -> None:
        found = self._files(repo_id, revision or "main")
        if found is not None:
            repo, oid, files = found
            siblings = [{"rfilename": name} for name in files]
            self._answer(200, {"id": repo_id, "sha": oid, "private": repo.private, "siblings": siblings, "tags": []})

    def tree(self, repo_id: str, revision: str) -> None:
        found = self._files(repo_id, revision)
        if found is None:
            return
        repo, _, files = found
        entries: list[dict[str, Any]] = []
        for name, content in files.items():
            entry = {"type": "file", "path": name, "size": len(content), "oid": _git_oid(content)}
            if name in repo.lfs_paths:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self._answer(200, entries)

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        found = self._files(repo_id, revision)
        if found is None:
            return None
        repo, oid, files = found
        if path not in files:
            return self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        content = files[path]
        etag = hashlib.sha256(content).hexdigest() if path in repo.lfs_paths else _git_oid(content)
        linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))} if path in repo.lfs_paths else {}
        return self._answer(200, content, {"X-Repo-Commit": oid, "ETag": f'"{etag}"', **linked})


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_ID = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    (r"POST /api/repos/create", True, _Handler.create),
    (r"POST /api/validate-yaml", False, _Handler.validate_yaml),
    (rf"POST /api/models/{_ID}/branch/(.+)", True, _Handler.branch),
    (rf"POST /api/models/{_ID}/preupload/(.+)", True, _Handler.preupload),
    (rf"POST /api/models/{_ID}/commit/(.+)", True, _Handler.commit),
    (rf"POST /{_ID}\.git/info/lfs/objects/batch", True, _Handler.lfs_batch),
    (r"PUT /lfs/(\w+)", False, _Handler.lfs_put),
    (rf"GET /api/models/{_ID}/tree/([^/]+)", False, _Handler.tree),
    (rf"GET /api/models/{_ID}(?:/revision/(.+))?", False, _Handler.info),
    (rf"(?:HEAD|GET) /{_ID}/resolve/([^/]+)/(.+)", False, _Handler.resolve),
]
