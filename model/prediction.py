"""Load a trained network from its file, and predict with it, for whole arrays or streams."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.augmentation import Images, view
from model.errors import PermanentError
from model.forms import in_form
from model.recipes import Form

if TYPE_CHECKING:
    import keras

Probabilities = NDArray[np.float32]  # (n, 10), each row sums to 1

BATCH_SIZE = 1000  # images per call into TensorFlow, in one thread
PIECE = 8 * BATCH_SIZE  # images of which all views are in memory at a time
SLICE = 32  # images at a time, so few that their activations stay in the processor's cache


def load(path: Path) -> keras.Model:
    """The network in a ``.keras`` file, ready to predict; nothing in the file is executed.

    Raises PermanentError if the file cannot be read as one.
    """
    import keras

    remedy = "Train it again, or copy the whole file again."
    if not zipfile.is_zipfile(path):  # Keras reports a truncated file as missing
        raise PermanentError(f"{path} is not there, or is not a complete Keras model.", remedy)
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise PermanentError(f"{path} cannot be read as a Keras model: {error}", remedy) from error


def predict(
    model: keras.Model,
    images: Images,
    *,
    form: Form = "drawn",
    views: Sequence[float] = (0,),
) -> Probabilities:
    """Probabilities (n, 10) of images (n, 28, 28, 1), n >= 1, by a network trained on that form.

    Test-time augmentation: they are the mean over ``views`` of each image, see augmentation.view.
    """
    predict_chunks = predictor(model)

    def mean_over_views(piece: Images) -> Probabilities:
        seen = (in_form(view(piece, share), form) for share in views)
        of_views = np.concatenate(list(predict_chunks(seen)))
        mean: Probabilities = of_views.reshape(len(views), len(piece), 10).mean(axis=0)
        return mean

    pieces = (images[i : i + PIECE] for i in range(0, len(images), PIECE))
    return np.concatenate([mean_over_views(piece) for piece in pieces])


def predictor(model: keras.Model) -> Callable[[Iterable[Images]], Iterator[Probabilities]]:
    """A function from chunks of images to their probabilities, which it yields batch by batch.

    It is traced once, and holds one chunk and a batch per thread, however many chunks there are.
    Later changes of the model's weights take effect.
    """
    import tensorflow as tf

    def in_slices(batch: Any) -> Any:
        _, parts = tf.while_loop(
            lambda start, _: start < tf.shape(batch)[0],
            lambda start, parts: (
                start + SLICE,
                parts.write(parts.size(), model(batch[start : start + SLICE], training=False)),
            ),
            (0, tf.TensorArray(tf.float32, 0, dynamic_size=True, element_shape=(None, 10))),
            parallel_iterations=1,
        )
        return parts.concat()

    pixels = tf.TensorSpec((None, 28, 28, 1), tf.uint8)
    forward: Any = tf.function(in_slices, [pixels], autograph=False)

    def predict_chunks(chunks: Iterable[Images]) -> Iterator[Probabilities]:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for chunk in chunks:
                batches = (chunk[i : i + BATCH_SIZE] for i in range(0, len(chunk), BATCH_SIZE))
                yield from threads.map(lambda batch: forward(batch).numpy(), batches)

    return predict_chunks
