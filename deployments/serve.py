"""Serve the flow from one process: runs on request, in the UI or through the API, or on a schedule.

For example: ``python deployments/serve.py --cron "0 6 * * 1" --timezone Europe/London``.
"""

from __future__ import annotations

import argparse
import sys
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flows import command_line
from flows.settings import Settings


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options that say when to run, and the arguments that are the flow's."""
    parser = argparse.ArgumentParser(
        prog="serve.py",
        description="Serve the Digit Recognizer flow until Ctrl-C.",
        epilog="All other options are the flow's, for its runs: see flows/mnist_flow.py --help",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--cron",
        help='schedule, such as "0 6 * * 1": Mondays at six (default: run only on request)',
    )
    parser.add_argument(
        "--timezone",
        type=known_timezone,
        default="UTC",
        help="time zone of --cron, such as Europe/London (default: UTC)",
    )
    return parser.parse_known_args(arguments)


def known_timezone(name: str) -> str:
    """The name, if the time zone database has it."""
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of it: America
        raise argparse.ArgumentTypeError(f"there is no time zone {name!r}") from None


def main(arguments: list[str]) -> int:
    """Serve until stopped; return the exit code."""
    options, for_the_flow = parse(arguments)
    settings = command_line.parse(for_the_flow)
    from flows.prefect_errors import exit_code  # --help need not wait for Prefect's import

    return exit_code(lambda: serve(options, settings))


def serve(options: argparse.Namespace, settings: Settings) -> int:
    """Serve the flow with these settings until stopped; return the exit code."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.schedules import Cron
    from prefect.settings import PREFECT_API_URL
    from prefect.types.entrypoint import EntrypointType

    from flows.mnist_flow import mnist_flow

    if not PREFECT_API_URL.value():  # the one that Prefect would start runs no schedules
        print(
            "error: there is no Prefect server configured. Start one in another terminal with "
            "`prefect server start`, and set its address here: "
            "`export PREFECT_API_URL=http://127.0.0.1:4200/api`.",
            file=sys.stderr,
        )
        return command_line.FAILED
    try:
        schedule = None if options.cron is None else Cron(options.cron, timezone=options.timezone)
    except ValueError as error:
        print(f"error: --cron: {error}", file=sys.stderr)
        return command_line.WRONG_USAGE
    workspace = settings.workspace.expanduser().resolve()
    mnist_flow.serve(
        name="served",
        schedule=schedule,
        parameters={
            "settings": settings.model_copy(update={"workspace": workspace}).model_dump(mode="json")
        },
        tags=["digit-recognizer", "served"],
        global_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        ),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
