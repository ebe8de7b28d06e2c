"""Runs generated programs, each in a confined interpreter of its own, and says what happened.

The child reports success with a random nonce on a pipe of its own, after the test has returned:
an early `sys.exit(0)`, an exit code or printed text count for nothing. Candidate and test share
one interpreter, so a program written to attack this harness could still look for the nonce or
bend the test's comparisons; confinement keeps such a program from the machine, not from its
score.
"""

import hmac
import marshal
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from evaluation.config import SandboxLimits
from evaluation.errors import EvaluationError

CHILD = Path(__file__).with_name("sandbox_child.py")
# -s -S: the standard library alone; -B: no .pyc. A fixed hash seed keeps verdicts repeatable.
COMMAND = (sys.executable, "-s", "-S", "-B", str(CHILD))
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
STARTUP_SECONDS = 60.0
REPORT_BYTES = 8192


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program in two parts that share one namespace, compiled one after the other."""

    candidate: str
    """What the model is answerable for, with what has to stand before it."""
    test: str
    """What must run to its end for the candidate to pass."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of one program."""

    passed: bool
    outcome: str
    """passed, wrong_answer, exception:<Name>, syntax_error, timeout, memory, exit, signal:<NAME>,
    forged; scoring adds empty and prompt_too_long for completions that are not run."""
    seconds: float
    """Wall-clock seconds of the program, without the interpreter's start."""
    message: str = ""
    """The exception's text, cut short."""


def run_program(program: Program, limits: SandboxLimits) -> Verdict:
    """Run one program under the limits.

    Raises: EvaluationError when the interpreter itself does not start.
    """
    return _run(program, limits)[0]


def run_many(
    programs: Sequence[Program],
    limits: SandboxLimits,
    workers: int,
    on_done: Callable[[], None] = lambda: None,
) -> list[Verdict]:
    """Verdicts of the programs, in their order; `on_done` is called after each one."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(run_program, program, limits) for program in programs]
        try:
            for future in as_completed(futures):
                future.result()
                on_done()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


@lru_cache(maxsize=1)
def sandbox_level() -> str:
    """The layers that hold on this machine, as in `netns+seccomp+rlimits`."""
    return _run(Program(candidate="", test=""), SandboxLimits())[1]


def _run(program: Program, limits: SandboxLimits) -> tuple[Verdict, str]:
    nonce = secrets.token_hex(16)
    read_end, write_end = os.pipe()
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
        try:
            child = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=ENVIRONMENT,
                pass_fds=(write_end,),
                start_new_session=True,
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            payload = _payload(program, limits, nonce, write_end)
            os.close(write_end)
        try:
            _send(child, payload)
            return _await_report(child, read_end, limits, nonce)
        finally:
            _kill(child)
            os.close(read_end)


def _payload(program: Program, limits: SandboxLimits, nonce: str, pipe: int) -> bytes:
    return marshal.dumps(
        {
            "candidate": program.candidate,
            "test": program.test,
            "nonce": nonce,
            "pipe": pipe,
            "memory_bytes": limits.memory_mb << 20,
            "cpu_seconds": int(limits.timeout) + 2,
        }
    )


def _send(child: subprocess.Popen, payload: bytes) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(payload)
        child.stdin.close()
    except BrokenPipeError:
        return  # the missing report says so


def _await_report(
    child: subprocess.Popen, pipe: int, limits: SandboxLimits, nonce: str
) -> tuple[Verdict, str]:
    start, report = _read_line(pipe, b"", time.monotonic() + STARTUP_SECONDS)
    if not start.startswith("ready "):
        _kill(child)
        raise EvaluationError(
            f"the sandbox's interpreter did not start within {limits.memory_mb} MiB "
            f"(exit code {child.returncode}). Raise memory_mb, and run by hand to see why: "
            f"{' '.join(COMMAND)} < /dev/null"
        )
    began = time.monotonic()
    line, _ = _read_line(pipe, report, began + limits.timeout)
    seconds = time.monotonic() - began
    kind, _, rest = line.partition(" ")
    outcome, _, message = rest.partition(" ")
    if kind == "passed":
        passed = hmac.compare_digest(rest.encode(), nonce.encode())
        outcome, message = ("passed" if passed else "forged"), ""
    elif kind == "failed" and outcome:
        passed = False
    else:
        passed, message = False, line
        outcome = _outcome_without_report(child, seconds >= limits.timeout)
    verdict = Verdict(passed=passed, outcome=outcome, seconds=seconds, message=message)
    return verdict, start.removeprefix("ready ")


def _read_line(pipe: int, received: bytes, deadline: float) -> tuple[str, bytes]:
    """The next line and what follows it; an empty line when the pipe ends or time runs out."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while b"\n" not in received and len(received) < REPORT_BYTES:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return "", received
            chunk = os.read(pipe, REPORT_BYTES)
            if not chunk:
                return "", received
            received += chunk
    line, _, rest = received.partition(b"\n")
    return line.decode("utf-8", "replace"), rest


def _outcome_without_report(child: subprocess.Popen, timed_out: bool) -> str:
    if timed_out:
        return "timeout"
    try:
        code = child.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return "exit"  # it closed the pipe and went on
    if code == -signal.SIGXCPU:
        return "timeout"
    return f"signal:{signal.Signals(-code).name}" if code < 0 else "exit"


def _kill(child: subprocess.Popen) -> None:
    if child.returncode is None:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has just ended
        child.wait()
