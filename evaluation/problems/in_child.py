"""Tests that are evaluated beside the program: whether they tell it what they expect of it."""

import ast
import builtins
from collections.abc import Collection

_DISPLAYS = (ast.List, ast.Tuple, ast.Set)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp)


def told_expected(test: str, functions: Collection[str]) -> str | None:
    """The first condition of a test in which the program would hold its value and the expected one.

    What of a condition names more than builtins is evaluated by the program, which shares its
    memory with every function there: `same(mirror(t), Node(1))` is whatever it wants it to be. A
    condition keeps its secret where the program is asked for one value, made of calls of the
    functions under test, and the judge compares it with what it alone has; or where the condition
    is one such call.

    Args:
        test: assert statements.
        functions: the functions under test.
    """
    for statement in ast.walk(ast.parse(test)):
        if isinstance(statement, ast.Assert):
            for condition in _conditions(statement.test):
                if not _keeps_secret(condition, functions):
                    return ast.unparse(condition)
    return None


def _conditions(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BoolOp):
        return [condition for value in node.values for condition in _conditions(value)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _conditions(node.operand)
    return [node]


def _keeps_secret(condition: ast.expr, functions: Collection[str]) -> bool:
    if isinstance(condition, ast.Compare):
        operands = [condition.left, *condition.comparators]
        asked = [operand for operand in operands if not _is_judges(operand)]
        return len(asked) == 0 or len(asked) == 1 and _is_value(asked[0], functions)
    calls = [n for n in ast.walk(condition) if _is_call_of(n, functions)]
    return _is_judges(condition) or len(calls) == 1 and _is_value(condition, functions)


def _is_judges(node: ast.expr) -> bool:
    names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
    return all(hasattr(builtins, name) for name in names)


def _is_call_of(node: ast.AST, functions: Collection[str]) -> bool:
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id
    return called in functions


def _is_value(node: ast.expr, functions: Collection[str]) -> bool:
    """True for what is made of the program's value alone: nothing is compared on the way."""
    if _is_call_of(node, functions):
        return True
    if isinstance(node, ast.Attribute):
        return _is_value(node.value, functions)
    if isinstance(node, ast.Subscript):
        return _is_value(node.value, functions) and _is_judges(node.slice)
    if isinstance(node, ast.Call) and not node.keywords:  # `len(f(t))`, `f(t).items()`
        if not node.args:
            return isinstance(node.func, ast.Attribute) and _is_value(node.func, functions)
        one = len(node.args) == 1 and isinstance(node.func, ast.Name)
        return one and _is_value(node.args[0], functions)
    if isinstance(node, _DISPLAYS):
        return all(_is_value(item, functions) or _is_judges(item) for item in node.elts)
    if isinstance(node, _COMPREHENSIONS):
        return _is_value(node.elt, functions) and not any(loop.ifs for loop in node.generators)
    return False
