"""A real S3 server on loopback: OpenStack Swift with its s3api, from the package registry.

As a fixture: ``from tests.s3_server import s3`` (see there). By hand, until Ctrl-C:
``python -m tests.s3_server``; it prints what to set in another shell.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

# Swift reads its parts through pkg_resources, which later setuptools no longer have.
PACKAGES = ("swift==2.38.3", "setuptools<81")
ACCESS_KEY, SECRET_KEY = "test:tester", "testing"
BUCKET = "bucket"
PARTS = ("account", "container", "object", "proxy")

SWIFT_CONF = "[swift-hash]\nswift_hash_path_suffix = loopback\n"
STORAGE_CONF = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
[pipeline:main]
pipeline = {part}-server
[app:{part}-server]
use = egg:swift#{part}
container_update_timeout = 30
node_timeout = 60
"""
PROXY_CONF = f"""
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {{port}}
workers = 0
swift_dir = {{folder}}
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats bulk s3api tempauth copy
    container-quotas account-quotas slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
node_timeout = 60
recoverable_node_timeout = 60
conn_timeout = 10
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {SECRET_KEY} .admin
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
""" + "".join(
    f"[filter:{name}]\nuse = egg:swift#{name.replace('-', '_')}\n"
    for name in (
        "catch_errors",
        "gatekeeper",
        "listing_formats",
        "bulk",
        "copy",
        "container-quotas",
        "account-quotas",
        "slo",
        "dlo",
        "symlink",
    )
)


def environment_for_swift() -> Path:
    """Swift's own virtual environment, made once for this user and this Python."""
    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    folder = (
        Path(tempfile.gettempdir()) / f"{PACKAGES[0].replace('==', '-')}-{version}-{os.getuid()}"
    )
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test runs may start at once
        if not (folder / "complete").exists():
            venv.create(folder / "venv", clear=True, with_pip=True)
            python = folder / "venv/bin/python"
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
            (folder / "complete").touch()
    return folder / "venv"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


class S3Server:
    """Swift's four processes, keeping their data in ``folder``; xattr must work there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = environment_for_swift() / "bin"
        self.ports = free_ports(len(PARTS))
        self.endpoint = f"http://127.0.0.1:{self.ports[-1]}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._configure()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def _configure(self) -> None:
        (self.folder / "devices/disk").mkdir(parents=True)
        (self.folder / "swift.conf").write_text(SWIFT_CONF)
        for part, port in zip(PARTS, self.ports, strict=True):
            text = PROXY_CONF if part == "proxy" else STORAGE_CONF
            self._configuration(part).write_text(
                text.format(part=part, port=port, folder=self.folder)
            )
            if part != "proxy":
                ring = [f"{self.bin}/python", f"{self.bin}/swift-ring-builder", f"{part}.builder"]
                for step in (
                    ["create", "4", "1", "1"],  # 16 partitions, one replica
                    ["add", f"r1z1-127.0.0.1:{port}/disk", "1"],
                    ["rebalance"],
                ):
                    subprocess.run(
                        [*ring, *step], cwd=self.folder, check=True, stdout=subprocess.DEVNULL
                    )

    def _configuration(self, part: str) -> Path:
        return self.folder / f"{part}-server.conf"

    def start(self) -> None:
        """Start what is not running; return when it answers."""
        for part in PARTS:
            if part not in self.processes:
                with (self.folder / f"{part}.log").open("ab") as log:
                    self.processes[part] = subprocess.Popen(
                        [
                            self.bin / "python",
                            self.bin / f"swift-{part}-server",
                            self._configuration(part),
                            "--verbose",
                        ],
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
        deadline = time.monotonic() + 60
        for part, port in zip(PARTS, self.ports, strict=True):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=5).close()
                    break
                except OSError:
                    gone = self.processes[part].poll() is not None
                    if gone or time.monotonic() > deadline:
                        self.kill()
                        log_text = (self.folder / f"{part}.log").read_text()
                        raise RuntimeError(f"Swift's {part} server did not start:\n{log_text}")  # noqa: B904
                    time.sleep(0.1)

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )

    def stored_bytes(self) -> int:
        """How much has arrived, uploads under way included."""
        objects = self.folder / "devices/disk"
        return sum(path.stat().st_size for path in objects.rglob("*") if path.is_file())

    def kill(self) -> None:
        """Stop at once, as in a power failure; what is on disk stays."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
        self.processes.clear()


@pytest.fixture(scope="session")
def running_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("swift"))
    server.start()
    server.client().create_bucket(Bucket=BUCKET)
    yield server
    server.kill()


@pytest.fixture
def s3(running_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, running; boto3 in this process and in those that it starts uses it."""
    running_s3.start()
    for name, value in running_s3.environment.items():
        monkeypatch.setenv(name, value)
    return running_s3


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with tempfile.TemporaryDirectory() as folder:
        server = S3Server(Path(folder))
        try:
            server.start()
            server.client().create_bucket(Bucket=BUCKET)
            for name, value in server.environment.items():
                print(f"export {name}={value}")
            print(f"# then, for example: --artifact-store s3://{BUCKET}/digits", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            print("stopped")
        finally:
            server.kill()


if __name__ == "__main__":
    main()
