"""Failures to write, whichever library meets them, as sentences."""

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from distill.errors import DistillError


@contextmanager
def explained(what: str, *, kept: str) -> Iterator[None]:
    """Turn a failure to write, whichever library meets it, into a sentence.

    Args:
        what: what is written, as the start of the sentence.
        kept: what there is to go on from.

    Raises:
        DistillError: the block could not write, as on a full disk.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise DistillError(
            f"{what} could not be written ({type(error).__name__}: {error}). {kept} Free space "
            "or mend the disk, then go on with --resume."
        ) from error
