"""Programs that say the same in other names, and those that differ most."""

import ast
import re
from collections.abc import Collection, Sequence

_TOKEN = re.compile(r"\w+|[^\w\s]")
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
NGRAM = 3
Words = frozenset[tuple[str, ...]]


def canonical(code: str, entry_points: Collection[str]) -> str:
    """A program without comments, docstrings, annotations and the names it chose itself.

    Two programs have the same text here if their syntax trees are the same after renaming. Names
    that others see stay as they are: of the functions under test, attributes and members of
    classes, keywords of calls, imported modules.

    Args:
        code: compiled before, in the sandbox: Python's parser is no place for unknown text. What
            does not parse is taken as it stands.
    """
    try:
        tree = ast.parse(code)
        return ast.unparse(_Renamed(_own_names(tree) - set(entry_points)).visit(tree))
    except _UNREADABLE:
        return squeezed(code)


def squeezed(code: str) -> str:
    """A text with its white space made even."""
    return " ".join(code.split())


def words_of(text: str) -> Words:
    """Runs of NGRAM tokens in a text; of a shorter one, all of it."""
    tokens = _TOKEN.findall(text)
    size = min(NGRAM, len(tokens))
    return frozenset(tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1))


def distance(one: Words, other: Words) -> float:
    """1 − |shared| / |all| of two sets (Jaccard 1912), in [0, 1]."""
    return 1 - len(one & other) / len(one | other) if one | other else 0.0


def most_different(texts: Sequence[str], count: int) -> list[int]:
    """Places of the texts that differ most, in order: the first, then always the one farthest
    from all that are chosen; of equally far ones the first.

    Source: Gonzalez 1985 (farthest-first traversal).
    """
    words = [words_of(text) for text in texts]
    nearest = [1.0] * len(texts)
    chosen: list[int] = []
    while len(chosen) < min(count, len(texts)):
        left = [place for place in range(len(texts)) if place not in chosen]
        chosen.append(max(left, key=lambda place: (nearest[place], -place)) if chosen else 0)
        last = words[chosen[-1]]
        nearest = [min(d, distance(w, last)) for d, w in zip(nearest, words, strict=True)]
    return sorted(chosen)


def _own_names(tree: ast.Module) -> set[str]:
    """Names that a program binds and nobody else uses."""
    bound: set[str] = set()
    seen: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            bound.add(node.name)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.ClassDef):
            bound.add(node.name)
            seen |= {n.id for s in node.body for n in ast.walk(s) if isinstance(n, ast.Name)}
            seen |= {s.name for s in node.body if isinstance(s, ast.FunctionDef | ast.ClassDef)}
        elif isinstance(node, ast.Call):
            seen |= {keyword.arg for keyword in node.keywords if keyword.arg}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            seen |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.MatchAs | ast.MatchStar | ast.MatchMapping):
            seen |= {v for v in (getattr(node, "name", None), getattr(node, "rest", None)) if v}
    return bound - seen


class _Renamed(ast.NodeTransformer):
    """Names in the order in which they first stand in the tree."""

    def __init__(self, names: Collection[str]):
        self._names = names
        self._new: dict[str, str] = {}

    def _name(self, name: str) -> str:
        if name not in self._names:
            return name
        return self._new.setdefault(name, f"_{len(self._new)}_")

    def visit_Name(self, node: ast.Name) -> ast.Name:  # noqa: N802
        node.id = self._name(node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.arg, node.annotation = self._name(node.arg), None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:  # noqa: N802
        if node.value is None:
            return ast.Pass()
        plain = ast.Assign(targets=[node.target], value=node.value, lineno=node.lineno)
        return self.generic_visit(plain)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:  # noqa: N802
        node.name = node.name and self._name(node.name)
        return self.generic_visit(node)

    def visit_Global(self, node: ast.Global) -> ast.Global:  # noqa: N802
        node.names = [self._name(name) for name in node.names]
        return node

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.Nonlocal:  # noqa: N802
        node.names = [self._name(name) for name in node.names]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:  # noqa: N802
        node.name = self._name(node.name)
        return self.generic_visit(_without_docstring(node))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:  # noqa: N802
        node.name, node.returns = self._name(node.name), None
        return self.generic_visit(_without_docstring(node))

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:  # noqa: N802
        node.name, node.returns = self._name(node.name), None
        return self.generic_visit(_without_docstring(node))

    def visit_Module(self, node: ast.Module) -> ast.AST:  # noqa: N802
        return self.generic_visit(_without_docstring(node))


def _without_docstring(node):
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]
    return node
