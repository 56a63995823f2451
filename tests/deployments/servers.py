"""Real Prefect servers and workers, started as the systemd units start them."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort

from tests.end_to_end.command import own_environment

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deployments" / "systemd"
BIN = Path(sys.executable).parent
INSTALLED_AT = "/opt/digit-recognizer/.venv/bin"  # in the units
LONG = 300  # seconds: for what takes 40 on two free cores


def wait_for(what: str, look: Callable[[], T | None], seconds: float = LONG) -> T:
    """What ``look`` returns once that is true, or a failed test."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.3)
    return found


@dataclass
class Server:
    """A Prefect server; all that it and its workers write lies in one temporary folder."""

    folder: Path
    environment: dict[str, str]
    url: str

    @property
    def workspace(self) -> Path:
        """What ~/digit-recognizer is for its workers."""
        return self.folder / "digit-recognizer"

    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(f"{self.url}/api")

    def start_unit(self, unit: str, *arguments: str, log: str = "") -> subprocess.Popen[bytes]:
        """Start what a systemd unit starts, in a process group of its own."""
        content = ConfigParser(strict=False, interpolation=None)
        content.optionxform = str  # type: ignore[assignment,method-assign]
        content.read(UNITS / f"{unit}.service")
        command = shlex.split(content["Service"]["ExecStart"].replace(INSTALLED_AT, str(BIN)))
        return self.start(command + list(arguments), log or unit)

    def start(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{log}.log").open("ab") as file:
            return subprocess.Popen(
                command,
                cwd=self.folder,  # any folder but the project's
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def run(self, *command: str, cwd: Path = ROOT, **environment: str) -> str:
        """Run one of the README's commands; return what it said."""
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=cwd,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def deploy(self, *options: str, pools: tuple[str, ...]) -> None:
        for pool in pools:
            self.run("prefect", "work-pool", "create", "--type", pool, pool, "--overwrite")
        self.run("prefect", "deploy", *options, "--prefect-file", "deployments/prefect.yaml")

    def trigger(self, deployment: str, **settings: Any) -> FlowRun:
        """Ask the API for a run with these parameters."""
        with self.client() as client:
            found = client.read_deployment_by_name(f"digit-recognizer/{deployment}")
            return client.create_flow_run_from_deployment(
                found.id, parameters={"settings": settings}
            )

    def flow_run(self, run: UUID) -> FlowRun:
        with self.client() as client:
            return client.read_flow_run(run)

    def flow_runs(self, deployment: UUID) -> list[FlowRun]:
        with self.client() as client:
            return client.read_flow_runs(
                deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
            )

    def logs(self, run: UUID) -> list[str]:
        with self.client() as client:
            found = client.read_logs(
                LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])), sort=LogSort.TIMESTAMP_ASC
            )
        return [line.message for line in found]

    def wait_until_final(self, run: UUID, seconds: float = LONG) -> FlowRun:
        def final() -> FlowRun | None:
            found = self.flow_run(run)
            return found if found.state and found.state.is_final() else None

        return wait_for(f"end of flow run {run}", final, seconds)

    def processes(self, *words: str) -> list[int]:
        """Of this server's processes, those with all the words in their command line."""
        mark = f"PREFECT_HOME={self.folder}\0".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().decode(errors="replace")
                if mark in (folder / "environ").read_bytes() + b"\0" and all(
                    word in command for word in words
                ):
                    found.append(int(folder.name))
            except OSError:
                continue  # it has ended meanwhile
        return found

    def kill(self, *words: str) -> None:
        """SIGKILL, as when the machine's power fails."""
        for process in self.processes(*words):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue


@contextmanager
def prefect_server(folder: Path, **environment: str) -> Iterator[Server]:
    """A server on loopback, and at the end no process of it or its workers is left."""
    port = free_port()
    server = Server(
        folder,
        own_environment(
            PREFECT_HOME=str(folder),
            HOME=str(folder),
            PREFECT_SERVER_API_PORT=str(port),
            PREFECT_API_URL=f"http://127.0.0.1:{port}/api",
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            DO_NOT_TRACK="1",
            NO_COLOR="1",
            PREFECT_WORKER_QUERY_SECONDS="2",  # instead of 10
            PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="5",  # instead of 60
        )
        | environment,
        f"http://127.0.0.1:{port}",
    )
    try:
        process = server.start_unit("prefect-server")
        wait_for("server", lambda: process.poll() is not None or answers(server.url))
        assert process.poll() is None, (folder / "prefect-server.log").read_text()
        yield server
    finally:
        server.kill()
        wait_for("end of its processes", lambda: not server.processes(), 30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/api/ready", timeout=5):
            return True
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL server of Debian's package, with a database whose owner is no superuser."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    assert programs, "PostgreSQL is missing: apt-get install postgresql"
    is_root = os.geteuid() == 0  # whom PostgreSQL refuses
    port = free_port()

    def run(program: str, *arguments: str) -> None:
        command = [str(programs[-1].parent / program), *arguments]
        if is_root:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, stdout=subprocess.DEVNULL, cwd="/", timeout=120, check=True)

    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        if is_root:
            shutil.chown(folder, "postgres")
        run("initdb", "--pgdata", folder, "--auth", "trust", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        log = f"{folder}/log"
        run("pg_ctl", "start", "--wait", "--pgdata", folder, "--log", log, "--options", options)
        try:
            where = ("-h", "127.0.0.1", "-p", str(port))
            run("createuser", *where, "prefect")
            run("createdb", *where, "--owner", "prefect", "prefect")
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect"
        finally:
            run("pg_ctl", "stop", "--wait", "--mode", "immediate", "--pgdata", folder)
