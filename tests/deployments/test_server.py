"""The deployments on a real server with SQLite: ``pytest -m server``."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Pending

from tests.deployments.conftest import SECRET
from tests.deployments.servers import BIN, LONG, ROOT, Server, wait_for

pytestmark = pytest.mark.server

LONG_TRAINING = {  # so many rows are held out that it never has all right, and stops early
    "source": "sample",
    "epochs": 30,
    "batch_size": 2,
    "target_accuracy": 1.0,
    "validation_fraction": 0.5,
    "seed": 1,
}


@pytest.mark.parametrize("name", ["process", "docker", "kubernetes"])
def test_a_deployment_is_as_the_file_says(server: Server, name: str) -> None:
    with server.client() as client:
        deployment = client.read_deployment_by_name(f"digit-recognizer/{name}")
    (schedule,) = deployment.schedules
    assert isinstance(schedule.schedule, CronSchedule)
    assert (schedule.schedule.timezone, schedule.active) == ("Europe/London", False)
    assert deployment.global_concurrency_limit
    assert deployment.global_concurrency_limit.limit == 1
    assert deployment.concurrency_options
    assert deployment.concurrency_options.collision_strategy.value == "CANCEL_NEW"
    assert set(deployment.tags) == {"digit-recognizer", name}
    assert deployment.description
    assert deployment.parameters["settings"]["submit"] == "never"
    assert str(ROOT) not in deployment.model_dump_json()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"epochs": 0}, "'settings.epochs'. Failure reason: 0 is less than the minimum of 1"),
        ({"source": "kagle"}, "'kagle' is not one of ['auto', 'kaggle', 'directory'"),
        ({"seed": "seven"}, "'settings.seed'. Failure reason: 'seven' is not of type 'integer'"),
        ({"colour": 1}, "('colour' was unexpected)"),
    ],
)
def test_bad_parameters_are_refused(server: Server, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(PrefectHTTPStatusError) as refused:
        server.trigger("process", **settings)
    assert refused.value.response.status_code == 409
    assert reason in refused.value.response.json()["detail"]


def test_a_run_triggered_with_parameters_completes(server: Server, finished_run: FlowRun) -> None:
    assert finished_run.state_name == "Completed"
    assert finished_run.name == "classic-sample-seed0"
    assert set(finished_run.tags) == {"digit-recognizer", "process"}
    metrics = json.loads((server.workspace / "runs" / "latest" / "metrics.json").read_text())
    assert (metrics["source"], metrics["epochs_run"]) == ("sample", 10)
    with server.client() as client:
        artifacts = client.read_artifacts(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[finished_run.id]))
        )
    assert {(artifact.key, artifact.type) for artifact in artifacts} >= {
        ("training-member-0", "progress"),
        ("run-summary", "markdown"),
        ("run-metrics", "table"),
    }


@pytest.mark.usefixtures("finished_run")  # so that its stages are cached
def test_a_scheduled_run_fires_and_one_that_overlaps_is_cancelled(server: Server) -> None:
    with server.client() as client:
        deployment = client.read_deployment_by_name("digit-recognizer/process")
    own = ["--interval", "5", "--timezone", "Europe/London", "--accept-yes"]
    server.run("prefect", "deployment", "schedule", "create", "digit-recognizer/process", *own)

    def scheduled(state: str) -> list[FlowRun]:
        runs = server.flow_runs(deployment.id)
        return [run for run in runs if run.auto_scheduled and run.state_name == state]

    wait_for("scheduled run that runs", lambda: scheduled("Running"))
    (overlapping, *_) = wait_for("cancelled run", lambda: scheduled("Cancelled"))
    with server.client() as client:
        (extra,) = (s for s in client.read_deployment_schedules(deployment.id) if s.active)
        client.delete_deployment_schedule(deployment.id, extra.id)
    assert overlapping.state
    assert "concurrency limit" in (overlapping.state.message or "")
    assert overlapping.run_count == 0
    (completed, *_) = wait_for("scheduled run that completes", lambda: scheduled("Completed"))
    assert completed.parameters == deployment.parameters

    def all_final() -> bool:
        states = [run.state for run in server.flow_runs(deployment.id)]
        return all(state and state.is_final() for state in states)

    wait_for("end of the last scheduled run, which would have the next test's cancelled", all_final)


@pytest.fixture(scope="module")
def notifications(server: Server) -> Iterator[list[str]]:
    """What the automation of notify-on-failure.yaml sends, to a web hook on loopback."""
    received: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """The test's output is long enough."""

    hook = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    block = (
        "from prefect.blocks.notifications import CustomWebhookNotificationBlock as Hook;"
        f"hook = Hook(name='hook', url='http://127.0.0.1:{hook.server_port}/',"
        " json_data={'text': '{{subject}} {{body}}'});"
        "print(hook.save('digit-recognizer', overwrite=True))"
    )
    block_id = server.run("python", "-c", block).strip()
    example = (ROOT / "deployments" / "notify-on-failure.yaml").read_text()
    file = server.folder / "notify.yaml"
    file.write_text(example.replace("00000000-0000-0000-0000-000000000000", block_id))
    server.run("prefect", "automation", "create", "--from-file", str(file))
    yield received
    hook.shutdown()


