"""The server that the tests of markers ``server`` and ``browser`` share, and a run on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.client.schemas.objects import FlowRun

from tests.deployments.servers import ROOT, Server, prefect_server

SAMPLE = {"source": "sample"}  # as little data as there is: 10 epochs take some 10 s
SECRET = "s3cret-that-nobody-may-see"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on SQLite with all deployments and automations, and a worker."""
    with prefect_server(tmp_path_factory.mktemp("server")) as server:
        server.deploy("--all", pools=("process", "docker", "kubernetes"))
        automations = (ROOT / "deployments" / "automations.yaml").read_text()
        sooner = server.folder / "automations.yaml"
        sooner.write_text(automations.replace("within: 90", "within: 45"))  # a test waits for it
        server.run("prefect", "automation", "create", "--from-file", str(sooner))
        server.run(
            "python",
            "deployments/set_secrets.py",
            *("AWS_SECRET_ACCESS_KEY", "--pool", "process"),
            AWS_SECRET_ACCESS_KEY=SECRET,
        )
        server.start_unit("prefect-worker")
        yield server


@pytest.fixture(scope="session")
def finished_run(server: Server) -> FlowRun:
    """A run triggered through the API, over."""
    return server.wait_until_final(server.trigger("process", **SAMPLE).id)
