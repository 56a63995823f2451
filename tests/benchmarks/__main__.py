"""Speed and accuracy beside a plain Keras fit (and PyTorch's), all in one run, in turns.

``python -m tests.benchmarks --data-dir ../shared/digit-recognizer``: a table on stdout, all
measurements in ``--json``. Nothing else should run on the machine meanwhile. Each measurement is a
process of its own; ratios are of the medians (of prediction, whose two sides share a process, the
median of the ratios), ranges from the lowest to the highest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model import training
from model.recipes import recipe_for
from tasks import download
from tests.end_to_end.command import own_environment

Measured = dict[str, list[dict[str, float]]]
ROOT = Path(__file__).parents[2]


def one(kind: str, data: Path, *options: str) -> dict[str, float]:
    """What ``tests.benchmarks.one`` measures."""
    command = [sys.executable, "-m", "tests.benchmarks.one", kind, "--data-dir", str(data)]
    return dict(json.loads(output([*command, *options], os.environ)))


def output(command: list[str], environment: Mapping[str, str]) -> bytes:
    """What a command writes to stdout; where it fails this program ends with its stderr."""
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.decode())
    return done.stdout


def whole_commands(data: Path, folder: Path) -> dict[str, dict[str, float]]:
    """The plain script and the pipeline's command, from start to exit."""
    flow = ["--source", "directory", "--data-dir", str(data), "--recipe", "fast"]
    commands: dict[str, list[Path | str]] = {
        "plain script": [ROOT / "tests/benchmarks/plain_notebook.py", data, folder],
        "the flow, fast": [ROOT / "flows/mnist_flow.py", *flow, "--workspace", folder / "w"],
    }
    seconds = {}
    for name, command in commands.items():
        started = time.perf_counter()
        environment = own_environment(PREFECT_HOME=str(folder / "prefect"))
        output([sys.executable, *map(str, command)], environment)
        seconds[name] = {"seconds": time.perf_counter() - started}
    return seconds


def measure(data: Path, seeds: int, rounds: int) -> Measured:
    """All measurements, those that are compared in turns."""
    found: Measured = {}

    def note(name: str, measured: dict[str, float]) -> None:
        found.setdefault(name, []).append(measured)
        print(name, measured, file=sys.stderr, flush=True)

    note("peak", one("peak", data))
    for seed in range(seeds):
        own = ("--seed", str(seed))
        note("plain Keras fit", one("plain-fit", data, *own))
        note("classic", one("recipe-fit", data, "--recipe", "classic", *own))
        note("fast", one("recipe-fit", data, "--recipe", "fast", *own))
    if find_spec("torch"):
        note("PyTorch fit", one("torch-fit", data, "--epochs", "2"))
    for _ in range(rounds):
        note("prediction", one("prediction", data))
        with tempfile.TemporaryDirectory() as folder:
            for name, measured in whole_commands(data, Path(folder)).items():
                note(name, measured)
    for times in ("1", "4", "16"):
        note("growth", one("growth", data, "--recipe", "fast", "--times", times))
    for times in ("4", "36"):
        note("stream", one("stream", data, "--times", times))
    return found


def spread(values: list[float], form: str = ".2f") -> str:
    """Median, and from lowest to highest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def column(measured: Measured, name: str, key: str) -> list[float]:
    return [entry[key] for entry in measured[name]]


def table(measured: Measured) -> str:
    """What a reader compares."""
    lines = [
        "| Training | Seconds | Seconds an epoch | Accuracy, mean (range) |",
        "|---|---|---|---|",
    ]
    for name in ("plain Keras fit", "PyTorch fit", "classic", "fast"):
        if name in measured:
            times = column(measured, name, "seconds")
            each = [entry["seconds"] / entry["epochs"] for entry in measured[name]]
            right = column(measured, name, "accuracy")
            lines.append(
                f"| {name} | {spread(times)} | {spread(each)} | "
                f"{statistics.mean(right):.3%} ({min(right):.2%} to {max(right):.2%}) |"
            )
    plain = statistics.median(column(measured, "plain Keras fit", "seconds"))
    peak = measured["peak"][0]
    for name in ("classic", "fast"):
        dtype = training.precision(recipe_for(name))
        seconds = statistics.median(column(measured, name, "seconds"))
        rate = measured[name][0]["train_flops"] / seconds / peak[dtype]
        lines.append(
            f"\n{name}: {plain / seconds:.2f} times the plain fit's speed; "
            f"{rate:.0%} of the peak of {peak[dtype] / 1e9:.0f} GFLOP/s ({dtype})"
        )
    pairs = zip(
        column(measured, "plain Keras fit", "seconds"),
        column(measured, "fast", "seconds"),
        strict=True,
    )
    ratios = [theirs / ours for theirs, ours in pairs]
    lines.append(f"\nfast, each seed beside its plain fit: 1/{spread(ratios, '.1f')}")
    for turn, which in (("", "tracing included"), ("_again", "once both are traced")):
        ratios = [e["theirs" + turn] / e["ours" + turn] for e in measured["prediction"]]
        lines.append(f"\nprediction, {which}: {spread(ratios)} times the speed of model.predict")
    script, flow = (
        column(measured, name, "seconds") for name in ("plain script", "the flow, fast")
    )
    share = statistics.median(flow) / statistics.median(script)
    lines.append(f"\nwhole: script {spread(script)} s, flow {spread(flow)} s: {share:.2f} of it")
    for name in ("growth", "stream"):
        lines += ["", f"| {name}: rows | Seconds | Peak memory, MB |", "|---|---|---|"]
        for step in measured[name]:
            memory = step["peak_bytes"] / 1e6
            lines.append(f"| {step['rows']:,} | {step['seconds']:.2f} | {memory:.0f} |")
    (few, early, _), (some, middle, middle_peak), (many, late, last_peak) = (
        (step["rows"], step["seconds"], step["peak_bytes"]) for step in measured["growth"]
    )
    straight = early + (late - early) * (some - few) / (many - few)
    slope = (last_peak - middle_peak) / (many - some)
    lines.append(
        f"\ngrowth: the middle one takes {middle / straight:.2f} of what lies on the line through "
        f"the others; from it to the last, {slope:.0f} bytes a row"
    )
    return "\n".join(lines)


def about() -> dict[str, Any]:
    """The machine and the versions."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return {
        "processor": next((f for f in flags.splitlines() if f.startswith("model name")), ""),
        "cores": os.cpu_count(),
        "bfloat16": training.precision(recipe_for("fast")) == "bfloat16",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("tensorflow", "keras", "prefect", "numpy")},
        "arguments": sys.argv[1:],
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="the zip's or the CSVs' folder"
    )
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each kind")
    parser.add_argument("--rounds", type=int, default=3, help="of prediction and whole commands")
    parser.add_argument("--json", type=Path, default=Path("benchmark.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        download.copy_or_extract(download.files_in(options.data_dir), data)
        measured = measure(data, options.seeds, options.rounds)
    options.json.write_text(json.dumps({"about": about(), "measured": measured}, indent=2) + "\n")
    print(json.dumps(about()))
    print(table(measured))


if __name__ == "__main__":
    main()
