"""Import TensorFlow: quietly, with one thread per operation, and without rewriting graphs.

Work is parallelized in larger pieces than an operation (lanes of a batch, batches, members), which
is faster on a few cores and gives the same bytes however many there are.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import sys
import tempfile

NOTES = re.compile(rb"(WARNING: All log messages before absl::|[IWE]0000 ).*\n?")


def use_one_core() -> None:
    """In a worker, of which there is one per core: run one operation at a time."""
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")


def load() -> None:
    """Import TensorFlow (4 s); stderr is shown afterwards, without TensorFlow's notices."""
    os.environ["KERAS_BACKEND"] = "tensorflow"  # also for users of another one
    if "tensorflow" not in sys.modules:
        _import_quietly()
    import tensorflow as tf

    # Grappler takes 0.1 s to rewrite a graph, and none of ours ran any faster for it.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    # TensorFlow mistakes the networks, each traced once, for one function traced over and over.
    tf.get_logger().addFilter(_is_not_about_retracing)


def _is_not_about_retracing(record: logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in record.getMessage()


def _import_quietly() -> None:
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        # What the import creates stays: scanning it again and again takes a fifth of a short run.
        gc.disable()
        try:
            import tensorflow as tf
        finally:
            gc.freeze()
            gc.enable()
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            with contextlib.suppress(OSError):  # a full disk, or nobody reads it
                os.write(2, NOTES.sub(b"", caught.read()))
    tf.config.threading.set_intra_op_parallelism_threads(1)
