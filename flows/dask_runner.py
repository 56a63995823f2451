"""prefect-dask's runner, whose tasks find the run's workspace and artifact store on any machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import dask
import distributed
from distributed.comm.core import CommClosedError
from prefect import Task, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import hydrated_context, serialize_context
from prefect.futures import PrefectFuture
from prefect.task_engine import run_task_sync
from prefect_dask.task_runners import DaskTaskRunner, PrefectDaskFuture

from model.errors import PermanentError, TransientError
from tasks.support import workers
from tasks.support.workers import Place

JOIN_SECONDS = 60  # for the first worker
REMEDY = "Fix or stop that worker; docs/scaling.md says what workers need."


class Runner(DaskTaskRunner):
    """DaskTaskRunner whose tasks also carry the place of the run.

    The keys of a run's tasks form one group, so that Dask holds most of them back until a worker is
    free. Else it would assign all at once, and a worker's death would count against them all.
    """

    place: Place

    def submit(  # type: ignore[override]  # as in prefect-dask
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, Any] | None = None,
    ) -> PrefectDaskFuture[Any]:
        """Send one call of the task to a worker."""
        run_id = uuid4()
        future = distributed.Client.submit(
            self.client,
            in_worker,
            self.place,
            key=(f"{task.name}-{id(self)}", str(run_id)),
            task=task,
            task_run_id=run_id,
            parameters=parameters,
            wait_for=wait_for,
            dependencies=dependencies,
            context=serialize_context(),
        )
        return Future(wrapped_future=future, task_run_id=run_id)


class Future(PrefectDaskFuture[Any]):
    """PrefectDaskFuture with clear errors for dead workers and a lost scheduler."""

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        """The result; raises the member's error, or CancelledError if the scheduler is gone."""
        try:
            return super().result(timeout, raise_on_failure)
        except CommClosedError as error:  # gone while the result was on its way
            raise CancelledError from error
        except distributed.KilledWorker as error:
            raise TransientError(
                f"Its workers died, {error.allowed_failures + 1} in all.",
                "Check their logs, and whether they have enough memory; then run it again.",
            ) from error


def in_worker(place: Place, **run: Any) -> State[Any]:
    """In a worker: run the task as Prefect would, keeping its results where the run does."""
    worker = distributed.get_worker()
    if problem := unfit(place, worker):  # it may have joined after the check
        raise PermanentError(f"The Dask worker {worker.address} {problem}.", REMEDY)
    with place.entered():
        state: State[Any] = run_task_sync(**run, return_type="state")  # type: ignore[assignment]
        return state


def unfit(place: Place, worker: distributed.Worker) -> str | None:
    """In a worker: why it cannot work for the run; None if it can."""
    if worker.state.nthreads != 1:
        return f"has {worker.state.nthreads} threads; start it with --nthreads 1"
    return place.unfit()


@contextmanager
def opened(address: str | None, count: int) -> Iterator[Runner]:
    """A runner on the workers at ``address``, else on ``count`` local ones, started when needed.

    Raises PermanentError or TransientError if those at ``address`` are missing or unfit.
    """
    local = {
        "n_workers": count,
        "threads_per_worker": 1,  # TensorFlow has its own
        "memory_limit": 0,  # unlimited: Dask would kill a worker that uses more than its share
        "dashboard_address": None,
        # Ctrl-C reaches all processes of a terminal: the run ends its workers itself.
        "preload": ["import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)"],
    }
    runner = Runner(address=address) if address else Runner(cluster_kwargs=local)
    # Dask's profiler would take 2.4% of a core from each training.
    unprofiled = dask.config.set({"distributed.worker.profile.enabled": False})
    with unprofiled, workers.place() as runner.place, runner:
        if address:
            check_workers(runner)
        else:
            get_run_logger().info("Members are trained by %d Dask workers on this machine", count)
        yield runner


def check_workers(runner: Runner) -> None:
    """Check, before any work, that the scheduler and its workers are there and fit."""
    try:
        client = runner.client
    except OSError as error:
        raise TransientError(
            f"No Dask scheduler answers at {runner.address}.",
            "Start it (dask scheduler), or correct --dask-address.",
        ) from error
    try:
        client.wait_for_workers(1, timeout=JOIN_SECONDS)
    except TimeoutError as error:
        raise TransientError(
            f"The Dask scheduler at {runner.address} has no workers.",
            f"Start some: dask worker {runner.address} --nthreads 1",
        ) from error
    found = client.run(check_itself, runner.place, serialize_context(), on_error="return")
    for worker, problem in found.items():
        if isinstance(problem, Exception):
            problem = f"cannot run the pipeline: {type(problem).__name__}: {problem}"
        if problem:
            raise PermanentError(f"The Dask worker {worker} {problem}.", REMEDY)
    get_run_logger().info("Members are trained by %d Dask workers so far", len(found))


def check_itself(
    place: Place, context: dict[str, Any], dask_worker: distributed.Worker
) -> str | None:
    """In a worker (Dask passes it in): as ``unfit``, also if it cannot reach Prefect's API."""
    with hydrated_context(context), get_client(sync_client=True) as client:
        if error := client.api_healthcheck():
            return f"does not reach Prefect's API at {client.api_url}: {error}"
    return unfit(place, dask_worker)
