"""Where an ensemble's members are trained: in this process, in a pool of processes, or on Dask."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from prefect import Task, get_run_logger, unmapped
from prefect.futures import as_completed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from flows import prefect_errors
from flows.settings import Settings
from model.errors import PermanentError, PipelineError, TransientError
from tasks.support import tensorflow_import, workspace

R = TypeVar("R")
Runner = TaskRunner[Any]

PROCESS_KILLED = "A worker process was killed, perhaps for lack of memory."


class EachMember:
    """Calls a task once for each member, on the workers if there are any."""

    def __init__(
        self,
        opened: Callable[[], AbstractContextManager[Runner | None]],
        members: int,
        allow_missing: int,
    ) -> None:
        self.opened = opened
        self.members = members
        self.allow_missing = min(allow_missing, members - 1)  # at least one must be there

    def __call__(self, task: Task[..., R], **inputs: Any) -> tuple[list[R], dict[int, str]]:
        """The task's results, in the order of members, and why the other members are missing.

        Raises:
            PipelineError: more members than may be missing failed, each after its retries; it is
                of the same family as the last one's error.
            TransientError: the workers are gone.
            httpx.HTTPError: Prefect's server is.
        """
        began = time.monotonic()
        try:
            return self._call(task, inputs, began)
        except BrokenProcessPool:
            get_run_logger().warning("%s The members resume in new processes.", PROCESS_KILLED)
        try:
            return self._call(task, inputs, began)
        except BrokenProcessPool as error:
            raise TransientError(
                f"{PROCESS_KILLED} This happened twice.",
                "Run it again: finished members are kept, the others resume after their last "
                "epoch. Fewer --workers need less memory.",
            ) from error

    def _call(
        self, task: Task[..., R], inputs: dict[str, Any], began: float
    ) -> tuple[list[R], dict[int, str]]:
        """As ``__call__``, but raises BrokenProcessPool if a process of the pool was killed."""
        results: dict[int, R] = {}
        missing: dict[int, str] = {}
        with self.opened() as runner:
            for member, result in self._outcomes(runner, task, inputs, began):
                try:
                    results[member] = result()
                    if runner:  # its workers may log elsewhere
                        get_run_logger().info(
                            "%d of %d members are trained", len(results), self.members
                        )
                except BrokenProcessPool:
                    raise
                except CancelledError as error:
                    raise TransientError(
                        "The Dask scheduler is gone, or has cancelled the members.",
                        "Start it and its workers, and run it again: finished members are kept.",
                    ) from error
                except Exception as error:
                    if prefect_errors.caused(error):  # which is no fault of the member's
                        raise
                    missing[member] = reason(error)
                    if len(missing) > self.allow_missing:
                        raise failed(member, self.members, error) from error
                    get_run_logger().warning(
                        "The run goes on without member %d: %s", member, missing[member]
                    )
        return [results[member] for member in sorted(results)], dict(sorted(missing.items()))

    def _outcomes(
        self, runner: Runner | None, task: Task[..., R], inputs: dict[str, Any], began: float
    ) -> Iterator[tuple[int, Callable[[], R]]]:
        """Members as they finish, each with a function that returns its result or raises."""
        if runner is None:
            for member in range(self.members):
                yield member, lambda member=member: task(**inputs, member=member)  # type: ignore[misc]
            return
        same = {name: unmapped(value) for name, value in inputs.items()}
        futures = runner.map(task, {**same, "member": list(range(self.members))})  # type: ignore[arg-type]
        member_of = {future.task_run_id: member for member, future in enumerate(futures)}
        for future in as_completed(list(futures)):
            yield member_of[future.task_run_id], future.result
        if any(future.state.name != "Cached" for future in futures):
            workspace.current().stage_seconds[task.name] = time.monotonic() - began


@contextmanager
def each_member(settings: Settings, members: int) -> Iterator[EachMember]:
    """Choose where the members run, log that, and provide the workers."""
    name, workers = choose(settings, members)
    missing = settings.allow_missing_members
    if name == "processes":
        get_run_logger().info("The %d members are trained in %d processes", members, workers)
        yield EachMember(lambda: process_pool(workers), members, missing)
    elif name == "dask":
        with dask(settings.dask_address, workers) as runner:
            yield EachMember(lambda: nullcontext(runner), members, missing)
    else:
        if members > 1:
            get_run_logger().info("The %d members are trained in this process, one by one", members)
        yield EachMember(nullcontext, members, missing)


def choose(settings: Settings, members: int) -> tuple[str, int]:
    """The runner and its number of workers: by default one per core, but no more than members."""
    workers = settings.workers or min(members, cores())
    if settings.runner != "auto":
        return settings.runner, workers
    return ("processes" if members > 1 and workers > 1 else "local"), workers


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def process_pool(workers: int) -> Iterator[Runner]:
    """Prefect's process pool; its processes end at once if the run is stopped or killed."""
    with ProcessPoolTaskRunner(workers, initializer=begin_worker) as runner:
        # A process killed while it sends a log line leaves the queue locked for good, so do not
        # wait at exit for the queue to empty. Prefect 3.8 has no public way to set this.
        runner._subprocess_message_queue.cancel_join_thread()  # type: ignore[union-attr]
        try:
            yield runner
        except BaseException:
            for process in multiprocessing.active_children():
                process.kill()  # else it would first train its member to the end
            raise


def begin_worker() -> None:
    """In a worker process: use one core, and end when the run is killed, as nobody waits any more.

    Ignores Ctrl-C, which reaches all processes of a terminal: the run ends its workers itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tensorflow_import.use_one_core()

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def dask(address: str | None, workers: int) -> Iterator[Runner]:
    """A runner on the Dask workers at ``address``, else on ``workers`` local ones."""
    try:
        from flows import dask_runner
    except ImportError as error:
        raise PermanentError(
            "--runner dask needs prefect-dask, which is not installed.",
            'Install it: pip install -c constraints.txt -e ".[dask]"',
        ) from error
    with dask_runner.opened(address, workers) as runner:
        yield runner


def reason(error: Exception) -> str:
    """Why a member failed, on one line."""
    said = str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"
    return " ".join(said.split())


def failed(member: int, members: int, error: Exception) -> PipelineError:
    """The run's error, made from that of one of its members."""
    if isinstance(error, PipelineError):
        return type(error)(f"Member {member} failed: {error.cause}", error.remedy)
    return PermanentError(
        f"Member {member} failed: {reason(error)}.",
        "Run it again with --debug for the traceback"
        + (", or with --allow-missing-members 1." if members > 1 else "."),
    )
