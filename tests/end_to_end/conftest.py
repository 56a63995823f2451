"""What the end-to-end tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flows.temporary_server import TemporaryServer


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A home with no credentials and a Prefect database of its own."""
    home = tmp_path_factory.mktemp("home")
    return {"HOME": str(home), "PREFECT_HOME": str(home / ".prefect")}


@pytest.fixture(scope="module")
def served(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """The same with one Prefect server for all runs of a file, each of which so starts sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", environment["PREFECT_HOME"])
        server = TemporaryServer()
    server.wait()
    yield {**environment, "PREFECT_API_URL": server.api_url}
    server.process.terminate()
    server.process.wait()
