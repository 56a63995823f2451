"""What a submission comes to, with the real client against a Kaggle on loopback."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from prefect import flow

from model.errors import PermanentError, PipelineError
from model.evaluation import wilson_interval
from tasks.submit import preflight, submit
from tasks.support import kaggle_client, sending, workspace
from tasks.support.kaggle_client import Patience, Sent
from tasks.support.ledger import Entry, Ledger
from tasks.support.records import Dataset, Evaluation, File, Predictions, Submission
from tasks.support.sending import now
from tests.kaggle_server import ALWAYS, COMPETITION, Fault, Kaggle, kaggle
from tests.tasks.test_ledger import entry

__all__ = ["kaggle"]  # the fixture

QUICK = Patience(
    connect=1,
    answer=0.8,
    again=(0.01, 0.01, 0.01),
    asked=0.1,
    settle=0.6,
    score=1,
    poll=0.05,
)
HELD_OUT = np.arange(0, 1000, 2)
DOCS = Path(__file__).parents[2] / "docs" / "submitting.md"


def keep(name: str, write: Callable[[Path], object]) -> File:
    """A file of the workspace."""
    with workspace.current().temporary_folder() as folder:
        write(folder / name)
        return File.keep(folder / name)


def model(wrong: int = 2, *, rows: np.ndarray = HELD_OUT) -> Evaluation:
    """The evaluation of a model that gets the first so many of its validation rows wrong."""
    correct = np.arange(len(rows)) >= wrong
    interval = wilson_interval(int(correct.sum()), len(rows))
    nothing = keep("nothing.csv", lambda path: path.write_text(""))
    return Evaluation(
        train_accuracy=1.0,
        train_count=len(rows),
        train_accuracy_ci95=(0.99, 1.0),
        train_loss=0.0,
        validation_accuracy=float(correct.mean()),
        validation_count=len(rows),
        validation_accuracy_ci95=interval,
        validation_loss=0.1,
        history=nothing,
        validation_rows=keep("rows.npy", lambda path: np.save(path, rows)),
        misread=keep("misread.npy", lambda path: np.save(path, rows[:wrong])),
        numbers=nothing,
        figures={},
    )


def send(
    content: str = "ImageId,Label\n1,2\n",
    *,
    evaluation: Evaluation | None = None,
    policy: str = "always",
    source: str = "kaggle",
    train: str = "label,pixel0\n1,2\n",
    run: str = "first",
    call: Callable[..., Submission] = submit.fn,
    **options: object,
) -> Submission:
    """Call the stage as the flow does."""
    csv = keep("some.csv", lambda path: path.write_text(train))
    return call(
        Dataset(
            source=source,
            train=csv,
            test=csv,
            sample_submission=csv,
            test_labels=None,
        ),
        Predictions(
            submission=keep("submission.csv", lambda path: path.write_text(content)),
            rows=1,
            test_accuracy=None,
            test_accuracy_ci95=None,
        ),
        evaluation or model(),
        **{
            "competition": COMPETITION,
            "policy": policy,
            "minimum_accuracy": 0.983,
            "message": "",
            "run_name": run,
            "patience": QUICK,
            **options,
        },
    )


def last_status() -> str | None:
    """How the only submission stands in the ledger."""
    entries = Ledger.current().entries()
    return entries[-1].status if entries else None


@pytest.fixture(autouse=True)
def in_a_workspace(opened_workspace: workspace.Workspace) -> None:
    pass


# The straight path.


def test_sends_and_fetches_the_score(kaggle: Kaggle) -> None:
    submission = send(message="hello")
    assert (submission.status, submission.public_score) == ("complete", 0.98925)
    (sent,) = kaggle.submissions
    assert submission.ref == sent["ref"]
    assert sent["description"] == f"sha256:{sent['digest']} hello"
    assert last_status() == "complete"
    assert [e.status for e in Ledger.current().entries()] == ["sending", "pending", "complete"]


def test_without_a_message_the_description_says_how_good_it_is(kaggle: Kaggle) -> None:
    send(evaluation=model(8))
    (sent,) = kaggle.submissions
    told = "first: validation accuracy 0.9840 (0.9687-0.9919, 500 rows)"
    assert sent["description"] == f"sha256:{sent['digest']} {told}"


def test_a_second_run_adopts_what_is_there(kaggle: Kaggle) -> None:
    first = send()
    again = send(run="second")
    assert (again.ref, again.public_score) == (first.ref, first.public_score)
    assert "not sent again" in again.reason
    assert len(kaggle.submissions) == 1


def test_other_contents_are_sent(kaggle: Kaggle) -> None:
    send("ImageId,Label\n1,2\n")
    send("ImageId,Label\n1,3\n")
    assert len(set(kaggle.contents())) == 2


@pytest.mark.parametrize("tokens", [True, False], ids=["by token", "by number"])
def test_finds_it_on_a_later_page_without_a_ledger(kaggle: Kaggle, tokens: bool) -> None:
    first = send()
    for number in range(5):
        kaggle.submissions.append({**kaggle.submissions[0], "ref": number, "description": "other"})
    kaggle.page_size, kaggle.page_tokens = 2, tokens
    Ledger.current().path.unlink()
    assert send().ref == first.ref
    assert kaggle.requests["CreateSubmission"] == 1


def test_a_ref_of_another_team_does_not_count(kaggle: Kaggle) -> None:
    send()
    kaggle.submissions.clear()  # as another account sees it
    assert send().status == "complete"
    assert len(kaggle.submissions) == 1


def test_a_ref_of_other_contents_does_not_count(kaggle: Kaggle) -> None:
    send()
    kaggle.submissions[0]["description"] = "of another file"
    assert send().status == "complete"
    assert len(kaggle.submissions) == 2


def test_of_several_with_the_same_contents_the_scored_one_counts() -> None:
    scored = Sent(3, "sha256:d", "complete", 0.5, "")
    others = Sent(1, "sha256:d", "error", None, ""), Sent(2, "sha256:d", "pending", None, "")
    assert sending.matching([*others, scored], entry("d")) == scored


def test_a_later_run_fetches_the_score(kaggle: Kaggle) -> None:
    kaggle.polls = ALWAYS
    pending = send("ImageId,Label\n1,2\n")
    assert pending.status == "unknown"
    kaggle.submissions[0].update(polls=0, status="COMPLETE", publicScore="0.5")
    kaggle.polls = 0
    send("ImageId,Label\n1,3\n", run="second")
    first, second = Ledger.current().latest(COMPETITION).values()
    assert (first.status, first.score) == ("complete", 0.5)
    assert second.status == "complete"


# Policy.


def test_never_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaggle_client, "_kaggle_api", lambda: pytest.fail("it was imported"))
    submission = send(policy="never")
    assert submission.status == "not sent"
    assert "--submit always" in submission.reason
    assert last_status() is None


@pytest.mark.parametrize("source", ["mnist", "sample"])
def test_other_data_is_refused(kaggle: Kaggle, source: str) -> None:
    with pytest.raises(PermanentError, match="can be submitted"):
        send(source=source)
    assert "can be submitted" in send(source=source, policy="never").reason
    assert not kaggle.requests


@pytest.mark.parametrize("policy", ["never", "if-better", "always"])
def test_nothing_goes_below_the_gate(kaggle: Kaggle, policy: str) -> None:
    submission = send(evaluation=model(wrong=20), policy=policy)
    assert submission.status == "not sent"
    assert "0.9600 is under --minimum-accuracy 0.983" in submission.reason
    assert not kaggle.requests["CreateSubmission"]


def test_the_gate_is_open_at_exactly_the_minimum_accuracy(kaggle: Kaggle) -> None:
    assert send(evaluation=model(wrong=8), minimum_accuracy=0.984).status == "complete"


BEFORE = {"wrong": 8}


@pytest.mark.parametrize(
    ("before", "after", "is_sent", "reason"),
    [
        (BEFORE, {"wrong": 1}, True, "is better than 0.9840 of run first"),
        (BEFORE, {"wrong": 1}, True, "p = 0.016"),  # of the 7 that one of them misread, both ways
        (BEFORE, {"wrong": 7}, False, "is not better than 0.9840"),
        (BEFORE, {"wrong": 7}, False, "McNemar's test on the same 500 rows: p = 1"),
        (BEFORE, {"wrong": 8}, False, "not better"),
        ({"wrong": 2}, {"wrong": 8}, False, "not better"),
        (BEFORE, {"wrong": 0, "rows": np.arange(1000)}, True, "on different rows"),
        (BEFORE, {"wrong": 8, "rows": np.arange(1000)}, False, "on different rows"),
    ],
)
def test_if_better(
    kaggle: Kaggle, before: dict[str, Any], after: dict[str, Any], is_sent: bool, reason: str
) -> None:
    assert send("a", evaluation=model(**before), policy="if-better").status == "complete"
    submission = send("b", evaluation=model(**after), policy="if-better", run="second")
    assert reason in submission.reason
    assert (submission.status == "complete") == is_sent
    assert len(kaggle.submissions) == 1 + is_sent


def test_the_same_rows_of_another_file_are_different_rows(kaggle: Kaggle) -> None:
    send("a", evaluation=model(8), policy="if-better")
    other = "label,pixel0\n1,3\n"
    submission = send("b", evaluation=model(1), policy="if-better", train=other, run="second")
    assert "on different rows" in submission.reason


def test_a_submission_that_was_altered_is_not_sent(kaggle: Kaggle) -> None:
    send()
    (first, *_) = Ledger.current().entries()
    sender = sending.Sender(kaggle_client.KaggleClient(None, QUICK), Ledger.current())
    with pytest.raises(PermanentError, match="altered meanwhile"):
        sender.send(first, b"ImageId,Label\n1,3\n", "")
    assert len(kaggle.submissions) == 1


def test_the_best_before_counts_and_not_the_last(kaggle: Kaggle) -> None:
    for content, wrong in (("a", 0), ("b", 8)):
        send(content, evaluation=model(wrong))
    assert "of run first" in send("c", evaluation=model(1), policy="if-better").reason
    assert len(kaggle.submissions) == 2


def test_what_kaggle_refused_is_not_the_best_before(kaggle: Kaggle) -> None:
    kaggle.faults = [for_ever(CREATE, 400, LIMIT)]
    with pytest.raises(PermanentError, match="limit"):
        send("a", evaluation=model(0))
    kaggle.faults = []
    submission = send("b", evaluation=model(8), policy="if-better", run="second")
    assert "the first submission from this workspace" in submission.reason
    assert len(kaggle.submissions) == 1


def test_what_is_not_scored_yet_may_be_the_best_before(kaggle: Kaggle) -> None:
    kaggle.polls = ALWAYS
    assert send("a", evaluation=model(0)).status == "unknown"
    submission = send("b", evaluation=model(8), policy="if-better", run="second")
    assert "is not better than 1.0000 of run first" in submission.reason


def test_what_kaggle_has_confirmed_and_shows_later_is_not_sent_again(
    kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = threading.Event()
    lists, gets = kaggle.list_submissions, kaggle.get_submission

    def list_submissions(**fields: Any) -> dict[str, Any]:
        return lists(**fields) if shown.is_set() else lists(**fields) | {"submissions": []}

    def get_submission(**fields: Any) -> dict[str, Any]:
        if not shown.is_set():
            raise StopIteration  # as the double says 404
        return gets(**fields)

    monkeypatch.setattr(kaggle, "list_submissions", list_submissions)
    monkeypatch.setattr(kaggle, "get_submission", get_submission)
    with monkeypatch.context() as patch:
        patch.setattr(sending.Sender, "await_score", MagicMock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            send()
    threading.Timer(QUICK.settle / 2, shown.set).start()
    assert send(run="second").status == "complete"
    assert len(kaggle.submissions) == 1


def test_a_score_that_is_no_number_is_none(kaggle: Kaggle) -> None:
    kaggle.outcome = {"status": "COMPLETE", "publicScore": "NaN"}
    submission = send()
    assert (submission.status, submission.public_score) == ("complete", None)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_5xx_is_no_proof_that_nothing_arrived(kaggle: Kaggle, status: int) -> None:
    late = Fault(LIST, 3, skip=1, body=b"{}")  # listed only on the fourth look after sending
    kaggle.faults = [Fault(CREATE, after=True, status=status), late]
    assert send().status == "complete"
    assert len(kaggle.submissions) == 1


# Preflight.


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def test_preflight_says_what_it_found(kaggle: Kaggle, logged: pytest.LogCaptureFixture) -> None:
    preflight(COMPETITION, patience=QUICK)
    assert "KAGGLE_USERNAME and KAGGLE_KEY" in logged.text
    assert "left today: 4" in logged.text
    assert not kaggle.submissions


def test_preflight_of_a_new_team(kaggle: Kaggle, logged: pytest.LogCaptureFixture) -> None:
    kaggle.limits = {}
    preflight(COMPETITION, patience=QUICK)
    assert "unknown before the first" in logged.text


def test_preflight_with_nothing_left(kaggle: Kaggle, logged: pytest.LogCaptureFixture) -> None:
    kaggle.limits = {"numToday": 5, "numTotal": 9}
    with pytest.raises(PermanentError, match="limit of submissions is reached"):
        preflight(COMPETITION, patience=QUICK)
    send()
    preflight(COMPETITION, patience=QUICK)  # it may be the same one
    assert "No submission is left today" in logged.text


def test_preflight_with_nothing_left_after_a_refusal(kaggle: Kaggle) -> None:
    kaggle.faults = [Fault(CREATE, status=400)]
    with pytest.raises(PermanentError):
        send()
    kaggle.limits = {"numToday": 5, "numTotal": 9}
    with pytest.raises(PermanentError, match="limit of submissions is reached"):
        preflight(COMPETITION, patience=QUICK)  # Kaggle has none of it


def test_preflight_reads_the_ledger(kaggle: Kaggle) -> None:
    Ledger.current().path.write_text("garbage\n")
    with pytest.raises(PermanentError, match=r"Line 1 of .*submissions.jsonl is damaged"):
        preflight(COMPETITION, patience=QUICK)


# Faults: docs/submitting.md has the table of what each comes to.

RULES = "You must accept this competition's rules before you'll be able to submit"
LIMIT = "Your team has used its daily Submission allowance (5) today"
LIST, UPLOAD, CREATE, GET = (
    "ListSubmissions",
    "StartSubmissionUpload",
    "CreateSubmission",
    "GetSubmission",
)


def for_ever(route: str, status: int, message: str = "") -> Fault:
    return Fault(route, ALWAYS, status=status, message=message)


def wait(seconds: str, times: int = ALWAYS, route: str = LIST) -> Fault:
    return Fault(route, times, status=429, headers={"Retry-After": seconds})


NO_LIST = Fault(LIST, ALWAYS, skip=1, status=503)
FAULTS: dict[str, list[Fault]] = {
    "nothing": [],
    "401": [for_ever(LIST, 401)],
    "403, rules not accepted": [for_ever(UPLOAD, 403, RULES)],
    "403, phone not verified": [for_ever(CREATE, 403, "Verify your phone first")],
    "403, misspelt competition": [for_ever(LIST, 403, "Permission was denied")],
    "404": [for_ever(LIST, 404)],
    "400, limit reached": [for_ever(CREATE, 400, LIMIT)],
    "429 once, with a Retry-After": [wait("0", times=1)],
    "429 with a Retry-After that is too long": [wait("99")],
    "429 without end": [wait("0")],
    "429 once when sending": [wait("0", 1, CREATE)],
    "429 without end when sending": [wait("0", ALWAYS, CREATE)],
    "500 three times when listing": [Fault(LIST, 3, status=500)],
    "503 without end when listing": [for_ever(LIST, 503)],
    "HTML instead of the list": [Fault(LIST, ALWAYS, body=b"<html>")],
    "no answer when listing": [Fault(LIST, ALWAYS, delay=1.0)],
    "500 without end when the upload starts": [for_ever(UPLOAD, 500)],
    "503 three times in the upload": [Fault("PUT", 3, status=503)],
    "503 without end in the upload": [for_ever("PUT", 503)],
    "upload reset three times": [Fault("PUT", 3, reset=True)],
    "upload reset without end": [Fault("PUT", ALWAYS, reset=True)],
    "503 once when sending": [Fault(CREATE, status=503)],
    "503 without end when sending": [for_ever(CREATE, 503)],
    "429 when sending, with a Retry-After that is too long": [wait("99", 1, CREATE)],
    "503 when sending, with a Retry-After that is too long": [
        Fault(CREATE, status=503, headers={"Retry-After": "99"})
    ],
    "... yet recorded": [Fault(CREATE, after=True, status=503, headers={"Retry-After": "99"})],
    "500 when sending, yet recorded": [Fault(CREATE, after=True, status=500)],
    "connection lost before it was recorded": [Fault(CREATE, reset=True)],
    "connection lost after it was recorded": [Fault(CREATE, after=True, reset=True)],
    "answer later than the time-out": [Fault(CREATE, after=True, delay=1.0)],
    "recorded later than the time-out": [Fault(CREATE, delay=1.0)],
    "HTML as the answer to sending": [Fault(CREATE, after=True, body=b"<html>")],
    "no ref in the answer to sending": [Fault(CREATE, after=True, body=b"{}")],
    "connection lost, recorded, then no list": [Fault(CREATE, after=True, reset=True), NO_LIST],
    "connection lost, not recorded, then no list": [Fault(CREATE, reset=True), NO_LIST],
    "503 without end when asking for the score": [for_ever(GET, 503)],
    "PENDING without end": [],
    "ERROR with a reason": [],
}


def table(heading: str) -> dict[str, list[str]]:
    """The rows of a table of the docs, by their first column."""
    text = DOCS.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows[1:]}


def test_the_docs_have_the_waiting_times() -> None:
    told = [row[0] for row in table("How long it waits").values()]
    waits = Patience()
    times = [waits.connect, waits.answer, waits.again, waits.asked, waits.settle]
    tries = f"{', '.join(map(str, waits.again))}, each up to half more"
    assert told == [tries if t is waits.again else str(t) for t in (*times, waits.score)]


def run_once() -> tuple[str, str]:
    """How the stage ends, and what it says."""
    try:
        submission = send()
    except PipelineError as error:
        return type(error).__name__, str(error)
    return submission.status, submission.reason


def test_the_docs_have_every_fault() -> None:
    assert list(table("When sending fails")) == list(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(kaggle: Kaggle, fault: str) -> None:
    ends, says, recorded, ledger, then = table("When sending fails")[fault]
    kaggle.faults = copy.deepcopy(FAULTS[fault])
    if fault == "PENDING without end":
        kaggle.polls = ALWAYS
    if fault == "ERROR with a reason":
        kaggle.outcome = {"status": "ERROR", "errorDescription": "Row 7\nis missing"}

    ended, said = run_once()
    found = (ended, str(len(kaggle.submissions)), last_status() or "nothing")
    assert (found, says in said) == ((ends, recorded, ledger), True), said
    assert kaggle.requests[CREATE] <= 3

    kaggle.faults, kaggle.polls = [], 0
    for submission in kaggle.submissions:
        submission["polls"] = 0
    assert run_once()[0] == then
    assert len(kaggle.submissions) == 1
    assert not list(workspace.current().files.glob(".making*"))


def test_a_ledger_that_cannot_be_written_after_sending(
    kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Ledger.append

    def fails(ledger: Ledger, entry: Entry) -> None:
        if entry.status == "pending":
            raise PermanentError("The disk is full.", "Make room.")
        append(ledger, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", fails)
        with pytest.raises(PermanentError, match="The disk is full"):
            send()
    assert last_status() == "sending"  # and not refused: the next run looks for it
    kaggle.faults = [Fault(LIST, 2, body=b"{}")]  # shown late by the list
    assert send().status == "complete"
    assert len(kaggle.submissions) == 1


def test_what_is_pending_is_not_taken_for_absent(kaggle: Kaggle) -> None:
    kaggle.polls = ALWAYS
    assert send("a").status == "unknown"
    kaggle.faults = [Fault(LIST, 1, body=b"{}")]  # to another run, to which the list shows it late
    kaggle.submissions[0]["polls"] = kaggle.polls = 0
    send("b", run="second")
    first, second = Ledger.current().latest(COMPETITION).values()
    assert (first.status, second.status) == ("complete", "complete")


def test_a_clock_that_was_set_back_is_not_waited_for(
    kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaggle.faults = [Fault(CREATE, reset=True), copy.copy(NO_LIST)]
    with monkeypatch.context() as ahead:
        ahead.setattr(sending, "now", lambda more=0: now(more + 5 * 3600))
        assert send().status == "unknown"
    kaggle.faults = []
    assert send().status == "complete"
    assert len(kaggle.submissions) == 1


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    "faults",
    [
        [NO_LIST, Fault(CREATE, after=True, reset=True)],
        [Fault(CREATE, ALWAYS, after=True, status=503)],
        [Fault(UPLOAD, 5, status=503)],
    ],
    ids=["unknown", "recorded", "upload"],
)
def test_retries_of_prefect_do_not_send_twice(kaggle: Kaggle, faults: list[Fault]) -> None:
    kaggle.faults = copy.deepcopy(faults)

    @flow
    def sending() -> Submission:
        return send(call=submit.with_options(retry_delay_seconds=0, retry_jitter_factor=0))

    assert sending().status in ("complete", "unknown")
    assert len(kaggle.submissions) == 1


def test_two_runs_at_once_send_once(kaggle: Kaggle) -> None:
    kaggle.faults = [Fault(CREATE, ALWAYS, delay=0.2)]
    done: list[Submission] = []
    runs = [threading.Thread(target=lambda: done.append(send())) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert {submission.status for submission in done} == {"complete"}
    assert len(kaggle.submissions) == 1
