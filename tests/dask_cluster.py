"""A Dask scheduler and its workers, each a process of its own, with one thread a worker."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from tests.end_to_end.command import own_environment

START_SECONDS = 300  # on a busy machine


class Cluster:
    """Processes that keep their files and logs in ``folder``; to be used as a context manager."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = own_environment(
            DASK_LOGGING__DISTRIBUTED="info",
            DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED="False",  # as docs/scaling.md says
            **environment,
        )
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "scheduler.json"
        scheduler = self._start("scheduler", "--port=0", f"--scheduler-file={file}")
        deadline = time.monotonic() + START_SECONDS
        while not file.exists():
            if time.monotonic() > deadline or scheduler.poll() is not None:
                self.kill("scheduler")
                raise RuntimeError(f"no scheduler: {self.log('scheduler')}")
            time.sleep(0.1)
        self.address: str = json.loads(file.read_text())["address"]

    def worker(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker; it joins some seconds later."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        options = ["--nthreads=1", "--no-nanny", "--memory-limit=0", f"--local-directory={folder}"]
        return self._start(
            name, self.address, *options, *arguments, command="worker", **environment
        )

    def log(self, name: str) -> str:
        """What the process has said so far."""
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def wait_for(self, pattern: str, name: str) -> re.Match[str]:
        """Wait until the process has said it."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            over = time.monotonic() > deadline or self.processes[name].poll() is not None
            if found := re.search(pattern, self.log(name)):
                return found
            if over:
                raise RuntimeError(f"{name} did not say {pattern!r}: {self.log(name)}")
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        """SIGKILL, as a crash or a power failure would."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def _start(
        self, name: str, *arguments: str, command: str = "", **environment: str
    ) -> subprocess.Popen[bytes]:
        words = ["-m", "distributed.cli.dask_" + (command or name), "--host=127.0.0.1"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *words, "--no-dashboard", *arguments],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**self.environment, **environment},
            )
        return self.processes[name]

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name in list(self.processes):
            self.kill(name)
