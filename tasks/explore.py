"""Stage 3: look at the data: figures, and their numbers in ``eda.json``."""

from __future__ import annotations

import json
from dataclasses import asdict

from tasks.support import workspace
from tasks.support.caching import stage
from tasks.support.records import Exploration, File, TestRows, TrainRows


@stage("numpy", "scipy", "matplotlib", "seaborn", "pillow")
def explore(train: TrainRows, test: TestRows, notice: str | None) -> Exploration:
    """Draw the labels, the intensities and the images; warn of duplicates and leaks."""
    from model import exploration, figures

    images, labels = train.images.array(), train.labels.array()
    numbers = exploration.explore(images, labels, test.images.array())
    drawn = {
        "label_counts": figures.label_counts(numbers, notice),
        "pixel_intensities": figures.pixel_intensities(numbers, notice),
        "sample_grid": figures.sample_grid(images, labels, notice),
        "mean_images": figures.mean_images(exploration.mean_images(images, labels), notice),
        "train_against_test": figures.train_against_test(
            images, test.images.array(), numbers, notice
        ),
    }
    with workspace.current().temporary_folder() as folder:
        eda = folder / "eda.json"
        eda.write_text(json.dumps(asdict(numbers), indent=2) + "\n")
        for name, figure in drawn.items():
            figures.save(figure, folder / f"{name}.png")
        return Exploration(
            numbers=File.keep(eda),
            figures={name: File.keep(folder / f"{name}.png") for name in drawn},
        )
