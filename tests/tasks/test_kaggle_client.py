"""The Kaggle client: credentials, downloads and secrets, over HTTP against one on loopback."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import logging
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model.errors import PermanentError, PipelineError, TransientError
from tasks.support import archive, kaggle_client, kaggle_credentials
from tasks.support.kaggle_client import KaggleClient, Patience, credentials_form
from tests.kaggle_server import ALWAYS, COMPETITION, KEY, TOKEN, USER, Fault, Kaggle, kaggle, zipped
from tests.tasks.test_submit import table

__all__ = ["kaggle"]  # the fixture

QUICK = Patience(connect=1, answer=0.8, again=(0.01, 0.01, 0.01), asked=0.2)
LIMITS, DOWNLOAD, STORE = "GetSubmissionLimits", "DownloadDataFiles", "GET"


def client(secret_block: str | None = None) -> KaggleClient:
    return KaggleClient(secret_block, QUICK)


# Credentials.


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, kaggle: Kaggle) -> Path:
    """The home folder of someone without any."""
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    home = Path(os.environ["HOME"]) / ".kaggle"
    home.mkdir(parents=True)
    return home


Arrange = Callable[[pytest.MonkeyPatch, Path], object]


def write(name: str, content: object) -> Arrange:
    text = content if isinstance(content, str) else json.dumps(content)

    def arrange(_: pytest.MonkeyPatch, home: Path) -> None:
        (home / name).write_text(text)
        (home / name).chmod(0o600)

    return arrange


def environment(**variables: str) -> Arrange:
    def arrange(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(home=home))

    return arrange


LEGACY = {"username": USER, "key": KEY}
FORMS: list[tuple[str, list[Arrange]]] = [
    ("KAGGLE_API_TOKEN", [environment(KAGGLE_API_TOKEN=TOKEN)]),
    (
        "KAGGLE_API_TOKEN",
        [write("mine", TOKEN), environment(KAGGLE_API_TOKEN="{home}/mine")],
    ),
    ("~/.kaggle/access_token", [write("access_token", TOKEN + "\n")]),
    ("~/.kaggle/access_token.txt", [write("access_token.txt", TOKEN)]),
    ("KAGGLE_USERNAME and KAGGLE_KEY", [environment(KAGGLE_USERNAME=USER, KAGGLE_KEY=KEY)]),
    ("kaggle.json", [write("kaggle.json", LEGACY)]),
    ("kaggle.json", [write("kaggle.json", {"username": USER}), environment(KAGGLE_KEY=KEY)]),
    (
        "kaggle.json",
        [
            lambda _, home: (home / "mine").mkdir(),
            write("mine/kaggle.json", LEGACY),
            environment(KAGGLE_CONFIG_DIR="{home}/mine"),
        ],
    ),
    ("~/.kaggle/access_token", [write("access_token", TOKEN), write("kaggle.json", LEGACY)]),
    (
        "kaggle auth login",
        [
            write(
                "credentials.json",
                {
                    "refresh_token": "r3fresh",
                    "access_token": TOKEN,
                    "access_token_expiration": "2999-01-01T00:00:00+00:00",
                    "username": USER,
                },
            )
        ],
    ),
]


@pytest.mark.parametrize(("form", "arrangements"), FORMS)
def test_a_form_of_credentials_is_found_and_works(
    no_credentials: Path, monkeypatch: pytest.MonkeyPatch, form: str, arrangements: list[Arrange]
) -> None:
    for arrange in arrangements:
        arrange(monkeypatch, no_credentials)
    assert credentials_form() == form
    connected = client()
    assert connected.submissions_left(COMPETITION) == 4
    assert connected.form == form


@pytest.mark.parametrize(
    "arrangement",
    [
        environment(),
        environment(KAGGLE_API_TOKEN=""),
        environment(KAGGLE_USERNAME=USER),
        environment(KAGGLE_USERNAME=USER, KAGGLE_KEY=""),
        write("access_token", " \n"),
        write("kaggle.json", {"username": USER}),
        write("kaggle.json", "no JSON"),
        write("kaggle.json", "[]"),
        write("credentials.json", {"access_token": TOKEN}),
    ],
)
def test_no_credentials(
    no_credentials: Path, kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, arrangement: Arrange
) -> None:
    arrangement(monkeypatch, no_credentials)
    assert credentials_form() is None
    with pytest.raises(PermanentError, match="No Kaggle credentials were found"):
        client().check_access(COMPETITION)
    assert not kaggle.requests


@pytest.mark.parametrize(
    "arrangement",
    [
        environment(KAGGLE_API_TOKEN=TOKEN + "\n"),
        environment(KAGGLE_USERNAME=USER, KAGGLE_KEY=KEY + "é"),
        write("kaggle.json", {"username": USER, "key": KEY + "\n"}),
    ],
)
def test_a_character_that_no_credential_has(
    no_credentials: Path, kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, arrangement: Arrange
) -> None:
    arrangement(monkeypatch, no_credentials)
    with pytest.raises(PermanentError, match="holds a character that no credential has") as raised:
        client().check_access(COMPETITION)
    assert not kaggle.requests
    assert TOKEN not in str(raised.value)
    assert KEY not in str(raised.value)


def test_a_token_too_long_for_a_token_is_not_shown(
    no_credentials: Path, kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "secret" * 100  # as a path it is an error of the operating system, which names it
    environment(KAGGLE_API_TOKEN=token)(monkeypatch, no_credentials)
    with pytest.raises(PermanentError, match="neither an access token nor the path") as raised:
        client().check_access(COMPETITION)
    assert not kaggle.requests
    assert "secret" not in str(raised.value)


def test_an_error_of_the_sdks_start_shows_no_token(
    no_credentials: Path, kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        kaggle_credentials, "from_block", lambda _: {**LEGACY, "auth_method": "LEGACY_API_KEY"}
    )
    environment(KAGGLE_API_TOKEN="secret" * 100)(monkeypatch, no_credentials)
    with pytest.raises(PipelineError) as raised:
        client("kaggle").check_access(COMPETITION)
    assert not kaggle.requests
    assert "secret" not in str(raised.value)
    assert "KAGGLE_API_ENVIRONMENT" not in str(raised.value)


def test_a_form_that_is_not_used_may_hold_anything(
    no_credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("kaggle.json", {"username": USER, "key": KEY + "\n"})(monkeypatch, no_credentials)
    environment(KAGGLE_API_TOKEN=TOKEN)(monkeypatch, no_credentials)
    assert client().submissions_left(COMPETITION) == 4


@pytest.mark.parametrize(
    ("arrangement", "part"),
    [
        (environment(), "found."),
        (environment(KAGGLE_USERNAME=USER), "there is a user name .* but no key."),
        (environment(KAGGLE_KEY=KEY), "there is a key .* but no user name."),
        (write("kaggle.json", {"username": USER}), "there is a user name .* but no key."),
        (write("kaggle.json", "no JSON"), r"kaggle\.json is not a JSON object."),
    ],
)
def test_credentials_that_are_there_in_part_are_told(
    no_credentials: Path, monkeypatch: pytest.MonkeyPatch, arrangement: Arrange, part: str
) -> None:
    arrangement(monkeypatch, no_credentials)
    said = kaggle_credentials.none_found()
    assert re.search(f"{part}$", said)
    assert not {USER, KEY} & set(said.split())


@pytest.mark.parametrize(
    "arrangement",
    [
        environment(KAGGLE_API_TOKEN="expired"),
        environment(KAGGLE_USERNAME=USER, KAGGLE_KEY="revoked"),
        write("access_token", "expired"),
    ],
)
def test_credentials_that_do_not_work(
    no_credentials: Path, monkeypatch: pytest.MonkeyPatch, arrangement: Arrange
) -> None:
    arrangement(monkeypatch, no_credentials)
    with pytest.raises(PermanentError, match="does not accept the credentials") as caught:
        client().check_access(COMPETITION)
    assert "https://www.kaggle.com/settings/api" in caught.value.remedy


@pytest.mark.usefixtures("kaggle")
def test_a_bad_token_beside_a_good_key(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "expired")
    connected = client()
    assert connected.form == "KAGGLE_API_TOKEN"
    assert connected.submissions_left(COMPETITION) == 4
    assert connected.form == "KAGGLE_USERNAME and KAGGLE_KEY"
    assert "KAGGLE_API_TOKEN is expired or revoked" in caplog.text


@pytest.mark.usefixtures("prefect_server", "kaggle")
@pytest.mark.parametrize("value", [TOKEN, LEGACY, json.dumps(LEGACY)])
def test_a_secret_block_goes_before_all_others(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    from prefect.blocks.system import Secret

    Secret(value=value).save("kaggle", overwrite=True)
    monkeypatch.setenv("KAGGLE_KEY", "wrong")
    before = dict(os.environ)
    connected = client("kaggle")
    assert connected.form == "the Prefect Secret block 'kaggle'"
    assert connected.submissions_left(COMPETITION) == 4
    assert dict(os.environ) == before


@pytest.mark.usefixtures("prefect_server", "kaggle")
@pytest.mark.parametrize("value", [{"username": USER}, "", 5])
def test_a_secret_block_that_holds_none(value: Any) -> None:
    from prefect.blocks.system import Secret

    Secret(value=value).save("bad", overwrite=True)
    with pytest.raises(PermanentError, match="'bad' holds no credentials"):
        client("bad").check_access(COMPETITION)


@pytest.mark.usefixtures("prefect_server", "kaggle")
def test_a_secret_block_that_is_not_there() -> None:
    with pytest.raises(PermanentError, match="There is no Prefect Secret block 'none'") as caught:
        client("none").check_access(COMPETITION)
    assert '.save("none")' in caught.value.remedy


@pytest.mark.usefixtures("kaggle")
def test_a_key_that_others_can_read(
    no_credentials: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = no_credentials / "kaggle.json"
    path.write_text(json.dumps(LEGACY))
    path.chmod(0o644)
    client().check_access(COMPETITION)
    assert f"chmod 600 {path}" in caplog.text
    assert not capsys.readouterr().out


# Access.


def test_access_is_checked_without_downloading(kaggle: Kaggle) -> None:
    client().check_access(COMPETITION)
    assert (kaggle.requests[DOWNLOAD], kaggle.requests[STORE]) == (1, 0)


@pytest.mark.usefixtures("kaggle")
def test_access_to_a_misspelt_competition() -> None:
    with pytest.raises(PermanentError, match="check --competition digit-recogniser"):
        client().check_access("digit-recogniser")


def ask_everything(connected: KaggleClient) -> None:
    connected.check_access(COMPETITION)
    connected.submissions_left(COMPETITION)
    connected.submissions(COMPETITION)


@pytest.mark.parametrize("route", ["IntrospectToken", DOWNLOAD, LIMITS, "ListSubmissions"])
@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_every_status_on_every_route_is_one_error(
    kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, route: str, status: int
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    monkeypatch.delenv("KAGGLE_KEY")
    kaggle.faults = [Fault(route, ALWAYS, status=status)]
    with pytest.raises(PipelineError) as caught:
        ask_everything(client())
    assert isinstance(caught.value, PermanentError) == (status < 500)
    assert kaggle.requests[route] == (4 if status in (429, 500, 503) else 1)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, kaggle: Kaggle) -> None:
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")  # port 80
    with pytest.raises(TransientError, match=r"no usable answer \(ConnectionError\)"):
        client().check_access(COMPETITION)
    assert not kaggle.requests


@pytest.mark.usefixtures("kaggle")
def test_an_environment_that_the_sdk_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "MOON")
    with pytest.raises(PermanentError, match="KAGGLE_API_ENVIRONMENT"):
        client().check_access(COMPETITION)


@pytest.mark.parametrize("header", ["0", "Wed, 21 Oct 2015 07:28:00 GMT", "soon", "", "-1", "0.1"])
def test_a_retry_after_of_any_form(kaggle: Kaggle, header: str) -> None:
    kaggle.faults = [Fault(LIMITS, status=429, headers={"Retry-After": header})]
    assert client().submissions_left(COMPETITION) == 4


def test_a_retry_after_is_waited_for(kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    kaggle.faults = [Fault(LIMITS, status=503, headers={"Retry-After": "7"})]
    waited: list[float] = []
    monkeypatch.setattr(kaggle_client, "time", SimpleNamespace(sleep=waited.append))
    assert KaggleClient(None, Patience(again=(1,), asked=8)).submissions_left(COMPETITION) == 4
    assert waited == [7]


def test_a_date_that_is_too_far_off(kaggle: Kaggle) -> None:
    kaggle.faults = [
        Fault(LIMITS, status=429, headers={"Retry-After": "Wed, 21 Oct 2999 07:28:00 GMT"})
    ]
    with pytest.raises(PermanentError, match="as it asks"):
        client().submissions_left(COMPETITION)


def test_a_date_that_is_none(kaggle: Kaggle) -> None:
    kaggle.faults = [Fault("ListSubmissions", 9, body=b'{"submissions": [{"ref": 1, "date": ""}]}')]
    with pytest.raises(TransientError, match=r"no usable answer \(ValueError\)"):
        client().submissions(COMPETITION)


# Downloads: docs/submitting.md has the table of what each fault comes to.

LARGE = {
    "train": "".join(f"{number * 7919 % 10_007},1\n" for number in range(100_000)),
    "test": "pixel0\n2\n",
    "sample_submission": "a\n",
}
WHOLE = zipped(**LARGE)
NO_RANGE = {"ETag": "", "Last-Modified": ""}


def flipped() -> bytes:
    content = bytearray(WHOLE)
    content[1000] ^= 1
    return bytes(content)


def cut(times: int, **more: Any) -> list[Fault]:
    return [Fault(STORE, times, cut=len(WHOLE) // 5, **more)]


def for_ever(route: str, status: int, message: str = "") -> list[Fault]:
    return [Fault(route, ALWAYS, status=status, message=message)]


RULES = "You must accept this competition's rules before you'll be able to download files"
FAULTS: dict[str, list[Fault] | bytes] = {
    "nothing": WHOLE,
    "cut three times, then whole": cut(3),
    "cut twice, the store ignores Range": cut(2, headers=NO_RANGE),
    "replaced between two tries": [],
    "cut without end": cut(ALWAYS),
    "a flipped byte": flipped(),
    "HTML instead of the zip": b"<html><body>Sign in</body></html>",
    "shorter than it should be, without a length": WHOLE[:-100],
    "a member ../train.csv": zipped(**LARGE, **{"../train": "x"}),
    "an unexpected member": zipped(**LARGE, more="x"),
    "a bomb": zipped(**LARGE | {"test": "0" * 5_000_000}),
    "a missing member": zipped(train="x", test="x"),
    "401": for_ever(DOWNLOAD, 401),
    "403, rules not accepted": for_ever(DOWNLOAD, 403, RULES),
    "404": for_ever(DOWNLOAD, 404),
    "429 once, with a Retry-After": [Fault(DOWNLOAD, status=429, headers={"Retry-After": "0"})],
    "429 without end": for_ever(DOWNLOAD, 429),
    "500 three times": [Fault(DOWNLOAD, 3, status=500)],
    "503 without end": for_ever(DOWNLOAD, 503),
    "403 once from the store": [Fault(STORE, status=403)],
    "503 without end from the store": for_ever(STORE, 503),
    "no answer from the store": [Fault(STORE, ALWAYS, delay=1.0)],
}


def test_the_docs_have_every_fault() -> None:
    assert list(table("When downloading fails")) == list(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_download(kaggle: Kaggle, tmp_path: Path, fault: str) -> None:
    ends, says, files = table("When downloading fails")[fault]
    arrangement = FAULTS[fault]
    kaggle.archive = arrangement if isinstance(arrangement, bytes) else WHOLE
    kaggle.faults = [] if isinstance(arrangement, bytes) else copy.deepcopy(arrangement)
    if fault == "replaced between two tries":
        kaggle.archive = zipped(**LARGE | {"train": "old" * 100_000})
        kaggle.faults = [Fault(STORE, cut=200)]
        kaggle.next_archive = WHOLE
    folder = tmp_path / "fresh"
    folder.mkdir()
    ended, said = "well", ""
    try:
        client().download(COMPETITION, folder)
    except PipelineError as error:
        ended, said = type(error).__name__, str(error)
    else:
        assert {path.stem: path.read_text() for path in folder.iterdir()} == LARGE
    assert (ended, says in said) == (ends, True), said
    expected = sorted(archive.MEMBERS) if files == "the three" else []
    assert sorted(path.name for path in folder.iterdir()) == expected


def test_a_download_is_resumed(kaggle: Kaggle, tmp_path: Path) -> None:
    kaggle.archive, kaggle.faults = WHOLE, cut(3)
    client().download(COMPETITION, tmp_path)
    ranges = [line for seen in kaggle.seen for line in seen.splitlines() if "Range: b" in line]
    assert len(ranges) == kaggle.requests[STORE] * 2 - 2  # to the service, too, which ignores it
    assert len(set(ranges)) == 3


def test_an_endless_download_is_stopped(
    kaggle: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kaggle_client, "MOST_BYTES", 1000)
    kaggle.archive = WHOLE
    with pytest.raises(PermanentError, match="more than 1,000 bytes"):
        client().download(COMPETITION, tmp_path)


# Secrets.


@contextlib.contextmanager
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in (None, "urllib3.connectionpool", "urllib3", "requests", "kaggle", "kagglesdk"):
            stack.enter_context(caplog.at_level(logging.DEBUG, logger=name))
        yield


BASIC = base64.b64encode(f"{USER}:{KEY}".encode()).decode()


@pytest.mark.parametrize("kind", ["token", "key"])
def test_nothing_secret_is_logged_or_printed_or_raised(
    kaggle: Kaggle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    monkeypatch.setenv("VERBOSE", "1")
    if kind == "token":
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    secrets = {"token": (TOKEN,), "key": (KEY, BASIC)}[kind]
    echo, errors = " ".join(secrets), []
    with everything_logged(caplog):
        connected = client()
        connected.check_access(COMPETITION)
        token = connected.upload(COMPETITION, "submission.csv", b"1")
        connected.create_submission(COMPETITION, token, "")
        connected.download(COMPETITION, tmp_path)
        for fault in (
            Fault("PUT", ALWAYS, reset=True),
            Fault("StartSubmissionUpload", ALWAYS, status=403, message=f"No: {echo}"),
            Fault(STORE, ALWAYS, status=403),
            Fault(DOWNLOAD, ALWAYS, status=503),
        ):
            kaggle.faults = [fault]
            for call in (
                lambda: connected.upload(COMPETITION, "submission.csv", b"1"),
                lambda: connected.download(COMPETITION, tmp_path),
            ):
                try:
                    call()
                except PipelineError as error:
                    errors.append("".join(traceback.format_exception(error)))
    assert errors
    printed = capfd.readouterr()
    for text in (caplog.text, printed.out, printed.err, *errors):
        for secret in (*secrets, "signed"):
            assert secret not in text


# The import.


def test_asking_for_the_form_imports_no_client_and_no_network() -> None:
    code = (
        "import sys; from tasks.support import kaggle_client; kaggle_client.credentials_form();"
        "print({'kaggle', 'kagglesdk', 'requests'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_import_does_not_authenticate(kaggle: Kaggle) -> None:
    """With a token, ``import kaggle`` would send it to production."""
    code = (
        "import socket; socket.getaddrinfo = None;"
        "from tasks.support import kaggle_client; print(kaggle_client._kaggle_api().__name__)"
    )
    environment = os.environ | {"KAGGLE_API_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert (done.stdout.strip(), done.stderr) == ("KaggleApi", "")
    assert not kaggle.requests
