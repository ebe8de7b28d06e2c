"""Stage one and the cache: a teacher's soft targets, built once, checked, shared and read.

`__all__` is what other programs may use; it stays as it is between releases of one number.
Everything else is private and may move. Importing `cache` costs no torch: a name loads what it
needs when it is first used.
"""

from typing import TYPE_CHECKING

from cache.machine.lazy_names import lazy_names

if TYPE_CHECKING:
    from cache.building.config import BuildConfig
    from cache.building.local import BuildSummary, build_cache
    from cache.data.corpus import Corpus
    from cache.errors import CacheError, CacheWarning
    from cache.reading.reader import CachedDocuments, CacheReader
    from cache.remote.local_copy import local_cache
    from cache.remote.pull import pull
    from cache.remote.push import push
    from cache.targets.fidelity import Fidelity
    from cache.targets.format import TargetFormat
    from cache.targets.soft_targets import SoftTargets
    from cache.targets.tails import TargetDistribution
    from cache.tools.merge import merge_caches
    from cache.tools.verify import verify_cache

__all__ = [
    "BuildConfig",
    "BuildSummary",
    "CacheError",
    "CacheReader",
    "CacheWarning",
    "CachedDocuments",
    "Corpus",
    "Fidelity",
    "SoftTargets",
    "TargetDistribution",
    "TargetFormat",
    "build_cache",
    "local_cache",
    "merge_caches",
    "pull",
    "push",
    "verify_cache",
]

__getattr__ = lazy_names(
    "cache",
    {
        "BuildConfig": "cache.building.config",
        "BuildSummary": "cache.building.local",
        "CacheError": "cache.errors",
        "CacheReader": "cache.reading.reader",
        "CacheWarning": "cache.errors",
        "CachedDocuments": "cache.reading.reader",
        "Corpus": "cache.data.corpus",
        "Fidelity": "cache.targets.fidelity",
        "SoftTargets": "cache.targets.soft_targets",
        "TargetDistribution": "cache.targets.tails",
        "TargetFormat": "cache.targets.format",
        "build_cache": "cache.building.local",
        "local_cache": "cache.remote.local_copy",
        "merge_caches": "cache.tools.merge",
        "pull": "cache.remote.pull",
        "push": "cache.remote.push",
        "verify_cache": "cache.tools.verify",
    },
)
