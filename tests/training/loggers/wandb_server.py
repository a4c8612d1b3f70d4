"""So much of a W&B server as its client needs to create a run and upload files: it answers what is asked, keeps what comes."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


class Server:
    """What has come so far.

    Args:
        url: for WANDB_BASE_URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        #: Name and variables of every query.
        self.asked: list[tuple[str, dict[str, Any]]] = []
        #: Content of every file by `art/NAME` (of an artifact), `file/NAME` (of the run) or `manifest`.
        self.files: dict[str, bytes] = {}

    def asked_for(self, name: str) -> list[dict[str, Any]]:
        """Variables of all queries of a name."""
        return [variables for asked, variables in self.asked if asked == name]

    def answer(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of a response."""
        self.asked.append((name, variables))
        project = {"id": "UA==", "name": "qat", "entity": {"id": "RQ==", "name": "me"}}
        if name == "UpsertBucket":
            return {
                "upsertBucket": {"bucket": {"id": "Ug==", "name": variables["name"], "displayName": "r", "project": project}}
            }
        if name == "RunResumeStatus":
            return {"model": {**project, "bucket": None}}
        if name == "Viewer":
            return {"viewer": {"id": "Vg==", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if name == "CreateArtifact":
            sequence = {"id": "Uw==", "latestArtifact": None}
            return {"createArtifact": {"artifact": {"id": "QQ==", "state": "PENDING", "artifactSequence": sequence}}}
        if name == "CreateArtifactManifest":
            file = {"id": "Rg==", "name": "m", "displayName": "m", "uploadUrl": f"{self.url}/put/manifest", "uploadHeaders": []}
            return {"createArtifactManifest": {"artifactManifest": {"id": "TQ==", "file": file}}}
        if name == "CreateArtifactFiles":
            nodes = [self._file(file["name"]) for file in variables["input"]["artifactFiles"]]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if name == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": "QQ==", "digest": "d"}}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/put/file/{file}"} for file in variables["files"]]
            return {"createRunFiles": {"runID": "Ug==", "uploadHeaders": [], "files": files}}
        return {"serverInfo": {"features": []}, "project": {"artifact": None}, "artifact": None}

    def _file(self, name: str) -> dict[str, Any]:
        place: dict[str, Any] = {"uploadUrl": f"{self.url}/put/art/{name}", "uploadHeaders": [], "uploadMultipartUrls": None}
        return {"id": "Rg==", "name": name, "displayName": name, "storagePath": name, "artifact": {"id": "QQ=="}, **place}


class _Handler(BaseHTTPRequestHandler):
    server_of: ClassVar[dict[int, Server]] = {}

    def do_POST(self) -> None:
        body = self._body()
        if self.path != "/graphql":
            return self._send({})
        request = json.loads(body)
        name = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        return self._send({"data": self._own().answer(name[1] if name else "", request.get("variables") or {})})

    def do_PUT(self) -> None:
        self._own().files[self.path.removeprefix("/put/")] = self._body()
        self._send({})

    def do_GET(self) -> None:
        self._send({})

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""

    def _own(self) -> Server:
        return self.server_of[id(self.server)]

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        else:
            body = b""
            while length := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        server = Server(f"http://127.0.0.1:{http.server_address[1]}")
        _Handler.server_of[id(http)] = server
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
            del _Handler.server_of[id(http)]
