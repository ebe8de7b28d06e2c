"""What stage one and `cache inspect` print: rich tables of facts."""

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cache.building.config import BuildConfig
from cache.building.job import BuildJob
from cache.building.local import BuildSummary
from cache.reading.reader import CacheReader
from cache.storage.created import ORIGINS, notes_of, origins_of, ranges_of
from cache.storage.facts import identity_facts, split_sizes
from cache.storage.layout import ShardLayout
from cache.targets.fidelity import Fidelity
from cache.tools.inspect import example_tokens, mean_teacher_loss
from cache.tools.recommend import TriedFormat, frontier


def dry_run_table(job: BuildJob, config: BuildConfig, layout: ShardLayout) -> RenderableType:
    """Documents, tokens and estimated bytes of each split, and what was dropped."""
    table = _table("What would be cached", ("split", "documents", "tokens", "shards", "dropped"))
    for split, documents in job.documents.items():
        table.add_row(
            split,
            f"{len(documents):,}",
            f"{sum(s.num_tokens for s in job.shards if s.split == split):,}",
            f"{sum(s.split == split for s in job.shards):,}",
            f"{len(job.dropped[split]):,}",
        )
    size = job.estimated_bytes(layout)
    total = Text(
        f"About {_size(size)} before compression ({size / job.num_rows:.0f} bytes/token, "
        f"{config.targets.words()}); longest document {job.longest} tokens."
    )
    source = Text(f"Dataset: {config.dataset}.")
    return Group(table, total, source, *_dropped_lines(job.dropped_json()))


def summary_table(summary: BuildSummary) -> RenderableType:
    """What a build left, and how fast it was."""
    identity = summary.manifest.identity
    facts = {
        "teacher": f"{identity.teacher} ({identity.dtype})",
        "documents": f"{summary.num_documents:,}",
        "rows": f"{summary.num_rows:,}",
        "rows on disk": f"{_size(summary.row_bytes)}, {summary.row_bytes / summary.num_rows:.1f} "
        "bytes/token",
        "once a cache": f"{_size(summary.num_bytes - summary.row_bytes)} (tokenizer, tail)",
    }
    if summary.already_complete:
        facts["status"] = "was complete already; nothing was computed"
    else:
        speed = summary.num_new_rows / summary.seconds if summary.seconds else 0
        facts["computed now"] = (
            f"{summary.num_new_rows:,} rows in {summary.seconds:.1f} s, {speed:,.0f} tokens/s"
        )
    return Group(
        _facts("Cache", facts),
        fidelity_table(summary.manifest.fidelity),
        *map(Text, notes_of(summary.manifest)),
        *_dropped_lines(summary.manifest.plan.dropped),
    )


def inspect_tables(reader: CacheReader, tokenizer, *, split: str, document: int) -> RenderableType:
    """Identity, sizes, captured mass and an example document."""
    return Group(
        _identity_table(reader),
        _size_table(reader),
        fidelity_table(reader.manifest.fidelity),
        *map(Text, notes_of(reader.manifest)),
        *_dropped_lines(reader.manifest.plan.dropped),
        _example_table(reader, tokenizer, split, document),
    )


def _identity_table(reader: CacheReader) -> Table:
    identity, created = reader.identity, reader.manifest.created
    facts: dict[str, str] = {}
    for name, words in identity_facts(identity).items():
        if name == "vocabulary":
            facts["tokenizer"] = f"{identity.tokenizer_sha256}, vocabulary {words}"
        else:
            facts[name] = words
        if name == "dataset":
            facts |= _texts(reader) | _origins(reader)
    facts["libraries"] = ", ".join(f"{k} {v}" for k, v in identity.libraries.items())
    facts["built"] = ", ".join(created[name] for name in ("date", "machine", "device"))
    return _facts("Identity", facts)


def _texts(reader: CacheReader) -> dict[str, str]:
    """What was read of a corpus; where an extension goes on."""
    ranges = ranges_of(reader.manifest)
    return {"texts": ", ".join(one.words() for one in ranges)} if ranges else {}


def _origins(reader: CacheReader) -> dict[str, str]:
    """Who wrote the documents of each split, where not all are the dataset's own."""
    if ORIGINS not in reader.manifest.created:
        return {}
    words = [
        f"{split}: " + ", ".join(f"{count:,} {origin}" for origin, count in Counter(found).items())
        for split, found in origins_of(reader.manifest).items()
    ]
    return {"origins": "; ".join(words)}


