"""Kaggle's own client, made safe to build on.

Left to itself, that client authenticates against production when it is imported, waits for ever
for a silent server, gives up at once when a call fails, and exits the process if it finds no
credentials. Here every call has a time-out, what may be repeated is repeated a bounded number of
times, and every failure is an error with its cause and the page or command that fixes it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from model.errors import PermanentError, TransientError
from tasks.support import archive, kaggle_credentials
from tasks.support.kaggle_credentials import NEW_TOKEN, credentials_form
from tasks.support.kaggle_errors import NoAnswerError, explained, unusable
from tasks.support.logs import log

__all__ = ["KaggleClient", "NoAnswerError", "Patience", "Sent", "credentials_form"]

T = TypeVar("T")

MOST_BYTES = 512 << 20  # of a download
PAGE_SIZE = 100  # submissions


@dataclass(frozen=True)
class Patience:
    """How long to wait for Kaggle, in seconds."""

    connect: float = 10
    answer: float = 30  # of silence
    again: tuple[float, ...] = (1, 2, 4)  # before each retry of a call that may be repeated
    asked: float = 30  # the longest Retry-After that is waited for
    settle: float = 60  # after a lost answer or a 5xx, before it is believed not recorded
    score: float = 180  # for the score, once the submission is there
    poll: float = 1  # between two polls; it grows

    def to_settle(self, failure: NoAnswerError) -> float:
        """Seconds after a failed ``create_submission`` in which the submission may yet show up."""
        if failure.status == 429:
            return 1 if failure.retry_after is None else failure.retry_after
        return self.settle

    @property
    def to_be_sure(self) -> float:
        """The longest that a submission may take to show up."""
        return max(self.settle, self.asked)


@dataclass(frozen=True)
class Sent:
    """A submission as Kaggle lists it."""

    ref: int
    description: str
    status: Literal["pending", "complete", "error"]
    public_score: float | None
    error: str  # Kaggle's reason


class KaggleClient:
    """The calls that the pipeline makes; the first of them authenticates.

    Raises:
        PermanentError: no or bad credentials, rules not accepted, an unknown competition, ...
        NoAnswerError: Kaggle gave no usable answer to any of the tries.
    """

    def __init__(self, secret_block: str | None = None, patience: Patience | None = None) -> None:
        self.secret_block = secret_block
        self.patience = patience or Patience()
        self.form = credentials_form(secret_block)

    def check_access(self, competition: str) -> None:
        """Check that the credentials work and that the competition's rules are accepted."""
        import requests

        def ask() -> None:
            with self._sdk() as sdk, contextlib.suppress(requests.TooManyRedirects):
                _session(sdk).max_redirects = 0  # Kaggle's redirect to the data is enough
                _request(sdk, "download_data_files", competition_name=competition).close()

        self._call(ask, competition)

    def submissions_left(self, competition: str) -> int | None:
        """How many submissions are left today; None for a team that has not sent any."""
        limits = self._ask("get_submission_limits", competition, competition_name=competition)
        known = limits.num_today or limits.num_total or limits.num_allowed_now
        return int(limits.num_allowed_now) if known else None

    def submissions(self, competition: str) -> list[Sent]:
        """All submissions of the team, from all pages."""
        fields = {"competition_name": competition, "page_size": PAGE_SIZE}
        found: dict[int, Sent] = {}
        token, number = "", 1
        while True:  # by token if Kaggle gives one, else by number until nothing new comes
            place = {"page_token": token} if token else {"page": number}
            answer = self._ask("list_submissions", competition, **fields, **place)
            new = {s.ref: _sent(s) for s in answer.submissions if s.ref not in found}
            found |= new
            if not new or (token and not answer.next_page_token):
                return list(found.values())
            token, number = answer.next_page_token, number + 1

    def submission(self, competition: str, ref: int) -> Sent:
        """One submission."""
        return _sent(self._ask("get_submission", competition, ref=ref))

    def upload(self, competition: str, name: str, content: bytes) -> str:
        """Upload a file and return its token; this submits nothing yet."""

        def send() -> str:
            with self._sdk() as sdk:
                begun = _request(
                    sdk,
                    "start_submission_upload",
                    competition_name=competition,
                    file_name=name,
                    content_length=len(content),
                    last_modified_epoch_seconds=int(time.time()),
                )
                session = _session(sdk)
                session.auth = lambda request: request  # the store gets no credentials
                del session.headers["Content-Type"]
                session.put(begun.create_url, content).raise_for_status()
                return str(begun.token)

        return self._call(send, competition)

    def create_submission(self, competition: str, token: str, description: str) -> int:
        """Submit an uploaded file and return the submission's ref. Never retried by itself.

        Raises:
            PermanentError: Kaggle refused it.
            NoAnswerError: it may or may not be recorded; the list of submissions will tell.
        """
        try:
            with self._sdk() as sdk:
                answer = _request(
                    sdk,
                    "create_submission",
                    competition_name=competition,
                    blob_file_tokens=token,
                    submission_description=description,
                )
        except Exception as error:
            failure = explained(error, competition, self.form)
            if isinstance(failure, NoAnswerError) and failure.status == 429:  # not recorded
                failure = failure.unless_within(self.patience.asked)
            raise failure from None
        if not answer.ref:
            raise NoAnswerError("Kaggle did not say which ref the submission has.", "Run it again.")
        return int(answer.ref)

    def download(self, competition: str, folder: Path) -> None:
        """Download the competition's three files into a fresh folder; see ``archive.extract``."""
        target = folder / f"{competition}.zip"
        validator = ""  # proves that the bytes on the disk belong to the file that Kaggle has now

        def fetch() -> None:
            nonlocal validator
            with self._sdk() as sdk:
                headers = _session(sdk).headers
                headers["Accept-Encoding"] = "identity"
                if validator and target.exists():
                    headers["Range"] = f"bytes={target.stat().st_size}-"
                    headers["If-Range"] = validator
                validator = ""  # if this fails, start over
                answer = _request(sdk, "download_data_files", competition_name=competition)
                validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified", "")
                with answer, target.open("ab" if answer.status_code == 206 else "wb") as file:
                    for chunk in answer.iter_content(1 << 14):
                        file.write(chunk)
                        if file.tell() > MOST_BYTES:
                            raise archive.refused(target, f"more than {MOST_BYTES:,} bytes")

        try:
            self._call(fetch, competition)
            archive.extract(target, folder)
        except archive.DamagedError as error:
            raise TransientError(
                f"Kaggle's download is damaged: {error.cause}",
                "Run it again, or download it with a browser and use --source directory.",
            ) from None
        finally:
            target.unlink(missing_ok=True)

    def _sdk(self) -> Any:
        return self._api.build_kaggle_client()

    @cached_property
    def _api(self) -> Any:
        """Kaggle's own client, authenticated."""
        if self.form is None:
            raise PermanentError(
                kaggle_credentials.none_found(),
                f"{NEW_TOKEN} and put it into ~/.kaggle/access_token or KAGGLE_API_TOKEN, "
                "or run: kaggle auth login.",
            )
        # At DEBUG it logs the addresses of uploads and downloads, which work for whoever has them.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)
        api = _kaggle_api()()
        api.config = str(kaggle_credentials.key_file())
        api.build_kaggle_client = partial(_build_sdk, api, self.patience)
        if self.secret_block:
            api.config_values = kaggle_credentials.from_block(self.secret_block)
            kaggle_credentials.check_characters(api.config_values)
        else:
            kaggle_credentials.check_sendable(self.form)
            self._authenticate(api)
        return api

    def _authenticate(self, api: Any) -> None:
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                self._repeat(partial(_read, api.authenticate), "")
        except SystemExit:  # its way to say that no form of credentials works
            raise PermanentError(
                f"Kaggle does not accept the credentials ({self.form}): expired or revoked.",
                f"{NEW_TOKEN} and put it in their place.",
            ) from None
        if said.getvalue():
            log().warning(said.getvalue().strip())
        form = {
            "ACCESS_TOKEN": kaggle_credentials.token_form,
            "LEGACY_API_KEY": kaggle_credentials.key_form,
            "OAUTH": kaggle_credentials.oauth_form,
        }[api.config_values["auth_method"]]()
        if form != self.form:
            log().warning("%s is expired or revoked; using %s instead.", self.form, form)
            self.form = form

    def _ask(self, method: str, competition: str, **fields: Any) -> Any:
        """Make a call that may be repeated."""

        def ask() -> Any:
            with self._sdk() as sdk:
                return _request(sdk, method, **fields)

        return self._call(ask, competition)

    def _call(self, function: Callable[[], T], competition: str) -> T:
        """Call Kaggle, authenticated."""
        _ = self._api  # retries by itself, so not within the retries of the call
        return self._repeat(function, competition)

    def _repeat(self, function: Callable[[], T], competition: str) -> T:
        """Call; retry what may succeed next time, as often as ``patience`` allows."""
        for pause in (*self.patience.again, None):
            try:
                return function()
            except Exception as error:
                failure = explained(error, competition, self.form)
            if isinstance(failure, NoAnswerError):
                failure = failure.unless_within(self.patience.asked)
            if not isinstance(failure, NoAnswerError) or pause is None:
                break
            wait = failure.retry_after
            wait = pause * random.uniform(1, 1.5) if wait is None else wait
            log().info("%s Trying again in %.1f seconds.", failure.cause, wait)
            time.sleep(wait)
        if isinstance(failure, NoAnswerError) and failure.status == 429:  # retries make it worse
            failure = PermanentError(failure.cause, failure.remedy)
        raise failure  # not from the original error, which may hold an address as good as a key


