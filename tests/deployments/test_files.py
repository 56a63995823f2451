"""What can be said of the deployment files without a server, an image or systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prefect.events.schemas.automations import AutomationCore

from deployments import serve, set_secrets
from flows.mnist_flow import mnist_flow
from flows.settings import Settings
from tests.deployments.servers import BIN, INSTALLED_AT, ROOT, UNITS

DEPLOYMENTS = ROOT / "deployments"
DOCKERFILE = DEPLOYMENTS / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, continued lines joined."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, rest in (line.split(maxsplit=1) for line in lines)]


def copied() -> list[str]:
    return [
        source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]
    ]


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    done = subprocess.run(
        [BIN / "hadolint", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("source", copied())
def test_what_the_dockerfile_copies_is_there_and_not_ignored(source: str) -> None:
    assert (ROOT / source).exists()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert f"!{source}" in ignored


def test_the_image_has_all_code_that_the_flow_imports() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders - {"deployments", "tests"} <= set(copied())


def test_a_change_of_the_code_does_not_install_the_packages_again() -> None:
    order = [f"{name} {rest}" for name, rest in instructions()]
    install = next(i for i, line in enumerate(order) if "pip install" in line)
    code = next(i for i, line in enumerate(order) if line.startswith("COPY flows"))
    assert install < code
    assert order[install - 1] == "COPY pyproject.toml constraints.txt ./"
    assert "-c constraints.txt" in order[install]


def test_the_image_runs_as_nobody_special() -> None:
    users = [rest for name, rest in instructions() if name == "USER"]
    assert users
    assert users[-1] not in ("0", "root")
    created = [rest for name, rest in instructions() if "useradd" in rest]
    assert f"--uid {users[-1]} " in created[0]


def automations() -> list[dict[str, Any]]:
    lost = yaml.safe_load((DEPLOYMENTS / "automations.yaml").read_text())["automations"]
    return [*lost, yaml.safe_load((DEPLOYMENTS / "notify-on-failure.yaml").read_text())]


@pytest.mark.parametrize("automation", automations(), ids=lambda automation: automation["name"])
def test_an_automation_watches_the_runs_of_this_flow(automation: dict[str, Any]) -> None:
    assert AutomationCore.model_validate(automation).trigger.type == "event"
    related = automation["trigger"]["match_related"]
    assert related["prefect.resource.name"] == mnist_flow.name


def test_no_deployment_submits_unless_told_to() -> None:
    content = yaml.safe_load((DEPLOYMENTS / "prefect.yaml").read_text())
    for deployment in content["deployments"]:
        assert deployment["parameters"]["settings"]["submit"] == "never"
        assert not any(schedule["active"] for schedule in deployment["schedules"])


def test_three_heartbeats_are_missed_before_a_run_counts_as_lost() -> None:
    content = yaml.safe_load((DEPLOYMENTS / "prefect.yaml").read_text())
    lost, _, _ = automations()
    for deployment in content["deployments"]:
        environment = deployment["work_pool"]["job_variables"]["env"]
        seconds = int(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
        assert lost["trigger"]["within"] == 3 * seconds


def test_no_file_names_a_folder_of_this_machine_or_a_secret() -> None:
    for path in (*DEPLOYMENTS.rglob("*.*"), DOCKERFILE):
        if path.is_file() and path.suffix != ".pyc":
            text = path.read_text()
            assert str(ROOT) not in text, path
            assert not re.search(r"(KEY|TOKEN|SECRET|PASSWORD)\w*\s*[:=]\s*['\"]?\w{8}", text), path


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in UNITS.glob("*.service"):
        text = unit.read_text().replace(INSTALLED_AT, str(BIN))
        (tmp_path / unit.name).write_text(text.replace("User=digits\n", ""))
    done = subprocess.run(
        ["systemd-analyze", "verify", *tmp_path.glob("*.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_serve_leaves_the_flow_its_options() -> None:
    options, for_the_flow = serve.parse(["--cron", "0 6 * * 1", "--source", "sample", "--refresh"])
    assert (options.cron, options.timezone) == ("0 6 * * 1", "UTC")
    assert for_the_flow == ["--source", "sample", "--refresh"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--timezone", "Atlantis"], "there is no time zone 'Atlantis'"),
        (["--sauce", "sample"], "--sauce"),
        (["--epochs", "0"], "--epochs: Input should be greater than or equal to 1"),
    ],
)
def test_serve_refuses_what_makes_no_sense(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        serve.main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_serve_needs_a_server(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, DEPLOYMENTS / "serve.py"],
        env={"PATH": "", "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no Prefect server")
    assert "Traceback" not in done.stderr


def test_a_block_is_named_for_its_variable() -> None:
    assert set_secrets.block_name("AWS_SECRET_ACCESS_KEY") == "aws-secret-access-key"


def bounds() -> list[tuple[str, str]]:
    """Each parameter that has bounds, and each of them."""
    found = []
    for name, schema in Settings.model_json_schema()["properties"].items():
        for kind in schema.get("anyOf", [schema]):
            for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
                if key in kind:
                    found.append((name, str(int(kind[key]))))
    return found


@pytest.mark.parametrize(("name", "bound"), bounds())
def test_a_parameters_bounds_are_in_its_description(name: str, bound: str) -> None:
    """The form in Prefect's UI shows them nowhere else."""
    assert re.search(rf"\b{bound}\b", Settings.model_fields[name].description or "")


def test_runs_outside_a_work_pool_send_as_many_heartbeats() -> None:
    """Of the command line and of serve.py, which report to the same server and its automations."""
    code = (
        "import flows; from prefect.settings import get_current_settings as current; "
        "print(current().flows.heartbeat_frequency)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    lost, _, _ = automations()
    assert int(done.stdout) * 3 == lost["trigger"]["within"]
