"""From a stream of texts to a spool of tokens, in memory that does not grow with the stream."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from cache.building.config import BuildConfig
from cache.building.texts import texts_of
from cache.data.corpus import VALIDATION, Corpus
from cache.data.documents import require_end_of_text
from cache.data.spool import BEGINS_TEXT, SPOOL_DIR, Spool
from cache.data.text_format import TextFormat
from cache.data.text_range import TextRange
from cache.data.text_stream import TextStream
from cache.data.tokenise import encode_all
from cache.errors import CacheError
from cache.machine.progress import OnCounted, counted_progress
from cache.teacher.load import tokenizer_sha256


def spool_corpus(config: BuildConfig, tokenizer) -> Spool:
    """The complete spool of a configuration's corpus, begun or taken up at `out`.

    Nobody else may write to `out` meanwhile.

    Every text is closed by end-of-text; the tokens are cut into documents of `max_length`.

    Raises:
        CacheError: a source cannot be read, other options were given before, or a split is empty.
    """
    corpus = config.corpus
    assert corpus is not None
    require_end_of_text(tokenizer)
    texts = texts_of(config, tokenizer)
    spool = Spool(
        config.out / SPOOL_DIR,
        config.cached_splits,
        max_length=config.max_length,
        shard_tokens=config.shard_tokens,
        options=_options(config, corpus, texts, tokenizer),
    )
    if not spool.complete:
        with counted_progress("reading the corpus", first="opening the corpus") as on_tokens:
            for number in range(spool.position.get("split", 0), len(config.splits)):
                _SplitReader(config, corpus, texts, tokenizer, spool, number).run(on_tokens)
        spool.finish()
    for split, spooled in spool.splits.items():
        if not spooled.num_tokens:
            raise CacheError(
                f"{config.dataset}: no text came into the split {split!r}.\n"
                "Read more (--limit, --max-tokens), hold out more (--validation-every), or name "
                "another --split; and another --out."
            )
    return spool


class _SplitReader:
    """Reads one split of the corpus to its end."""

    def __init__(
        self,
        config: BuildConfig,
        corpus: Corpus,
        texts: TextFormat,
        tokenizer,
        spool: Spool,
        number: int,
    ):
        self._corpus, self._limit, self._tokenizer = corpus, config.limit, tokenizer
        self._format = texts
        self._spool, self._number, self._split = spool, number, config.splits[number]
        begun = spool.position if spool.position.get("split") == number else {}
        self._num_texts = begun.get("num_texts", corpus.skip)
        self._num_tokens = begun.get("num_tokens", 0)
        self._position = begun.get("stream")

    def run(self, on_tokens: OnCounted) -> None:
        if self._is_full():
            return
        for batch in TextStream(self._corpus, self._split, self._position).batches():
            for token_ids in self._tokenise(batch.texts):
                self._take(token_ids)
                if self._is_full():
                    break
            self._spool.texts[self._split] = TextRange(
                stream=self._corpus.stream_words,
                split=self._split,
                first=self._corpus.skip,
                end=self._num_texts,
            )
            self._spool.save(
                {
                    "split": self._number,
                    "num_texts": self._num_texts,
                    "num_tokens": self._num_tokens,
                    "stream": batch.position,
                }
            )
            on_tokens(self._num_tokens, self._corpus.max_tokens)
            if self._is_full():
                return

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        return encode_all(self._tokenizer, texts, parse_special=self._format.parse_special)

    def _take(self, token_ids: list[int]) -> None:
        """Append a text and its end; an empty text counts, but leaves nothing."""
        self._num_texts += 1
        if not token_ids:
            return
        every = self._corpus.validation_every
        held_out = every is not None and self._num_texts % every == 0
        tokens = np.array([*self._format.prefix_ids, *token_ids, self._tokenizer.eos_token_id])
        tokens[0] |= BEGINS_TEXT
        if self._corpus.max_tokens is not None:
            tokens = tokens[: self._corpus.max_tokens - self._num_tokens]
        self._spool.add(VALIDATION if held_out else self._split, tokens)
        self._num_tokens += len(tokens)

    def _is_full(self) -> bool:
        most = self._corpus.max_tokens
        return (most is not None and self._num_tokens >= most) or (
            self._limit is not None and self._num_texts - self._corpus.skip >= self._limit
        )


def _options(config: BuildConfig, corpus: Corpus, texts: TextFormat, tokenizer) -> dict[str, Any]:
    return {
        "dataset": config.dataset,
        "splits": list(config.splits),
        "streaming": corpus.streaming,
        "max_length": config.max_length,
        "shard_tokens": config.shard_tokens,
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
        "texts": json.loads(json.dumps(asdict(texts))),
    }
