"""The child's side of the sandbox: a script, run by sandbox.py in a fresh interpreter.

Standard input brings a marshalled dict (the parent is trusted); then it is closed. Everything
goes back on one pipe, a line each: `ready <layers>`, then `passed <nonce>` or
`failed <outcome> <message>`. It ends without running exit handlers.
"""

import marshal
import os
import sys


def main() -> None:
    """Read the payload, confine this process, run the program, report, end."""
    payload = marshal.loads(_read_all(0))
    pipe = payload["pipe"]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    from confine import confine  # type: ignore[import-not-found]  # beside this script

    layers = confine(payload["memory_bytes"], payload["cpu_seconds"])
    del sys.path[0], sys.modules["confine"]
    os.write(pipe, f"ready {layers}\n".encode())
    failure = _run(payload.pop("candidate"), payload.pop("test"))
    line = f"failed {failure}" if failure else f"passed {payload['nonce']}"
    os.write(pipe, line.encode("utf-8", "replace")[:2000] + b"\n")
    os._exit(0)


def _read_all(descriptor: int) -> bytes:
    chunks = []
    while chunk := os.read(descriptor, 1 << 16):
        chunks.append(chunk)
    return b"".join(chunks)


def _run(candidate: str, test: str) -> str | None:
    """None when the test ran to its end, else `<outcome> <message>`.

    Candidate and test are compiled apart: an open string or bracket cannot swallow the test.
    """
    module = type(sys)("candidate")
    sys.modules["candidate"] = module
    try:
        code = compile(candidate, "<candidate>", "exec", dont_inherit=True)
    except MemoryError:
        return "memory while compiling"
    except (SyntaxError, ValueError, OverflowError, RecursionError) as error:
        return f"syntax_error {_message(error)}"
    try:
        exec(code, module.__dict__)
        exec(compile(test, "<test>", "exec", dont_inherit=True), module.__dict__)
    except MemoryError:
        return "memory MemoryError"
    except BaseException as error:
        name = type(error).__name__
        if name == "AssertionError" and _raised_in_test(error):
            return f"wrong_answer {_message(error)}"
        return f"exception:{name if name.isidentifier() else 'Exception'} {_message(error)}"
    return None


def _raised_in_test(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename == "<test>"


def _message(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())[:300]
    except BaseException:
        return ""


main()
