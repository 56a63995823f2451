"""Kill runs at random moments, harm their files, run again: the outputs must be a calm run's.

    python -m tests.crash --kills 50

Each round has a workspace of its own: the run is started and killed with SIGKILL, one file of its
cache or data is harmed now and then, and so on, five times; then a start comes to its end. When to
kill: five stages are drawn, and taken in their order, so that most are not in the cache yet; once
the stage begins, the moment is drawn from the time that it took in the calm run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from flows.temporary_server import TemporaryServer
from tests.end_to_end.command import FLOW, SAME_BYTES, SLOW_TRAINING, own_environment

OPTIONS = [*SLOW_TRAINING, "--epochs", "20", "--seed", "1"]
TIMES = ("run", "train_seconds")
HARMS = ("cut", "flip a bit", "delete", "make a folder of")
STAGES = (
    *("start-up", "download", "preprocess", "explore", "train", "evaluate", "predict"),
    *("submit", "publish", "end"),
)
BEGUN = re.compile(r"^([\d:.]+) .* - Beginning flow run", re.MULTILINE)
EPOCH = re.compile(r"epoch (\d+)/")
FINISHED = re.compile(r"^([\d:.]+) .* Task run '(\w+)-\w+' - Finished in state", re.MULTILINE)


def start(workspace: Path, log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a run in a workspace; what it says goes into the log."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, FLOW, *OPTIONS, "--workspace", workspace],
            stdout=file,
            stderr=file,
            env=own_environment(**environment),
        )


def under_way(log: Path) -> str:
    """The stage that a run is in by its log."""
    said = log.read_text()
    if not BEGUN.search(said):
        return "start-up"
    finished = FINISHED.findall(said)
    return STAGES[STAGES.index(finished[-1][1]) + 1] if finished else "download"


def stage_seconds(log: Path, began: datetime, ended: datetime) -> dict[str, float]:
    """How long a run was in each stage by its log, which tells the time but no date."""
    said = log.read_text()
    logged = BEGUN.findall(said) + [moment for moment, _ in FINISHED.findall(said)]
    moments = [began, *(datetime.strptime(moment, "%H:%M:%S.%f") for moment in logged), ended]
    between = [(end - begin) % timedelta(days=1) for begin, end in pairwise(moments)]
    return {stage: span.total_seconds() for stage, span in zip(STAGES, between, strict=True)}


def kill_in(process: subprocess.Popen[bytes], log: Path, stage: str, delay: float) -> str | None:
    """SIGKILL a run so many seconds after the stage began; the stage that this hit, if any."""
    while STAGES.index(under_way(log)) < STAGES.index(stage):
        if process.poll() is not None:
            return None
        time.sleep(0.005)
    try:
        process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return under_way(log)
    return None


def outputs(workspace: Path) -> dict[str, Any]:
    """What must be the same: the bytes of files, and the metrics but for names and times."""
    latest = workspace / "runs" / "latest"
    metrics = json.loads((latest / "metrics.json").read_text())
    for name in TIMES:
        del metrics[name]
    return {name: (latest / name).read_bytes() for name in SAME_BYTES} | {"metrics": metrics}


def harm_a_file(workspace: Path, generator: random.Random) -> str | None:
    """Damage one file that a later start may want to use; say how."""
    folders = [workspace / "cache", workspace / "data"]
    files = sorted(p for f in folders for p in f.rglob("*") if p.is_file() and p.stat().st_size)
    if not files:
        return None
    path, how = generator.choice(files), generator.choice(HARMS)
    content = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(content[: generator.randrange(len(content))])
    elif how == "flip a bit":
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
    else:
        path.unlink()
        if how == "make a folder of":
            path.mkdir()
    return f"{how} {'/'.join(path.relative_to(workspace).parts[:2])}"


def main() -> int:
    """Return 0 where every round ended with the outputs of the calm run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and harms")
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="crash-"))
    home = folder / "home"
    home.mkdir()
    os.environ["PREFECT_HOME"] = str(home)
    server = TemporaryServer()
    server.wait()
    environment = {"PREFECT_API_URL": server.api_url, "PREFECT_HOME": str(home), "HOME": str(home)}

    for name in ("first", "calm"):  # the first is slow: nothing that it reads is in memory
        log, began = folder / f"{name}.log", datetime.now()
        if start(folder / name, log, environment).wait() != 0:
            print(log.read_text())
            return 1
        seconds = stage_seconds(log, began, datetime.now())
    expected = outputs(folder / "calm")
    print(f"A calm run takes {sum(seconds.values()):.1f} s.", flush=True)

    kills: Counter[str] = Counter()
    harms: Counter[str] = Counter()
    rounds = resumed = 0
    while kills.total() < arguments.kills:
        rounds += 1
        workspace, log = folder / f"round-{rounds}", folder / f"round-{rounds}.log"
        for stage in [*sorted(generator.choices(STAGES, k=5), key=STAGES.index), None]:
            process = start(workspace, log, environment)
            if stage is None:
                process.wait()
            elif hit := kill_in(process, log, stage, generator.uniform(0, seconds[stage])):
                kills[hit] += 1
                if generator.random() < 0.5 and (how := harm_a_file(workspace, generator)):
                    harms[how] += 1
            if process.returncode not in (0, -signal.SIGKILL):
                print(f"Round {rounds} failed: {log.read_text()}")
                return 1
            first = EPOCH.search(log.read_text())
            resumed += first is not None and first[1] != "1"
        if outputs(workspace) != expected:
            print(f"Round {rounds} gave other outputs: see {workspace}.")
            return 1
        if left := list(workspace.glob("cache/checkpoints/*")):
            print(f"Round {rounds} left {left}.")
            return 1
        shutil.rmtree(workspace)
        print(
            f"{kills.total()} kills, {harms.total()} harms, {rounds} rounds ended alike",
            flush=True,
        )
    print(f"{resumed} starts resumed a training from a checkpoint.")
    print("Killed in:", ", ".join(f"{stage} {kills[stage]}" for stage in STAGES))
    print("Harmed:", ", ".join(f"{how} {count}" for how, count in harms.most_common()))
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
