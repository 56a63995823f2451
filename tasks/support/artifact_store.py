"""The artifact store: a prefix in a bucket, on AWS or on another server that speaks S3.

    cache/<sha256>        files that stages pass to each other
    results/<cache key>   what each stage returned
    checkpoints/<cache key>  the newest checkpoint of a training on a worker with its own disk
    runs/<run name>/...   finished runs; manifest.json comes last, as the commit mark
    latest.json           which run is the newest

Files are only ever created: one that is there is not sent again, and one that differs is an error.
boto3 finds credentials, endpoint and checksum mode by itself, in the environment or in ~/.aws.
"""

from __future__ import annotations

import base64
import functools
import io
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from model.errors import PermanentError, TransientError
from tasks.support import workspace
from tasks.support.logs import log
from tasks.support.s3_errors import MissingError, explained

ENVIRONMENT_VARIABLE = "DIGIT_RECOGNIZER_ARTIFACT_STORE"
ADDRESS = r"s3://([A-Za-z0-9][A-Za-z0-9._-]{1,62})((?:/[\w.=-]+)*)/?"
ATTEMPTS = 4  # of each request
CONNECT_SECONDS, SILENCE_SECONDS = 10, 30
CONNECTIONS = 8
PART = 16 << 20  # bytes; larger files are sent in parts of this size


class Item(NamedTuple):
    """A file on this disk and its object in the store."""

    name: str  # of the object, inside the store
    place: Path
    sha256: str
    size: int  # bytes
    media_type: str = "application/octet-stream"


