"""What makes a function a stage: a Prefect task with retries, whose result is cached between runs.

A result is reused when its inputs, the stage's code, all of model/ that this code reaches, the
versions of the libraries that change its numbers and, for training, the processor are the same. Two
runs that need the same result at once share it: the second waits for the first.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE, CachePolicy, Inputs
from prefect.client.schemas.objects import State, TaskRun
from prefect.results import get_result_store
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from prefect.tasks import exponential_backoff

from model import processor
from model.errors import TransientError
from tasks.support import artifact_store, stored_results, tensorflow_import, workspace
from tasks.support.code_digest import code_digest
from tasks.support.locks import FileLocks
from tasks.support.versions import version_of

P = ParamSpec("P")
R = TypeVar("R")


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
        reads: given the inputs, returns a digest of what else the stage reads.
        excludes: names of inputs that do not change the result.
        depends_on_machine: True if the processor changes the stage's bytes.
        cached: False for a stage that acts on the outside world.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        name = function.__name__

        @functools.wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            with workspace.current().time_stage(name):
                if "tensorflow" in libraries:
                    tensorflow_import.load()
                try:
                    return function(*args, **kwargs)
                except OSError as error:
                    if workspace.is_disk_fault(error):
                        raise workspace.disk_fault(error) from error
                    raise

        policy: CachePolicy = NO_CACHE
        if cached:
            # Taken at import: a file that is edited during a run is not what the run executes.
            code = code_digest(Path(sys.modules[function.__module__].__file__ or ""))
            policy = Inputs(exclude=list(excludes)) + CachePolicy.from_cache_key_fn(
                lambda _, inputs: beyond_inputs(code, libraries, reads, depends_on_machine, inputs)
            )
            policy = policy.configure(isolation_level="SERIALIZABLE", lock_manager=FileLocks())
        return task(
            name=name,
            retries=3,
            retry_delay_seconds=exponential_backoff(backoff_factor=2),
            retry_jitter_factor=0.5,
            retry_condition_fn=is_transient,
            cache_policy=policy,
            persist_result=cached,
            result_serializer="json",
        )(timed)

    return decorate


@contextmanager
def kept_under(
    root: Path, *, refresh: bool, started: float, store: str | None = None
) -> Iterator[workspace.Workspace]:
    """Inside a flow: keep its stages' results under ``root``; with ``refresh``, recompute them all.

    With ``store``, its address or its block, they are kept in that artifact store too.
    ``started`` is when start-up began, on the monotonic clock.
    """
    with (
        workspace.opened(root) as opened,
        artifact_store.opened(stored_results.address(store)) as opened_store,
        temporary_settings({PREFECT_TASKS_REFRESH_CACHE: refresh}),
    ):
        opened.stage_seconds["start-up"] = time.monotonic() - started
        results = get_result_store()
        before = results.result_storage
        results.result_storage = (
            stored_results.ArtifactStore(uri=opened_store.uri)
            if opened_store
            else stored_results.ThisDisk()
        )
        try:
            yield opened
        finally:  # Prefect stores what the flow itself raises, after the workspace is closed
            results.result_storage = before


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Prefect's retry condition: only what may succeed next time."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


def beyond_inputs(
    code: str,
    libraries: tuple[str, ...],
    reads: Callable[[dict[str, Any]], str] | None,
    on_this_machine: bool,
    inputs: dict[str, Any],
) -> str:
    """Hex sha256 over code, versions, what else the stage reads, and the machine."""
    parts = [code, *(f"{name} {version_of(name)}" for name in libraries)]
    if reads:
        parts.append(reads(inputs))
    if on_this_machine:
        parts += [json.dumps(processor.identity()), os.environ.get("TF_ENABLE_ONEDNN_OPTS", "")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
