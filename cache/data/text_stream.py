"""The texts of a corpus, in one order that can be left and taken up again anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.data.corpus import Corpus
from cache.errors import CacheError

BATCH_TEXTS = 256
BATCH_CHARACTERS = 1 << 20
SEED = 0
"""Of the order in which several sources take turns."""

_FILE_KINDS = {
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".txt": "text",
}


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """Consecutive texts of a stream, and where it goes on after them."""

    texts: list[str]
    position: dict[str, Any]
    """For `TextStream(position=...)`; it survives JSON."""


class TextStream:
    """The texts of one split of a corpus.

    Several sources take turns at random, by their weights; the stream ends with the first that
    has no text left. The order depends on nothing but the corpus.
    """

    def __init__(self, corpus: Corpus, split: str, position: dict[str, Any] | None = None):
        """Open the sources.

        Args:
            position: where to go on, of a batch that was read before.

        Raises:
            CacheError: a source cannot be loaded, has no such split, or no such column.
        """
        import datasets

        self._corpus, self._split = corpus, split
        self._where = f"{' + '.join(corpus.sources)}, split {split!r}"
        opened = [_open(corpus, index, split) for index in range(len(corpus.sources))]
        self._rows = opened[0]
        if len(opened) > 1:
            self._rows = self._guarded(
                lambda: datasets.interleave_datasets(
                    opened,
                    probabilities=corpus.probabilities,
                    seed=SEED,
                    stopping_strategy="first_exhausted",
                )
            )
        if corpus.skip:
            self._rows = self._rows.skip(corpus.skip)
        if position is not None:
            self._guarded(lambda: self._rows.load_state_dict(position))

    def batches(self) -> Iterator[TextBatch]:
        """The texts from the position on, some hundreds at a time.

        Raises:
            CacheError: a source fails, or a text is not text.
        """
        texts: list[str] = []
        characters = 0
        rows = iter(self._rows)
        while (row := self._guarded(lambda: next(rows, None))) is not None:
            texts.append(self._text_of(row))
            characters += len(texts[-1])
            if len(texts) == BATCH_TEXTS or characters >= BATCH_CHARACTERS:
                yield TextBatch(texts=texts, position=self._rows.state_dict())
                texts, characters = [], 0
        if texts:
            yield TextBatch(texts=texts, position=self._rows.state_dict())

    def _text_of(self, row: dict[str, Any]) -> str:
        text = row.get(self._corpus.text_field)
        if text is not None and not isinstance(text, str):
            raise CacheError(
                f"{self._where}: the field {self._corpus.text_field!r} holds "
                f"{type(text).__name__}, not text. Name another with --text-field."
            )
        return text or ""

    def _guarded(self, action):
        try:
            return action()
        except Exception as error:  # network, codecs and parsers raise many kinds
            raise CacheError(
                f"{self._where}: reading stopped: {reason_of(error)}\n"
                "What was read is kept. Mend the cause and give the same command again: it goes on "
                "from there."
            ) from error


def open_rows(source: str, *, name: str | None, data_dir: str | None, split: str, streaming: bool):
    """The rows of a split of any dataset, as an IterableDataset.

    Raises:
        CacheError: it cannot be loaded, or has no such split.
    """
    import datasets

    path, options = source, {}
    if Path(source).suffix in _FILE_KINDS:
        if "://" not in source and not Path(source).is_file():
            raise CacheError(
                f"There is no file {source}. --dataset takes a hub id, folder or file."
            )
        path, options = _FILE_KINDS[Path(source).suffix], {"data_files": source}
        if path == "text":
            options["encoding"] = "utf-8-sig"  # the others drop a byte order mark themselves
    try:
        rows = datasets.load_dataset(
            path, name, data_dir=data_dir, split=split, streaming=streaming, **options
        )
        return rows if streaming else rows.to_iterable_dataset()
    except Exception as error:  # network, absent, gated, another split: many kinds
        raise CacheError(
            f"{source} (split {split!r}) could not be loaded: {reason_of(error)}\n"
            "Check the name, --split (that of a single file is train), --dataset-config and "
            "the network."
        ) from error


def reason_of(error: Exception) -> str:
    """What failed, in words: of `datasets`' own errors what caused them."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _open(corpus: Corpus, index: int, split: str):
    """One source as an IterableDataset of its text column."""
    import datasets

    source = corpus.sources[index]
    rows = open_rows(
        source,
        name=corpus.name(index),
        data_dir=corpus.data_dir(index),
        split=split,
        streaming=corpus.streaming,
    )
    columns = rows.column_names
    if columns is None:  # known only once a row was read
        try:
            columns = list(next(iter(rows), {corpus.text_field: ""}))
        except Exception as error:  # as above, where the first row is the first that is fetched
            raise CacheError(
                f"{source} (split {split!r}) could not be loaded: {reason_of(error)}\n"
                "Check the name, --split, --dataset-config and the network."
            ) from error
    if corpus.text_field not in columns:
        raise CacheError(
            f"{source} has no field {corpus.text_field!r}; it has {', '.join(columns)}.\n"
            "Name the one that holds the text with --text-field."
        )
    rows = rows.select_columns([corpus.text_field])
    kind = (rows.features or {}).get(corpus.text_field)
    if getattr(kind, "dtype", None) == "large_string":  # which sources with `string` do not join
        rows = rows.cast_column(corpus.text_field, datasets.Value("string"))
    return rows
