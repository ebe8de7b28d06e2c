"""The trusted side: runs a problem's test, and asks the confined program for each value.

A process of its own, forked for every check and killed with it: a value may send the test into
an endless loop or fill the memory, and neither may hold the evaluation. The expected values, the
comparisons and the verdict live here; the program is reached through its channel alone.
"""

import ast
import builtins
import os
import secrets
from collections.abc import Callable
from typing import Any

from evaluation.sandbox.wire import RefusedValue, decode, encode, pack, unpack

# Of all that a program says, whatever its side of the channel has made of it.
MAX_NAME, MAX_MESSAGE = 80, 300
MEMORY_BYTES = 2 << 30


class CandidateError(Exception):
    """Stands for an exception that is not a builtin one, raised by the program."""


class _Failed(BaseException):
    """Ends the test: what came of the program is clear."""

    def __init__(self, outcome: str, message: str = ""):
        super().__init__(message)
        self.outcome = outcome


def judge(report: int, program: int) -> None:
    """Receive a job, test the program with it, report the outcome. Never returns."""
    _limit_memory()
    job = _read(report)
    assert job is not None
    link = _Link(program)
    try:
        _send(report, {"layers": link.receive_layers()})
        outcome, message = "passed", ""
        _test(job, link)
    except _Failed as failed:
        outcome, message = failed.outcome, str(failed)
    _send(report, {"outcome": outcome, "message": " ".join(message.split())[:MAX_MESSAGE]})
    os._exit(0)


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _test(job: dict[str, Any], link: "_Link") -> None:
    link.start(job["source"], job["entry_points"])
    namespace: dict[str, Any] = {"__name__": "test"}
    try:
        if job["in_child"]:
            link.ask({"run": job["helpers"]})
            tree = _Reached(set(dir(builtins))).visit(ast.parse(job["test"]))
            test = compile(ast.fix_missing_locations(tree), "<test>", "exec")
            namespace[_Reached.NAME] = lambda source: link.ask({"evaluate": source})
        else:
            exec(compile(job["helpers"], "<helpers>", "exec", dont_inherit=True), namespace)
            link.exceptions = dict(namespace)
            test = compile(job["test"], "<test>", "exec", dont_inherit=True)
            for name in job["entry_points"]:
                namespace[name] = link.function(name)
        exec(test, namespace)
    except _Failed:
        raise
    except BaseException as error:
        if error is link.raised:
            raise _Failed(f"exception:{link.raised_name}", str(error)) from error
        if type(error) is MemoryError:
            raise _Failed("refused_value", "the test ran out of memory on a value") from error
        reason = str(error) if type(error) is AssertionError else f"{type(error).__name__}: {error}"
        raise _Failed("wrong_answer", reason) from error
    if link.failed is not None:  # the test caught it
        raise link.failed


class _Reached(ast.NodeTransformer):
    """Has every operand of a test that names more than builtins evaluated by the program."""

    NAME = "__evaluate"

    def __init__(self, known: set[str]):
        self._known = known

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        node.test = self._operand(node.test)
        return node

    def _operand(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Compare):
            node.left = self._operand(node.left)
            node.comparators = [self._operand(right) for right in node.comparators]
        elif isinstance(node, ast.BoolOp):
            node.values = [self._operand(value) for value in node.values]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            node.operand = self._operand(node.operand)
        elif any(isinstance(n, ast.Name) and n.id not in self._known for n in ast.walk(node)):
            name = ast.Name(self.NAME, ast.Load())
            return ast.Call(name, [ast.Constant(ast.unparse(node))], [])
        return node


class _Link:
    """The judge's end of the channel to the program."""

    def __init__(self, channel: int):
        self._channel = channel
        self.raised: BaseException | None = None
        self.raised_name = ""
        self.exceptions: dict[str, Any] = {}
        """What the helpers define: the test may expect an exception of theirs by name."""
        self.failed: _Failed | None = None

    def receive_layers(self) -> list[str]:
        """The layers that hold for the program; none of its source has run yet."""
        layers = self._receive().get("layers")
        if not isinstance(layers, list):
            raise _Failed("forged", "no layers")
        return layers

    def start(self, source: str, entry_points: list[str]) -> None:
        """Have the program's source run."""
        self._send({"source": source, "entry_points": entry_points})
        answer = self._receive()
        if "syntax_error" in answer:
            raise self._fail("syntax_error", str(answer["syntax_error"]))
        try:
            self._value(answer)
        except _Failed:
            raise
        except BaseException as error:
            raise _Failed(f"exception:{self.raised_name}", str(error)) from error

    def function(self, name: str) -> Callable[..., Any]:
        """What the test calls in the place of the program's function."""

        def proxy(*arguments: Any, **named: Any) -> Any:
            try:
                data = encode((arguments, named))
            except RefusedValue as error:
                raise self._fail("refused_value", f"in the test: {error}") from error
            return self.ask({"call": name, "arguments": data})

        proxy.__name__ = name
        return proxy

    def ask(self, request: dict[str, Any]) -> Any:
        """The program's answer, rebuilt here; an exception of its is raised here."""
        if self.failed is not None:
            raise self.failed
        token = secrets.token_hex(8)
        self._send({"id": token, **request})
        answer = self._receive()
        if answer.get("id") != token:
            raise self._fail("forged", "an answer that was not asked for")
        return self._value(answer)

    def _value(self, answer: dict[str, Any]) -> Any:
        if "refused" in answer:
            raise self._fail("refused_value", str(answer["refused"]))
        if "raised" in answer:
            raise self._raised(answer["raised"])
        if "value" not in answer:
            raise self._fail("forged", "an answer without a value")
        try:
            return decode(answer["value"])
        except (RefusedValue, RecursionError) as error:
            raise self._fail("refused_value", str(error)) from error

    def _raised(self, parts: Any) -> BaseException:
        if not (isinstance(parts, list) and [type(part) for part in parts] == [str, str, bool]):
            return self._fail("forged", "an exception without a name")
        name, message, denied = parts[0][:MAX_NAME], parts[1][:MAX_MESSAGE], parts[2]
        if denied:
            return self._fail("sandbox", f"{name}: {message}")
        if name == "MemoryError":
            return self._fail("memory", message)
        if name == "SystemExit":
            return self._fail("exit", message)
        kind = self.exceptions.get(name, getattr(builtins, name, None))
        error: Exception = CandidateError(message)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                error = kind(message)
            except Exception:
                pass  # such as UnicodeDecodeError, which wants more than a message
        self.raised, self.raised_name = error, name if name.isidentifier() else "Exception"
        return error

    def _fail(self, outcome: str, message: str) -> _Failed:
        self.failed = self.failed or _Failed(outcome, message)
        return self.failed

    def _send(self, message: dict[str, Any]) -> None:
        try:
            _write(self._channel, pack(message))
        except OSError as error:
            raise self._fail("ended", "") from error

    def _receive(self) -> dict[str, Any]:
        try:
            message = _read(self._channel)
        except RefusedValue as error:
            raise self._fail("forged", str(error)) from error
        except OSError:
            message = None
        if message is None:
            raise self._fail("ended", "")
        return message


def _read(descriptor: int) -> dict[str, Any] | None:
    return unpack(lambda size: os.read(descriptor, size))


def _send(descriptor: int, message: dict[str, Any]) -> None:
    _write(descriptor, pack(message))


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
