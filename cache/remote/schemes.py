"""From a URL to a remote: the one place that knows the kinds."""

import logging

from cache.errors import CacheError
from cache.remote.errors import attempt, missing_library
from cache.remote.remote import Remote, is_url


def open_remote(url: str) -> Remote:
    """The folder at a URL or local path; nothing is asked of it yet.

    Raises:
        CacheError: the scheme is unknown, or its library is not installed.
    """
    import fsspec

    # They leave a traceback there for each connection that was cut; what they raise is told.
    for library in ("asyncio", "gcsfs"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    scheme = url.split("://")[0] if is_url(url) else "file"
    if scheme == "hf":
        from cache.remote.hub import HubRemote

        return HubRemote(url)
    if scheme in ("ssh", "sftp"):
        try:
            from cache.remote.ssh import SshRemote
        except ImportError as error:
            raise missing_library(scheme, error) from error
        return SshRemote(url)
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise missing_library(scheme, error) from error
    except ValueError as error:
        raise CacheError(
            f"{url}: the scheme {scheme}:// is not known. Use s3://, gs://, hf://datasets/, "
            "ssh://, file:// or a local folder."
        ) from error
    fs, root = attempt(url, lambda: fsspec.core.url_to_fs(url, use_listings_cache=False))
    return Remote(url, fs, root)
