"""Store credentials as Secret blocks on the Prefect server, and give them to work pools' runs.

For example: ``python deployments/set_secrets.py KAGGLE_API_TOKEN --pool process``. Each value is
taken from the environment variable of that name, or asked for; it is never an argument. The pool
gets a reference to the block, which its worker resolves when a run starts.
"""

from __future__ import annotations

import argparse
import os
import sys
from getpass import getpass

from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.exceptions import ObjectNotFound

from flows.prefect_errors import exit_code


def main(arguments: list[str]) -> int:
    """Store the secrets and put references to them into the pools; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="set_secrets.py",
        description="Store credentials on the Prefect server, for the runs of work pools.",
    )
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="such as KAGGLE_API_TOKEN; its value is that environment variable's, or asked for",
    )
    parser.add_argument(
        "--pool", nargs="+", required=True, help="work pools whose runs get the credentials"
    )
    options = parser.parse_args(arguments)
    with get_client(sync_client=True) as client:
        try:
            for pool in options.pool:
                client.read_work_pool(pool)
        except ObjectNotFound:
            print(
                f"error: there is no work pool {pool!r}: see `prefect work-pool ls`",
                file=sys.stderr,
            )
            return 1
        for name in options.names:
            value = os.environ.get(name) or getpass(f"{name}: ")
            if not value:
                print(f"error: {name} has no value: nothing was saved for it", file=sys.stderr)
                return 1
            Secret(value=value).save(block_name(name), overwrite=True)
        for pool in options.pool:
            refer(client, pool, options.names)
    return 0


def block_name(variable: str) -> str:
    """The name of an environment variable's block: lowercase, with dashes."""
    return variable.lower().replace("_", "-")


def refer(client: SyncPrefectClient, pool: str, names: list[str]) -> None:
    """Put the variables into the environment of the pool's runs, as references to the blocks."""
    template = client.read_work_pool(pool).base_job_template
    environment = template["variables"]["properties"]["env"].setdefault("default", {})
    environment |= {name: f"{{{{ prefect.blocks.secret.{block_name(name)} }}}}" for name in names}
    client.update_work_pool(pool, WorkPoolUpdate(base_job_template=template))
    print(f"{pool}: {', '.join(sorted(environment))}")


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
