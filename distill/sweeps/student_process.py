"""The process of one student: `train`, for as long as somebody waits for it.

Its input is a pipe that brings a pickled `TrainConfig` and is then held open. When it is closed,
whoever asked for the student is done with it or dead: no student trains on alone. What is printed
is the student's log, whose end says why a run failed.
"""

import os
import pickle
import signal
import sys
import threading
import time
import traceback

from distill.sweeps.result import SENTENCES, reason

STOP_SECONDS = 30
"""What an interrupted run gets to end its logs before its process is ended."""
FAILED_BECAUSE = "failed: "
"""Stands in the log before the reason, with which the log ends."""


def main() -> None:
    """Train the student of the input; the exit code is 0 if it has finished."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = pickle.load(sys.stdin.buffer)
    try:
        threading.Thread(target=_end_with_the_input, daemon=True).start()
        from distill.run.train import train  # takes seconds, in which the input may end too

        try:
            train(config)
        except Exception as error:
            if not isinstance(error, SENTENCES):
                traceback.print_exc()
            sys.exit(FAILED_BECAUSE + reason(error))
    except KeyboardInterrupt:
        sys.exit(f"{FAILED_BECAUSE}it was interrupted")


def _end_with_the_input() -> None:
    os.read(0, 1)  # nothing comes but the end
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)