@cache
def _kaggle_api() -> Any:
    """The class KaggleApi, without running the package's ``__init__``, which authenticates."""
    stubbed = "kaggle" not in sys.modules
    if stubbed:
        spec = importlib.util.find_spec("kaggle")
        assert spec
        sys.modules["kaggle"] = importlib.util.module_from_spec(spec)
    try:
        from kaggle.api.kaggle_api_extended import KaggleApi
    except OSError as error:  # it creates its folder when it is imported
        raise PermanentError(
            f"The Kaggle client cannot create its folder ({error}).",
            "Set KAGGLE_CONFIG_DIR to a writable folder.",
        ) from error
    finally:
        if stubbed:
            del sys.modules["kaggle"]
    return KaggleApi


def _build_sdk(api: Any, patience: Patience) -> Any:
    """As KaggleApi.build_kaggle_client, but with time-outs and in the SDK's own environment.

    The SDK would send a KAGGLE_API_TOKEN even if authenticate() fell back to a key, and with
    VERBOSE set the original prints the headers.
    """
    from kagglesdk import KaggleClient as Sdk
    from kagglesdk.kaggle_env import get_env
    from requests.adapters import HTTPAdapter

    class TimeoutAdapter(HTTPAdapter):
        def send(self, *args: Any, **options: Any) -> Any:
            options["timeout"] = (patience.connect, patience.answer)
            return super().send(*args, **options)

    values = api.config_values
    user, key, token = values.get("username"), values.get("key"), values.get("token")
    try:
        sdk = Sdk(env=get_env(), username=user, password=key, api_token=token)
        sdk.http_client()._init_session()
    except Exception as error:
        if type(error) is not Exception:  # not the SDK's own, and its text could hold a token
            raise
        raise PermanentError(f"{error}.", "Unset KAGGLE_API_ENVIRONMENT.") from None
    if values.get("auth_method") == "LEGACY_API_KEY":
        _session(sdk).auth = (user, key)
    _session(sdk).mount("https://", TimeoutAdapter())
    _session(sdk).mount("http://", TimeoutAdapter())
    return sdk


def _session(sdk: Any) -> Any:
    return sdk.http_client()._session


def _request(sdk: Any, method: str, **fields: Any) -> Any:
    """Call a method of the competition service; the fields make its request."""
    from kagglesdk.competitions.types import competition_api_service as types

    request = getattr(types, f"Api{method.title().replace('_', '')}Request")()
    for name, value in fields.items():
        setattr(request, name, value)
    return _read(getattr(sdk.competitions.competition_api_client, method), request)


def _read(method: Callable[..., T], *arguments: Any) -> T:
    """Call the client; NoAnswerError for an answer whose form the client did not expect."""
    try:
        return method(*arguments)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise unusable(error) from None


def _sent(submission: Any) -> Sent:
    """A submission of Kaggle's client as our record."""
    try:
        score = float(submission.public_score)
    except (TypeError, ValueError):
        score = math.nan
    return Sent(
        ref=int(submission.ref),
        description=submission.description,
        status=submission.status.name.lower(),
        public_score=score if math.isfinite(score) else None,
        error=" ".join((submission.error_description or "").split()),
    )
