"""The leaderboard is made of the runs and the ledger, whatever was there before."""

from __future__ import annotations

import csv
import json
import logging
from datetime import UTC, datetime
from threading import Thread
from typing import Any

import pytest

from tasks.support import leaderboard
from tasks.support.ledger import Entry, Judged, Ledger
from tasks.support.workspace import MAKING, Workspace

pytestmark = pytest.mark.usefixtures("opened_workspace")


def add_run(at: Workspace, name: str, accuracy: float, digest: str, **more: object) -> None:
    folder = at.runs / name
    folder.mkdir()
    metrics = {
        "run": name,
        "source": "kaggle",
        "recipe": "classic",
        "seed": 0,
        "members": 1,
        "validation_accuracy": accuracy,
        "validation_accuracy_ci95": [accuracy - 0.01, accuracy + 0.01],
        "submission_sha256": digest,
        **more,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))


def add_score(digest: str, score: float, ref: int) -> None:
    judged = Judged(accuracy=1, ci95=(1, 1), train_sha256="", rows_sha256="", wrong_rows=[])
    ledger = Ledger.current()
    with ledger.locked():
        ledger.append(
            Entry(
                time=datetime.now(UTC),
                competition="c",
                digest=digest,
                status="complete",
                ref=ref,
                score=score,
                run="r",
                judged=judged,
            )
        )


def test_lists_the_runs_with_the_best_first(opened_workspace: Workspace) -> None:
    add_run(opened_workspace, "a", 0.98, "x")
    add_run(opened_workspace, "b", 0.99, "y", public_score=0.7, submission_ref=3)
    (opened_workspace.runs / "latest").symlink_to("b")
    rows = leaderboard.write()
    assert [row["run"] for row in rows] == ["b", "a"]
    with (opened_workspace.root / "leaderboard.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert tuple(first) == leaderboard.COLUMNS
    assert (first["public_score"], first["ref"]) == ("0.7", "3")
    assert (second["public_score"], second["ref"]) == ("", "")
    assert (second["ci95_low"], second["ci95_high"]) == ("0.97", "0.99")


def test_lists_no_run_that_is_still_being_made(opened_workspace: Workspace) -> None:
    add_run(opened_workspace, f"{MAKING}a", 0.98, "x")
    assert leaderboard.write() == []


def test_shows_a_score_that_came_later(opened_workspace: Workspace) -> None:
    add_run(opened_workspace, "a", 0.98, "x", submission_ref=7)
    add_score("x", 0.5, 7)
    (row,) = leaderboard.write()
    assert (row["public_score"], row["ref"]) == (0.5, 7)


def test_of_two_runs_that_end_together_the_one_that_writes_last_lists_both(
    opened_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run(opened_workspace, "a", 0.98, "x")
    collect = leaderboard.collect
    others: list[Thread] = []

    def while_another_run_ends() -> list[dict[str, Any]]:
        monkeypatch.setattr(leaderboard, "collect", collect)
        rows = collect()
        add_run(opened_workspace, "b", 0.99, "y")
        others.append(Thread(target=leaderboard.write))
        others[0].start()
        others[0].join(0.5)  # long enough to write, were it not kept waiting
        return rows

    monkeypatch.setattr(leaderboard, "collect", while_another_run_ends)
    assert [row["run"] for row in leaderboard.write()] == ["a"]
    others[0].join()
    with (opened_workspace.root / "leaderboard.csv").open(newline="") as file:
        assert [row["run"] for row in csv.DictReader(file)] == ["b", "a"]


def test_heals_itself(opened_workspace: Workspace) -> None:
    add_run(opened_workspace, "a", 0.98, "x")
    leaderboard.write()
    path = opened_workspace.root / "leaderboard.csv"
    before = path.read_bytes()
    path.write_text("half a li")
    leaderboard.write()
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"run": "a"}', "null", None])
def test_leaves_out_what_is_no_run(
    opened_workspace: Workspace, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    add_run(opened_workspace, "good", 0.98, "x")
    add_run(opened_workspace, "bad", 0.98, "x", validation_accuracy=None)
    if content is not None:
        (opened_workspace.runs / "bad" / "metrics.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        assert [row["run"] for row in leaderboard.write()] == ["good"]
    assert "bad" in caplog.text


def test_of_an_empty_workspace(opened_workspace: Workspace) -> None:
    assert leaderboard.write() == []
    assert (opened_workspace.root / "leaderboard.csv").read_text().count("\n") == 1


def test_a_damaged_ledger_costs_only_its_scores(
    opened_workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    add_run(opened_workspace, "a", 0.98, "x", public_score=0.7)
    Ledger.current().path.write_text("garbage\n")
    assert [row["public_score"] for row in leaderboard.write()] == [0.7]
    assert "submissions.jsonl is damaged" in caplog.text


def test_a_ledger_that_cannot_be_read_costs_only_its_scores(
    opened_workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    add_run(opened_workspace, "a", 0.98, "x", public_score=0.7)
    Ledger.current().path.mkdir()
    assert [row["public_score"] for row in leaderboard.write()] == [0.7]
    assert "submissions.jsonl: Is a directory" in caplog.text
