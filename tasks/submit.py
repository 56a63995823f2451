"""Stage 7: send submission.csv to Kaggle, at most once, and fetch its score."""

from __future__ import annotations

from typing import Literal

from model.errors import PermanentError
from model.evaluation import mcnemar
from model.sources import UNSUBMITTABLE
from tasks.support.caching import stage
from tasks.support.kaggle_client import KaggleClient, Patience, credentials_form
from tasks.support.ledger import SENT, Entry, Judged, Ledger
from tasks.support.logs import log
from tasks.support.records import Dataset, Evaluation, Predictions, Submission
from tasks.support.sending import Sender, now

Policy = Literal["never", "if-better", "always"]
SIGNIFICANT = 0.05


def preflight(
    competition: str, *, secret_block: str | None = None, patience: Patience | None = None
) -> None:
    """Check, before any work, that Kaggle would take a submission, and log what was found."""
    sent_before = any(e.status != "refused" for e in Ledger.current().latest(competition).values())
    kaggle = KaggleClient(secret_block, patience)
    kaggle.check_access(competition)
    left = kaggle.submissions_left(competition)
    if left == 0:
        if not sent_before:
            raise PermanentError(
                "The limit of submissions is reached: none is left today.",
                "Run it again after 00:00 UTC, when the count starts anew, or use --submit never.",
            )
        log().warning(
            "No submission is left today: until 00:00 UTC, only one that Kaggle already has can be "
            "recorded and scored."
        )
    log().info(
        "Kaggle: the credentials (%s) work, the rules of %s are accepted, "
        "submissions left today: %s.",
        kaggle.form,
        competition,
        "unknown before the first" if left is None else left,
    )


@stage(cached=False)
def submit(
    dataset: Dataset,
    predictions: Predictions,
    evaluation: Evaluation,
    *,
    competition: str,
    policy: Policy,
    minimum_accuracy: float,
    message: str,
    run_name: str,
    secret_block: str | None = None,
    patience: Patience | None = None,
) -> Submission:
    """Decide whether to send, send what Kaggle does not have, and wait for the score.

    Raises:
        PermanentError: Kaggle refuses it, or the source cannot be submitted.
        TransientError: Kaggle could not be asked; nothing was sent.
    """
    hindrance = UNSUBMITTABLE.get(dataset.source) or below_the_gate(evaluation, minimum_accuracy)
    if policy == "never":
        return Submission(
            status="not sent",
            reason=hindrance or what_sending_needs(credentials_form(secret_block)),
        )
    if dataset.source in UNSUBMITTABLE:
        raise PermanentError(
            UNSUBMITTABLE[dataset.source], "Use another --source, or --submit never."
        )
    ledger = Ledger.current()
    sender = Sender(KaggleClient(secret_block, patience), ledger)
    entry = Entry(
        time=now(),
        competition=competition,
        digest=predictions.submission.sha256,
        status="sending",
        run=run_name,
        judged=judge(dataset, evaluation),
    )
    with ledger.locked():  # concurrent runs send one after the other
        sender.settle(competition)
        if hindrance:
            return Submission(status="not sent", reason=hindrance)
        found = sender.find(entry)
        if found:
            entry, reason = found, "Kaggle has this submission already; it was not sent again."
        else:
            worth_it, reason = True, "--submit is always."
            if policy == "if-better":
                worth_it, reason = compare(entry.judged, best_sent(ledger, competition), evaluation)
            if not worth_it:
                return Submission(status="not sent", reason=reason)
            content = predictions.submission.location.read_bytes()
            entry = sender.send(entry, content, describe(entry, evaluation, message))
    return outcome(sender.await_score(entry), reason)


def below_the_gate(evaluation: Evaluation, minimum_accuracy: float) -> str | None:
    """Why the model is not good enough to be sent; None if it is."""
    if evaluation.validation_accuracy >= minimum_accuracy:
        return None
    return (
        f"The validation accuracy {evaluation.validation_accuracy:.4f} is under "
        f"--minimum-accuracy {minimum_accuracy}: such a model is never sent."
    )


def what_sending_needs(form: str | None) -> str:
    """How to send a submission that passes all checks."""
    needed = f"The credentials found ({form}) would be used" if form else "It needs credentials"
    return (
        "--submit is never. The submission passes the checks; --submit always sends it. "
        f"{needed}: see docs/submitting.md."
    )


def judge(dataset: Dataset, evaluation: Evaluation) -> Judged:
    """What the ledger keeps of the model's quality."""
    return Judged(
        accuracy=evaluation.validation_accuracy,
        ci95=evaluation.validation_accuracy_ci95,
        train_sha256=dataset.train.sha256,
        rows_sha256=evaluation.validation_rows.sha256,
        wrong_rows=evaluation.misread.array().tolist(),
    )


def best_sent(ledger: Ledger, competition: str) -> Entry | None:
    """The best model that was submitted from this workspace."""
    sent = [entry for entry in ledger.latest(competition).values() if entry.status in SENT]
    return max(sent, key=lambda entry: entry.judged.accuracy, default=None)


def compare(own: Judged, best: Entry | None, evaluation: Evaluation) -> tuple[bool, str]:
    """Whether a model is better than the best that was submitted, and the sentence that says why.

    On the same validation rows by McNemar's test, on different ones by their 95% intervals.
    """
    if best is None:
        return True, "It is the first submission from this workspace."
    other = best.judged
    if (own.train_sha256, own.rows_sha256) == (other.train_sha256, other.rows_sha256):
        ours, theirs = set(own.wrong_rows), set(other.wrong_rows)
        p = mcnemar(len(ours - theirs), len(theirs - ours))
        better = own.accuracy > other.accuracy and p < SIGNIFICANT
        how = f"McNemar's test on the same {evaluation.validation_count:,} rows: p = {p:.2g}"
    else:
        better = own.ci95[0] > other.ci95[1]
        how = "on different rows, 95% intervals {:.4f}-{:.4f} and {:.4f}-{:.4f}".format(
            *own.ci95, *other.ci95
        )
    return better, (
        f"Its validation accuracy {own.accuracy:.4f} is {'' if better else 'not '}better than "
        f"{other.accuracy:.4f} of run {best.run}, the best submitted before ({how})."
    )


def describe(entry: Entry, evaluation: Evaluation, message: str) -> str:
    """The submission's description; the digest comes first, so that it is never cut off."""
    low, high = evaluation.validation_accuracy_ci95
    return f"sha256:{entry.digest} " + (
        message
        or f"{entry.run}: validation accuracy {evaluation.validation_accuracy:.4f} "
        f"({low:.4f}-{high:.4f}, {evaluation.validation_count:,} rows)"
    )


def outcome(entry: Entry, reason: str) -> Submission:
    """What became of the submission, as a status and in words."""
    status: Literal["complete", "error", "unknown"] = "unknown"
    if entry.status == "complete":
        score = "without a public score" if entry.score is None else f"{entry.score} (public)"
        status, result = "complete", f"Submission {entry.ref} is scored: {score}."
    elif entry.status == "error":
        status, result = "error", f"Kaggle could not score submission {entry.ref}: {entry.reason}"
    elif entry.ref:
        result = f"Submission {entry.ref} is not scored yet; a later run with --submit fetches it."
    else:
        result = (
            f"Whether it arrived is unknown: {entry.reason} The next run with --submit settles it."
        )
    return Submission(
        status=status, reason=f"{reason} {result}", ref=entry.ref, public_score=entry.score
    )
