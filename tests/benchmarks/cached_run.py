"""What a second run costs beside the first: wall time and CPU time, with and without a server.

    python -m tests.benchmarks.cached_run --source directory --data-dir ../shared/digit-recognizer

CPU time is that of the run and of all processes that it starts, its temporary server among them;
that of a server which is running already is not the run's. Prints a table, and then JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flows.temporary_server import TemporaryServer
from tests.end_to_end.command import FLOW, own_environment

PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h: whoever loses its parent becomes our child

# A second run is to cost nothing of TensorFlow: one that cannot be imported is found first.
TRAP = "raise SystemExit('a cached run imported TensorFlow')"


def timed(arguments: list[str], workspace: Path, environment: dict[str, str]) -> dict[str, float]:
    """Wall and CPU seconds of one run and of all that it starts."""
    began, before = time.monotonic(), os.times()
    process = subprocess.Popen(
        [sys.executable, FLOW, *arguments, "--workspace", workspace],
        env=own_environment(**environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = process.communicate()[1]
    wall = time.monotonic() - began
    if process.returncode != 0:
        raise SystemExit(said)
    if "PREFECT_API_URL" not in environment:
        os.wait()  # for its own server, which ends after it
    after = os.times()
    cpu = after.children_user + after.children_system
    return {"wall": wall, "cpu": cpu - before.children_user - before.children_system}


def measured(
    arguments: list[str], counts: dict[str, int], environment: dict[str, str], folder: Path
) -> dict[str, list[dict[str, float]]]:
    """So many first runs, each in a new workspace, and second runs in the last of these."""
    trap = folder / "trap"
    trap.mkdir(exist_ok=True)
    (trap / "tensorflow.py").write_text(TRAP)
    made = [Path(tempfile.mkdtemp(dir=folder)) / "workspace" for _ in range(counts["first"])]
    without_tensorflow = environment | {"PYTHONPATH": str(trap)}
    return {
        "first": [timed(arguments, workspace, environment) for workspace in made],
        "second": [timed(arguments, made[-1], without_tensorflow) for _ in range(counts["second"])],
    }


def table(results: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Medians, and from least to most."""
    lines = [f"{'server':20} {'run':7} {'count':>5}  {'wall seconds':26} CPU seconds"]
    for server, runs in results.items():
        for which, times in runs.items():
            spread = []
            for kind in ("wall", "cpu"):
                values = [time[kind] for time in times]
                middle = statistics.median(values)
                spread.append(f"{middle:7.2f} ({min(values):.2f} to {max(values):.2f})")
            lines.append(f"{server:20} {which:7} {len(times):5}  {spread[0]:26} {spread[1]}")
        first, second = (statistics.median(t["wall"] for t in runs[w]) for w in ("first", "second"))
        lines.append(f"{server:20} the second takes {second / first:.3f} of the first's wall time")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="sample")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--recipe", default="classic")
    parser.add_argument("--first", type=int, default=1, help="first runs of each kind")
    parser.add_argument("--second", type=int, default=5, help="second runs of each kind")
    options = parser.parse_args()
    counts = {"first": options.first, "second": options.second}
    arguments = ["--source", options.source, "--recipe", options.recipe]
    arguments += ["--data-dir", str(options.data_dir)] if options.data_dir else []
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="cached-run-") as name:
        folder = Path(name)
        environment = {"HOME": name, "PREFECT_HOME": name}
        # A run that does not count makes Prefect's database, and brings what all read to memory.
        timed(["--source", "sample", "--epochs", "1"], folder / "warm-up", environment)
        results["temporary"] = measured(arguments, counts, environment, folder)
        os.environ["PREFECT_HOME"] = name
        server = TemporaryServer()
        server.wait()
        running = environment | {"PREFECT_API_URL": server.api_url}
        results["PREFECT_API_URL set"] = measured(arguments, counts, running, folder)
        server.process.kill()
        server.process.wait()
    print(table(results))
    print(json.dumps({"arguments": arguments, "seconds": results}))


if __name__ == "__main__":
    main()
