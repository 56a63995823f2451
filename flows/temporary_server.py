"""A Prefect server for one run, if none is configured.

Prefect can start one itself, but imports all of its server code into this process first and
leaves the server behind when this process is killed. Here it starts while the run imports its
libraries, and ends with the run, however that ends.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from model.errors import PermanentError, TransientError

ENOUGH_BYTES = 1 << 20  # for what the database writes next
TIMEOUT_SECONDS = 120  # a start on a fresh database and a busy machine takes half a minute


class TemporaryServer:
    """A server process that starts on construction."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.api_url = f"http://127.0.0.1:{port}/api"
        no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
        if no_proxy != "*":  # a proxy cannot reach it
            os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{no_proxy},127.0.0.1".lstrip(",")
        debugged = os.environ.get("PREFECT_LOGGING_LEVEL") == "DEBUG"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.temporary_server", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # the run's own may be closed
            # Of a full disk, say, it has a thousand lines where the run says it in one.
            stderr=None if debugged else subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the run, which ends its server itself
        )
        atexit.register(self.process.terminate)

    def wait(self) -> None:
        """Return once it answers; PermanentError or TransientError if it does not."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(self.api_url + "/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.05)
        raise home_fault() or TransientError(
            "Prefect's temporary server did not start.",
            "Run it again, with --debug to see why; or start one with `prefect server start` and "
            "set PREFECT_API_URL.",
        )


def home_fault() -> PermanentError | None:
    """Why Prefect, and so the temporary server, cannot write its home folder, if it cannot."""
    from prefect.settings import Settings

    home = Settings().home
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as probe:
            probe.write(bytes(ENOUGH_BYTES))
    except OSError as error:
        return PermanentError(
            f"Prefect's folder {home} cannot be written: {error.strerror}.",
            "Free up space or fix its permissions, or set PREFECT_HOME to another folder.",
        )
    return None


def start_unless_configured() -> TemporaryServer | None:
    """Start a server unless one is configured, in the environment or in Prefect's profile."""
    if os.environ.get("PREFECT_API_URL"):
        return None
    if sys.stderr and sys.stderr.isatty():
        print("Starting Prefect and importing libraries ...", file=sys.stderr)
    server = TemporaryServer()  # at once: reading the profile takes a second of imports
    from prefect.settings import Settings

    if Settings().api.url:
        server.process.kill()
        return None
    return server


def serve(port: int) -> None:
    """Serve until the parent process ends, which closes its end of the pipe."""
    os.environ |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
    gc.disable()  # what imports create stays; scanning it takes a seventh of the start-up
    import uvicorn
    from prefect.settings import Settings

    class QuietServer(uvicorn.Server):
        """Starts one at a time: two that set up the same fresh database would corrupt it."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            home = Settings().home
            home.mkdir(parents=True, exist_ok=True)
            with (home / "temporary-server.lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                await super().startup(sockets)
            gc.enable()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            logging.disable()  # the run is over: what its server aborts is no error
            await super().shutdown(sockets)

    def end_with_parent() -> None:
        os.read(0, 1)  # unbuffered: a buffered read would hold a lock at exit
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    factory = "prefect.server.api.server:create_app"
    QuietServer(
        uvicorn.Config(factory, factory=True, host="127.0.0.1", port=port, log_level="error")
    ).run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
