"""The pipeline: from raw digits to a validated and, on request, submitted Kaggle entry."""

import sys
from datetime import UTC, datetime

from flows import STARTED, signals

if __name__ == "__main__":
    signals.exit_at_once()  # until the run begins
    from flows import command_line, temporary_server

    settings = command_line.parse(sys.argv[1:])  # answers --help before the slow imports below
    server = temporary_server.start_unless_configured()  # starts while they are imported

from prefect import flow
from prefect.runtime import flow_run

from flows.runners import each_member
from flows.settings import Settings
from model.recipes import recipe_for
from tasks.download import download, resolve
from tasks.evaluate import evaluate
from tasks.explore import explore
from tasks.predict import predict
from tasks.preprocess import preprocess
from tasks.publish import publish
from tasks.submit import preflight, submit
from tasks.support.caching import kept_under
from tasks.support.records import Run
from tasks.train import train

DEFAULTS = Settings()  # from the environment


@flow(
    name="digit-recognizer", flow_run_name="{settings.recipe}-{settings.source}-seed{settings.seed}"
)
def mnist_flow(settings: Settings = DEFAULTS) -> Run:
    """Download, preprocess, explore, train, evaluate, predict, submit, publish."""
    settings.check()
    source = resolve(settings.source, settings.kaggle_secret_block)
    recipe = recipe_for(settings.recipe, **settings.recipe_overrides())
    created = datetime.now(UTC)
    which = f"{recipe.name}-{source}-seed{settings.seed}-{flow_run.id[:6]}"
    run_name = f"{created:%Y%m%d-%H%M%S}-{which}"

    with (
        kept_under(
            settings.workspace,
            refresh=settings.refresh,
            started=STARTED,
            store=settings.artifact_store,
        ),
        each_member(settings, recipe.members) as call_for_each,
    ):
        if settings.submit != "never":
            preflight(settings.competition, secret_block=settings.kaggle_secret_block)

        dataset = download(
            source, settings.competition, settings.data_dir, settings.kaggle_secret_block
        )
        digits = preprocess(dataset, settings.seed)
        exploration = explore(digits.train, digits.test, dataset.notice)
        members, missing = call_for_each(
            train,
            rows=digits.train,
            positions=digits.positions,
            recipe=recipe.of_a_member(),
            seed=settings.seed,
        )
        evaluation = evaluate(digits.train, digits.positions, recipe, members, dataset.notice)
        predictions = predict(
            digits.test, recipe, members, dataset.sample_submission, dataset.test_labels
        )
        submission = submit(
            dataset,
            predictions,
            evaluation,
            competition=settings.competition,
            policy=settings.submit,
            minimum_accuracy=settings.minimum_accuracy,
            message=settings.message,
            run_name=run_name,
            secret_block=settings.kaggle_secret_block,
        )
        return publish(
            run_name,
            created=created,
            settings=settings.model_dump(mode="json"),
            command=settings.command(),
            recipe=recipe,
            dataset=dataset,
            digits=digits,
            exploration=exploration,
            members=members,
            missing=missing,
            evaluation=evaluation,
            predictions=predictions,
            submission=submission,
        )


if __name__ == "__main__":
    sys.exit(command_line.run(mnist_flow, settings, server))
