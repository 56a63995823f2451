"""Finished runs in the artifact store: uploaded, verified and fetched whole or not at all.

A run to be uploaded is marked from the moment its folder exists. So whatever is killed, and
whenever, the next run, or ``--upload-pending``, completes the upload.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field, ValidationError

from model.errors import PermanentError, PipelineError, TransientError
from tasks.support import artifact_store, run_folder, workspace
from tasks.support.artifact_store import Item, Store
from tasks.support.logs import log
from tasks.support.run_folder import MANIFEST, PENDING

LATEST = "latest.json"
T = TypeVar("T", bound=BaseModel)
MAIN_OUTPUTS = ("submission.csv", "model*.keras", "metrics.json", "report.html")


class Listed(BaseModel):
    """A file of a run."""

    path: str  # inside the run's folder
    sha256: str
    size: int  # bytes
    media_type: str


class Manifest(BaseModel):
    """What is read from manifest.json."""

    files: list[Listed] = Field(min_length=1)


class Latest(BaseModel):
    """What is read from latest.json."""

    run: str


def upload(store: Store, folder: Path) -> None:
    """Upload a run's files, then its manifest, then the pointer to the newest run."""
    name, manifest = f"runs/{folder.name}", folder / MANIFEST
    digest, size = workspace.sha256_of(manifest), manifest.stat().st_size
    store.upload(items_of(manifest.read_bytes(), name, folder))
    store.upload([Item(f"{name}/{MANIFEST}", manifest, digest, size, "application/json")])
    try:
        newest = newest_in(store)
    except PermanentError as error:
        log().warning("%s It is written anew.", error.cause)
        newest = ""
    if newest <= folder.name:  # names begin with the time
        store.put(LATEST, json.dumps({"run": folder.name, "manifest_sha256": digest}).encode())


def newest_in(store: Store) -> str:
    """The store's newest run, "" if there is none; PermanentError if latest.json is damaged."""
    content = store.get(LATEST)
    return parsed(Latest, content, LATEST).run if content else ""


def upload_pending(runs: Path) -> dict[str, PipelineError | None]:
    """Upload the marked runs, oldest first; each one's error or None. A failed run stays marked."""
    outcomes: dict[str, PipelineError | None] = {}
    # Stores that did not answer: to wait for each once is enough.
    down: dict[str, TransientError] = {}
    for mark in run_folder.each(PENDING, runs):
        run = mark.parent
        try:
            store = mark.read_text()
            if store not in down:
                upload(artifact_store.at(store), run)
                mark.unlink(missing_ok=True)
            outcomes[run.name] = down.get(store)
        except OSError as error:
            if mark.exists():  # else another run has uploaded it meanwhile
                outcomes[run.name] = PermanentError(
                    f"{error.filename}: {error.strerror}.", f"Fix that, or remove {run}."
                )
        except TransientError as error:
            outcomes[run.name] = down[store] = error
        except PermanentError as error:
            outcomes[run.name] = error
    return outcomes


def publish(store: Store, folder: Path) -> str:
    """Upload this run and those that are pending; return what the summary says.

    An outage does not fail the run, which is complete on this disk; a refusal does.
    """
    from prefect.artifacts import create_link_artifact

    outcomes = upload_pending(folder.parent)
    for run, problem in outcomes.items():
        if problem:
            log().warning("%s is not uploaded: %s", run, problem)
    error = outcomes.get(folder.name)
    if isinstance(error, TransientError):
        return f"pending, the next run uploads it: {error.cause}"
    if error:
        raise error
    uri = f"{store.uri}/runs/{folder.name}"
    for file in parsed(Manifest, (folder / MANIFEST).read_bytes(), MANIFEST).files:
        if any(Path(file.path).match(pattern) for pattern in MAIN_OUTPUTS):
            create_link_artifact(
                key="stored-" + file.path.replace(".", "-"),
                link=f"{uri}/{file.path}",
                description=f"sha256 {file.sha256}, {file.size:,} bytes",
            )
    return uri


