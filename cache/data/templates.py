"""Problem to (prompt, completion): the text a teacher reads and a student learns.

A template is chosen by name and recorded in the cache's identity. Prompt + completion is the
whole document; the split between the two is where a student starts to write.
"""

import ast
from collections.abc import Callable
from typing import Any

from cache.data.problems import Problem
from cache.errors import CacheError


def instruction(problem: Problem) -> tuple[str, str]:
    """The problem and its tests under headings, then the code."""
    tests = "\n".join(problem.test_list)
    prompt = f"Instruction:\n{problem.text}\n\nTest list:\n{tests}\n\nResponse:\n"
    return prompt, problem.code


def docstring(problem: Problem) -> tuple[str, str]:
    """The problem and its first test in a docstring, then the code, as MBPP is often prompted.

    Source: Fried et al. 2022 (InCoder), section 4.2, followed by bigcode's evaluation harness.
    """
    first_test = problem.test_list[0] if problem.test_list else ""
    return f'"""\n{problem.text}\n{first_test}\n"""\n', problem.code


_UNPARSABLE = (ValueError, RecursionError, MemoryError)
"""What Python's parser raises of a null byte and of deep nesting."""


def signature(problem: Problem) -> tuple[str, str]:
    """Everything up to the tested function's `def` line, the problem as its docstring, its body.

    This is the shape of HumanEval's prompts. The last line's end is the completion's here; where
    it belongs for a tokenizer, `tokenise.as_tokens_part` says.

    Raises:
        CacheError: the code does not parse, or defines no function that the tests call.
    """
    head, indent, body = _around_docstring(problem)
    return f'{head}\n{indent}"""{problem.text}"""', f"\n{body}"


def signature_head(problem: Problem) -> str:
    """What a body that follows the prompt of `signature` belongs under: no docstring, no line end.

    Raises:
        CacheError: as `signature`.
    """
    return _around_docstring(problem)[0]


def opening_of(template: str) -> str:
    """What all completions of a template begin with: the line's end behind `signature`'s docstring.

    Such a completion is the body of the function that its prompt has begun, and no program.
    """
    return "\n" if template == "signature" else ""


def _around_docstring(problem: Problem) -> tuple[str, str, str]:
    """The code up to the tested function's `def` line, its body's indentation, and the body."""
    try:
        tree = ast.parse(problem.code)
    except SyntaxError as error:
        raise CacheError(f"code does not parse: {error.msg}, line {error.lineno}") from error
    except _UNPARSABLE as error:
        raise CacheError(f"code does not parse: {error}") from error
    function = _tested_function(tree, problem)
    first = function.body[0]
    lines = problem.code.split("\n")
    if first.lineno == function.lineno:
        # `def f(x): return x`: the body starts in the middle of the def line.
        head_text = lines[first.lineno - 1].encode()[: first.col_offset].decode().rstrip()
        head = "\n".join([*lines[: first.lineno - 1], head_text])
        indent = " " * 4
        body = indent + "\n".join(lines[first.lineno - 1 :]).encode()[first.col_offset :].decode()
    else:
        head, rest = _split_body(lines, function, first)
        first_line = lines[first.lineno - 1]
        indent = first_line[: len(first_line) - len(first_line.lstrip())]
        body = "\n".join(rest)
    return head, indent, body


def _tested_function(tree: ast.Module, problem: Problem) -> ast.FunctionDef:
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for test in problem.test_list:
        try:
            calls = [node for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call)]
        except (SyntaxError, *_UNPARSABLE):
            continue
        for call in calls:
            if isinstance(call.func, ast.Name) and call.func.id in functions:
                return functions[call.func.id]
    raise CacheError("code defines no function that its tests call")


def _split_body(
    lines: list[str], function: ast.FunctionDef, first: ast.stmt
) -> tuple[str, list[str]]:
    """The lines up to the end of the def's header, and the body's lines; comments go with it."""
    start = first.lineno - 1
    if isinstance(first, (ast.FunctionDef, ast.ClassDef)) and first.decorator_list:
        start = first.decorator_list[0].lineno - 1
    while start > function.lineno and not lines[start - 1].rstrip().endswith(":"):
        if lines[start - 1].strip() and not lines[start - 1].lstrip().startswith("#"):
            break
        start -= 1
    while not lines[start].strip():
        start += 1
    return "\n".join(lines[:start]).rstrip("\n"), lines[start:]


def chat_messages(problem: Problem) -> tuple[dict[str, Any], ...]:
    """A problem as a conversation: what is asked, and the code in a fence, as models answer."""
    tests = "\n".join(problem.test_list)
    asked = f"{problem.text}\n\nYour code should pass these tests:\n\n{tests}"
    return (
        {"role": "user", "content": asked},
        {"role": "assistant", "content": f"```python\n{problem.code}\n```"},
    )


CHAT = "chat"
"""Name of the template that is the tokenizer's own."""
PAIR = "pair"
"""Of supervised data: prompt and completion as they stand, one behind the other."""
CONVERSATIONS = "conversations"
"""What an identity calls supervised data in the tokenizer's own template."""
TEMPLATES: dict[str, Callable[[Problem], tuple[str, str]]] = {
    "instruction": instruction,
    "docstring": docstring,
    "signature": signature,
}
