"""leaderboard.csv: every run of the workspace, the best first.

It is rebuilt from the runs and the ledger each time, so it reflects runs that were deleted and
scores that a later run fetched.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
from typing import Any

from model.errors import PermanentError
from tasks.support import run_folder, workspace
from tasks.support.ledger import Ledger
from tasks.support.logs import log

COLUMNS = (
    "run",
    "source",
    "recipe",
    "seed",
    "members",
    "validation_accuracy",
    "ci95_low",
    "ci95_high",
    "public_score",
    "ref",
)


def write() -> list[dict[str, Any]]:
    """Write the current workspace's leaderboard.csv; return its rows for an artifact."""
    with (workspace.current().locks / "leaderboard").open("ab") as lock:
        # Else, of two runs that end together, the last to write could leave the other one out.
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = collect()
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        workspace.write_text(workspace.current().root / "leaderboard.csv", text.getvalue())
        return rows


def collect() -> list[dict[str, Any]]:
    """One row per run, by descending validation accuracy; None for what is not known."""
    try:
        sent = {entry.digest: entry for entry in Ledger.current().entries()}
    except PermanentError as error:
        log().warning("leaderboard.csv has only the scores that the runs know: %s", error)
        sent = {}
    rows = []
    for path in run_folder.each("metrics.json", workspace.current().runs):
        try:
            metrics = json.loads(path.read_text())
            low, high = metrics["validation_accuracy_ci95"]
            row = {name: metrics[name] for name in COLUMNS[:5]}
            accuracy = float(metrics["validation_accuracy"])
            entry = sent.get(metrics["submission_sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            log().warning("%s is left out of leaderboard.csv: %r", path, error)
            continue
        rows.append(
            row
            | {
                "validation_accuracy": accuracy,
                "ci95_low": low,
                "ci95_high": high,
                "public_score": entry.score if entry else metrics.get("public_score"),
                "ref": entry.ref if entry else metrics.get("submission_ref"),
            }
        )
    return sorted(rows, key=lambda row: -row["validation_accuracy"])
