"""Members on a real Dask cluster: processes of its own, killed, late, without a shared disk."""

from __future__ import annotations

import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.settings import Settings
from tests.dask_cluster import Cluster
from tests.end_to_end.command import SAME_BYTES, SLOW_TRAINING, error_line, run, start
from tests.end_to_end.test_runners import made
from tests.s3_server import BUCKET, S3Server, running_s3, s3  # noqa: F401

pytestmark = pytest.mark.dask

MEMBERS, EPOCHS = 3, 6
OPTIONS = [*SLOW_TRAINING, "--epochs", str(EPOCHS), "--members", str(MEMBERS)]
TRAINED = re.compile(r"Member (\d+), epoch (\d+)/")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, served: dict[str, str]) -> Path:
    """The workspace of a run in one process: what all others must come to."""
    workspace = tmp_path_factory.mktemp("calm")
    done = run(*OPTIONS, "--runner", "local", "--workspace", workspace, **served)
    assert done.returncode == 0, done.stderr
    return workspace


@pytest.fixture
def cluster(tmp_path: Path, served: dict[str, str]) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster", **served) as running:
        yield running


def on(cluster: Cluster, workspace: Path, options: list[str] = OPTIONS) -> list[str | Path]:
    address = ["--runner", "dask", "--dask-address", cluster.address]
    return [*options, *address, "--workspace", workspace]


def trained(cluster: Cluster, *names: str) -> Counter[tuple[int, int]]:
    """Which epochs of which members these workers trained, and how often."""
    found = TRAINED.findall("".join(map(cluster.log, names)))
    return Counter((int(member), int(epoch)) for member, epoch in found)


def assert_same(workspace: Path, calm: Path) -> None:
    for name in SAME_BYTES:
        ours = (workspace / "runs/latest" / name).read_bytes()
        assert ours == (calm / "runs/latest" / name).read_bytes(), name


def test_workers_that_the_run_starts_itself(
    tmp_path: Path, served: dict[str, str], calm: Path
) -> None:
    done = run(*OPTIONS, "--runner=dask", "--workers=2", "--workspace", tmp_path / "w", **served)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "w", calm)


def test_a_worker_is_killed_and_another_joins_late(
    tmp_path: Path, cluster: Cluster, served: dict[str, str], calm: Path
) -> None:
    cluster.worker("first")
    with start(*on(cluster, tmp_path / "workspace"), **served) as process:
        cluster.wait_for(f"epoch 2/{EPOCHS}", "first")
        cluster.worker("late")
        cluster.kill("first")
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert_same(tmp_path / "workspace", calm)
    assert_nothing_twice(cluster)


@pytest.mark.usefixtures("prefect_server")
def test_a_late_worker_takes_members_from_a_busy_one(tmp_path: Path, cluster: Cluster) -> None:
    def join_late() -> None:
        cluster.wait_for("Finished in state", "first")
        cluster.worker("late")

    cluster.worker("first")
    thread = threading.Thread(target=join_late)
    thread.start()
    results, missing = made(
        Settings(workspace=tmp_path / "workspace", runner="dask", dask_address=cluster.address),
        30,
        seconds=1.0,
    )
    thread.join()
    assert not missing
    assert len(results) == 30
    assert len({result.process for result in results}) == 2


def assert_nothing_twice(cluster: Cluster) -> None:
    """The late worker went on after the dead one's last saved epoch, and with what was left."""
    assert trained(cluster, "late")
    epochs = trained(cluster, "first", "late")
    assert max(epochs.values()) == 1
    # The worker may have been killed after it had saved an epoch, and before it could say so.
    assert len(epochs) >= MEMBERS * EPOCHS - 1


def test_the_scheduler_is_killed(
    tmp_path: Path, cluster: Cluster, served: dict[str, str], calm: Path
) -> None:
    workspace = tmp_path / "workspace"
    cluster.worker("first")
    with start(*on(cluster, workspace), **served) as process:
        cluster.wait_for("Finished in state Completed", "first")
        cluster.kill("scheduler")
        _, err = process.communicate()
    assert process.returncode == 1, err
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "scheduler is gone" in lines[0]
    before = {member for member, epoch in trained(cluster, "first") if epoch == EPOCHS}
    assert before

    with Cluster(tmp_path / "again", **served) as again:
        again.worker("second")
        done = run(*on(again, workspace), **served)
        assert done.returncode == 0, done.stderr
        assert_same(workspace, calm)
        assert not before & {member for member, _ in trained(again, "second")}


