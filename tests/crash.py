"""Kill runs at random moments, harm their files, run again: the outputs must be a calm run's.

    python -m tests.crash --kills 50

Each round has a workspace of its own: the run is started, killed with SIGKILL after a random time,
one file of its cache or data is harmed now and then, and so on until a start comes to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from flows.temporary_server import TemporaryServer
from tests.end_to_end.command import FLOW, own_environment

OPTIONS = ["--source", "sample", "--epochs", "3", "--seed", "1"]
SAME_BYTES = ("submission.csv", "history.csv", "eda.json", "evaluation.json")
TIMES = ("run", "train_seconds")
HARMS = ("cut", "flip a bit", "delete", "make a folder of")


def start(workspace: Path, log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a run in a workspace; what it says goes to the end of the log."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, FLOW, *OPTIONS, "--workspace", workspace],
            stdout=file,
            stderr=file,
            env=own_environment(**environment),
        )


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
    return f"{how} {path.relative_to(workspace).parts[:2]}"


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
        began = time.monotonic()
        if start(folder / name, folder / "calm.log", environment).wait() != 0:
            print((folder / "calm.log").read_text())
            return 1
        seconds = time.monotonic() - began
    expected = outputs(folder / "calm")
    print(f"A calm run takes {seconds:.1f} s.", flush=True)

    kills = rounds = 0
    harms: Counter[str] = Counter()
    while kills < arguments.kills:
        rounds += 1
        workspace, log = folder / f"round-{rounds}", folder / f"round-{rounds}.log"
        while True:
            process = start(workspace, log, environment)
            try:
                code = process.wait(timeout=generator.uniform(0, seconds))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                if generator.random() < 0.5 and (how := harm_a_file(workspace, generator)):
                    harms[how] += 1
                continue
            break
        if code != 0 or outputs(workspace) != expected:
            print(f"Round {rounds} differs or failed (exit code {code}): see {log}.")
            return 1
        shutil.rmtree(workspace)
        print(f"{kills} kills, {harms.total()} harms, {rounds} rounds ended alike", flush=True)
    for how, count in harms.most_common():
        print(f"  {count:3} {how}")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
