"""The artifact store against a real S3 server over HTTP, with uploaders and servers killed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import boto3
import botocore.auth
import botocore.compat
import pytest
from botocore.exceptions import ClientError

from model.errors import PermanentError, TransientError
from tasks.support import artifact_store, run_folder, stored_runs, workspace
from tasks.support.artifact_store import Item, Store
from tests.s3_server import BUCKET, S3Server, running_s3, s3

__all__ = ["running_s3", "s3"]  # the fixtures

pytestmark = pytest.mark.s3

KILLS = 20
SIZES = {"model.keras": 17 << 20, "report.html": 2 << 20, "metrics.json": 900, "history.csv": 9}


@pytest.fixture
def uri(s3: S3Server, tmp_path: Path) -> str:
    """A store of this test's own."""
    artifact_store.at.cache_clear()
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture
def finish(opened_workspace: workspace.Workspace, uri: str) -> Callable[[str], Path]:
    """Make the folder of a finished run, marked for upload."""

    def finish(name: str) -> Path:
        folder = run_folder.write(name, {"submission.csv": name}, uri)
        files = []
        for path, size in SIZES.items():
            (folder / path).write_bytes(os.urandom(size))
            files.append(run_folder.describe(folder / path, folder))
        manifest = folder / run_folder.MANIFEST
        manifest.write_text(run_folder.as_json({"run": name, "files": files}))
        return folder

    assert opened_workspace
    return finish


def stored(uri: str) -> list[str]:
    """What a reader sees: the runs that have a manifest, and the newest."""
    store = artifact_store.at(uri)
    pages = boto3.client("s3").get_paginator("list_objects_v2")
    keys = [
        entry["Key"]
        for page in pages.paginate(Bucket=BUCKET, Prefix=f"{store.prefix}/runs/")
        for entry in page.get("Contents", [])
    ]
    runs = [key.split("/")[-2] for key in keys if key.endswith("/manifest.json")]
    latest = store.get("latest.json")
    return [*runs, *([json.loads(latest)["run"]] if latest else [])]


def test_a_run_goes_there_and_back(finish: Callable[[str], Path], uri: str, tmp_path: Path) -> None:
    folder = finish("20260101-a")
    assert stored_runs.upload_pending(folder.parent) == {"20260101-a": None}
    assert "(4 files, " in stored_runs.verify(uri)
    stored_runs.fetch(uri, tmp_path / "back")
    for path in (*SIZES, "manifest.json"):
        assert (tmp_path / "back" / path).read_bytes() == (folder / path).read_bytes()
    head = boto3.client("s3").head_object(
        Bucket=BUCKET, Key=f"{tmp_path.name}/runs/20260101-a/report.html"
    )
    assert head["ContentType"] == "text/html"
    assert head["Metadata"] == {"sha256": workspace.sha256_of(folder / "report.html")}


def test_the_server_refuses_bytes_that_are_not_of_the_digest(uri: str, tmp_path: Path) -> None:
    """What an upload relies on: it sends the manifest's digest along."""
    sent = Item("object", tmp_path / "file", hashlib.sha256(b"content").hexdigest(), 7)
    with pytest.raises(ClientError, match="BadDigest"):
        boto3.client("s3").put_object(
            Bucket=BUCKET,
            Key="any",
            Body=b"c0ntent",
            ChecksumSHA256=artifact_store.checksum_of(sent),
        )
    assert artifact_store.at(uri).get("any") is None


def test_other_contents_are_an_error_and_stay(uri: str, tmp_path: Path) -> None:
    store = artifact_store.at(uri)
    for content in (b"first", b"other"):
        (tmp_path / "file").write_bytes(content)
        item = Item("object", tmp_path / "file", hashlib.sha256(content).hexdigest(), 5)
        if content == b"first":
            store.upload([item])
        else:
            with pytest.raises(PermanentError, match="altered: object"):
                store.upload([item])
    assert store.get("object") == b"first"


def test_the_server_creates_only(uri: str) -> None:
    client = artifact_store.at(uri).client
    client.put_object(Bucket=BUCKET, Key="twice", Body=b"first", Metadata={"sha256": ""})
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket=BUCKET, Key="twice", Body=b"other", Metadata={"sha256": ""})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AWS_ACCESS_KEY_ID", "nobody", "does not know these credentials"),
        ("AWS_SECRET_ACCESS_KEY", "wrong", "does not know these credentials"),
        ("bucket", "no-such-bucket", "no such bucket"),
        ("clock", "", "clock"),
    ],
)
def test_preflight_says_what_is_wrong(
    uri: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    if name == "clock":
        now = botocore.compat.get_current_datetime
        monkeypatch.setattr(
            botocore.auth, "get_current_datetime", lambda: now() - timedelta(minutes=20)
        )
    elif name == "bucket":
        uri = f"s3://{value}/prefix"
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(PermanentError, match=words):
        Store(uri).preflight()


def test_an_uploader_killed_at_any_moment_leaves_no_broken_run(
    finish: Callable[[str], Path], uri: str
) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["boto3", "s3transfer.manager", "tasks.support.stored_runs"])
    folder = finish("00")

    def uploader() -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=stored_runs.upload_pending, args=(folder.parent,))
        process.start()
        return process

    warm_up = uploader()  # starts the server that forks
    warm_up.join()
    folder = finish("01")
    started = time.monotonic()
    whole = uploader()
    whole.join()
    seconds = time.monotonic() - started
    assert stored(uri) == ["00", "01", "01"]

    moments = random.Random(0)
    killed = 0
    for number in range(2, 2 + KILLS):
        name = f"{number:02d}"
        folder = finish(name)
        process = uploader()
        process.join(moments.uniform(0, seconds))
        process.kill()
        process.join()
        killed += process.exitcode == -9
        for run in set(stored(uri)) & {name}:
            stored_runs.verify(f"{uri}/runs/{run}")
        assert stored_runs.upload_pending(folder.parent) in ({name: None}, {})
        assert stored(uri)[-2:] == [name, name]
        assert "whole" in stored_runs.verify(f"{uri}/runs/{name}")
        shutil.rmtree(folder)
    assert killed >= KILLS // 4


def test_a_server_killed_in_mid_upload_loses_nothing(
    finish: Callable[[str], Path], uri: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_store, "ATTEMPTS", 2)
    artifact_store.at(uri).preflight()
    folder = finish("20260101-a")
    before = s3.stored_bytes()
    with contextlib.ExitStack() as stack:
        stack.callback(s3.start)
        outcome: dict[str, object] = {}
        upload = threading.Thread(
            target=lambda: outcome.update(stored_runs.upload_pending(folder.parent))
        )
        upload.start()
        while s3.stored_bytes() < before + 1_000_000 and upload.is_alive():
            time.sleep(0.005)
        s3.kill()
        upload.join()
    assert isinstance(outcome["20260101-a"], TransientError)
    assert (folder / run_folder.PENDING).exists()
    assert stored(uri) == []
    assert stored_runs.upload_pending(folder.parent) == {"20260101-a": None}
    assert stored(uri) == ["20260101-a", "20260101-a"]
    assert "whole" in stored_runs.verify(uri)


def test_two_machines_may_upload_the_same_at_once(uri: str, tmp_path: Path) -> None:
    content = os.urandom(20 << 20)
    (tmp_path / "file").write_bytes(content)
    item = Item("object", tmp_path / "file", hashlib.sha256(content).hexdigest(), len(content))
    stores = [Store(uri), Store(uri)]
    errors: list[Exception] = []

    def upload(store: Store) -> None:
        try:
            store.upload([item])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=upload, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    stores[0].download([item._replace(place=tmp_path / "down")])
