"""What makes a function a stage: a Prefect task with retries, whose result is cached between runs.

A result is reused when its inputs, the stage's code, all of model/ that this code reaches and
the versions of the libraries that change its numbers are the same. Two runs that need the same
result at once share it: the second waits for the first.
"""

from __future__ import annotations

import ast
import fcntl
import functools
import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE, CachePolicy, Inputs
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.filesystems import LocalFileSystem
from prefect.results import get_result_store
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from prefect.tasks import exponential_backoff

from model.errors import TransientError
from tasks.support import tensorflow_import, workspace

P = ParamSpec("P")
R = TypeVar("R")

ROOT = Path(__file__).resolve().parents[2]


def stage(
    *libraries: str,
    reads: Callable[[dict[str, Any]], str] | None = None,
    excludes: tuple[str, ...] = (),
    depends_on_machine: bool = False,
    cached: bool = True,
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function a stage.

    Args:
        libraries: distributions whose version changes the stage's numbers.
        reads: digest of what the stage reads besides its inputs, given the inputs.
        excludes: names of inputs that do not change the result.
        depends_on_machine: the processor and the number of cores change the stage's bytes.
        cached: False for a stage that acts on the outside world.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        name = function.__name__

        @functools.wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            with workspace.current().time_stage(name):
                if "tensorflow" in libraries:
                    tensorflow_import.load()
                return function(*args, **kwargs)

        code = Path(sys.modules[function.__module__].__file__ or "")
        policy = Inputs(exclude=list(excludes)) + StageCode(
            code=code, libraries=libraries, reads=reads, machine=depends_on_machine
        )
        return task(
            timed,
            name=name,
            retries=3,
            retry_delay_seconds=exponential_backoff(backoff_factor=2),
            retry_jitter_factor=0.5,
            retry_condition_fn=is_transient,
            cache_policy=policy.configure(isolation_level="SERIALIZABLE", lock_manager=FileLocks())
            if cached
            else NO_CACHE,
            persist_result=cached,
            result_serializer="json",
            cache_result_in_memory=False,  # a file may be altered between two runs of one process
        )

    return decorate


@contextmanager
def kept_under(root: Path, *, refresh: bool, started: float) -> Iterator[workspace.Workspace]:
    """Inside a flow: keep the results of its stages under ``root``; with refresh, make all anew.

    ``started`` is the moment, on the monotonic clock, from which start-up counts.
    """
    with (
        workspace.opened(root) as opened,
        temporary_settings({PREFECT_TASKS_REFRESH_CACHE: refresh}),
    ):
        opened.stage_seconds["start-up"] = time.monotonic() - started
        get_result_store().result_storage = LocalFileSystem(basepath=str(opened.results))
        yield opened


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Prefect's retry condition: only what may go better next time."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


@dataclass
class StageCode(CachePolicy):
    """The part of a stage's cache key that is not in its inputs."""

    code: Path = field(default_factory=Path)
    libraries: tuple[str, ...] = ()
    reads: Callable[[dict[str, Any]], str] | None = None
    machine: bool = False

    def compute_key(
        self,
        task_ctx: TaskRunContext,  # noqa: ARG002
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> str:
        """Hex sha256 over code, versions, what else the stage reads, and the machine."""
        parts = [code_digest(self.code), *(f"{name} {version(name)}" for name in self.libraries)]
        if self.reads:
            parts.append(self.reads(inputs))
        if self.machine:
            parts.append(machine())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def code_digest(stage_file: Path) -> str:
    """Hex sha256 of the code of a stage and of all in model/ that it imports, directly or not.

    Comments and layout do not count: the syntax trees are compared.
    """
    digest = hashlib.sha256()
    for path in sorted(_reached(stage_file)):
        content = path.read_bytes()
        if path.suffix == ".py":
            content = ast.dump(ast.parse(content)).encode()
        digest.update(path.name.encode() + content)
    return digest.hexdigest()


def _reached(stage_file: Path) -> set[Path]:
    reached: set[Path] = set()
    waiting = [stage_file]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            if path.suffix == ".py":
                waiting.extend(_model_files(path))
    return reached


def _model_files(path: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "model":
            base = ROOT / (node.module or "").replace(".", "/")
            candidates = [base, *(base / alias.name for alias in node.names)]
            yield from (p for c in candidates if (p := c.with_suffix(".py")).is_file())


@functools.cache
def machine() -> str:
    """What of this machine changes the bytes of a training: instruction set and core count."""
    features = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        features += " " + " ".join(sorted(f for f in flags.split() if f.startswith(ISA_PREFIXES)))
    return f"{features}, {len(os.sched_getaffinity(0))} cores"


ISA_PREFIXES = ("sse", "avx", "fma", "amx", "asimd", "sve", "bf16")


_held: dict[str, tuple[str, IO[bytes]]] = {}  # key: holder and open lock file, in this process


class FileLocks:
    """Prefect's lock manager on flock(2): the kernel frees the lock of a process that died."""

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,  # noqa: ARG002
    ) -> bool:
        """Take the lock; wait for it as long as ``acquire_timeout`` seconds, or for ever."""
        if self.is_lock_holder(key, holder):
            return True
        deadline = None if acquire_timeout is None else time.monotonic() + acquire_timeout
        file = (workspace.current().locks / key).open("ab")
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if deadline is not None and time.monotonic() >= deadline:
                    file.close()
                    return False
                time.sleep(0.1)
            else:
                _held[key] = (holder, file)
                return True

    def release_lock(self, key: str, holder: str) -> None:
        """Give the lock back."""
        if self.is_lock_holder(key, holder):
            _held.pop(key)[1].close()

    def is_locked(self, key: str) -> bool:
        """Whether any process holds the lock."""
        with (workspace.current().locks / key).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether this very holder has it."""
        return key in _held and _held[key][0] == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody holds the lock."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.is_locked(key):
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(0.1)
        return True

    async def aacquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """Part of Prefect's protocol; the stages are synchronous."""
        return self.acquire_lock(key, holder, acquire_timeout, hold_timeout)

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Part of Prefect's protocol; the stages are synchronous."""
        return self.wait_for_lock(key, timeout)
