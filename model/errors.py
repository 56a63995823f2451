"""The two families of errors: each says the cause in one sentence and the remedy in another."""


class PipelineError(Exception):
    """Base of both families; its text is what the command line shows after ``error:``."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause} {self.remedy}"


class PermanentError(PipelineError):
    """Trying again cannot help: bad data, bad credentials, rules not accepted. Never retried."""


class TransientError(PipelineError):
    """The outside world may recover: a lost connection, a busy server. Retried with backoff."""
