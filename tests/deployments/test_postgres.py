"""A team's server, on PostgreSQL, with two workers: ``pytest -m postgres``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from uuid import UUID

import pytest
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterName,
)

from tests.deployments.conftest import SAMPLE
from tests.deployments.servers import Server, postgresql, prefect_server, wait_for

pytestmark = pytest.mark.postgres

RUNS = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on PostgreSQL with the process deployment, whose runs may be simultaneous."""
    with (
        postgresql() as database,
        prefect_server(
            tmp_path_factory.mktemp("server"), PREFECT_SERVER_DATABASE_CONNECTION_URL=database
        ) as server,
    ):
        server.deploy("--name", "process", "--concurrency-limit", str(RUNS), pools=("process",))
        yield server


def ended(server: Server, run: UUID) -> bool:
    return any(line.startswith("Finished in state") for line in server.logs(run))


def test_eight_queued_runs_on_two_workers_complete_and_nothing_runs_twice(server: Server) -> None:
    queued = [server.trigger("process", **SAMPLE).id for _ in range(RUNS)]
    for name in ("one", "two"):
        server.start_unit("prefect-worker", "--name", name, "--limit", "1", log=name)
    runs = [server.wait_until_final(run) for run in queued]

    assert [run.state_name for run in runs] == ["Completed"] * RUNS
    assert [run.run_count for run in runs] == [1] * RUNS
    folders = [path for path in (server.workspace / "runs").iterdir() if not path.is_symlink()]
    assert len(folders) == RUNS
    # Logs arrive a little after the state that ends the run.
    wait_for("log of each run's end", lambda: all(ended(server, run) for run in queued))
    said = [line for run in queued for line in server.logs(run)]
    assert sum(line.startswith("Beginning flow run") for line in said) == RUNS
    assert sum("epoch 1/10" in line for line in said) == 1  # the others took it from the cache
    workers = Counter(line.split("'")[1] for line in said if "submitting flow run" in line)
    assert set(workers) == {"one", "two"}  # both may ask for a run: the server lets one have it
    with server.client() as client:
        trainings = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=queued)),
            task_run_filter=TaskRunFilter(name=TaskRunFilterName(like_="train-")),
        )
    assert Counter(run.state_name for run in trainings) == {"Completed": 1, "Cached": RUNS - 1}
