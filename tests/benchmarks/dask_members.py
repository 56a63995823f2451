"""Members on Dask: throughput of two workers against one, and what the orchestration costs.

    python -m tests.benchmarks.dask_members --members 4 --epochs 2
    python -m tests.benchmarks.dask_members --simulate 10 100 1000 --workers 20

A real scheduler and real workers, each a process with one thread. The first form trains real
members of a recipe; the second calls, on the same path, a stage that sleeps. Both print a table and
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from flows.temporary_server import TemporaryServer
from tests.dask_cluster import Cluster

COLUMNS = ("what", "workers", "members", "seconds", "ideal_seconds", "overhead_ms_a_member")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.dask_members")
    parser.add_argument("--recipe", default="classic")
    parser.add_argument("--source", default="sample", help="of the digits (default: %(default)s)")
    parser.add_argument("--data-dir", help="for --source directory")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--members", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=1, help="of 1 and 2 workers, in turns")
    parser.add_argument("--simulate", type=int, nargs="+", metavar="MEMBERS", default=[])
    parser.add_argument("--workers", type=int, default=20, help="that sleep (default: %(default)s)")
    parser.add_argument("--sleep", type=float, default=1.0, help="seconds (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dask-members-", ignore_cleanup_errors=True) as folder:
        os.environ["PREFECT_HOME"] = folder  # before Prefect is imported: a database of its own
        server = TemporaryServer()
        server.wait()
        os.environ["PREFECT_API_URL"] = server.api_url
        measure = simulate if arguments.simulate else train
        rows = measure(Path(folder), arguments)
    print("  ".join(f"{name:>20}" for name in COLUMNS))
    for row in rows:
        print("  ".join(f"{row[name]:>20}" for name in COLUMNS))
    print(json.dumps({"arguments": vars(arguments), "cores": os.cpu_count(), "rows": rows}))


def simulate(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Members that sleep, on all workers; the overhead is what the members take beyond that."""
    from tests.benchmarks import sleeping

    rows = []
    with started(folder / "cluster", arguments.workers) as cluster:
        for turn, members in enumerate([2 * arguments.workers, *arguments.simulate]):
            settings = {"workspace": folder / f"w-{turn}", **on(cluster)}
            seconds = sleeping.seconds_of_members(settings, members, arguments.sleep)
            rounds = -(-members // arguments.workers)
            rows.append(row("sleep", arguments.workers, members, seconds, rounds * arguments.sleep))
    return rows[1:]  # in the first turn the workers imported the project


def train(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Real members: the ideal is what the trainings alone took, divided among the workers."""
    from flows.mnist_flow import mnist_flow
    from flows.settings import Settings

    rows = []
    for turn in range(arguments.rounds):
        for workers in (1, 2):
            with started(folder / f"cluster-{turn}-{workers}", workers) as cluster:
                options = {
                    "recipe": arguments.recipe,
                    "source": arguments.source,
                    "data_dir": arguments.data_dir,
                    "epochs": arguments.epochs,
                    **on(cluster),
                }
                # Once with a member a worker, so that TensorFlow is imported, then for the clock.
                for seed, members in ((1, workers), (0, arguments.members)):
                    workspace = folder / f"w-{turn}-{workers}"
                    run = mnist_flow(
                        Settings.model_validate(
                            {**options, "workspace": workspace, "seed": seed, "members": members}
                        )
                    )
                ideal = run.metrics["train_seconds"] / workers
                seconds = run.stage_seconds["train"]
                rows.append(row(arguments.recipe, workers, arguments.members, seconds, ideal))
    one, two = (
        statistics.median(row["seconds"] for row in rows if row["workers"] == workers)
        for workers in (1, 2)
    )
    print(f"2 workers train {one / two:.2f} times as many members a second as 1.")
    return rows


def started(folder: Path, workers: int) -> Cluster:
    """A cluster whose workers have all joined."""
    cluster = Cluster(
        folder,
        PREFECT_HOME=os.environ["PREFECT_HOME"],
        PREFECT_LOGGING_LEVEL="WARNING",
    )
    for number in range(workers):
        cluster.worker(f"worker-{number}")
    for number in range(workers):
        cluster.wait_for("Registered to", f"worker-{number}")
    return cluster


def on(cluster: Cluster) -> dict[str, str]:
    return {"runner": "dask", "dask_address": cluster.address}


def row(what: str, workers: int, members: int, seconds: float, ideal: float) -> dict[str, Any]:
    overhead = 1000 * (seconds - ideal) / members
    numbers = (what, workers, members, round(seconds, 2), round(ideal, 2), round(overhead, 1))
    return dict(zip(COLUMNS, numbers, strict=True))


if __name__ == "__main__":
    main()
