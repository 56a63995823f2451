"""Send a file to Kaggle at most once: the ledger says what was tried, Kaggle's list what arrived.

A submission's description carries the sha256 of its file. Before a file is sent, the team's
submissions are searched for it; after a lost answer, that list decides. So whatever is killed or
lost, and whenever, calling again neither sends it twice nor forgets it.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from model.errors import PermanentError, PipelineError
from tasks.support.kaggle_client import KaggleClient, NoAnswerError, Sent
from tasks.support.ledger import OPEN, Entry, Ledger
from tasks.support.logs import log

MOST_SENDS = 3  # in one run, each after the list showed that the one before did not arrive


class Sender:
    """Sends for one workspace; all but ``await_score`` needs the ledger to be locked."""

    def __init__(self, kaggle: KaggleClient, ledger: Ledger) -> None:
        self.kaggle = kaggle
        self.ledger = ledger

    def find(self, entry: Entry) -> Entry | None:
        """The submission of this content, if Kaggle has it; recorded in the ledger.

        If an earlier run's attempt was killed or not answered, wait as long as it may yet show up.
        """
        seconds = self._may_show_up_for(entry)
        if seconds > 0:
            log().info("An earlier run may have sent it: looking for it for %.0f seconds.", seconds)
        return self._look_for(entry, seconds)

    def send(self, entry: Entry, content: bytes, description: str) -> Entry:
        """Send what Kaggle does not have; the status is "unknown" if the outcome is.

        Raises:
            PermanentError: Kaggle refused it, or did not record it in any of the tries.
            TransientError: it could not be uploaded; nothing was sent.
        """
        if hashlib.sha256(content).hexdigest() != entry.digest:
            raise PermanentError("submission.csv was altered meanwhile.", "Run it again.")
        for _ in range(MOST_SENDS):
            token = self.kaggle.upload(entry.competition, "submission.csv", content)
            self._record(entry, status="sending", not_before=now(self.kaggle.patience.settle))
            try:
                ref = self.kaggle.create_submission(entry.competition, token, description)
            except PermanentError as refused:
                self._record(entry, status="refused", reason=refused.cause)
                raise
            except NoAnswerError as no_answer:
                failure, seconds = no_answer, self.kaggle.patience.to_settle(no_answer)
            else:
                # Kaggle has it but may list it later: until then a list without it proves nothing.
                seconds = self.kaggle.patience.settle
                return self._record(entry, status="pending", ref=ref, not_before=now(seconds))
            unknown = self._record(
                entry, status="unknown", reason=failure.cause, not_before=now(seconds)
            )
            log().info("%s Looking for it among the team's submissions.", failure.cause)
            try:
                found = self._look_for(entry, seconds)
            except PipelineError as error:
                log().warning("The submissions cannot be listed: %s", error.cause)
                return unknown
            if found:
                return found
            if failure.asks_for_more_than(self.kaggle.patience.asked):
                break
        self._record(entry, status="absent", reason=failure.cause)
        raise PermanentError(
            f"Kaggle did not record the submission: {failure.cause}",
            f"{failure.remedy} All but the sending is done.",
        )

    def settle(self, competition: str) -> None:
        """Find out what became of the submissions that are open in the ledger."""
        waiting = [e for e in self.ledger.latest(competition).values() if e.status in OPEN]
        if not waiting:
            return
        try:
            listed = self.kaggle.submissions(competition)
            found = [(e, matching(listed, e) or self._by_ref(e)) for e in waiting]
        except PipelineError as error:
            log().warning("Earlier submissions stay open: %s", error.cause)
            return
        for entry, sent in found:
            if sent:
                self._record_found(entry, sent)
            elif self._may_show_up_for(entry) <= 0:
                self._record(
                    entry, status="absent", reason="It is not among the team's submissions."
                )

    def await_score(self, entry: Entry) -> Entry:
        """Poll the submission until it is scored or patience ends."""
        patience = self.kaggle.patience
        deadline, pause = time.monotonic() + patience.score, patience.poll
        while entry.status == "pending" and entry.ref and time.monotonic() < deadline:
            try:
                sent = self.kaggle.submission(entry.competition, entry.ref)
            except PipelineError as error:
                log().warning("The score cannot be fetched: %s", error.cause)
            else:
                if sent.status != "pending":
                    with self.ledger.locked():
                        return self._record_found(entry, sent)
            time.sleep(min(pause, max(0, deadline - time.monotonic())))
            pause = min(1.5 * pause, 15 * patience.poll)
        return entry

    def _look_for(self, entry: Entry, seconds: float) -> Entry | None:
        """Look for it at least once, and again for so many seconds."""
        deadline, pause = time.monotonic() + seconds, self.kaggle.patience.poll
        while True:
            sent = self._look_up(entry)
            if sent:
                return self._record_found(entry, sent)
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause *= 1.5

    def _look_up(self, entry: Entry) -> Sent | None:
        return self._by_ref(entry) or matching(self.kaggle.submissions(entry.competition), entry)

    def _by_ref(self, entry: Entry) -> Sent | None:
        """Kaggle's submission with the ref in the ledger: the list may show it only later."""
        known = self._known(entry)
        if known and known.ref:
            with contextlib.suppress(PermanentError):  # it is another team's now: the list decides
                sent = self.kaggle.submission(entry.competition, known.ref)
                if entry.digest in sent.description:
                    return sent
        return None

    def _may_show_up_for(self, entry: Entry) -> float:
        """Seconds until a list without the earlier attempt proves that it did not arrive."""
        known = self._known(entry)
        if known is None or known.status not in OPEN or known.not_before is None:
            return 0
        # At most the longest that it ever takes: the clock may have been set back since.
        return min((known.not_before - now()).total_seconds(), self.kaggle.patience.to_be_sure)

    def _known(self, entry: Entry) -> Entry | None:
        return self.ledger.latest(entry.competition).get(entry.digest)

    def _record_found(self, entry: Entry, sent: Sent) -> Entry:
        """Record what Kaggle says, unless the ledger says so already."""
        news = {
            "status": sent.status,
            "ref": sent.ref,
            "score": sent.public_score,
            "reason": sent.error,
            "not_before": None,
        }
        known = self._known(entry)
        if known and known == known.model_copy(update=news):
            return known
        return self._record(entry, **news)

    def _record(self, entry: Entry, **news: Any) -> Entry:
        entry = entry.model_copy(update={"time": now(), **news})
        self.ledger.append(entry)
        return entry


def matching(listed: list[Sent], entry: Entry) -> Sent | None:
    """The submission of this content; if somebody sent it twice, preferably the scored one."""
    order = ("complete", "pending", "error")
    same = [sent for sent in listed if entry.digest in sent.description]
    return min(same, key=lambda sent: order.index(sent.status), default=None)


def now(seconds_later: float = 0) -> datetime:
    """The time in UTC."""
    return datetime.now(UTC) + timedelta(seconds=seconds_later)
