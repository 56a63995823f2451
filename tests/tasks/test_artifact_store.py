"""The artifact store against a mock of S3, with the faults that a healthy server never gives."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.loaders
import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import CredentialRetrievalError, SSLError
from moto import mock_aws
from moto.core.botocore_stubber import MockRawResponse
from moto.core.models import botocore_stubber
from prefect import artifacts, flow
from prefect.client.orchestration import get_client
from prefect.serializers import JSONSerializer

from model.errors import PermanentError, PipelineError, TransientError
from tasks.support import (
    artifact_store,
    caching,
    run_folder,
    stored_checkpoints,
    stored_results,
    stored_runs,
    workers,
    workspace,
)
from tasks.support.artifact_store import Item, Store
from tasks.support.records import File, Record

URI = "s3://bucket/some/prefix"
SECRET, TOKEN = "s3cret-that-nobody-may-see", "t0ken-that-nobody-may-see"


SESSION = boto3.session.Session
LOADER = botocore.loaders.create_loader()


def quick_session() -> boto3.Session:
    """A session that does not read S3's description, of 1 MB, again."""
    session = botocore.session.get_session()
    session.register_component("data_loader", LOADER)
    return SESSION(botocore_session=session)


@pytest.fixture(autouse=True)
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the mock, with the bucket; retries do not wait."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    clock = SimpleNamespace(time=time.time, sleep=lambda _: None)
    monkeypatch.setattr("botocore.endpoint.time", clock)
    monkeypatch.setattr("boto3.session.Session", quick_session)
    mocked = botocore_stubber.process_request
    monkeypatch.setattr(
        botocore_stubber,
        "process_request",
        lambda request: None if hasattr(request, "answered") else mocked(request),
    )
    artifact_store.at.cache_clear()
    with mock_aws(config={"core": {"mock_credentials": False}}):
        client = quick_session().client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        yield client
    artifact_store.at.cache_clear()


@pytest.fixture
def store() -> Store:
    """The one that the code under test gets for the address."""
    return artifact_store.at(URI)


def item(folder: Path, name: str = "object", content: bytes = b"content") -> Item:
    place = folder / name.replace("/", "-")
    place.write_bytes(content)
    return Item(name, place, hashlib.sha256(content).hexdigest(), len(content), "text/plain")


def keys(s3: Any) -> list[str]:
    listed = s3.list_objects_v2(Bucket="bucket").get("Contents", [])
    return [entry["Key"].removeprefix("some/prefix/") for entry in listed]


def answer(
    status: int, code: str = "", body: bytes | None = None, headers: dict[str, str] | None = None
) -> AWSResponse:
    if body is None:
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    return AWSResponse("http://s3", status, headers or {}, MockRawResponse(body))


Fault = Callable[[Any], AWSResponse | None]


def inject(store: Store, operation: str, fault: Fault, times: int = 1_000) -> list[Any]:
    """Answer the next requests by ``fault``; the list of all requests to the operation."""
    requests: list[Any] = []

    def before_send(request: Any, **_: Any) -> AWSResponse | None:
        requests.append(request)
        found = fault(request) if len(requests) <= times else None
        if found:
            request.answered = True  # so the mock does not see it
        return found

    store.client.meta.events.register_first(f"before-send.s3.{operation}", before_send)
    return requests


def watch(store: Store, operation: str) -> list[Any]:
    return inject(store, operation, lambda _: None)


# Addresses and settings.


@pytest.mark.parametrize(
    ("uri", "bucket", "key"),
    [
        ("s3://bucket", "bucket", "x"),
        ("s3://bucket/", "bucket", "x"),
        ("s3://my.bucket-1/a/b_c/", "my.bucket-1", "a/b_c/x"),
    ],
)
def test_an_address_names_bucket_and_prefix(uri: str, bucket: str, key: str) -> None:
    assert (Store(uri).bucket, Store(uri)._key("x")) == (bucket, key)


@pytest.mark.parametrize(
    "uri", ["", "bucket/prefix", "s3://", "s3://b", f"s3://key:{SECRET}@bucket", "s3://bucket//a"]
)
def test_what_is_no_address_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(PermanentError) as caught:
        Store(uri)
    assert SECRET not in str(caught.value)


