"""What a failed call to Kaggle means, and the page or command that fixes it."""

from __future__ import annotations

import base64
import contextlib
import re
from typing import Any

from model.errors import PermanentError, PipelineError, TransientError
from tasks.support.kaggle_credentials import NEW_TOKEN
from tasks.support.workspace import is_disk_fault

PAGE = "https://www.kaggle.com/competitions/{competition}"
PHONE = "https://www.kaggle.com/settings/phone"
SPELLING = "check --competition {competition}: it is the last part of the competition's address"

REFUSALS = (  # status, words in Kaggle's message, cause, remedy; the first match counts
    (
        401,
        "",
        "Kaggle does not accept the credentials ({form})",
        f"{NEW_TOKEN} and put it in their place.",
    ),
    (403, "phone", "Kaggle wants a verified phone number", f"Verify yours at {PHONE}."),
    (403, "rules", "The rules of {competition} are not accepted", f"Accept them at {PAGE}/rules."),
    (
        403,
        "",
        "Kaggle refuses access to {competition}",
        f"Accept the rules at {PAGE}/rules, verify your phone number at {PHONE}, or {SPELLING}.",
    ),
    (404, "", "Kaggle knows no {competition}", f"Open {PAGE}, and {SPELLING}."),
    (
        400,
        "limit|maximum|daily|allowance|exceed|too many|per day|number of submissions",
        "The limit of submissions is reached",
        f"Run it again after 00:00 UTC, when the count starts anew; see {PAGE}/submissions.",
    ),
    (
        None,
        "",
        "Kaggle refuses the request",
        f"Join the competition at {PAGE}, or {SPELLING}; if the day's submissions are used up, run "
        "it again after 00:00 UTC.",
    ),
)


class NoAnswerError(TransientError):
    """Kaggle gave no usable answer, or one that says to come back later."""

    status: int | None = None  # of the answer, where there was one
    retry_after: float | None = None  # seconds

    def asks_for_more_than(self, seconds: float) -> bool:
        """Whether Kaggle asks to wait for more than so many seconds."""
        return self.retry_after is not None and self.retry_after > seconds

    def unless_within(self, seconds: float) -> PipelineError:
        """This error; a permanent one if Kaggle asks to wait for more than so many seconds."""
        late = self.asks_for_more_than(seconds)
        return PermanentError(self.cause, self.remedy) if late else self


def explained(error: Exception, competition: str, form: str | None) -> PipelineError:
    """The error that says what went wrong; raises one that is not Kaggle's failure as it is.

    Args:
        error: from the client or from below it; its own text may hold a signed address.
        competition: the competition that was asked about.
        form: the form of the credentials in use.
    """
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    if isinstance(error, PipelineError):
        return error
    if not isinstance(error, RequestException | HTTPError | OSError):
        raise error
    if is_disk_fault(error):
        raise error
    response: Any = getattr(error, "response", None)
    status, said = (0, "") if response is None else _problem(response)
    if status < 400:
        return unusable(error)
    is_store = bool(response.history) or response.request.method != "POST"
    if not is_store and status < 500 and status not in (408, 429):
        return refusal(status, said, competition, form)
    who = "Kaggle's store" if is_store else "Kaggle"
    seconds = _retry_after(response)
    when = f"{seconds:.0f} seconds, as it asks" if seconds else "some minutes"
    failure = NoAnswerError(f"{who} answered {_with(status, said)}.", f"Run it again in {when}.")
    failure.status, failure.retry_after = status, seconds
    return failure


def refusal(status: int, said: str, competition: str, form: str | None) -> PermanentError:
    """The error for a 4xx answer."""
    cause, remedy = next(
        (cause, remedy)
        for code, words, cause, remedy in REFUSALS
        if code in (status, None) and re.search(words, said.lower())
    )
    names = {"competition": competition, "form": form}
    return PermanentError(
        f"{cause.format(**names)}: {_with(status, said)}.", remedy.format(**names)
    )


def unusable(error: Exception) -> NoAnswerError:
    """The error for a lost connection, a time-out, or an answer in another format."""
    return NoAnswerError(
        f"Kaggle gave no usable answer ({type(error).__name__}).",
        "Check the connection and https://status.kaggle.com, then run it again.",
    )


def _with(status: int, said: str) -> str:
    return f"{status} ({said})" if said else str(status)


def _problem(response: Any) -> tuple[int, str]:
    """Status, and Kaggle's own message on one line, without the credentials that it may echo."""
    try:
        body = response.json()
        status, said = int(body["code"]), " ".join(str(body["message"]).split())
    except (ValueError, KeyError, TypeError):
        return response.status_code, ""
    sent = response.request.headers.get("Authorization", "").partition(" ")[2]
    secrets = [sent]
    with contextlib.suppress(ValueError):  # a token is not Base64
        secrets += base64.b64decode(sent, validate=True).decode().split(":", 1)[1:]
    for secret in filter(None, secrets):
        said = said.replace(secret, "***")
    return max(status, response.status_code), said[:300].rstrip(".")


def _retry_after(response: Any) -> float | None:
    """Seconds that Kaggle asks to wait, from either form of the header."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    with contextlib.suppress(InvalidHeader):
        return Retry().get_retry_after(response.raw)
    return None
