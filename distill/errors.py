"""The one error class of the distill package."""


class DistillError(ValueError):
    """A student cannot be trained as asked; the message says why and what to do."""
