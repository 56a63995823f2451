"""A Kaggle on loopback that speaks the protocol of the real client, with faults on order.

As a fixture: ``from tests.kaggle_server import kaggle`` (see there). By hand, with the data of a
competition and without faults: ``python -m tests.kaggle_server ZIP``, then in another shell
``KAGGLE_API_ENVIRONMENT=TEST KAGGLE_USERNAME=user KAGGLE_KEY=key python flows/mnist_flow.py ...``.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import json
import os
import re
import socket
import struct
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PORT = 7777  # where the SDK looks under KAGGLE_API_ENVIRONMENT=TEST
COMPETITION = "digit-recognizer"
USER, KEY, TOKEN = "someone", "k3y-that-nobody-may-see", "t0ken-that-nobody-may-see"
ALWAYS = 1_000_000


@dataclass
class Fault:
    """What goes wrong with the next requests to a route: a service's method, PUT or GET.

    The request is handled first where ``after`` is set; otherwise it is as if it never came,
    unless all that happens is a delay.
    """

    route: str
    times: int = 1
    skip: int = 0  # requests that go well before
    after: bool = False
    delay: float = 0  # seconds
    status: int = 0  # answer this error
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False  # close the connection without an answer
    body: bytes | None = None  # instead of the right one
    cut: int | None = None  # close the connection after so many bytes of the answer


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Kaggle(ThreadingHTTPServer):
    """The state of the site; tests read and set its attributes."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, archive: bytes = b"") -> None:
        # Tests in several processes have the port in turns: the kernel frees a dead one's lock.
        self.turn = (Path(tempfile.gettempdir()) / f"kaggle-{PORT}-{os.getuid()}.lock").open("ab")
        fcntl.flock(self.turn, fcntl.LOCK_EX)
        super().__init__(("127.0.0.1", PORT), Handler)
        self.archive = archive  # the competition's zip
        self.next_archive: bytes | None = None  # what it is after the next download
        self.faults: list[Fault] = []
        self.submissions: list[dict[str, Any]] = []  # oldest first
        self.uploads: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self.seen: list[str] = []  # every request line and header
        self.polls = 1  # GetSubmission says PENDING so often
        self.outcome: dict[str, Any] = {"status": "COMPLETE", "publicScore": "0.98925"}
        self.limits = {"numToday": 1, "numTotal": 3, "numAllowedNow": 4}
        self.page_size = 20  # at most
        self.page_tokens = True  # else pages are asked for by number only
        self.active_tokens = {TOKEN}
        self.latency = 0.0  # seconds before and after each request is handled
        self.lock = threading.Lock()

    def server_close(self) -> None:
        super().server_close()
        self.turn.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is part of the tests."""

    def fault(self, route: str) -> Fault | None:
        with self.lock:
            self.requests[route] += 1
            found = next((f for f in self.faults if f.route == route and f.times > 0), None)
            if found and found.skip > 0:
                found.skip -= 1
                return None
            if found:
                found.times -= 1
            return found

    def contents(self) -> list[str]:
        """Digest of the file of each submission."""
        return [submission["digest"] for submission in self.submissions]

    # The service's methods.

    def introspect_token(self, token: str = "", **_: Any) -> dict[str, Any]:
        active = token in self.active_tokens
        return {"active": True, "username": USER, "userId": 1} if active else {}

    def get_submission_limits(self, **_: Any) -> dict[str, Any]:
        return self.limits

    def start_submission_upload(self, contentLength: int = 0, **_: Any) -> dict[str, Any]:  # noqa: N803
        token = f"blob-{len(self.uploads)}-{contentLength}"
        return {
            "token": token,
            "createUrl": f"http://localhost:{self.server_port}/{token}?key=signed",
        }

    def create_submission(
        self,
        blobFileTokens: str,  # noqa: N803
        submissionDescription: str = "",  # noqa: N803
        **_: Any,
    ) -> dict[str, Any]:
        content = self.uploads[blobFileTokens]
        with self.lock:
            ref = 40_000_001 + len(self.submissions)
            self.submissions.append(
                {
                    "ref": ref,
                    "date": datetime.now(UTC).replace(tzinfo=None).isoformat(),
                    "totalBytes": len(content),
                    "fileName": "submission.csv",
                    "description": submissionDescription,
                    "submittedBy": USER,
                    "publicScore": "",
                    "polls": self.polls,
                    "digest": hashlib.sha256(content).hexdigest(),
                }
            )
        return {"message": "Successfully submitted to Digit Recognizer", "ref": ref}

    def get_submission(self, ref: int = 0, **_: Any) -> dict[str, Any]:
        submission = next(s for s in self.submissions if s["ref"] == ref)
        if submission["polls"] > 0:
            submission["polls"] -= 1
        else:
            submission.update(self.outcome)
        return shown(submission)

    def list_submissions(
        self,
        page: int = 1,
        pageToken: str = "",  # noqa: N803
        pageSize: int = 20,  # noqa: N803
        **_: Any,
    ) -> dict[str, Any]:
        size = min(pageSize, self.page_size)
        start = int(pageToken) if pageToken else (page - 1) * size
        newest_first = self.submissions[::-1]
        answer: dict[str, Any] = {"submissions": [shown(s) for s in newest_first[start:][:size]]}
        if self.page_tokens and start + size < len(newest_first):
            answer["nextPageToken"] = str(start + size)
        return answer


def shown(submission: dict[str, Any]) -> dict[str, Any]:
    """As on the wire: fields with their default value are left out."""
    hidden = ("polls", "digest")
    return {k: v for k, v in submission.items() if k not in hidden and v not in ("", "PENDING")}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Kaggle

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        route = self.path.rsplit("/", 1)[-1]
        self.handle_one(route, lambda content: self.call(route, content))

    def do_PUT(self) -> None:
        self.handle_one("PUT", self.store)

    def do_GET(self) -> None:
        self.handle_one("GET", lambda _: self.serve_archive())

    def handle_one(self, route: str, act: Any) -> None:
        self.server.seen.append(f"{self.requestline}\n{self.headers}")
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault(route)
        if fault is None:
            time.sleep(self.server.latency)
            answer = act(content)
            time.sleep(self.server.latency)
            return self.reply(answer)
        only_late = not (fault.status or fault.reset or fault.body is not None or fault.cut)
        answer = act(content) if fault.after else None
        time.sleep(fault.delay)
        if fault.reset:
            return self.hang_up()
        if fault.status:
            answer = error(fault.status, fault.message)
        elif answer is None:
            answer = act(content) if only_late or fault.cut else Answer()
        if fault.body is not None:
            answer.body = fault.body
        answer.headers |= fault.headers
        return self.reply(answer, fault.cut)

    def call(self, route: str, content: bytes) -> Answer:
        request = json.loads(content)
        basic = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        allowed = {f"Basic {basic}", *(f"Bearer {token}" for token in self.server.active_tokens)}
        if route != "IntrospectToken" and self.headers.get("Authorization") not in allowed:
            return error(401, "Unauthorized")
        if request.get("competitionName", COMPETITION) != COMPETITION:
            return error(403, "Permission 'competitions.get' was denied")
        if route == "DownloadDataFiles":
            store = f"http://localhost:{self.server.server_port}/get/{COMPETITION}.zip?key=signed"
            return Answer(status=302, headers={"Location": store})
        method = getattr(self.server, re.sub(r"(?<!^)(?=[A-Z])", "_", route).lower())
        try:
            answer = method(**request)
        except StopIteration:
            return error(404, "Not found")
        return Answer(json.dumps(answer).encode(), headers={"Content-Type": "application/json"})

    def store(self, content: bytes) -> Answer:
        if "Authorization" in self.headers:
            return error(400, "The store wants no credentials")
        self.server.uploads[self.path.strip("/").partition("?")[0]] = content
        return Answer(status=201)

    def serve_archive(self) -> Answer:
        content = self.server.archive
        self.server.archive = self.server.next_archive or content
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"ETag": tag, "Accept-Ranges": "bytes", "Content-Type": "application/zip"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and self.headers.get("If-Range") == tag:
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return Answer(content[start:], 206, headers)
        return Answer(content, 200, headers)

    def reply(self, answer: Answer, cut: int | None = None) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[:cut])
        if cut is not None:
            self.hang_up(reset=False)

    def hang_up(self, reset: bool = True) -> None:
        self.wfile.flush()
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def error(status: int, message: str) -> Answer:
    if status == 503:
        html = b"<html><body>The service is unavailable.</body></html>"
        return Answer(html, status, {"Content-Type": "text/html"})
    body = json.dumps({"code": status, "message": message}).encode()
    return Answer(body, status, {"Content-Type": "application/json"})


def zipped(**files: str) -> bytes:
    """A zip with members like ``train="..."``, named train.csv."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in files.items():
            file.writestr(f"{name}.csv", text)
    return made.getvalue()


def serve(archive: bytes = b"") -> Kaggle:
    """Start a server in a thread, once no other test has the port."""
    server = Kaggle(archive)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Kaggle]:
    """A healthy site and, in this process's environment, good credentials for it and no others."""
    others = ("KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR", "KAGGLE_KERNEL_RUN_TYPE", "XDG_CONFIG_HOME")
    for name in others:
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "localhost,127.0.0.1")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    server = serve(zipped(train="label,pixel0\n1,2\n", test="pixel0\n2\n", sample_submission="a\n"))
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    running = serve(Path(sys.argv[1]).read_bytes())
    print(
        f"Kaggle on http://localhost:{PORT}; user {USER}, key {KEY}, token {TOKEN}; Ctrl-C stops it"
    )
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        running.shutdown()
