"""The confined side: runs a program's source, then answers calls of it until it is killed.

Nothing here is trusted once the source has run: it shares the interpreter. Whatever is written
to the channel is only ever a claim about a value, which the judge rebuilds and tests.
"""

import os
import sys
from types import ModuleType
from typing import Any

from evaluation.sandbox.wire import RefusedValue, decode, encode, pack, unpack

MAX_MESSAGE = 300
MODULE = "candidate"


def serve_program(channel: int, layers: list[str]) -> None:
    """Say which layers hold, receive the source, run it, answer calls. Never returns."""
    _send(channel, {"layers": layers})
    job = _receive(channel)
    module = ModuleType(MODULE)
    sys.modules[MODULE] = module
    answer = _define(job["source"], module)
    for name in job["entry_points"]:
        if not answer and name not in module.__dict__:
            answer = {"raised": ["NameError", f"the program does not define {name}", False]}
    _send(channel, answer or {"value": None})
    while True:
        request = _receive(channel)
        answer = _answer(request, module)
        try:
            frame = pack({"id": request["id"], **answer})
        except (RefusedValue, MemoryError) as error:
            frame = pack({"id": request["id"], **_failure(error)})
        _write(channel, frame)


def _define(source: str, module: ModuleType) -> dict[str, Any]:
    try:
        code = compile(source, "<candidate>", "exec", dont_inherit=True)
    except MemoryError as error:
        return _failure(error)
    except (SyntaxError, ValueError, OverflowError, RecursionError) as error:
        return {"syntax_error": _message(error)}
    try:
        exec(code, module.__dict__)
    except BaseException as error:
        return _failure(error)
    return {}


def _answer(request: dict[str, Any], module: ModuleType) -> dict[str, Any]:
    try:
        if "run" in request:
            exec(request["run"], module.__dict__)
            return {"value": None}
        if "evaluate" in request:
            return {"value": encode(eval(request["evaluate"], module.__dict__))}
        function = module.__dict__[request["call"]]
        arguments, named = decode(request["arguments"])
        return {"value": encode(function(*arguments, **named))}
    except BaseException as error:
        return _failure(error)


def _failure(error: BaseException) -> dict[str, Any]:
    if type(error) is RefusedValue:
        return {"refused": _message(error)}
    denied = isinstance(error, OSError) and error.errno in (1, 13)  # EPERM, EACCES
    denied = denied or type(error) is RuntimeError and "start new thread" in str(error)
    return {"raised": [type(error).__name__[:80], _message(error), denied]}


def _message(error: BaseException) -> str:
    try:
        return " ".join(str(error)[: 4 * MAX_MESSAGE].split())[:MAX_MESSAGE]
    except BaseException:
        return ""


def _send(channel: int, message: dict[str, Any]) -> None:
    _write(channel, pack(message))


def _write(channel: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(channel, view) :]


def _receive(channel: int) -> dict[str, Any]:
    message = unpack(lambda size: os.read(channel, size))
    if message is None:
        os._exit(0)
    return message
