"""What is refused by the command that stores credentials on the Prefect server."""

from __future__ import annotations

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from deployments import set_secrets

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_pool_that_is_not_there_is_told_before_a_value_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(set_secrets, "getpass", lambda _: pytest.fail("it was asked for"))
    assert set_secrets.main(["SOME_KEY", "--pool", "nowhere"]) == 1
    assert "no work pool 'nowhere'" in capsys.readouterr().err


def test_an_empty_value_is_not_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(set_secrets, "getpass", lambda _: "")
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="some-pool", type="process"))
    assert set_secrets.main(["SOME_KEY", "--pool", "some-pool"]) == 1
    assert "SOME_KEY has no value" in capsys.readouterr().err
    with pytest.raises(ValueError, match="some-key"):
        Secret.load("some-key")
