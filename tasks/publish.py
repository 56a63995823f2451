"""Stage 8: gather the run in a folder for people, and in artifacts for Prefect's UI."""

from __future__ import annotations

import base64
import json
import platform
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from model import history
from model.recipes import Recipe
from tasks.support import artifact_store, leaderboard, run_folder, stored_runs, workspace
from tasks.support.caching import stage
from tasks.support.records import (
    Dataset,
    Digits,
    Evaluation,
    Exploration,
    File,
    Member,
    Predictions,
    Run,
    Submission,
)
from tasks.support.versions import version_of

STAGES = ("download", "preprocess", "explore", "train", "evaluate", "predict", "submit")
MEASURED = [
    f"{rows}_{number}"
    for rows in ("train", "validation")
    for number in ("accuracy", "count", "accuracy_ci95", "loss")
]
LIBRARIES = ("tensorflow", "keras", "numpy", "prefect", "kaggle")


@stage(cached=False)
def publish(
    name: str,
    created: datetime,
    settings: dict[str, Any],
    command: str,
    recipe: Recipe,
    dataset: Dataset,
    digits: Digits,
    exploration: Exploration,
    members: list[Member],
    missing: dict[int, str],
    evaluation: Evaluation,
    predictions: Predictions,
    submission: Submission,
) -> Run:
    """Write ``runs/<name>`` whole or not at all, point ``runs/latest`` to it, create artifacts."""
    from model import report
    from model.training import precision

    metrics = collect_metrics(
        name, settings, recipe, dataset, members, missing, evaluation, predictions, submission
    )
    figures = {**exploration.figures, **evaluation.figures}
    context = report.ReportContext.model_validate(
        {
            "run_name": name,
            "created": created,
            "source": dataset.source,
            "data": [
                {"name": "train.csv", "sha256": dataset.train.sha256, "rows": digits.train.count},
                {"name": "test.csv", "sha256": dataset.test.sha256, "rows": digits.test.count},
            ],
            "recipe": recipe.name,
            "recipe_parameters": {**recipe.model_dump(), "precision": precision(recipe)},
            "seed": settings["seed"],
            "members": len(members),
            "metrics": metrics,
            "classes": read_json(evaluation.numbers)["classes"],
            "history": history.read(evaluation.history.location),
            "exploration": read_json(exploration.numbers),
            "figures": {figure: file.location.read_bytes() for figure, file in figures.items()},
            "submission": {
                "name": "submission.csv",
                "sha256": predictions.submission.sha256,
                "rows": predictions.rows,
                "decision": submission.reason,
            },
            "stages": stage_times(),
            "versions": versions(),
            "command": command,
        }
    )
    card = report.render_model_card(context)
    files: dict[str, File | str] = {
        "submission.csv": predictions.submission,
        "history.csv": evaluation.history,
        "eda.json": exploration.numbers,
        "evaluation.json": evaluation.numbers,
        **{f"figures/{figure}.png": file for figure, file in figures.items()},
        **{model_name(member, recipe): member.model for member in members},
        "metrics.json": run_folder.as_json(metrics),
        "config.json": run_folder.as_json(
            {
                "settings": settings,
                "recipe": recipe.model_dump(),
                "command": command,
                "versions": context.versions,
            }
        ),
        "report.html": report.render_report(context),
        "model_card.md": card,
    }
    store = artifact_store.current()
    folder = run_folder.write(name, files, store.uri if store else None)
    make_artifacts(metrics, figures, folder, card)
    create_table_artifact(
        key="leaderboard",
        description="Every run of the workspace, best validation accuracy first",
        table=leaderboard.write(),
    )
    stored = stored_runs.publish(store, folder) if store else None
    return Run(
        name=name,
        folder=folder.relative_to(workspace.current().root).as_posix(),
        metrics=metrics,
        submission=submission,
        rows=predictions.rows,
        notice=dataset.notice,
        stored=stored,
        stage_seconds=dict(workspace.current().stage_seconds),
    )


def collect_metrics(
    name: str,
    settings: dict[str, Any],
    recipe: Recipe,
    dataset: Dataset,
    members: list[Member],
    missing: dict[int, str],
    evaluation: Evaluation,
    predictions: Predictions,
    submission: Submission,
) -> dict[str, Any]:
    """The content of metrics.json; keys with unknown values are left out."""
    metrics = {
        "run": name,
        "source": dataset.source,
        "recipe": recipe.name,
        "seed": settings["seed"],
        "members": len(members),
        "missing_members": missing or None,
        **{key: value for key, value in evaluation.model_dump().items() if key in MEASURED},
        "test_accuracy": predictions.test_accuracy,
        "test_accuracy_ci95": predictions.test_accuracy_ci95,
        "test_count": predictions.rows if predictions.test_accuracy is not None else None,
        "epochs_run": max(member.epochs_run for member in members),
        "stopped_early": any(member.stopped_early for member in members),
        "train_seconds": round(sum(member.train_seconds for member in members), 3),
        "parameters": sum(member.parameters for member in members),
        "submission_sha256": predictions.submission.sha256,
        "submission_status": submission.status,
        "submission_ref": submission.ref,
        "public_score": submission.public_score,
    }
    return {key: value for key, value in metrics.items() if value is not None}


def stage_times() -> list[dict[str, Any]]:
    """Seconds per stage; a stage that did not run took its result from the cache."""
    seconds = workspace.current().stage_seconds
    return [
        {"stage": name, "seconds": seconds.get(name, 0.0), "cached": name not in seconds}
        for name in ("start-up", *STAGES)
    ]


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a reader will ask about."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in LIBRARIES}}


def model_name(member: Member, recipe: Recipe) -> str:
    """``model.keras``, or ``model-00.keras`` and so on for an ensemble."""
    return "model.keras" if recipe.members == 1 else f"model-{member.member:02d}.keras"


def make_artifacts(
    metrics: dict[str, Any], figures: dict[str, File], folder: Path, card: str
) -> None:
    """Create what Prefect's UI shows of the run: the model card with figures, and the metrics."""
    pictures = [
        f"![{name}](data:image/png;base64,{base64.b64encode(figures[name].location.read_bytes()).decode()})"
        for name in ("confusion_matrix", "learning_curves", "mistakes")
    ]
    create_markdown_artifact(
        key="run-summary",
        description=f"The run's folder: {folder}",
        markdown="\n\n".join([card, *pictures]),
    )
    create_table_artifact(
        key="run-metrics",
        description=f"metrics.json of {folder.name}",
        table=[{"metric": key, "value": as_text(value)} for key, value in metrics.items()],
    )


def as_text(value: object) -> str:
    """A metric as the table shows it."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def read_json(file: File) -> Any:
    """The content of a JSON file of the workspace."""
    return json.loads(file.location.read_text())


if __name__ == "__main__":
    sys.exit(stored_runs.main())