@pytest.fixture(scope="module")
def killed_run(request: pytest.FixtureRequest, server: Server) -> FlowRun:
    """A run whose process was killed in mid-training together with its worker."""
    request.getfixturevalue("notifications")
    run = server.trigger("process", **LONG_TRAINING)
    checkpoints = server.workspace / "cache" / "checkpoints"

    def two_checkpoints() -> bool:
        state = server.flow_run(run.id).state
        assert state
        assert not state.is_final(), f"ended before it could be killed: {state}"
        return len(list(checkpoints.rglob("epoch-*"))) >= 2

    wait_for("checkpoints", two_checkpoints)
    (engine,) = server.processes("prefect.engine")
    environment = Path(f"/proc/{engine}/environ").read_bytes().split(b"\0")
    assert f"AWS_SECRET_ACCESS_KEY={SECRET}".encode() in environment
    server.kill("prefect", "worker", "start")
    server.kill("prefect.engine")
    assert server.flow_run(run.id).state_name == "Running"
    return run


def test_secrets_are_in_no_parameter_log_or_answer(server: Server, killed_run: FlowRun) -> None:
    with server.client() as client:
        pool = client.read_work_pool("process").model_dump_json()
        run = client.read_flow_run(killed_run.id).model_dump_json()
    assert "prefect.blocks.secret.aws-secret-access-key" in pool
    assert SECRET not in pool + run + "".join(server.logs(killed_run.id))
    database = b"".join(path.read_bytes() for path in server.folder.glob("prefect.db*"))
    assert SECRET.encode() not in database


def test_a_killed_run_ends_as_crashed_and_somebody_is_told(
    server: Server, killed_run: FlowRun, notifications: list[str]
) -> None:
    # Nothing else runs meanwhile: a locked SQLite makes Prefect's server put the event aside.
    ended = server.wait_until_final(killed_run.id)
    assert ended.state
    assert ended.state.name == "Crashed"
    assert "No heartbeat" in (ended.state.message or "")
    told = wait_for("message", lambda: [text for text in notifications if ended.name in text])
    assert "No heartbeat" in told[0]


@pytest.mark.usefixtures("finished_run")  # so that its stages are cached
def test_serve_runs_the_flow_from_one_process(server: Server) -> None:
    command = [str(BIN / "python"), str(ROOT / "deployments" / "serve.py"), "--source", "sample"]
    command += [
        "--workspace",
        str(server.workspace),
        "--epochs",
        "2",
        "--cron",
        "30 4 * * *",
        "--timezone",
        "Asia/Tokyo",
    ]
    process = server.start(command, "serve")

    def served() -> DeploymentResponse | None:
        with server.client() as client:
            try:
                return client.read_deployment_by_name("digit-recognizer/served")
            except ObjectNotFound:
                return None

    deployment = wait_for("deployment", served)
    (schedule,) = deployment.schedules
    assert isinstance(schedule.schedule, CronSchedule)
    assert (schedule.schedule.timezone, schedule.active) == ("Asia/Tokyo", True)
    assert deployment.parameters["settings"]["source"] == "sample"
    with server.client() as client:
        run = client.create_flow_run_from_deployment(deployment.id)
    assert server.wait_until_final(run.id).state_name == "Completed"
    process.send_signal(signal.SIGINT)
    assert process.wait(LONG) == 0


def test_a_run_that_is_taken_and_never_started_ends_as_crashed(server: Server) -> None:
    _, never_started = yaml.safe_load((ROOT / "deployments" / "automations.yaml").read_text())[
        "automations"
    ]
    never_started["name"] = "soon"
    never_started["trigger"]["within"] = 10  # instead of 15 minutes
    with server.client() as client:
        deployment = client.read_deployment_by_name("digit-recognizer/docker")
        server.run("prefect", "automation", "create", "--from-json", json.dumps(never_started))
        run = client.create_flow_run_from_deployment(deployment.id, state=Pending())
    assert server.wait_until_final(run.id).state_name == "Crashed"
    server.run("prefect", "automation", "delete", "soon")  # other runs are slower to start


def test_the_next_run_goes_on_from_the_killed_ones_checkpoint(
    server: Server, killed_run: FlowRun
) -> None:
    server.wait_until_final(killed_run.id)
    server.start_unit("prefect-worker")
    run = server.wait_until_final(server.trigger("process", **LONG_TRAINING).id)
    assert run.state_name == "Completed"
    epochs = [re.search(r"epoch (\d+)/30", line) for line in server.logs(run.id)]
    first = next(int(epoch[1]) for epoch in epochs if epoch)
    assert first > 1