def test_another_server_is_addressed_by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://storage.example:9000")
    url = Store(URI).client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "k"})
    assert url.startswith("https://storage.example:9000/bucket/k?")


def test_opening_checks_it_and_tells_child_processes(s3: Any) -> None:
    assert artifact_store.current() is None
    with artifact_store.opened(URI) as opened:
        assert opened is artifact_store.current()
        assert os.environ[artifact_store.ENVIRONMENT_VARIABLE] == URI
        with artifact_store.opened(None):
            assert artifact_store.current() is None
        assert artifact_store.current() is opened
    assert artifact_store.current() is None
    assert keys(s3) == ["preflight.txt"]


# What may go wrong, each with its family and a word of its cause or remedy.

REFUSALS = [
    (404, "NoSuchBucket", PermanentError, "no such bucket"),
    (403, "AccessDenied", PermanentError, "s3:PutObject"),
    (403, "InvalidAccessKeyId", PermanentError, "does not know"),
    (403, "SignatureDoesNotMatch", PermanentError, "does not know"),
    (400, "ExpiredToken", PermanentError, "Renew"),
    (403, "RequestTimeTooSkewed", PermanentError, "clock"),
    (400, "AuthorizationHeaderMalformed", PermanentError, "AWS_DEFAULT_REGION"),
    (400, "SomethingElse", PermanentError, "SomethingElse at ListObjectsV2"),
    (501, "NotImplemented", PermanentError, "servers other than AWS"),
    (409, "OperationAborted", TransientError, "busy"),
    (429, "TooManyRequests", TransientError, "busy"),
    (500, "InternalError", TransientError, "busy"),
    (503, "SlowDown", TransientError, "busy"),
]


@pytest.mark.parametrize(("status", "code", "family", "words"), REFUSALS, ids=lambda value: value)
def test_a_refusal_at_preflight_says_what_mends_it(
    store: Store, status: int, code: str, family: type[PipelineError], words: str
) -> None:
    requests = inject(store, "ListObjectsV2", lambda _: answer(status, code))
    with pytest.raises(family) as caught:
        store.preflight()
    assert words in str(caught.value)
    assert str(caught.value).startswith(URI)
    assert (len(requests) == artifact_store.ATTEMPTS) == (status in (429, 500, 503))


def test_a_bucket_that_stays_in_another_region_is_explained(store: Store) -> None:
    region = {"x-amz-bucket-region": "eu-west-1"}
    requests = inject(
        store, "ListObjectsV2", lambda _: answer(301, "PermanentRedirect", headers=region)
    )
    with pytest.raises(PermanentError, match="AWS_DEFAULT_REGION"):
        store.preflight()
    assert "eu-west-1" in requests[-1].url  # boto3 went there by itself


def test_denied_writing_shows_at_preflight(store: Store) -> None:
    inject(store, "PutObject", lambda _: answer(403, "AccessDenied"))
    with pytest.raises(PermanentError, match="AccessDenied at PutObject"):
        store.preflight()


def raised(error: Exception) -> Fault:
    def fault(_: Any) -> AWSResponse:
        raise error

    return fault


@pytest.mark.parametrize(
    ("environment", "fault", "family", "words"),
    [
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            None,
            PermanentError,
            "aws configure",
        ),
        ({"AWS_PROFILE": "nobody"}, None, PermanentError, "AWS_PROFILE"),
        ({"AWS_ENDPOINT_URL": "storage"}, None, PermanentError, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": f"http://u:{SECRET}@127.0.0.1:1"}, None, TransientError, "network"),
        ({"AWS_DEFAULT_REGION": "no region"}, None, PermanentError, "AWS_DEFAULT_REGION"),
        (
            {},
            raised(CredentialRetrievalError(provider="sso", error_msg=SECRET)),
            PermanentError,
            "aws configure",
        ),
        ({}, raised(SSLError(endpoint_url=SECRET, error="")), PermanentError, "AWS_CA_BUNDLE"),
    ],
    ids=["no credentials", "no profile", "no URL", "no server", "region", "sso", "certificate"],
)
def test_a_failure_at_preflight_says_what_mends_it(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str | None],
    fault: Fault | None,
    family: type[PipelineError],
    words: str,
) -> None:
    for name, value in environment.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    store = Store(URI)
    if fault:
        inject(store, "ListObjectsV2", fault)
    with pytest.raises(family) as caught:
        store.preflight()
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)


