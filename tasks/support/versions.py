"""The versions of the libraries that change a stage's numbers."""

from importlib.metadata import PackageNotFoundError, version


def version_of(library: str) -> str:
    """The installed version; of TensorFlow also where it is its distribution without GPU code."""
    try:
        return version(library)
    except PackageNotFoundError:
        return version(f"{library}-cpu")
