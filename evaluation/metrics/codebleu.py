"""CodeBLEU of completions against canonical solutions, where the package `codebleu` is installed.

It parses Python with a grammar of one particular age: `pip install 'logitcache[codebleu]'`
installs versions that work together, on Python 3.10 to 3.12.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata

from evaluation.errors import EvaluationError

PARTS = (
    "ngram_match_score",
    "weighted_ngram_match_score",
    "syntax_match_score",
    "dataflow_match_score",
)
REMEDY = "pip install 'logitcache[codebleu]' (Python 3.10 to 3.12)"


@dataclass(frozen=True, kw_only=True)
class CodeBleuScore:
    """One CodeBLEU score and what it takes to compute it again."""

    score: float
    """0 to 100."""
    signature: str
    """Versions of package and grammar, language, weights, tokens."""


@cache
def why_no_codebleu() -> str | None:
    """Why CodeBLEU cannot be computed here; None where it can."""
    try:
        _parts(["x = 1\n"], ["x = 1\n"])
    except ImportError:
        return f"the package codebleu is not installed; {REMEDY}"
    except TypeError as error:
        return (
            f"the package codebleu does not work with tree-sitter-python "
            f"{metadata.version('tree-sitter-python')} ({error}); {REMEDY}"
        )
    return None


def codebleu_signature() -> str | None:
    """How scores are computed here, in one line; None where they cannot be."""
    if why_no_codebleu() is not None:
        return None
    return (
        f"codebleu:{metadata.version('codebleu')}"
        f"|tree-sitter-python:{metadata.version('tree-sitter-python')}"
        "|lang:python|weights:0.25,0.25,0.25,0.25|tokens:whitespace|dedented|no dataflow:0"
    )


def completion_codebleu(
    completions: Sequence[str], references: Sequence[str]
) -> CodeBleuScore | None:
    """Corpus CodeBLEU of completions alone, each against its one canonical solution.

    The mean of n-gram match, n-gram match weighted by keywords, syntax match and dataflow match.
    The package counts a dataflow match of 0 as a perfect one; here it is 0. Bodies of functions
    are dedented, so that they parse. The score moves by some hundredths from one process to
    another: the package numbers the variables of a dataflow in the order of Python's sets.

    Returns: None where the package is not installed or does not work.
    Raises: EvaluationError when the sides differ in number or are empty.
    Source: Ren et al. 2020, "CodeBLEU: a Method for Automatic Evaluation of Code Synthesis".
    """
    if len(completions) != len(references) or not completions:
        raise EvaluationError(
            f"CodeBLEU of {len(completions)} completions against {len(references)} references; "
            "give the same number of both, at least one"
        )
    signature = codebleu_signature()
    if signature is None:
        return None
    parts = _parts(completions, references)
    return CodeBleuScore(score=100 * sum(parts) / len(parts), signature=signature)


def _parts(completions: Sequence[str], references: Sequence[str]) -> list[float]:
    """The four matches of a corpus, each in [0, 1]."""
    from codebleu import calc_codebleu

    found = calc_codebleu(
        references=[[textwrap.dedent(text)] for text in references],
        predictions=[textwrap.dedent(text) for text in completions],
        lang="python",
    )
    return [float(found[name]) for name in PARTS]
