"""The one error class of the cache package."""


class CacheError(ValueError):
    """A cache, or what it is built from, is not usable; the message says why and what to do."""