def verify(uri: str) -> str:
    """Read a whole stored run; PermanentError if it is not as its manifest says."""
    with tempfile.TemporaryDirectory() as folder:
        return f"{fetch(uri, Path(folder) / 'run')} is whole."


def fetch(uri: str, folder: Path) -> str:
    """Fetch a stored run into a new folder, checked, whole or not at all; say what was fetched.

    ``uri`` is the run's, ``s3://bucket/prefix/runs/<name>``, or the store's for the newest run.
    """
    store = artifact_store.at(uri.rstrip("/"))
    store.reach()
    run = newest_in(store)
    base, _, after = store.uri.rpartition("/runs/")
    if not run and base.startswith("s3://"):
        store, run = artifact_store.at(base), after
    name = f"runs/{run}"
    manifest = store.get(f"{name}/{MANIFEST}") if run else None
    if manifest is None:
        raise PermanentError(
            f"{uri} holds no complete run.", "Correct the address, or upload the run again."
        )
    digest = hashlib.sha256(manifest).hexdigest()
    store.holds(Item(f"{name}/{MANIFEST}", folder, digest, len(manifest)))  # else it was altered
    if folder.exists():
        raise PermanentError(f"{folder} already exists.", "Name a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with workspace.making_folder(folder.parent) as making:
        items = items_of(manifest, name, making)
        store.download(items)
        (making / MANIFEST).write_bytes(manifest)
        making.chmod(0o755)
        making.rename(folder)
    size = sum(item.size for item in items)
    return f"{store.uri}/{name} ({len(items)} files, {size:,} bytes)"


def items_of(manifest: bytes, name: str, folder: Path) -> list[Item]:
    """What a manifest lists: objects below ``name``, files in ``folder``."""
    return [
        Item(
            f"{name}/{file.path}",
            artifact_store.inside(folder, file.path),
            file.sha256,
            file.size,
            file.media_type,
        )
        for file in parsed(Manifest, manifest, f"{name}/{MANIFEST}").files
    ]


def parsed(model: type[T], content: bytes, name: str) -> T:
    """Parse JSON that we wrote; PermanentError if it was damaged."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise PermanentError(
            f"{name} is damaged: {error.errors()[0]['msg']}.", "Remove it and upload the run again."
        ) from error


def main() -> int:
    """The command line for stored runs."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.publish",
        description="Runs in an artifact store. URI is a run's, s3://bucket/prefix/runs/NAME, "
        "or the store's, s3://bucket/prefix, for its newest run.",
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--verify", metavar="URI", help="read a whole run and check it")
    action.add_argument(
        "--fetch", nargs=2, metavar=("URI", "DIR"), help="copy a run into the new folder DIR"
    )
    action.add_argument(
        "--upload-pending", action="store_true", help="upload the runs that could not be uploaded"
    )
    parser.add_argument(
        "--workspace",
        type=Path,
        default=os.environ.get(workspace.ENVIRONMENT_VARIABLE) or "workspace",
        help="for --upload-pending (default: %(default)s)",
    )
    arguments = parser.parse_args()
    try:
        if arguments.verify:
            print(verify(arguments.verify))
        elif arguments.fetch:
            uri, folder = arguments.fetch
            print(f"{fetch(uri, Path(folder))} is in {folder}")
        else:
            runs = workspace.Workspace(arguments.workspace).runs
            if not runs.is_dir():
                raise PermanentError(
                    f"{runs} is not a folder.", "Give --workspace the folder above it."
                )
            outcomes = upload_pending(runs)
            if not outcomes:
                print(f"No run in {runs} is pending.")
            for run, error in outcomes.items():
                if error:
                    print(f"error: {run}: {error}", file=sys.stderr)
                else:
                    print(f"{run}: uploaded")
            return int(any(outcomes.values()))
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 1
    return 0