class Store:
    """An artifact store by its address, ``s3://bucket/prefix``.

    Every method raises PermanentError or TransientError, with the address, cause and remedy.
    """

    def __init__(self, uri: str) -> None:
        address = re.fullmatch(ADDRESS, uri)
        if not address:
            raise PermanentError(
                "The artifact store's address is not of the form s3://bucket/prefix.",
                "Correct it, or the block that names it.",
            )
        self.uri = uri.rstrip("/")
        self.bucket, self.prefix = address[1], address[2].lstrip("/")
        # With If-None-Match, until the server says that it does not know it.
        self.create_only = True

    @functools.cached_property
    def client(self) -> Any:
        """boto3's client; if an endpoint is configured, it puts the bucket into the path."""
        import boto3
        from botocore.config import Config

        logging.getLogger("botocore").setLevel(logging.WARNING)  # at DEBUG it logs session tokens
        config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=SILENCE_SECONDS,
            max_pool_connections=2 * CONNECTIONS,  # s3transfer starts downloads in extra threads
        )
        with explained(self.uri):
            try:
                client = boto3.session.Session().client("s3", config=config)
            except ValueError:  # its text has the endpoint, maybe with a password
                raise PermanentError(
                    f"{self.uri}: the endpoint is not a URL, or the region not a valid name.",
                    "Correct AWS_ENDPOINT_URL or AWS_DEFAULT_REGION.",
                ) from None
        for operation in ("PutObject", "CompleteMultipartUpload"):
            client.meta.events.register(f"before-parameter-build.s3.{operation}", self._only_create)
        return client

    def _only_create(self, params: dict[str, Any], **_: Any) -> None:
        """Never overwrite files, which unlike ``put``'s objects carry their digest as metadata.

        A hook, since s3transfer has no argument for it.
        """
        if self.create_only and ("Metadata" in params or "UploadId" in params):
            params["IfNoneMatch"] = "*"

    def reach(self) -> None:
        """Ask for a listing: unlike later requests, this one says why it is refused."""
        with explained(self.uri):
            self.client.list_objects_v2(Bucket=self.bucket, Prefix=self._key(""), MaxKeys=1)

    def preflight(self) -> None:
        """List, write and read, so that problems show before any work is done."""
        self.reach()
        self.put("preflight.txt", b"Written before each run, to see that it can be.\n")
        self.get("preflight.txt")

    def put(self, name: str, content: bytes) -> None:
        """Write a small object, overwriting an earlier one."""
        with explained(self.uri):
            self.client.put_object(Bucket=self.bucket, Key=self._key(name), Body=content)

    def get(self, name: str) -> bytes | None:
        """The contents of a small object; None if it does not exist."""
        content = io.BytesIO()
        try:
            with self._transfers() as transfers:
                transfers.download(self.bucket, self._key(name), content).result()
        except MissingError:
            return None
        return content.getvalue()

    def upload(self, items: Sequence[Item]) -> None:
        """Upload what the store does not have yet, and check that all of it arrived.

        Raises:
            PermanentError: also if a file was altered, or an object has other contents.
        """
        from botocore.exceptions import ClientError

        missing = self._missing(items)
        for item in missing:
            if workspace.sha256_of(item.place) != item.sha256:
                raise PermanentError(f"{item.place} was altered.", "Run the flow again.")
        refused = False
        with self._transfers() as transfers:
            futures = [
                transfers.upload(
                    str(item.place), self.bucket, self._key(item.name), self._arguments(item)
                )
                for item in missing
            ]
            for future in futures:
                try:
                    future.result()
                except ClientError as error:
                    code = error.response["Error"]["Code"]
                    if code == "NotImplemented" and self.create_only:
                        refused = True
                    elif code != "PreconditionFailed":  # which means: another machine was faster
                        raise
        if refused:  # as some servers do; by now no transfer is under way
            self.create_only = False
            self.upload(items)
            return
        if self._missing(missing):
            raise TransientError(f"{self.uri} lost what it was sent.", "Run it again.")
        if not self._server_checks:
            with tempfile.TemporaryDirectory() as folder:
                self.download([item._replace(place=Path(folder, item.sha256)) for item in missing])

    def download(self, items: Sequence[Item]) -> None:
        """Download the objects to their places.

        Raises:
            PermanentError: also if objects are missing or altered; it names them all.
        """
        with self._transfers() as transfers:
            futures = []
            for item in items:
                item.place.parent.mkdir(parents=True, exist_ok=True)
                futures.append(
                    transfers.download(self.bucket, self._key(item.name), str(item.place))
                )
            for future in futures:
                with suppress(MissingError), explained(self.uri):
                    future.result()
        wrong = [
            item
            for item in items
            if not item.place.is_file() or workspace.sha256_of(item.place) != item.sha256
        ]
        if wrong:
            raise self._wrong(wrong)

    def _missing(self, items: Sequence[Item]) -> list[Item]:
        """The items that the store lacks; PermanentError for an object with other contents."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            there = list(pool.map(self.holds, items))
        return [item for item, is_there in zip(items, there, strict=True) if not is_there]

    def holds(self, item: Item) -> bool:
        """Whether the store has the object; PermanentError if it has other contents."""
        try:
            with explained(self.uri):
                head = self.client.head_object(
                    Bucket=self.bucket, Key=self._key(item.name), ChecksumMode="ENABLED"
                )
        except MissingError:
            return False
        found = (head["ContentLength"], head["Metadata"].get("sha256"))
        in_parts = "-" in head["ETag"]  # then the checksum is computed over theirs
        checksum = None if in_parts else head.get("ChecksumSHA256")
        if found != (item.size, item.sha256) or checksum not in (None, checksum_of(item)):
            raise self._wrong([item])
        return True

    def _wrong(self, items: Sequence[Item]) -> PermanentError:
        return PermanentError(
            f"{self.uri}: missing or altered: {', '.join(item.name for item in items)}.",
            "Nothing was overwritten. Delete those of these objects that exist; then run it again "
            "where the original files are.",
        )

    @property
    def _server_checks(self) -> bool:
        """Whether to send checksums for the server to check; some servers refuse them."""
        return bool(self.client.meta.config.request_checksum_calculation == "when_supported")

    def _arguments(self, item: Item) -> dict[str, Any]:
        arguments = {"ContentType": item.media_type, "Metadata": {"sha256": item.sha256}}
        if self._server_checks:
            arguments["ChecksumAlgorithm"] = "SHA256"
            if item.size < PART:  # else each part has its own
                arguments["ChecksumSHA256"] = checksum_of(item)
        return arguments

    @contextmanager
    def _transfers(self) -> Iterator[Any]:
        """s3transfer: parallel, multipart, in constant memory; a broken part is fetched again."""
        from s3transfer.manager import TransferConfig, TransferManager

        config = TransferConfig(
            multipart_threshold=PART,
            multipart_chunksize=PART,
            max_request_concurrency=CONNECTIONS,
        )
        with explained(self.uri), TransferManager(self.client, config) as transfers:
            yield transfers

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}".lstrip("/")


def checksum_of(item: Item) -> str:
    """The item's sha256 in Base64, as S3 writes it."""
    return base64.b64encode(bytes.fromhex(item.sha256)).decode()


def inside(folder: Path, path: str) -> Path:
    """``folder / path``; PermanentError if a path from a store would leave the folder."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise PermanentError(f"{path!r} leaves its folder.", "Do not trust where it comes from.")
    return folder / path


at = functools.cache(Store)


def current() -> Store | None:
    """The store of this process; workers, here or elsewhere, find it in the environment."""
    uri = os.environ.get(ENVIRONMENT_VARIABLE)
    return at(uri) if uri else None


@contextmanager
def opened(uri: str | None) -> Iterator[Store | None]:
    """Check the store and use it in this process and in those that it starts."""
    if uri:
        at(uri).preflight()
    with workspace.environment(ENVIRONMENT_VARIABLE, uri):
        yield current()


def fetch(path: str, sha256: str, size: int) -> None:
    """Download a file of the workspace from the store to its place.

    Raises:
        PermanentError: there is no store, or it does not have the file unaltered.
        TransientError: the server does not answer.
    """
    place, store = inside(workspace.current().root, path), current()
    if store is None:
        raise PermanentError(f"{place} is gone or was altered.", "Run the flow again.")
    log().info("Fetching %s from %s", path, store.uri)
    with workspace.current().temporary_folder() as folder:
        store.download([Item(f"cache/{sha256}", folder / "fetched", sha256, size)])
        workspace.move_into_place(folder / "fetched", place)
