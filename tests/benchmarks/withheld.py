"""The accuracy of a whole run on rows of ``train.csv`` whose labels it never sees.

    python -m tests.benchmarks.withheld --recipe best --data-dir DATA --folder FOLDER

The rows that the benchmarks hold out become the run's ``test.csv``, the others its ``train.csv``;
its ``submission.csv`` is compared with their labels. All files stay in ``--folder``, so that the
same command goes on with a run that was stopped. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model import digits, evaluation
from tasks import download
from tests.benchmarks.one import split
from tests.end_to_end.command import FLOW, own_environment


def write_competition(source: Path, target: Path) -> NDArray[np.uint8]:
    """Write the competition's three files to ``target``; the labels of their test images."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as unpacked:
        download.copy_or_extract(download.files_in(source), Path(unpacked))
        images, labels, held_out = split(Path(unpacked), 10_000)
    digits.write_train(target / "train.csv", images[~held_out], labels[~held_out])
    digits.write_test(target / "test.csv", images[held_out])
    withheld = labels[held_out]
    digits.write_submission(target / "sample_submission.csv", np.zeros_like(withheld))
    return withheld


def main() -> None:
    """Write the files, run the pipeline and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    folder = options.folder.resolve()
    data, workspace = folder / "data", folder / "workspace"
    withheld = write_competition(options.data_dir, data)
    command = [sys.executable, FLOW, "--source", "directory", "--data-dir", data]
    command += ["--recipe", options.recipe, "--workspace", workspace]
    environment = own_environment(PREFECT_HOME=str(folder / "prefect"))
    done = subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    run = workspace / "runs" / "latest"
    metrics = json.loads((run / "metrics.json").read_bytes())
    predicted = digits.read_submission(run / "submission.csv")
    correct = int((predicted == withheld).sum())
    result = {
        "withheld": len(withheld),
        "errors": len(withheld) - correct,
        "accuracy": correct / len(withheld),
        "ci95": evaluation.wilson_interval(correct, len(withheld)),
        "validation_accuracy": metrics["validation_accuracy"],  # of several members, out of fold
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
