"""The one error of this package."""


class EvaluationError(ValueError):
    """Something the user can put right: the message says what was found and what to do."""