def test_no_secret_is_logged_at_any_level(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store.preflight()
    store.upload([item(tmp_path)])
    assert caplog.text
    assert SECRET not in caplog.text
    assert TOKEN not in caplog.text


# Uploads and downloads.


def test_an_upload_is_described_and_checked(s3: Any, store: Store, tmp_path: Path) -> None:
    sent = item(tmp_path, "a/b.txt")
    store.upload([sent])
    head = s3.head_object(Bucket="bucket", Key="some/prefix/a/b.txt", ChecksumMode="ENABLED")
    assert head["ContentType"] == "text/plain"
    assert head["Metadata"] == {"sha256": sent.sha256}
    assert head["ChecksumSHA256"] == artifact_store.checksum_of(sent)


def test_what_is_there_is_not_sent_again(store: Store, tmp_path: Path) -> None:
    requests = watch(store, "PutObject")
    first, second = item(tmp_path, "1"), item(tmp_path, "2")
    store.upload([first])
    store.upload([first, second])
    assert [request.url.rsplit("/")[-1] for request in requests] == ["1", "2"]


def test_other_contents_are_an_error_and_stay(store: Store, tmp_path: Path) -> None:
    store.upload([item(tmp_path, content=b"first")])
    with pytest.raises(PermanentError, match="altered: object"):
        store.upload([item(tmp_path, content=b"other")])
    assert store.get("object") == b"first"


def test_bytes_that_only_claim_to_be_of_the_digest_are_an_error(
    s3: Any, store: Store, tmp_path: Path
) -> None:
    sent = item(tmp_path, content=b"content")
    s3.put_object(
        Bucket="bucket",
        Key="some/prefix/object",
        Body=b"another",
        Metadata={"sha256": sent.sha256},
        ChecksumAlgorithm="SHA256",
    )
    with pytest.raises(PermanentError, match="altered: object"):
        store.upload([sent])


@pytest.mark.parametrize("content", [b"content", b"another"], ids=["same", "other"])
def test_another_machine_may_be_faster(
    s3: Any, store: Store, tmp_path: Path, content: bytes
) -> None:
    sent = item(tmp_path)

    def overtake(_: Any) -> None:
        s3.put_object(
            Bucket="bucket",
            Key="some/prefix/object",
            Body=content,
            Metadata={"sha256": hashlib.sha256(content).hexdigest()},
        )

    inject(store, "PutObject", overtake, times=1)
    if content == b"content":
        store.upload([sent])
    else:
        with pytest.raises(PermanentError, match="altered: object"):
            store.upload([sent])
    assert store.get("object") == content


def test_an_altered_file_is_not_sent(s3: Any, store: Store, tmp_path: Path) -> None:
    sent = item(tmp_path)
    sent.place.write_bytes(b"altered")
    with pytest.raises(PermanentError, match="was altered"):
        store.upload([sent])
    assert keys(s3) == []


def test_large_files_go_in_parts(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_store, "PART", 5 << 20)
    parts = watch(store, "UploadPart")
    completions = watch(store, "CompleteMultipartUpload")
    sent = item(tmp_path, content=os.urandom(12 << 20))
    store.upload([sent])
    assert len(parts) == 3
    assert {request.headers["x-amz-trailer"] for request in parts} == {b"x-amz-checksum-sha256"}
    assert completions[0].headers["If-None-Match"] == b"*"
    store.download([sent._replace(place=tmp_path / "down")])
    assert (tmp_path / "down").read_bytes() == sent.place.read_bytes()


def test_a_busy_server_is_asked_again(store: Store, tmp_path: Path) -> None:
    requests = inject(store, "PutObject", lambda _: answer(503, "SlowDown"), times=2)
    store.upload([item(tmp_path)])
    assert len(requests) == 3


def test_what_a_server_loses_is_noticed(store: Store, tmp_path: Path) -> None:
    inject(store, "PutObject", lambda _: answer(200, body=b""))
    with pytest.raises(TransientError, match="lost"):
        store.upload([item(tmp_path)])


def test_a_server_without_create_only_writes_is_used_without(store: Store, tmp_path: Path) -> None:
    def refuse(request: Any) -> AWSResponse | None:
        return answer(501, "NotImplemented") if "If-None-Match" in request.headers else None

    inject(store, "PutObject", refuse)
    store.upload([item(tmp_path, "1"), item(tmp_path, "2")])
    assert store.get("1") == store.get("2") == b"content"


def test_without_checksums_it_is_read_back(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    store = Store(URI)
    requests = watch(store, "PutObject")
    store.upload([item(tmp_path)])
    assert not [name for name in requests[0].headers if "checksum" in name.lower()]
    inject(store, "GetObject", lambda _: answer(200, body=b"c0ntent"))
    with pytest.raises(PermanentError, match="altered: another"):
        store.upload([item(tmp_path, "another")])


def test_a_cut_download_goes_on(store: Store, tmp_path: Path) -> None:
    sent = item(tmp_path)
    store.upload([sent])
    cut = {"Content-Length": str(sent.size)}
    inject(store, "GetObject", lambda _: answer(200, body=b"con", headers=cut), times=2)
    store.download([sent._replace(place=tmp_path / "down")])
    assert (tmp_path / "down").read_bytes() == b"content"
    inject(store, "GetObject", lambda _: answer(200, body=b"con", headers=cut))
    with pytest.raises(TransientError):
        store.download([sent._replace(place=tmp_path / "again")])
    assert not (tmp_path / "again").exists()


def test_a_damaged_download_names_all_that_is_wrong(s3: Any, store: Store, tmp_path: Path) -> None:
    items = [item(tmp_path, name) for name in ("whole", "damaged", "gone")]
    store.upload(items)
    s3.put_object(Bucket="bucket", Key="some/prefix/damaged", Body=b"c0ntent")
    s3.delete_object(Bucket="bucket", Key="some/prefix/gone")
    with pytest.raises(PermanentError, match="altered: damaged, gone"):
        store.download([i._replace(place=tmp_path / "down" / i.name) for i in items])


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", ".."])
def test_no_path_from_a_store_leaves_its_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(PermanentError, match="leaves"):
        artifact_store.inside(tmp_path, path)


# Files and results of stages.


@pytest.fixture
def kept(opened_workspace: workspace.Workspace, store: Store) -> File:
    """A file that is in the workspace and in the store."""
    with opened_workspace.temporary_folder() as folder:
        (folder / "made.txt").write_text("made")
        file = File.keep(folder / "made.txt")
    store.upload(list(stored_results.items_in(file.model_dump())))
    return file


def test_a_file_that_is_gone_or_altered_is_fetched(kept: File) -> None:
    place = kept.location
    with artifact_store.opened(URI):
        place.unlink()
        assert kept.location.read_text() == "made"
        place.write_text("mad3")
        File.model_validate(kept.model_dump())
        assert place.read_text() == "made"


def test_a_file_that_nobody_has_is_invalid(s3: Any, kept: File) -> None:
    kept.location.unlink()
    with pytest.raises(PermanentError, match="is gone"):
        kept.location  # noqa: B018
    s3.delete_object(Bucket="bucket", Key=f"some/prefix/cache/{kept.sha256}")
    with artifact_store.opened(URI), pytest.raises(ValueError, match="missing or altered"):
        File.model_validate(kept.model_dump())


def test_a_damaged_object_leaves_no_file(s3: Any, kept: File) -> None:
    place = kept.location
    place.unlink()
    s3.put_object(Bucket="bucket", Key=f"some/prefix/cache/{kept.sha256}", Body=b"mad3")
    with artifact_store.opened(URI), pytest.raises(ValueError, match="missing or altered"):
        File.model_validate(kept.model_dump())
    assert not place.exists()


class Made(Record):
    file: File


calls: list[str] = []


@caching.stage()
def make(text: str) -> Made:
    calls.append(text)
    with workspace.current().temporary_folder() as folder:
        (folder / "made.txt").write_text(text)
        return Made(file=File.keep(folder / "made.txt"))


@flow
def making(root: Path, store: str | None) -> str:
    with caching.kept_under(root, refresh=False, started=0.0, store=store):
        return make("text").file.location.read_text()


@pytest.fixture
def run(tmp_path: Path, prefect_server: None) -> Callable[..., str]:
    calls.clear()

    def run(disk: str, store: str | None = URI) -> str:
        return making(tmp_path / disk, store)

    return run


def test_another_disk_finds_the_result_and_its_file(run: Callable[..., str], store: Store) -> None:
    requests = watch(store, "PutObject")
    assert [run("first"), run("second")] == ["text", "text"]
    assert len(calls) == 1
    names = [request.url.split("/some/prefix/")[1].split("/")[0] for request in requests]
    assert names == ["preflight.txt", "cache", "results", "preflight.txt"]  # files come first


def test_what_was_made_without_a_store_is_shared_by_the_next_run(
    run: Callable[..., str], s3: Any
) -> None:
    run("first", store=None)
    run("first")
    assert len(calls) == 1
    assert [key.split("/")[0] for key in keys(s3)] == ["cache", "preflight.txt", "results"]


def test_a_lost_file_is_made_again(run: Callable[..., str], s3: Any) -> None:
    run("first")
    (lost,) = (key for key in keys(s3) if key.startswith("cache/"))
    s3.delete_object(Bucket="bucket", Key=f"some/prefix/{lost}")
    assert run("second") == "text"
    assert len(calls) == 2
    assert lost in keys(s3)


@pytest.mark.parametrize("place", ["..", "absolute"])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_result_that_names_a_file_elsewhere_is_not_followed(
    run: Callable[..., str], store: Store, s3: Any, tmp_path: Path, place: str, is_there: bool
) -> None:
    run("first")
    (name,) = (key for key in keys(s3) if key.startswith("results/"))
    (made,) = (tmp_path / "first/cache/files").iterdir()
    if is_there:
        (tmp_path / f"stolen-{made.name}").write_bytes(made.read_bytes())
    text = stored_results.unsealed((store.get(name) or b"").decode())
    elsewhere = ".." if place == ".." else str(tmp_path)
    text = text.replace("cache/files/", f"{elsewhere}/stolen-")
    store.put(name, stored_results.sealed(text).encode())
    assert run("second") == "text"
    assert len(calls) == 2
    assert is_there or not list(tmp_path.glob("stolen*"))


@pytest.mark.usefixtures("prefect_server")
def test_a_block_of_prefect_gives_the_address() -> None:
    stored_results.ArtifactStore(uri=URI).save("test", overwrite=True)
    assert stored_results.address("artifact-store/test") == URI
    with pytest.raises(PermanentError, match="no block artifact-store/other"):
        stored_results.address("artifact-store/other")


def record(result: str = "{}", **serializer: str) -> bytes:
    """A stage's result as Prefect writes it."""
    metadata = {"serializer": JSONSerializer().model_dump() | serializer}
    return json.dumps({"metadata": metadata, "result": result}).encode()


def stored(result: bytes) -> bytes:
    """The result as the store has it."""
    return stored_results.sealed(result.decode()).encode()


@pytest.mark.parametrize("endpoint", ["http://user:{}@127.0.0.1:9", "user:{}@127.0.0.1"])
def test_no_traceback_shows_a_password_in_the_endpoint(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.format(SECRET))
    with pytest.raises(PipelineError) as caught:
        artifact_store.at(URI).reach()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.usefixtures("opened_workspace")
def test_an_outage_does_not_hold_up_each_stage_and_is_caught_up(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    block = stored_results.ArtifactStore(uri=URI)
    outage = [True]
    requests = inject(store, "PutObject", lambda _: answer(503, "SlowDown") if outage else None)
    block.write_path("one", record())
    assert block.read_path("one") == record()
    assert len(requests) == artifact_store.ATTEMPTS
    assert caplog.text.count("goes on without its artifact store") == 1
    outage.clear()
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + stored_results.PAUSE)
    monkeypatch.setattr(stored_results, "time", later)
    assert block.read_path("one") == record()
    assert store.get("results/one") == stored(record())


@pytest.mark.parametrize("how", [{"type": "pickle"}, {"object_decoder": "os.unlink"}], ids=str)
@pytest.mark.usefixtures("opened_workspace")
def test_a_result_that_asks_for_more_than_json_is_not_read(
    store: Store, how: dict[str, str]
) -> None:
    block = stored_results.ArtifactStore(uri=URI)
    store.put("results/good", stored(record()))
    assert block.read_path("good") == record()
    store.put("results/bad", stored(record(**how)))
    with pytest.raises(ValueError, match="not plain JSON"):
        block.read_path("bad")


@pytest.mark.parametrize(
    "result",
    [
        {"__class__": "subprocess.getoutput", "data": {"cmd": "touch executed"}},
        {"__class__": ["subprocess.getoutput"], "data": {}},
        {"inside": [{"__class__": "subprocess.getoutput", "data": {"cmd": "touch executed"}}]},
        {"__exc_type__": "builtins.SystemExit", "message": "end"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("opened_workspace")
def test_a_result_that_is_no_record_is_not_read(store: Store, result: dict[str, Any]) -> None:
    block = stored_results.ArtifactStore(uri=URI)
    store.put("results/bad", stored(record(json.dumps(result))))
    with pytest.raises(ValueError, match="no stage's"):
        block.read_path("bad")


@pytest.mark.usefixtures("opened_workspace")
def test_what_a_failed_stage_raised_stays_on_this_disk(
    s3: Any, caplog: pytest.LogCaptureFixture
) -> None:
    block = stored_results.ArtifactStore(uri=URI)
    block.write_path("raised", record('{"__exc_type__": "builtins.ValueError", "message": ""}'))
    assert not keys(s3)
    assert not caplog.records


def test_a_stored_result_empties_its_checkpoint(
    opened_workspace: workspace.Workspace, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "has_own_disk", lambda: True)
    for key in ("ended", "under way"):
        store.put(f"checkpoints/{key}", b"epoch-0001.npz\nstate")
    with artifact_store.opened(URI):
        stored_results.ArtifactStore(uri=URI).write_path("ended", record("{}"))
        stored_checkpoints.bring(opened_workspace.checkpoints / "ended")
    assert not opened_workspace.checkpoints.exists()
    assert store.get("checkpoints/under way")


def test_a_training_whose_result_is_saved_has_no_checkpoints(
    opened_workspace: workspace.Workspace,
) -> None:
    for key in ("ended", "under way"):
        (opened_workspace.checkpoints / key / "training").mkdir(parents=True)
    path = opened_workspace.results / "ended"  # the whole path, as Prefect gives it
    stored_results.ThisDisk().write_path(str(path), record("{}"))
    assert path.is_file()
    assert [folder.name for folder in opened_workspace.checkpoints.iterdir()] == ["under way"]


# Finished runs.


@pytest.fixture
def finished(opened_workspace: workspace.Workspace) -> Callable[[str], Path]:
    def finish(name: str) -> Path:
        files: dict[str, File | str] = {
            "submission.csv": "ImageId,Label\n1,7\n",
            "figures/one.png": name,
            "model.keras": "model",
        }
        return run_folder.write(name, files, URI)

    return finish


def test_the_manifest_and_the_pointer_come_last(
    finished: Callable[[str], Path], store: Store
) -> None:
    requests = watch(store, "PutObject")
    folder = finished("20260101-a")
    assert stored_runs.upload_pending(folder.parent) == {"20260101-a": None}
    names = [request.url.split("/some/prefix/")[1] for request in requests]
    run = "runs/20260101-a"
    assert set(names[:-2]) == {
        f"{run}/submission.csv",
        f"{run}/figures/one.png",
        f"{run}/model.keras",
    }
    assert names[-2:] == [f"{run}/manifest.json", "latest.json"]
    assert stored_runs.upload_pending(folder.parent) == {}


def test_a_run_that_another_one_uploads_meanwhile(
    finished: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished("20260101-a")
    marks = run_folder.each(run_folder.PENDING, folder.parent)
    marks[0].unlink()
    monkeypatch.setattr(run_folder, "each", lambda *_: marks)
    assert stored_runs.upload_pending(folder.parent) == {}


def test_a_file_of_a_pending_run_that_is_gone(finished: Callable[[str], Path]) -> None:
    folder = finished("20260101-a")
    (folder / "model.keras").unlink()
    (error,) = stored_runs.upload_pending(folder.parent).values()
    assert "model.keras: No such file" in str(error)
    assert (folder / run_folder.PENDING).exists()


@pytest.mark.parametrize("content", [None, "", "{}", "[]", "null", '{"files": 3}'])
def test_a_broken_run_that_is_pending_does_not_fail_the_next(
    finished: Callable[[str], Path],
    store: Store,
    content: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(artifacts, "create_link_artifact", lambda **_: None)
    broken, sound = finished("20260101-broken"), finished("20260102-sound")
    if content is None:
        (broken / "model.keras").unlink()
        (broken / "model.keras").mkdir()
    else:
        (broken / "manifest.json").write_text(content)
    assert stored_runs.publish(store, sound) == f"{URI}/runs/20260102-sound"
    assert "20260101-broken is not uploaded: " in caplog.text


def test_a_store_that_does_not_answer_is_asked_for_one_of_the_pending_runs(
    finished: Callable[[str], Path], store: Store
) -> None:
    finished("20260101-a")
    folder = finished("20260102-b")
    requests = inject(store, "HeadObject", lambda _: answer(503, "SlowDown"))
    outcomes = stored_runs.upload_pending(folder.parent)
    assert [type(error) for error in outcomes.values()] == [TransientError, TransientError]
    files = 3
    assert len(requests) <= files * artifact_store.ATTEMPTS


def test_a_run_that_is_still_being_made_is_not_uploaded(
    finished: Callable[[str], Path], store: Store
) -> None:
    folder = finished("20260101-a")
    folder.rename(folder.with_name(f"{workspace.MAKING}a"))
    assert stored_runs.upload_pending(folder.parent) == {}
    assert store.get("latest.json") is None


def test_an_older_run_does_not_become_the_newest(
    finished: Callable[[str], Path], store: Store
) -> None:
    for name in ("20260102-new", "20260101-old"):
        stored_runs.upload_pending(finished(name).parent)
    latest = json.loads(store.get("latest.json") or b"")
    assert latest["run"] == "20260102-new"


def test_a_damaged_pointer_is_written_anew(
    finished: Callable[[str], Path], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.put("latest.json", b"{")
    stored_runs.upload_pending(finished("20260101-a").parent)
    assert "latest.json is damaged" in caplog.text
    assert "20260101-a" in stored_runs.verify(URI)


def test_an_outage_leaves_the_run_pending(finished: Callable[[str], Path], store: Store) -> None:
    folder = finished("20260101-a")
    outage = [True]
    inject(store, "PutObject", lambda _: answer(503, "SlowDown") if outage else None)
    message = stored_runs.publish(store, folder)
    outage.clear()
    assert message.startswith("pending, the next run uploads it: ")
    assert (folder / run_folder.PENDING).exists()
    with pytest.raises(PermanentError, match="no complete run"):
        stored_runs.verify(f"{URI}/runs/20260101-a")
    later = finished("20260102-b")
    assert list(stored_runs.upload_pending(later.parent)) == ["20260101-a", "20260102-b"]
    for name in ("20260101-a", "20260102-b"):
        assert "whole" in stored_runs.verify(f"{URI}/runs/{name}")


def test_a_refusal_fails_the_run_but_keeps_the_mark(
    finished: Callable[[str], Path], store: Store
) -> None:
    folder = finished("20260101-a")
    inject(store, "HeadObject", lambda _: answer(403, body=b""))
    with pytest.raises(PermanentError, match="denied"):
        stored_runs.publish(store, folder)
    assert (folder / run_folder.PENDING).exists()


@pytest.mark.usefixtures("prefect_server")
def test_prefect_links_to_the_main_outputs(finished: Callable[[str], Path], store: Store) -> None:
    folder = finished("20260101-a")

    @flow
    def publishing() -> str:
        return stored_runs.publish(store, folder)

    assert publishing() == f"{URI}/runs/20260101-a"
    with get_client(sync_client=True) as client:
        found = client.request(
            "POST",
            "/artifacts/filter",
            json={"artifacts": {"key": {"like_": "stored-%"}}},
        ).json()
    links = {artifact["key"]: artifact for artifact in found}
    assert links.keys() == {"stored-submission-csv", "stored-model-keras"}
    model = links["stored-model-keras"]
    assert f"{URI}/runs/20260101-a/model.keras" in model["data"]
    assert hashlib.sha256(b"model").hexdigest() in model["description"]


def test_a_stored_run_comes_back_whole(finished: Callable[[str], Path], tmp_path: Path) -> None:
    folder = finished("20260101-a")
    stored_runs.upload_pending(folder.parent)
    shutil.move(folder, tmp_path / "original")
    for uri, name in ((URI, "newest"), (f"{URI}/runs/20260101-a/", "named")):
        stored_runs.fetch(uri, tmp_path / "new" / name)
        for path in ("submission.csv", "figures/one.png", "model.keras", "manifest.json"):
            fetched = tmp_path / "new" / name / path
            assert fetched.read_bytes() == (tmp_path / "original" / path).read_bytes()
    with pytest.raises(PermanentError, match="already exists"):
        stored_runs.fetch(URI, tmp_path / "original")


@pytest.mark.parametrize("harm", ["alter", "remove"])
def test_a_damaged_run_is_named_and_not_brought_back(
    finished: Callable[[str], Path], s3: Any, tmp_path: Path, harm: str
) -> None:
    stored_runs.upload_pending(finished("20260101-a").parent)
    key = "some/prefix/runs/20260101-a/model.keras"
    if harm == "alter":
        s3.put_object(Bucket="bucket", Key=key, Body=b"m0del")
    else:
        s3.delete_object(Bucket="bucket", Key=key)
    with pytest.raises(PermanentError, match=r"altered: runs/20260101-a/model\.keras\."):
        stored_runs.verify(URI)
    with pytest.raises(PermanentError):
        stored_runs.fetch(URI, tmp_path / "new" / "run")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("lists", [0, 1])
def test_an_altered_manifest_is_noticed(
    finished: Callable[[str], Path], s3: Any, lists: int
) -> None:
    folder = finished("20260101-a")
    stored_runs.upload_pending(folder.parent)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = manifest["files"][:lists]
    key = "some/prefix/runs/20260101-a/manifest.json"
    s3.put_object(Bucket="bucket", Key=key, Body=json.dumps(manifest).encode())
    with pytest.raises(PermanentError, match=r"altered: runs/20260101-a/manifest\.json\."):
        stored_runs.verify(URI)


def test_a_store_whose_own_address_has_a_part_called_runs(
    finished: Callable[[str], Path], s3: Any
) -> None:
    folder = finished("20260101-a")
    s3.create_bucket(Bucket="runs")
    for uri in ("s3://bucket/runs/digits", "s3://runs/digits"):
        with pytest.raises(PermanentError, match="no complete run"):
            stored_runs.verify(uri)
        stored_runs.upload(artifact_store.at(uri), folder)
        for named in (uri, f"{uri}/runs/20260101-a"):
            assert stored_runs.verify(named).startswith(f"{uri}/runs/20260101-a ")


def test_the_command_line(
    finished: Callable[[str], Path],
    tmp_path: Path,
    s3: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["publish", *arguments])
        code = stored_runs.main()
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    folder = finished("20260101-a")
    root = str(folder.parents[1])
    assert command("--upload-pending", "--workspace", root) == (0, "20260101-a: uploaded\n")
    nothing = f"No run in {folder.parent} is pending.\n"
    assert command("--upload-pending", "--workspace", root) == (0, nothing)
    code, text = command("--verify", URI)
    assert (code, text) == (0, f"{URI}/runs/20260101-a (3 files, 33 bytes) is whole.\n")
    assert command("--fetch", URI, str(tmp_path / "back"))[0] == 0
    assert (tmp_path / "back/submission.csv").is_file()
    code, text = command("--fetch", URI, "/proc/nowhere/back")
    assert (code, text) == (1, "error: /proc/nowhere: No such file or directory.\n")
    s3.delete_object(Bucket="bucket", Key="some/prefix/runs/20260101-a/model.keras")
    code, text = command("--verify", URI)
    assert code == 1
    assert text.startswith("error: ")
    with pytest.raises(SystemExit, match="2"):
        command("--verify")
