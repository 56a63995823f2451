"""The flow and its parameters; what Prefect must find in the environment before it is imported."""

import os
import time

STARTED = time.monotonic()  # the first line of ours that a process runs

# Set by the program so that nobody has to; what the user has set stays.
for name, value in {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 is too few on a fresh database
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # the temporary server would call home
    "DO_NOT_TRACK": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; deployments/automations.yaml counts on it
    # What a training says of its saved states belongs to the log of its run, where there is one.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "model",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "DASK_LOGGING__DISTRIBUTED": "warning",  # else a dozen lines a worker for start and end
    "TF_ENABLE_ONEDNN_OPTS": "1",  # TensorFlow has it off without AVX-512, where it is faster too
    "TF_CPP_MIN_LOG_LEVEL": "3",  # that there is no GPU is no error
}.items():
    os.environ.setdefault(name, value)
