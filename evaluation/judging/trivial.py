"""Answers that know nothing of a problem: a problem that they pass checks too little."""

import ast
from collections import Counter
from collections.abc import Sequence

from evaluation.problems.benchmarks import BenchmarkProblem

FIRST = "return its first argument"
TRIVIAL_BODIES = ("pass", "return None", "return 0", "return []", "return True", FIRST)
# A guess is worth a try where several problems expect the same; rarer values are no guesses.
NUM_CONSTANTS = 8
_EQUAL = (ast.Eq, ast.Is)


def trivial_answers(
    problems: Sequence[BenchmarkProblem],
) -> dict[str, list[tuple[BenchmarkProblem, str]]]:
    """The problems to try each trivial body on, with their completions, by body.

    The usual bodies are tried on every problem; the constants that most of the problems expect
    somewhere, on the problems that do.
    """
    expected = {problem.task_id: _expected_constants(problem.test) for problem in problems}
    bodies = {body: list(problems) for body in TRIVIAL_BODIES}
    for constant in _commonest(list(expected.values())):
        bodies[f"return {constant}"] = [p for p in problems if constant in expected[p.task_id]]
    return {
        body: [(problem, trivial_completion(problem, body)) for problem in tried]
        for body, tried in bodies.items()
    }


def _commonest(expected: Sequence[set[str]]) -> list[str]:
    counts = Counter(constant for constants in expected for constant in sorted(constants))
    found = [constant for constant, count in counts.most_common() if count > 1]
    return [found for found in found if f"return {found}" not in TRIVIAL_BODIES][:NUM_CONSTANTS]


def _expected_constants(test: str) -> set[str]:
    """Source of the literals that a test finds something equal to."""
    try:
        tree = ast.parse(test)
    except SyntaxError:
        return set()
    operands = [
        operand
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and all(isinstance(op, _EQUAL) for op in node.ops)
        for operand in (node.left, *node.comparators)
    ]
    return {ast.unparse(operand) for operand in operands if _is_literal(operand)}


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def trivial_completion(problem: BenchmarkProblem, body: str) -> str:
    """The completion that makes a trivial body of the problem's function or functions."""
    if problem.preamble:  # it ends in the function's head
        return f"    {_statement(body, _first_parameter(problem))}\n"
    return "".join(
        f"def {name}(*arguments):\n    {_statement(body, 'arguments[0]')}\n"
        for name in problem.functions
    )


def _statement(body: str, first: str | None) -> str:
    if body != FIRST:
        return body
    return f"return {first}" if first else "pass"


def _first_parameter(problem: BenchmarkProblem) -> str | None:
    try:
        tree = ast.parse(f"{problem.preamble}    pass\n")
    except SyntaxError:
        return None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == problem.entry_point:
            arguments = [*node.args.posonlyargs, *node.args.args]
            return arguments[0].arg if arguments else None
    return None
