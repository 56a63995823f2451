"""What the refusals of an S3 server and the failures of boto3 mean, and how to fix them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from model.errors import PermanentError, PipelineError, TransientError


class MissingError(PermanentError):
    """The object is not there."""


# By the server's code (an answer without a body has its HTTP status instead) or by the name of
# boto3's exception: family of errors, cause, remedy.
EXPLANATIONS: dict[tuple[str, ...], tuple[type[PipelineError], str, str]] = {
    ("NoSuchKey", "404"): (
        MissingError,
        "the object is not there",
        "Check the address; an unfinished upload is completed with --upload-pending.",
    ),
    ("NoSuchBucket",): (
        PermanentError,
        "there is no such bucket",
        "Create it, or correct the address; the server is that of AWS_ENDPOINT_URL, else AWS.",
    ),
    ("AccessDenied", "AllAccessDisabled", "403"): (
        PermanentError,
        "access is denied",
        "Allow s3:ListBucket on the bucket and s3:GetObject, s3:PutObject and "
        "s3:AbortMultipartUpload on its objects; expired credentials can look like this too.",
    ),
    ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"): (
        PermanentError,
        "the server does not know these credentials",
        "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
    ),
    ("ExpiredToken", "TokenRefreshRequired", "RequestExpired"): (
        PermanentError,
        "the credentials have expired",
        "Renew them: `aws sso login`, or a new session token.",
    ),
    ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError",
     "TokenRetrievalError", "SSOError", "ProfileNotFound"): (
        PermanentError,
        "no credentials could be obtained",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run `aws configure`.",
    ),
    ("RequestTimeTooSkewed", "RequestInTheFuture"): (
        PermanentError,
        "this machine's clock is too far from the server's",
        "Set the clock, preferably by NTP.",
    ),
    ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException",
     "301"): (
        PermanentError,
        "the bucket is in another region",
        "Set AWS_DEFAULT_REGION to the bucket's region.",
    ),
    ("SSLError",): (
        PermanentError,
        "the server's certificate is not trusted",
        "Set AWS_CA_BUNDLE to the certificate of its authority.",
    ),
    ("busy", "SlowDown", "RequestTimeout", "BadDigest", "ConditionalRequestConflict",
     "OperationAborted", "ConnectionError", "HTTPClientError", "IncompleteReadError",
     "RetriesExceededError"): (
        TransientError,
        "the server does not answer, or is busy",
        "Check the network and the server, then run it again.",
    ),
}  # fmt: skip
OTHERWISE = (
    PermanentError,
    "the request failed",
    "Check that the credentials have not expired, the AWS_ variables of the environment and "
    "~/.aws/config; docs/artifact-store.md says what servers other than AWS may need.",
)


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn boto3's errors inside the block into PermanentError or TransientError.

    Raised ``from None``: a traceback would show boto3's text, maybe an endpoint with a password.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError

    try:
        yield
    except (BotoCoreError, ClientError, RetriesExceededError) as error:
        raise explain(error, where) from None


def explain(error: Exception, where: str) -> PipelineError:
    """The error with cause and remedy, without boto3's own text."""
    names = [kind.__name__ for kind in type(error).__mro__]
    detail = names[0]
    if response := getattr(error, "response", None):
        code = response.get("Error", {}).get("Code", "")
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        names = ["busy" if status == 429 or (status in range(500, 600) and status != 501) else code]
        detail = f"{code} at {error.operation_name}"  # type: ignore[attr-defined]
    family, cause, remedy = next(
        (found for known, found in EXPLANATIONS.items() for name in names if name in known),
        OTHERWISE,
    )
    return family(f"{where}: {cause} ({detail}).", remedy)
