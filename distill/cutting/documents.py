"""The texts that are measured on where a student is cut: a cache's first documents, or a dataset's.

S positions.
"""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch

from cache.data.corpus import Corpus
from cache.data.documents import build_documents, require_end_of_text
from cache.data.problems import load_problems
from cache.data.text_format import TextFormat
from cache.data.text_stream import TextStream
from cache.data.tokenise import encode_all, prefix_of
from cache.reading.reader import CacheReader
from distill.errors import DistillError
from distill.settings.cut import CutConfig

MAX_LENGTH = 512
"""Tokens of a dataset's longest text, as `cache-teacher` has it where nothing else is said."""
TEMPLATE = "instruction"


Texts = list[torch.Tensor]
"""(S,) int64 ids of each."""


def cached_texts(reader: CacheReader, num_tokens: int, num_more: int) -> tuple[Texts, Texts]:
    """Documents of a cache's first split: the first, so many tokens together, and more after."""
    split = reader.splits[0]
    documents = (
        reader.read(split, [index]).token_ids for index in range(reader.num_documents(split))
    )
    return _first(documents, num_tokens), _first(documents, num_more)


def dataset_texts(config: CutConfig, tokenizer, max_positions: int | None) -> tuple[Texts, Texts]:
    """The first documents of a dataset, `num_tokens` together, and `reconstruct` after them.

    Problems become documents as `cache-teacher` makes them; texts stand as they are, each closed by
    end-of-text and cut where it is too long.

    Args:
        max_positions: that the teacher takes.

    Raises:
        CacheError: the dataset cannot be read, or the tokenizer has no end-of-text token.
        DistillError: no document is left.
    """
    max_length = min(MAX_LENGTH, max_positions or MAX_LENGTH)
    make = _problems if config.text_field is None else _corpus
    documents = make(config, tokenizer, max_length)
    texts = _first(documents, config.num_tokens)
    if not texts:
        raise DistillError(
            f"no document of {config.dataset}, split {config.split!r}, has {max_length} tokens or "
            "fewer. Name another --dataset."
        )
    return texts, _first(documents, config.reconstruct)


def _problems(config: CutConfig, tokenizer, max_length: int) -> Iterator[np.ndarray]:
    assert config.dataset is not None
    documents, _ = build_documents(
        load_problems(config.dataset, config.split),
        tokenizer,
        template=TEMPLATE,
        max_length=max_length,
        texts=TextFormat(prefix_ids=prefix_of(tokenizer)),
    )
    return (document.token_ids for document in documents)


def _corpus(config: CutConfig, tokenizer, max_length: int) -> Iterator[np.ndarray]:
    assert config.dataset is not None and config.text_field is not None
    require_end_of_text(tokenizer)
    corpus = Corpus(sources=(config.dataset,), text_field=config.text_field, streaming=True)
    prefix = prefix_of(tokenizer)
    batches = TextStream(corpus, config.split).batches()
    for ids in chain.from_iterable(
        encode_all(tokenizer, batch.texts, parse_special=False) for batch in batches
    ):
        if ids:
            yield np.array([*prefix, *ids, tokenizer.eos_token_id])[:max_length]


def _first(documents: Iterator[np.ndarray], num_tokens: int) -> Texts:
    """The next documents until there are so many tokens; the last is cut."""
    texts: Texts = []
    left = num_tokens
    while left and (token_ids := next(documents, None)) is not None:
        texts.append(torch.from_numpy(token_ids[:left]))
        left -= len(texts[-1])
    return texts