def _size_table(reader: CacheReader) -> Table:
    names = ("split", "documents", "tokens", "shards", "size", "bytes/token", "teacher CE")
    table = _table("Size", names)
    for size in split_sizes(reader.manifest):
        table.add_row(
            size.split,
            f"{size.num_documents:,}",
            f"{size.num_tokens:,}",
            f"{size.num_shards:,}",
            _size(size.num_bytes),
            f"{size.num_bytes / size.num_tokens:.1f}",
            f"{mean_teacher_loss(reader, size.split):.3f} nats",
        )
    return table


def fidelity_table(fidelity: Sequence[Fidelity]) -> RenderableType:
    """Stored targets against the teacher's own, by temperature; of the mass, the largest error."""
    if not fidelity:
        return Text(
            "Fidelity: not measured (too few rows, or encoded again without the teacher).",
            style="yellow",
        )
    names = (
        "T",
        "inside the top-k",
        "total variation",
        "p99",
        "KL, nats",
        "gradient cosine",
        "mass off by",
    )
    table = _table(f"Fidelity over {fidelity[0].num_rows:,} rows", names)
    for row in fidelity:
        table.add_row(
            f"{row.temperature:g}",
            f"{row.captured:.3f}",
            f"{row.total_variation:.4f}",
            f"{row.total_variation_p99:.4f}",
            f"{row.kl:.4f}",
            f"{row.gradient_cosine:.5f}",
            "not measured" if row.mass_error is None else f"{row.mass_error:.4f}",
        )
    return table


def settings_table(settings: Sequence[TriedFormat], chosen: TriedFormat) -> RenderableType:
    """What each setting costs and gives; the chosen one is marked, and those none other beats."""
    fidelity = settings[0].result.fidelity
    names = ["", "setting", "bytes/token", "whole job", "columns"]
    for row in fidelity:
        names += [f"TV, T = {row.temperature:g}", "KL"]
    title = f"Settings by size, over {fidelity[0].num_rows:,} rows that no tail was fitted on"
    table = _table(title, names)
    table.columns[1].justify = "left"
    best = frontier(settings)
    for setting in settings:
        cells = [
            "->" if setting is chosen else "*" if setting in best else "",
            setting.targets.words(),
            f"{setting.bytes_per_row:.1f}",
            _size(setting.total_bytes),
            f"{setting.result.num_columns or '-'}",
        ]
        for row in setting.result.fidelity:
            cells += [f"{row.total_variation:.4f}", f"{row.kl:.4f}"]
        table.add_row(*cells, style="bold green" if setting is chosen else None)
    legend = Text(
        "*: no other setting is both smaller and truer. columns: of the matrix product with the "
        "vocabulary that rebuilds the tail in training, beside the student's own width. "
        f"whole job: {settings[0].num_rows:,} rows, and what is stored once a cache."
    )
    return Group(table, legend, Text(f"Recommended: {chosen.targets.options()}", style="bold"))


def _example_table(reader: CacheReader, tokenizer, split: str, document: int) -> RenderableType:
    documents = reader.read(split, [document])
    prompt = tokenizer.decode(documents.token_ids[: documents.prompt_lengths[0]].tolist())
    table = _table(
        f"{split} document {document} (task_id {documents.task_ids[0]}): the completion begins",
        ("token", "teacher gave it", "teacher's most probable"),
        justify="left",
    )
    for example in example_tokens(reader, tokenizer, split, document, first=0, count=12, top=4):
        top = "  ".join(f"{token!r} {prob:.3f}" for token, prob in example.top)
        table.add_row(Text(repr(example.token)), f"{example.logprob:.2f} nats", Text(top))
    return Group(Text(prompt, style="dim"), table)


def _dropped_lines(dropped: dict[str, list[dict]]) -> list[Text]:
    lines = []
    for split, documents in dropped.items():
        names = "; ".join(f"task_id {d['task_id']}: {d['reason']}" for d in documents[:10])
        more = f"; and {len(documents) - 10} more" if len(documents) > 10 else ""
        if documents:
            lines.append(Text(f"Left out of {split}: {names}{more}.", style="yellow"))
    return lines


def _facts(title: str, facts: dict[str, str]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", show_header=False, box=box.SIMPLE
    )
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(value))
    return table


def _table(title: str, columns: Sequence[str], justify: str = "right") -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE)
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 or justify == "left" else "right")
    return table


def _size(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
