"""Stage 4: train one network, showing its progress."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.transactions import get_transaction
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.theme import Theme

from model import digits, history, training
from model.recipes import Recipe
from tasks.support import stored_checkpoints, workspace
from tasks.support.caching import stage
from tasks.support.records import File, Member, TrainRows

# So that the log says when training resumes from a checkpoint.
logging.getLogger("model").setLevel(logging.INFO)


@stage("tensorflow", "keras", "numpy", depends_on_machine=True)
def train(rows: TrainRows, positions: File, recipe: Recipe, seed: int, member: int) -> Member:
    """Train member number ``member`` on the rows that it does not hold out.

    A checkpoint is saved after every epoch, so that a killed run can resume from it.
    """
    validation = digits.validation_mask(positions.array(), recipe.validation_fraction, member)
    checkpoints = checkpoint_folder()
    stored_checkpoints.bring(checkpoints)

    def on_epoch(epoch: history.Epoch) -> None:
        progress.epoch(epoch)
        stored_checkpoints.send(checkpoints)

    with ShownProgress(recipe.epochs, member) as progress:
        trained = training.train(
            recipe,
            rows.images.array(),
            rows.labels.array(),
            validation,
            seed,
            member=member,
            on_batch=progress.batch,
            on_epoch=on_epoch,
            checkpoints=checkpoints,
        )
    with workspace.current().temporary_folder() as folder:
        trained.model.save(folder / "model.keras")
        history.write(trained.history, member, folder / "history.csv")
        return Member(
            member=member,
            model=File.keep(folder / "model.keras"),
            history=File.keep(folder / "history.csv"),
            epochs_run=len(trained.history),
            stopped_early=trained.stopped_early,
            train_seconds=round(trained.train_seconds, 3),
            parameters=trained.model.count_params(),
        )


def checkpoint_folder() -> Path:
    """One folder per training, named by the cache key, so that only the same training finds it."""
    transaction = get_transaction()
    key = transaction.key if transaction else None
    return workspace.current().checkpoints / (key or "uncached")


def log_console() -> Console:
    """The console of Prefect's log, which then prints its lines above the bar; else a new one."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler):
            handler.console.push_theme(Theme())  # Prefect's has no styles for a bar
            return handler.console
    return Console(stderr=True)


class ShownProgress:
    """A live bar on a terminal, one log line per epoch, a progress artifact in Prefect's UI."""

    def __init__(self, epochs: int, member: int) -> None:
        self.epochs = epochs
        self.member = member
        self.logger = get_run_logger()
        console = log_console()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("batches"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal or bool(multiprocessing.parent_process()),
        )
        self.line = self.bar.add_task("", total=None)
        self.artifact: UUID | None = None
        self.server_failed = False

    def __enter__(self) -> ShownProgress:
        self._show(0)
        self.bar.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.bar.stop()
        if error is None:  # training may have stopped before the last epoch
            self._show(100)

    def _show(self, percent: float) -> None:
        """Create or update the artifact, until Prefect's server fails: the training goes on."""
        if self.server_failed:
            return  # each further attempt could hold up the training for minutes
        try:
            if self.artifact:
                update_progress_artifact(self.artifact, progress=percent)
            else:
                self.artifact = create_progress_artifact(  # type: ignore[assignment]
                    progress=percent,
                    key=f"training-member-{self.member}",
                    description=f"Training of member {self.member}, at most {self.epochs} epochs",
                )
        except httpx.HTTPError as error:
            self.server_failed = True
            self.logger.warning("Training goes on without its progress artifact: %r", error)

    def batch(self, epoch: int, done: int, total: int) -> None:
        """Show that ``done`` of the epoch's ``total`` batches are finished."""
        title = f"epoch {epoch}/{self.epochs}"
        self.bar.update(self.line, description=title, completed=done, total=total)

    def epoch(self, epoch: history.Epoch) -> None:
        """Log a finished epoch and show it in the progress artifact."""
        self.bar.reset(self.line)  # otherwise the next epoch would start out complete
        self.logger.info(
            "Member %d, epoch %d/%d: train accuracy %.4f, loss %.4f; "
            "validation accuracy %.4f, loss %.4f; %.1f s",
            self.member,
            epoch.epoch,
            self.epochs,
            epoch.train_accuracy,
            epoch.train_loss,
            epoch.validation_accuracy,
            epoch.validation_loss,
            epoch.seconds,
        )
        self._show(100 * epoch.epoch / self.epochs)
