"""The error class of the cache package, and its warning."""


class CacheError(ValueError):
    """A cache, or what it is built from, is not usable; the message says why and what to do."""


class CacheWarning(UserWarning):
    """Something to know of, while the work goes on."""
