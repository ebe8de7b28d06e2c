"""Failures to write as sentences, and failures of one process as failures of all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate.utils import gather_object
from safetensors import SafetensorError

from distill.errors import DistillError
from distill.run.checkpoint_folder import what_is_kept


@contextmanager
def explained(what: str, *, checkpoints: Path) -> Iterator[None]:
    """Turn a failure to write, whichever library meets it, into a sentence.

    Args:
        what: what is written, as the start of the sentence.
        checkpoints: the run's, of which the sentence says whether there is one to go on from.

    Raises:
        DistillError: the block could not write, as on a full disk.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise DistillError(
            f"{what} could not be written ({type(error).__name__}: {error}). "
            f"{what_is_kept(checkpoints)} Free space or mend the disk, then go on with --resume."
        ) from error


def in_the_main_process(work: Callable[[], object], *, is_main: bool) -> None:
    """Do something in one of the processes of a run; the others wait, and fail if it does.

    Raises:
        DistillError: that of `work`, in every process.
    """
    failure = ""
    if is_main:
        try:
            work()
        except DistillError as error:
            failure = str(error)
    for found in gather_object([failure]):
        if found:
            raise DistillError(found)
