"""What a problem's tests ask of a completion, read from trusted source: names and objects."""

import ast
import builtins
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.errors import EvaluationError


@dataclass(frozen=True, kw_only=True)
class Tests:
    """What tests need of the completion."""

    entry_points: tuple[str, ...]
    """Functions they call, in order of appearance."""
    in_child: bool
    """They also need objects that cannot leave the completion's process: a class of its own, or
    functions as values."""


def read_tests(solution: str, tests: Sequence[str], setup: str) -> Tests:
    """What the tests of a problem need.

    Args:
        solution: the reference solution; a name it defines is the completion's to define, even
            where Python has one of its own (MBPP/126 defines `sum`).
        tests: assert statements.
        setup: source that runs before them.

    Raises: EvaluationError when they call nothing of the completion, or are no Python.
    """
    try:
        tree = ast.parse("\n".join(tests))
        setup_tree, defined = ast.parse(setup), _defined(ast.parse(solution))
    except SyntaxError as error:
        raise EvaluationError(f"a test or solution is no Python: {error}; mend it") from error
    prepared = _stored(setup_tree)
    called = _called(tree)
    names = [n for n in called if n in defined or (n not in prepared and not hasattr(builtins, n))]
    functions = [name for name in names if not isinstance(defined.get(name), ast.ClassDef)]
    if not functions:
        raise EvaluationError(
            f"the tests call no function of the solution: {' '.join(tests)[:80]!r}. "
            "They check nothing; mend or remove the problem"
        )
    # A function that is named but not called is a value; neither it nor a class's object crosses.
    uses = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)]
    as_value = any(uses.count(name) > called.count(name) for name in defined)
    has_lambda = any(isinstance(node, ast.Lambda) for node in ast.walk(tree))
    of_setup = {n.id for n in ast.walk(setup_tree) if isinstance(n, ast.Name)} & set(defined)
    return Tests(
        entry_points=tuple(dict.fromkeys(functions)),
        in_child=as_value or has_lambda or bool(of_setup) or len(functions) < len(names),
    )


def prompt_helpers(prompt: str, entry_point: str) -> str:
    """The prompt without the function that is to be completed: its imports and other functions.

    Tests call some of them (HumanEval/32, 38 and 50). They are the prompt's own: a completion
    that defines them again changes nothing here. Empty where the prompt is no Python.
    """
    for body in ("", "\n    pass\n"):  # a prompt may end with the function's head
        try:
            tree = ast.parse(prompt + body)
        except SyntaxError:
            continue
        tree.body = [node for node in tree.body if getattr(node, "name", None) != entry_point]
        return ast.unparse(tree)
    return ""


def _defined(tree: ast.Module) -> dict[str, ast.stmt]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name: node for node in tree.body if isinstance(node, kinds)}


def _stored(tree: ast.Module) -> set[str]:
    names = {
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    names |= set(_defined(tree))
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    return names | {(a.asname or a.name).split(".")[0] for n in imports for a in n.names}


def _called(tree: ast.Module) -> list[str]:
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    return [call.func.id for call in calls if isinstance(call.func, ast.Name)]
