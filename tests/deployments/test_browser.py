"""What a person sees of a run and of its parameters in Prefect's UI: ``pytest -m browser``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from prefect.client.schemas.objects import FlowRun

from flows.settings import Settings
from tests.deployments.servers import ROOT, Server

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")
SCREENSHOTS = ROOT / "workspace" / "screenshots"  # of the last test run
STAGES = ["download", "preprocess", "explore", "train", "evaluate", "predict", "submit", "publish"]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of Debian's Chromium; no request leaves the machine."""
    assert CHROMIUM.exists(), "Chromium is missing: apt-get install chromium"
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    arguments = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    arguments += " --disable-background-networking --disable-component-update"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=arguments.split(), timeout=120_000
        )
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        yield page
        browser.close()


def test_a_runs_page_shows_what_ran_and_how_it_ended(
    page: Page, server: Server, finished_run: FlowRun
) -> None:
    page.goto(f"{server.url}/runs/flow-run/{finished_run.id}")
    expect(page.get_by_text(finished_run.name).first).to_be_visible()
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible()
    expect(page.get_by_text(f"{len(STAGES)} Task runs")).to_be_visible()
    for tag in ("digit-recognizer", "process"):
        expect(page.get_by_text(tag, exact=True).first).to_be_visible()
    expect(page.get_by_text("epoch 10/10")).to_be_visible()
    page.wait_for_timeout(3_000)  # the graph has no text to wait for
    page.screenshot(path=SCREENSHOTS / "run.png")

    page.get_by_text("Task Runs", exact=True).first.click()
    for stage in STAGES:
        expect(page.get_by_text(re.compile(f"^{stage}-")).first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "tasks.png")


def test_the_artifacts_have_pictures_and_numbers(
    page: Page, server: Server, finished_run: FlowRun
) -> None:
    page.goto(f"{server.url}/runs/flow-run/{finished_run.id}")
    page.get_by_text("Artifacts", exact=True).first.click()
    for key in ("training-member-0", "run-metrics", "run-summary"):
        expect(page.get_by_text(key, exact=True).first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "artifacts.png")

    page.get_by_text("run-summary", exact=True).first.click()
    expect(page.get_by_text("Validation accuracy", exact=False).first).to_be_visible()
    pictures = page.locator("img[src^='data:image/png']")
    expect(pictures).to_have_count(3)
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("picture => picture.complete && picture.naturalWidth") > 100
    page.screenshot(path=SCREENSHOTS / "summary.png")

    page.goto(f"{server.url}/runs/flow-run/{finished_run.id}")
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text("run-metrics", exact=True).first.click()
    expect(page.get_by_text("validation_accuracy", exact=True).first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "metrics.png")


def test_the_form_shows_each_parameter_with_its_description_and_choices(
    page: Page, server: Server
) -> None:
    open_form(page, server)
    for field in Settings.model_fields.values():
        expect(page.get_by_text(field.description or "", exact=True)).to_be_visible()
    page.get_by_role("button", name="auto", exact=True).first.press("ArrowDown")  # the source
    for choice in get_args(Settings.model_fields["source"].annotation):
        expect(page.locator(".p-select-option", has_text=choice).first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "form.png")


def test_the_form_refuses_what_is_out_of_bounds(page: Page, server: Server) -> None:
    with server.client() as client:
        before = client.count_flow_runs()
    open_form(page, server)
    page.locator("input[type=number]").first.fill("-1")  # the seed
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("-1 is less than the minimum of 0").first).to_be_visible()
    with server.client() as client:
        assert client.count_flow_runs() == before


def open_form(page: Page, server: Server) -> None:
    with server.client() as client:
        deployment = client.read_deployment_by_name("digit-recognizer/process")
    page.goto(f"{server.url}/deployments/deployment/{deployment.id}/run")
