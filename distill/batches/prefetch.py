"""Prepare the next item in a thread while the current one is worked on."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")

_END = object()


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def prefetch(items: Iterable[Item], *, depth: int = 4) -> Generator[Item, None, None]:
    """The same items in the same order, at most `depth` of them prepared ahead.

    An exception of `items` is raised here, after the items that came before it. When the
    consumer stops early, the thread stops too before this generator returns; where Ctrl-C
    interrupts even that, the process waits for it before it ends, since a thread that dies
    inside h5py leaves its lock held and the process asleep for ever.
    """
    # `queue.Queue` and `threading.Semaphore` may keep their lock when Ctrl-C interrupts them.
    ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(depth):
        room.put(None)
    stop = threading.Event()

    def put(item: Any) -> bool:
        while threading.main_thread().is_alive() and not stop.is_set():
            try:
                room.get(timeout=0.1)
            except queue.Empty:
                continue
            ready.put(item)
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_END)
        except BaseException as error:
            put(_Failure(error))

    thread = threading.Thread(target=work, name="prefetch", daemon=False)
    try:
        thread.start()
        while (item := ready.get()) is not _END:
            room.put(None)
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join()
