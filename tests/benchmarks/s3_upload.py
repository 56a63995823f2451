"""Upload of one large file to a local S3 server: the artifact store against ``aws s3 cp``.

``python -m tests.benchmarks.s3_upload --aws $(which aws)``. Both run as processes of their own,
in turns, start-up included; the store also computes the file's sha256 and checks the object.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.s3_server import BUCKET, S3Server

OURS = """
import sys
from pathlib import Path
from tasks.support import artifact_store, workspace
path = Path(sys.argv[1])
item = artifact_store.Item(path.name, path, workspace.sha256_of(path), path.stat().st_size)
artifact_store.Store(sys.argv[2]).upload([item])
"""


def measured(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of a process."""
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed")
    return time.monotonic() - started, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--aws", default="aws", help="the AWS command line")
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "artifact")
        with path.open("wb") as file:
            for _ in range(arguments.megabytes):
                file.write(os.urandom(1 << 20))
        (Path(folder) / "swift").mkdir()
        server = S3Server(Path(folder, "swift"))
        try:
            server.start()
            client = server.client()
            client.create_bucket(Bucket=BUCKET)
            environment = os.environ | server.environment
            commands = {
                "aws s3 cp": [arguments.aws, "s3", "cp", "--only-show-errors", str(path)],
                "artifact store": [sys.executable, "-c", OURS, str(path)],
            }
            results: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
            for number in range(arguments.rounds):
                for name, command in commands.items():
                    target = f"s3://{BUCKET}/{number}/{path.name if 'aws' in name else ''}"
                    results[name].append(measured([*command, target], environment))
                    client.delete_object(Bucket=BUCKET, Key=f"{number}/{path.name}")
        finally:
            server.kill()
    for name, numbers in results.items():
        seconds, memory = zip(*numbers, strict=True)
        print(
            f"{name:15} {arguments.megabytes / statistics.median(seconds):6.1f} MB/s: median "
            f"{statistics.median(seconds):.1f} s of {len(seconds)} "
            f"({min(seconds):.1f} to {max(seconds):.1f}), peak memory {max(memory):.0f} MB"
        )


if __name__ == "__main__":
    main()
