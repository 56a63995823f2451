"""What a run's metrics say of several members, and who may read its folder."""

from __future__ import annotations

from model.recipes import recipe_for
from tasks.publish import collect_metrics
from tasks.support import run_folder
from tasks.support.records import Dataset, Predictions, Submission
from tasks.support.workspace import Workspace
from tests.tasks.test_evaluate import keep, network
from tests.tasks.test_submit import model


def test_the_metrics_of_several_members_are_of_all_of_them(opened_workspace: Workspace) -> None:
    file = keep("some.csv", lambda path: path.touch())
    second = network(1).model_copy(update={"epochs_run": 5, "stopped_early": True})
    metrics = collect_metrics(
        "run",
        {"seed": 7},
        recipe_for("best"),
        Dataset(source="kaggle", train=file, test=file, sample_submission=file, test_labels=None),
        [network(0), second],
        {},
        model(),
        Predictions(submission=file, rows=30, test_accuracy=None, test_accuracy_ci95=None),
        Submission(status="not sent", reason=""),
    )
    both = {"epochs_run": 5, "stopped_early": True, "train_seconds": 2.0, "parameters": 2}
    assert both.items() <= metrics.items()
    assert "test_count" not in metrics


def test_others_may_read_a_run(opened_workspace: Workspace) -> None:
    folder = run_folder.write("run", {"submission.csv": "x"}, None)
    assert folder.stat().st_mode & 0o777 == 0o755
