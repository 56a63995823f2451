"""The flow and its parameters; sets what Prefect must find in the environment when imported."""

import os
import time

STARTED = time.monotonic()  # the first line of our code that a process runs

for number in (0, 1, 2):  # closed from the start: without this, some file would get its number
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, os.O_RDWR)

# Set here so that nobody has to; what the user has set is kept.
for name, value in {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 is too few on a fresh database
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # else the temporary server phones home
    "DO_NOT_TRACK": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; deployments/automations.yaml relies on it
    # What a training logs about its checkpoints belongs in the log of its run, if there is one.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "model",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # Else a worker process asks at its start, and an outage just then fails its member.
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "DASK_LOGGING__DISTRIBUTED": "warning",  # else each worker logs a dozen lines at start and end
    "TF_ENABLE_ONEDNN_OPTS": "1",  # off by default without AVX-512, but faster there too
    "TF_CPP_MIN_LOG_LEVEL": "3",  # else a missing GPU is reported as an error
}.items():
    os.environ.setdefault(name, value)