def test_a_member_that_kills_its_workers_is_named(tmp_path: Path, served: dict[str, str]) -> None:
    no_more_deaths = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}  # three by default
    with Cluster(tmp_path / "cluster", **served, **no_more_deaths) as cluster:
        cluster.worker("only")
        with start(*on(cluster, tmp_path / "workspace"), **served) as process:
            cluster.wait_for(TRAINED.pattern, "only")
            cluster.kill("only")
            _, err = process.communicate()
    assert process.returncode == 1, err
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert re.search(r"Member \d failed: Its workers died, 1 in all", line)


def test_workers_with_empty_disks_go_through_the_store(
    tmp_path: Path,
    cluster: Cluster,
    served: dict[str, str],
    calm: Path,
    s3: S3Server,  # noqa: F811
) -> None:
    workspace = tmp_path / "workspace"
    disk = str(tmp_path / "disk")
    cluster.worker("worker", DIGIT_RECOGNIZER_WORKSPACE=disk, **s3.environment)
    cluster.wait_for("Registered to", "worker")

    done = run(*on(cluster, workspace), **served)
    assert done.returncode == 1
    assert "no --artifact-store" in error_line(done)
    assert not (workspace / "data/train.csv").exists()  # before any work

    store = ["--artifact-store", f"s3://{BUCKET}/{tmp_path.name}"]
    done = run(*on(cluster, workspace), *store, **served, **s3.environment)
    assert done.returncode == 0, done.stderr
    assert_same(workspace, calm)
    assert trained(cluster, "worker").keys() >= {(member, EPOCHS) for member in range(MEMBERS)}
    assert not (workspace / "cache/checkpoints").exists()

    shutil.rmtree(workspace)  # both disks empty: finished members come from the store
    shutil.rmtree(disk)
    done = run(*on(cluster, workspace), *store, **served, **s3.environment)
    assert done.returncode == 0, done.stderr
    assert_same(workspace, calm)
    assert max(trained(cluster, "worker").values()) == 1


def test_a_worker_with_a_disk_of_its_own_is_killed(
    tmp_path: Path,
    cluster: Cluster,
    served: dict[str, str],
    calm: Path,
    s3: S3Server,  # noqa: F811
) -> None:
    def worker(name: str) -> None:
        disk = str(tmp_path / f"disk-of-{name}")
        cluster.worker(name, DIGIT_RECOGNIZER_WORKSPACE=disk, **s3.environment)

    worker("first")
    command = on(cluster, tmp_path / "workspace")
    store = ["--artifact-store", f"s3://{BUCKET}/{tmp_path.name}"]
    with start(*command, *store, **served, **s3.environment) as process:
        cluster.wait_for(f"epoch 3/{EPOCHS}", "first")
        worker("late")
        cluster.kill("first")
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert_same(tmp_path / "workspace", calm)
    assert trained(cluster, "late")
    # The state of the last epoch that was said may not have been in the store yet.
    twice = [what for what, times in trained(cluster, "first", "late").items() if times > 1]
    assert len(twice) <= 1


def test_a_cluster_that_cannot_work_is_one_error(
    tmp_path: Path, cluster: Cluster, served: dict[str, str]
) -> None:
    nobody = [*OPTIONS, "--runner=dask", "--dask-address=tcp://127.0.0.1:9"]
    patience = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s"}  # instead of 30
    done = run(*nobody, "--workspace", tmp_path / "w", **served, **patience)
    assert done.returncode == 1
    assert "No Dask scheduler answers" in error_line(done)

    cluster.worker("wide", "--nthreads=2")
    cluster.wait_for("Registered to", "wide")
    done = run(*on(cluster, tmp_path / "w"), **served)
    assert done.returncode == 1
    assert "--nthreads 1" in error_line(done)
