"""The pipeline's parameters, for the form in Prefect's UI, the command line and the environment.

Every field can be given as ``--its-name`` and as ``DIGIT_RECOGNIZER_ITS_NAME``. None may hold a
secret: they are shown in the UI and kept in ``config.json``.
"""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.errors import PermanentError
from model.sources import UNSUBMITTABLE, Source

LEAVE_OUT = "Leave one of the two out."


def expanded(path: Path) -> Path:
    """The path with ``~`` replaced by the home folder; ValueError if there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such user.") from error


def expandable(path: Path) -> Path:
    """The path as it is, if it can be expanded: on another machine the home folder may differ."""
    expanded(path)
    return path


class Settings(BaseSettings):
    """Digit Recognizer: from raw digits to a validated and, on request, submitted Kaggle entry."""

    model_config = SettingsConfigDict(
        env_prefix="DIGIT_RECOGNIZER_",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        cli_prog_name="mnist_flow.py",
        cli_kebab_case=True,
        cli_implicit_flags="toggle",
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_exit_on_error=False,
    )

    source: Literal["auto", Source] = Field(
        default="auto",
        description="Where the digits come from. auto: kaggle if credentials are found, "
        "else the embedded sample.",
    )
    data_dir: Annotated[Path, AfterValidator(expanded)] | None = Field(
        default=None,
        description="For --source directory: a folder with the competition's zip or CSV files.",
    )
    competition: str = Field(
        default="digit-recognizer",
        pattern=r"^[a-z0-9-]+$",
        description="Kaggle's competition: the last part of its address.",
    )
    recipe: Literal["classic", "fast", "best"] = Field(
        default="classic",
        description="How to train. classic: the reference CNN, Adam, batch 50, 10 epochs; "
        "fast: as accurate in two epochs; best: an ensemble of deep networks.",
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Maximum number of epochs, 1 to 1000; if not given, the recipe's.",
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Images per weight update, 1 to 10000; if not given, the recipe's.",
    )
    target_accuracy: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Stop training at the first epoch that reaches this validation accuracy, "
        "above 0; 1: never stop early; if not given, the recipe's.",
    )
    members: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Networks in the ensemble, 1 to 1000; if not given, the recipe's.",
    )
    validation_fraction: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Fraction of the training rows held out for validation, between 0 and 1; "
        "if not given, the recipe's.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**32 - 1,
        description="The same seed, data and machine give the same submission. 0 to 4294967295.",
    )
    submit: Literal["never", "if-better", "always"] = Field(
        default="never",
        description="Whether to send the submission. never: check everything, send nothing; "
        "if-better: send it if it is better than the best one sent from this workspace; "
        "always: send it.",
    )
    minimum_accuracy: float = Field(
        default=0.983,
        ge=0,
        le=1,
        description="Nothing is sent below this validation accuracy, 0 to 1.",
    )
    message: str = Field(
        default="",
        max_length=300,
        pattern=r"^[^\r\n]*$",
        description="Description of the submission on Kaggle: one line of at most 300 characters.",
    )
    kaggle_secret_block: str | None = Field(
        default=None,
        description="Name of a Prefect Secret block that holds the Kaggle credentials.",
    )
    workspace: Annotated[Path, AfterValidator(expandable)] = Field(
        default=Path("workspace"),
        description="Folder for data, cache, runs and the record of submissions.",
    )
    artifact_store: str | None = Field(
        default=None,
        pattern=r"^(s3://|artifact-store/).",
        description="Also keep files, results and runs in S3: s3://bucket/prefix, or "
        "artifact-store/NAME for a Prefect block with that address.",
    )
    runner: Literal["auto", "local", "processes", "dask"] = Field(
        default="auto",
        description="Where the members of an ensemble are trained. local: in this process; "
        "processes: in several; dask: on Dask workers; auto: in one process per core if there "
        "are several members and cores, else in this one.",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Number of processes, or of Dask workers on this machine, 1 to 1000; "
        "if not given, one per core.",
    )
    dask_address: str | None = Field(
        default=None,
        pattern=r"^(tcp|tls)://\S+:\d+$",
        description="For --runner dask: the scheduler, tcp://host:port; if not given, Dask is "
        "started on this machine.",
    )
    allow_missing_members: int = Field(
        default=0,
        ge=0,
        le=999,
        description="Go on even if up to this many members fail, 0 to 999.",
    )
    refresh: bool = Field(default=False, description="Recompute every stage's result.")
    debug: bool = Field(default=False, description="Log at DEBUG level; show tracebacks.")

    def recipe_overrides(self) -> dict[str, Any]:
        """The fields that override the recipe; None where not given."""
        names = {"epochs", "batch_size", "target_accuracy", "members", "validation_fraction"}
        return self.model_dump(include=names)

    def command(self) -> str:
        """The command line that repeats the run; fields with default values are left out."""
        words = ["python", "flows/mnist_flow.py"]
        for name, value in self.model_dump(mode="json", exclude_defaults=True).items():
            option = "--" + name.replace("_", "-")
            words.append(option if value is True else f"{option}={value}")
        return shlex.join(words)

    def check(self) -> None:
        """Raise PermanentError if two options do not go together.

        Not a validator, since one of the two may be in a process's environment and the other in a
        run's parameters.
        """
        if self.source == "directory" and self.data_dir is None:
            raise PermanentError(
                "--source directory needs --data-dir.", "Give it the folder with the files."
            )
        if self.source != "directory" and self.data_dir is not None:
            raise PermanentError(
                f"--data-dir is only for --source directory, not {self.source}.", LEAVE_OUT
            )
        if self.dask_address and self.runner != "dask":
            raise PermanentError(
                f"--dask-address is only for --runner dask, not {self.runner}.", LEAVE_OUT
            )
        if self.workers and (self.dask_address or self.runner == "local"):
            other = "--dask-address" if self.dask_address else "--runner local"
            raise PermanentError(f"--workers has no effect with {other}.", LEAVE_OUT)
        if self.submit != "never" and self.source in UNSUBMITTABLE:
            raise PermanentError(
                UNSUBMITTABLE[self.source], "Use --source kaggle or directory, or --submit never."
            )
