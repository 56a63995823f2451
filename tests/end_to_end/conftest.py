"""What the end-to-end tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A home with no credentials and a Prefect database of its own."""
    home = tmp_path_factory.mktemp("home")
    return {"HOME": str(home), "PREFECT_HOME": str(home / ".prefect")}
