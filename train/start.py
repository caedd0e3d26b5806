"""Starting quickly: most of what a command of one entry takes before its first step is the import of torch."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Imports inside run without the collector of cycles, which would look through every module that is there again and again: a fifth of torch's import."""
    gc.disable()
    try:
        yield
    finally:
        # What was imported stays, so no later collection needs to look at it.
        gc.freeze()
        gc.enable()
