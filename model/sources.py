"""Where digits come from, and what outputs must say about each source."""

from typing import Literal

Source = Literal["kaggle", "directory", "mnist", "sample"]

SENTENCES: dict[Source, str] = {
    "kaggle": "The competition's files, downloaded from Kaggle.",
    "directory": "The competition's files, from a folder.",
    "mnist": "This is Keras' copy of MNIST (60,000 + 10,000), not the competition's files: "
    "nothing from it can be submitted.",
    "sample": "This is scikit-learn's embedded sample (1,797 digits of 8x8 pixels), not MNIST: "
    "its figures say nothing about the competition.",
}
UNSUBMITTABLE: dict[Source, str] = {
    "mnist": "Nothing from MNIST can be submitted: it contains the competition's test images.",
    "sample": "Nothing from the embedded sample can be submitted: it is not Kaggle's data.",
}


def notice(source: Source) -> str | None:
    """What every output must say if the data is not the competition's own; otherwise None."""
    return SENTENCES[source] if source in UNSUBMITTABLE else None
