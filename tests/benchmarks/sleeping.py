"""A stage that sleeps instead of training, on the path of the real members."""

from __future__ import annotations

import time
from typing import Any

from prefect import flow

from flows.runners import each_member
from flows.settings import Settings
from tasks.support.caching import kept_under, stage
from tasks.support.records import Record


class Slept(Record):
    member: int


@stage()
def sleep(member: int, seconds: float) -> Slept:
    time.sleep(seconds)
    return Slept(member=member)


@flow
def sleep_in_workers(settings: Settings, members: int, seconds: float) -> float:
    with (
        kept_under(settings.workspace, refresh=False, started=time.monotonic()) as kept,
        each_member(settings, members) as call_for_each,
    ):
        results, _ = call_for_each(sleep, seconds=seconds)
        if [result.member for result in results] != list(range(members)):
            raise RuntimeError("members are missing")
        return kept.stage_seconds["sleep"]


def seconds_of_members(settings: dict[str, Any], members: int, seconds: float) -> float:
    """Seconds from the first member's submission to the last one's result."""
    return sleep_in_workers(Settings.model_validate(settings), members, seconds)
