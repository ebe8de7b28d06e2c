"""The dataset card of a cache: README.md beside it where it is shared."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from cache.remote.remote import is_url
from cache.storage.created import notes_of
from cache.storage.facts import identity_facts, split_sizes
from cache.storage.manifest import Manifest

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
"""Documents below which the hub's size categories end."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_TIMEOUT_SECONDS = 10.0


def cache_card(
    manifest: Manifest,
    url: str,
    *,
    teacher_license: str | None = None,
    data_license: str | None = None,
) -> str:
    """README.md of a cache: YAML front matter for the Hugging Face hub, then what to know.

    Args:
        manifest: of the cache.
        url: where it is shared; the commands name it.
        teacher_license: of the teacher; None: not known.
        data_license: of the problems or texts; None: not known.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    identity = manifest.identity
    num_documents = sum(shard.num_documents for shard in manifest.plan.shards)
    known = (teacher_license, data_license)
    same = known[0] is not None and known[0] == known[1] and _HUB_LICENSE.fullmatch(known[0])
    data = DatasetCardData(
        license=known[0] if same else "other" if all(known) else "unknown",
        pretty_name=f"Soft targets of {_last_part(identity.teacher)} on "
        f"{_last_part(identity.dataset)}",
        size_categories=next((name for limit, name in SIZES if num_documents < limit), "n>1B"),
        tags=["distillation", "soft-targets", "logitcache"],
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {_text(str(data.pretty_name))}\n\nA teacher's next-token distributions over "
        f"{num_documents:,} documents, for training students without the teacher.",
        _use(url),
        "## What it is\n\n" + _table(("", ""), _identity_rows(manifest)),
        "## Sizes\n\n"
        + _table(("split", "documents", "tokens", "shards", "bytes"), _size_rows(manifest)),
        "\n\n".join(["## Fidelity", _fidelity(manifest), *map(_text, notes_of(manifest))]),
        "## Left out\n\n" + _dropped(manifest),
        "## Licences\n\n" + _licences(manifest, teacher_license, data_license),
    ]
    card = DatasetCard("\n\n".join(sections) + "\n")
    return str(card)


def find_license(name: str, *, kind: str) -> str | None:
    """The licence that a local folder's README.md or the hub states; None where neither does.

    Args:
        name: hub id or path of a teacher or of data.
        kind: `model` or `dataset`, for the hub.
    """
    import yaml
    from huggingface_hub.repocard import metadata_load

    readme = Path(name) / "README.md"
    try:
        if readme.is_file():
            return _license_text(metadata_load(readme) or {})
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if Path(name).exists() or not _HUB_ID.fullmatch(name):
        return None
    return _hub_license(name, kind)


def _hub_license(name: str, kind: str) -> str | None:
    from huggingface_hub import HfApi

    api = HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    try:
        card = ask(name, timeout=_TIMEOUT_SECONDS).card_data
    except Exception:  # no network, no such repository, offline mode: the licence is not known
        return None
    return _license_text(card.to_dict()) if card is not None else None


def _license_text(metadata: Mapping) -> str | None:
    found = metadata.get("license_name") or metadata.get("license")
    names = found if isinstance(found, list) else [found]
    return ", ".join(str(name) for name in names if name) or None


def _use(url: str) -> str:
    where = url if is_url(url) else str(Path(url))
    return (
        "## Train from it\n\n```sh\n"
        f"python cli.py train --cache {_shell(where)} --recipe model_44m_t2.0_a0.5\n"
        f"python cli.py cache pull {_shell(where)} cache\n```\n\n"
        "Both check every file against the sha256 that the manifest records."
    )


def _identity_rows(manifest: Manifest) -> list[tuple[str, ...]]:
    built = str(manifest.created.get("date", "not recorded"))
    return [*identity_facts(manifest.identity).items(), ("built", built)]


def _size_rows(manifest: Manifest) -> list[tuple[str, ...]]:
    rows = []
    for size in split_sizes(manifest):
        counts = (size.num_documents, size.num_tokens, size.num_shards, size.num_bytes)
        rows.append((size.split, *(f"{count:,}" for count in counts)))
    return rows


def _fidelity(manifest: Manifest) -> str:
    if not manifest.fidelity:
        return "Not measured: too few rows, or encoded again without the teacher."
    rows = [
        (
            f"{row.temperature:g}",
            f"{row.captured:.3f}",
            f"{row.total_variation:.4f}",
            f"{row.kl:.4f}",
            f"{row.gradient_cosine:.5f}",
            "not measured" if row.mass_error is None else f"{row.mass_error:.4f}",
        )
        for row in manifest.fidelity
    ]
    names = (
        "T", "inside the top-k", "total variation", "KL (nats)", "gradient cosine",
        "largest error of the mass",
    )  # fmt: skip
    return (
        f"Stored targets against the teacher's own, over {manifest.fidelity[0].num_rows:,} "
        f"rows.\n\n{_table(names, rows)}"
    )


def _dropped(manifest: Manifest) -> str:
    lines = []
    for split, documents in manifest.plan.dropped.items():
        if documents:
            reasons = "; ".join(f"{d.get('task_id')}: {d.get('reason')}" for d in documents[:10])
            more = f"; and {len(documents) - 10} more" if len(documents) > 10 else ""
            lines.append(f"- {_text(split)}: {len(documents):,} ({_text(reasons)}{more})")
    return "\n".join(lines) or "Nothing."


def _licences(manifest: Manifest, teacher: str | None, data: str | None) -> str:
    identity = manifest.identity
    unknown = "not known: whoever shares or uses this has to look it up"
    rows = [
        ("teacher", identity.teacher, teacher or unknown),
        ("data", identity.dataset, data or unknown),
    ]
    return (
        _table(("of", "name", "licence"), rows)
        + "\n\nTargets are the teacher's outputs over the data, and the documents' tokens are in "
        "the cache: both licences may bind it, and students trained from it."
    )


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: str) -> str:
    """A value that cannot break out of its line or cell, nor become a tag."""
    line = _line(str(value))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'")


def _line(value: str) -> str:
    """A value as a line of characters that can be printed."""
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())


def _last_part(name: str) -> str:
    return _line(name if _HUB_ID.fullmatch(name) else Path(name).name or name)


def _shell(word: str) -> str:
    return shlex.quote(_line(word).replace("```", ""))
