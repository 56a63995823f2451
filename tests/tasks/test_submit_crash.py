"""A submission that is killed at a random moment and run again is sent exactly once.

The test kills 20 times; for more: ``python -m tests.tasks.test_submit_crash 500``.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

from tasks.support import kaggle_client, workspace
from tests.kaggle_server import KEY, ROOT, USER, Kaggle, kaggle, serve
from tests.tasks.test_submit import send

__all__ = ["kaggle"]  # the fixture

LATENCY = 0.01  # seconds, before and after each request is handled: there is time to be killed in


def test_killed_and_run_again_it_is_sent_once(kaggle: Kaggle, tmp_path: Path) -> None:
    count = 20
    kaggle.latency = LATENCY
    moments = drive(tmp_path, count, seed=0)
    expected = [sha256(b"%d" % number).hexdigest() for number in range(count + 2)]
    assert sorted(kaggle.contents()) == sorted(expected)
    assert len(moments) == count
    assert moments.count("killed") > count // 2  # the others were done by then


def drive(folder: Path, count: int, seed: int) -> list[str]:
    """Kill so many submissions, each in a workspace of its own, and run each again."""
    arguments = [sys.executable, "-m", "tests.tasks.test_submit_crash", str(folder), str(count)]
    done = subprocess.run(
        [*arguments, str(seed)], cwd=ROOT, capture_output=True, text=True, timeout=60 + 5 * count
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def main(folder: Path, count: int, seed: int) -> None:
    """Import all once, then fork: the moments are those of submitting, not of starting Python."""
    kaggle_client._kaggle_api()
    choose = random.Random(seed)
    assert os.waitpid(fork(folder, 0), 0)[1] == 0  # the first takes longer
    started = time.monotonic()
    assert os.waitpid(fork(folder, count + 1), 0)[1] == 0
    duration = time.monotonic() - started
    for number in range(1, count + 1):
        first = fork(folder, number)
        time.sleep(choose.uniform(0, duration))
        os.kill(first, signal.SIGKILL)
        was_killed = os.WIFSIGNALED(os.waitpid(first, 0)[1])
        assert os.waitpid(fork(folder, number), 0)[1] == 0, f"run {number} was not completed"
        print("killed" if was_killed else "done", flush=True)


def fork(folder: Path, number: int) -> int:
    """Submit in a child process; its exit code is 0 where Kaggle then has the score."""
    child = os.fork()
    if child:
        return child
    with workspace.opened(folder / str(number)):
        os._exit(send(str(number)).status != "complete")


def count_all(count: int) -> None:
    """Kill more often than the test does, and say how it went."""
    os.environ |= {
        "KAGGLE_API_ENVIRONMENT": "TEST",
        "KAGGLE_USERNAME": USER,
        "KAGGLE_KEY": KEY,
    }
    os.environ.pop("KAGGLE_API_TOKEN", None)
    server = serve()
    server.latency = LATENCY
    with tempfile.TemporaryDirectory() as folder:
        moments = Counter(drive(Path(folder), count, seed=int(time.time())))
    times = Counter(Counter(server.contents()).values())
    print(f"{dict(moments)}; contents by how often they were sent: {dict(times)}")
    server.shutdown()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        count_all(int(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
