"""Runs generated programs where they can harm nothing, and tests them where they cannot cheat.

Three processes take part in a check. The program runs confined and alone, in a process forked
for it. The judge, another process, holds the test: it asks the program for values and compares
them itself, so that a program finds neither tests nor expected values, nor anything to bend.
This process keeps the time, and ends both. docs/sandbox.md says what is guarded, and how.
"""

import signal
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache

from evaluation.config import SandboxLimits
from evaluation.errors import EvaluationError
from evaluation.sandbox.confine import missing_layers
from evaluation.sandbox.processes import STARTUP_SECONDS, Forked, server
from evaluation.sandbox.wire import RefusedValue, pack, unpack

MAX_SOURCE_BYTES = 1 << 20
"""Of a program. Nothing that a model writes in earnest comes near."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program, and the test that asks it for values."""

    candidate: str
    """What the model is answerable for, with what has to stand before it; runs confined."""
    test: str
    """What must run to its end for the program to pass; runs in the judge."""
    entry_points: tuple[str, ...] = ()
    """Functions that the test calls; in the judge they stand for those of the program."""
    helpers: str = ""
    """Trusted source that the test needs; runs in the judge before it."""
    in_child: bool = False
    """Helpers build objects that cannot cross, such as a tree: they run in the program, which
    then evaluates the sides of the test's comparisons. The judge compares; a function of the
    helpers that compares would run in the program, and be its to change."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of one program."""

    passed: bool
    outcome: str
    """One of:

    - passed: the test ran to its end;
    - wrong_answer: the test did not accept a value, or failed on it;
    - exception:<Type>: the program raised it, on its own or when called;
    - syntax_error: it does not compile;
    - timeout: it and its test took longer than the limit;
    - memory: it wanted more than the limit;
    - sandbox: it ended with a call that is denied, such as opening a socket;
    - exit: it left, by sys.exit, os._exit or closing its channel;
    - signal:<NAME>: it died of a signal, such as SIGSEGV;
    - refused_value: it returned what may not cross: an unknown type (a subclass too), or a
      value too large or too deep;
    - forged: it wrote something else than answers to its channel;
    - empty: nothing was completed; not run;
    - too_large: it is longer than MAX_SOURCE_BYTES; not run;
    - prompt_too_long: the model could not read the prompt; not run.
    """
    seconds: float
    """Wall-clock seconds of program and test, without the start of their processes."""
    message: str = ""
    """The exception's text, cut short."""
    mode: str = "oracle"
    """oracle: the judge made the calls; in_child: the program evaluated their expressions;
    not_run."""


def run_program(program: Program, limits: SandboxLimits) -> Verdict:
    """Run one program under the limits.

    Raises: EvaluationError when the sandbox does not start, or is weaker than it must be.
    """
    if len(program.candidate.encode("utf-8", "surrogatepass")) > MAX_SOURCE_BYTES:
        return Verdict(passed=False, outcome="too_large", seconds=0.0, mode="not_run")
    return _run(program, limits, sandbox_level(limits.allow_weak))


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


def sandbox_level(allow_weak: bool = False) -> str:
    """The layers that hold on this machine, as in `net+uid+seccomp+rlimits`.

    Raises: EvaluationError naming the layers that are missing, unless a weak level is allowed.
    """
    level = _probe()
    missing = missing_layers(level)
    if missing and not allow_weak:
        raise EvaluationError(
            f"the sandbox has only {level} here; missing: {', '.join(missing)}. Generated "
            "programs could reach this machine. Run on Linux 5.13 or later (x86-64 or 64-bit "
            "Arm; in a container, with landlock and seccomp filters permitted), or accept the "
            "weaker level on a machine you can lose: --allow-weak-sandbox"
        )
    return level


@lru_cache(maxsize=1)
def _probe() -> str:
    layers: list[str] = []
    _check(Program(candidate="", test=""), SandboxLimits(timeout=60), layers.append)
    return layers[0]


def _run(program: Program, limits: SandboxLimits, level: str) -> Verdict:
    def require(layers: str) -> None:
        if layers != level:
            raise EvaluationError(
                f"the sandbox had {level}, and has {layers} now. Something on this machine has "
                "changed: run again"
            )

    return _check(program, limits, require)


def _check(program: Program, limits: SandboxLimits, on_layers: Callable[[str], None]) -> Verdict:
    cpu_seconds = int(limits.timeout) + 2
    with ExitStack() as stack:
        report, judges = socket.socketpair()
        asking, answering = socket.socketpair()
        for end in (report, judges, asking, answering):
            stack.enter_context(end)
        running = stack.enter_context(
            server("program").fork(limits.memory_mb << 20, cpu_seconds, [answering])
        )
        judge = stack.enter_context(server("judge").fork(0, cpu_seconds, [judges, asking]))
        for end in (judges, asking, answering):
            end.close()
        _send(report, program, STARTUP_SECONDS)
        start = _receive(report, STARTUP_SECONDS)
        if start is None or "layers" not in start:
            raise _no_start(running, judge, limits)
        on_layers("+".join(start["layers"]))
        began = time.monotonic()
        end_report = _receive(report, limits.timeout)
        seconds = time.monotonic() - began
        if end_report is None:
            outcome, message = _without_report(judge, seconds >= limits.timeout), ""
        else:
            outcome, message = end_report["outcome"], end_report["message"]
        if outcome == "ended":
            outcome = _after_end(running)
        running.kill()  # both at once; leaving the block waits for each
        judge.kill()
    return Verdict(
        passed=outcome == "passed",
        outcome=outcome,
        seconds=seconds,
        message=message,
        mode="in_child" if program.in_child else "oracle",
    )


def _send(report: socket.socket, program: Program, seconds: float) -> None:
    report.settimeout(seconds)
    try:
        frame = pack(
            {
                "source": program.candidate,
                "test": program.test,
                "entry_points": program.entry_points,
                "helpers": program.helpers,
                "in_child": program.in_child,
            }
        )
    except RefusedValue as error:
        raise EvaluationError(f"a test cannot be run: {error}. Shorten it") from error
    try:
        report.sendall(frame)
    except OSError:
        return  # the missing report says so


def _receive(report: socket.socket, seconds: float) -> dict | None:
    """The judge's next message; None when time runs out or the judge has ended."""
    deadline = time.monotonic() + seconds

    def read(size: int) -> bytes:
        report.settimeout(max(deadline - time.monotonic(), 0.001))
        return report.recv(size)

    try:
        return unpack(read)
    except OSError:
        return None


def _no_start(running: Forked, judge: Forked, limits: SandboxLimits) -> EvaluationError:
    codes = f"program: {running.wait(1)}, judge: {judge.wait(1)}"
    return EvaluationError(
        f"the sandbox's interpreter did not start within {limits.memory_mb} MiB "
        f"(exit codes of {codes}). Raise memory_mb, or use fewer workers"
    )


def _without_report(judge: Forked, timed_out: bool) -> str:
    if timed_out:
        return "timeout"
    judge.wait(1)
    return "refused_value"  # a value that the judge could not bear


def _after_end(running: Forked) -> str:
    """Why the program no longer answers."""
    code = running.wait(1)
    if code is None or code >= 0:
        return "exit"  # None: it closed its channel and went on
    name = signal.Signals(-code).name
    known = {"SIGSYS": "sandbox", "SIGXCPU": "timeout", "SIGKILL": "memory"}
    return known.get(name, f"signal:{name}")
