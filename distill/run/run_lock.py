"""One writer a directory: a second run, or a second sweep, is refused and not let in."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from accelerate import PartialState

from cache.errors import CacheError
from cache.machine.durable import make_directory
from cache.machine.lock import writer_lock
from distill.errors import DistillError
from distill.run.failures import in_the_main_process


@contextmanager
def directory_lock(out: Path) -> Iterator[None]:
    """Be the only process that writes to a directory for the block; it is made if need be.

    A directory that was made for nothing is removed again.

    Raises:
        DistillError: another process writes there, or nobody can.
    """
    if out.exists() and not out.is_dir():
        raise DistillError(f"{out} is a file, but a run needs a directory. Choose another --out.")
    is_new = not out.exists()
    with ExitStack() as stack:
        if is_new:
            stack.callback(_remove_if_empty, out)
        try:
            make_directory(out)
            stack.enter_context(writer_lock(out))
        except CacheError as error:
            raise DistillError(str(error)) from error
        yield


@contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """The same for processes that train together: the main one holds it, or all of them fail.

    Raises:
        DistillError: as `directory_lock`.
    """
    with ExitStack() as stack:
        in_the_main_process(
            lambda: stack.enter_context(directory_lock(out)), is_main=PartialState().is_main_process
        )
        yield


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
