"""Who made a cache and from what: the fields that must agree before two things are mixed."""

import platform
import warnings
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from typing import Any

from cache.data.text_format import TextFormat, text_format_from_json
from cache.errors import CacheError, CacheWarning
from cache.machine.durable import json_sha256
from cache.targets.format import LogitMap, TargetFormat

FORMAT_VERSION = 4
"""What is written."""
READABLE_VERSIONS = (3, 4)
"""What is read: the version written, and the one before."""

# Names may differ between machines (a path, a mirror); the hashes beside them may not.
_NAMES_ONLY = frozenset({"teacher", "revision", "dataset"})
SINCE_4: dict[str, Any] = {"texts": TextFormat(parse_special=True), "logits": LogitMap()}
"""Fields that version 3 has not, and what was the case without a word."""
_NEW_IN_4 = frozenset({*SINCE_4, "num_tokens"})
"""Those, and one that was each cache's `vocab_size`."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Everything that decides what a cache's rows are."""

    format_version: int
    teacher: str
    """Hub id or path, as given."""
    revision: str | None
    teacher_sha256: str
    """Of all weights, as loaded in `dtype`."""
    vocab_size: int
    """Rows of the teacher's output head."""
    num_tokens: int
    """Ids of the tokenizer, from 0 to its highest; rows of the head beyond them are no token's."""
    logits: LogitMap
    """What the teacher does to its logits after the head."""
    tokenizer_sha256: str
    dataset: str
    """Hub id or path, as given."""
    dataset_sha256: dict[str, str]
    """Of the problems of each split that were used."""
    template: str
    texts: TextFormat
    """How texts became tokens."""
    max_length: int
    long_documents: str
    targets: TargetFormat
    """What is stored of a row."""
    tail_width: int
    """Coefficients or hidden dimensions stored a row for the tail; 0 where there are none."""
    tail_sha256: str
    """Of tail.safetensors; empty where the tail needs none."""
    dtype: str
    """As torch names it: `float32`, `bfloat16` or `float16`."""
    libraries: dict[str, str]
    """Versions of what computes the rows."""
    configuration: dict[str, Any] | None = None
    """The teacher's settings that may change logits; None in caches made before it was recorded,
    which are compared without it."""

    @property
    def sha256(self) -> str:
        """Hash over the fields that must agree."""
        return json_sha256(self._compared())

    @property
    def shard_sha256(self) -> str:
        """What a shard bears: the hash of all that decides how its documents become rows.

        Which documents a cache holds is not in it, so that shards stay as they are when a cache
        is extended or merged.
        """
        compared = self._compared()
        del compared["dataset_sha256"]
        return json_sha256(compared)

    def _compared(self) -> dict[str, Any]:
        unknown = _NEW_IN_4 if self.format_version < 4 else frozenset()
        left_out = _NAMES_ONLY | unknown
        if self.configuration is None:
            left_out |= {"configuration"}
        compared = {k: v for k, v in asdict(self).items() if k not in left_out}
        if "texts" in compared and not self.texts.line_end_in_prompt:
            del compared["texts"]["line_end_in_prompt"]  # as hashed before there was the field
        return compared


def require_same_identity(
    found: Identity,
    wanted: Identity,
    where: str,
    *,
    ignore: Sequence[str] = (),
    advice: str = "Give the options it was built with, or another --out.",
) -> None:
    """Raise CacheError naming every field that differs.

    A CacheWarning says where the teacher's configuration could not be compared.

    Args:
        found: what is on disk.
        wanted: what was asked for.
        where: the path of what is on disk, for the message.
        ignore: fields that are not known yet.
        advice: last line of the message.
    """
    left_out = {*_NAMES_ONLY, *ignore}
    if None in (found.configuration, wanted.configuration):
        found, wanted = (replace(one, configuration=None) for one in (found, wanted))
        if "configuration" not in left_out:
            warnings.warn(
                f"{where} was made, or is compared with what was made, before caches recorded "
                "their teacher's configuration: only its weights are known to be the same.",
                CacheWarning,
                stacklevel=2,
            )
    there, asked = _flat(found, left_out), _flat(wanted, left_out)
    if found.texts.line_end_in_prompt != wanted.texts.line_end_in_prompt:
        advice = (
            'An earlier release parted prompts elsewhere (docs/texts.md, "Where a prompt ends"), '
            "and no option does: build the cache anew at another --out."
        )
    lines = [
        f"  {name}: {there.get(name, 'nothing')!r} there, {asked.get(name, 'nothing')!r} asked for"
        for name in {**asked, **there}
        if name not in left_out and there.get(name, ...) != asked.get(name, ...)
    ]
    if lines:
        raise CacheError(
            f"{where} belongs to another cache. It differs in:\n" + "\n".join([*lines, advice])
        )


def _flat(identity: Identity, left_out: Collection[str]) -> dict[str, Any]:
    content = {k: v for k, v in asdict(identity).items() if k not in left_out}
    for name in ("targets", "texts", "logits", "configuration"):
        content |= {f"{name}.{k}": v for k, v in (content.pop(name, None) or {}).items()}
    return content


def identity_from_json(content: Any) -> Identity:
    """An identity as `dataclasses.asdict` wrote it.

    Raises:
        CacheError: a field is missing, unknown or of another type, or the format is unknown.
    """
    kinds: dict[str, Any] = {f.name: str for f in fields(Identity)}
    kinds |= dict.fromkeys(
        ("format_version", "vocab_size", "num_tokens", "max_length", "tail_width"), int
    )
    kinds |= dict.fromkeys(("dataset_sha256", "libraries", "targets", "texts", "logits"), dict)
    kinds["revision"] = (str, type(None))
    kinds["configuration"] = (dict, type(None))
    if not isinstance(content, dict):
        raise CacheError("the identity is not a JSON object")
    found_version = content.get("format_version")
    if found_version not in READABLE_VERSIONS:
        known = " and ".join(str(version) for version in READABLE_VERSIONS)
        raise CacheError(
            f"the cache has format version {found_version!r}; this logitcache reads versions "
            f"{known}. Install the release that wrote it, or rebuild the cache."
        )
    if "configuration" not in content:
        del kinds["configuration"]
    if found_version < 4:
        kinds = {name: kind for name, kind in kinds.items() if name not in _NEW_IN_4}
    if set(content) != set(kinds):
        odd = sorted(set(content) ^ set(kinds))
        raise CacheError(f"the identity's fields are not those of this version: {odd}")
    for name, kind in kinds.items():
        if not isinstance(content[name], kind):
            raise CacheError(f"the identity's field {name} is {content[name]!r}")
    parsed = {**content, "targets": TargetFormat(**content["targets"])}
    if found_version < 4:
        return Identity(**parsed, **SINCE_4, num_tokens=parsed["vocab_size"])
    parsed["texts"] = text_format_from_json(content["texts"])
    return Identity(**{**parsed, "logits": LogitMap(**content["logits"])})


def library_versions() -> dict[str, str]:
    """Versions of the libraries that compute the rows, without local build suffixes."""
    names = ("torch", "transformers", "tokenizers")
    return {name: version(name).split("+")[0] for name in names}


def machine_description() -> str:
    """Python and platform, for the record; not part of an identity."""
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
