"""A model that is there as a student: its weights, its tokens, the teacher it was cut from.

Letters of shapes: V vocabulary, D width.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.peft_utils import find_adapter_config_file

from cache.errors import CacheError
from cache.reading.reader import CacheReader
from cache.teacher.load import load_causal_lm, load_tokenizer
from cache.teacher.teacher import max_positions_of
from distill.errors import DistillError
from distill.learning.causal_lm import PROBE_TOKENS, plain_head
from distill.learning.special_ids import generation_config, special_ids
from distill.settings.origin import read_origin


def load_student(
    source: str,
    reader: CacheReader,
    tokenizer: PreTrainedTokenizerBase,
    *,
    pretrained: bool = True,
) -> PreTrainedModel:
    """A causal language model from a folder or the hub, made to fit a cache.

    Weights are fp32 whatever they are stored in: AdamW's small steps are lost in 16 bits, and the
    recipe's `precision` is that of the products. Its vocabulary is brought to the teacher's number
    of rows: models of one family pad theirs to different sizes, and what is added or cut off is no
    token's.

    Args:
        source: folder or hub id.
        tokenizer: the cache's.
        pretrained: False: its configuration alone, with weights from torch's generator.

    Raises:
        DistillError: it cannot be loaded, has another tokenizer, too few positions or a head that
            is not plain, or was cut from another teacher.
    """
    _require_same_teacher(source, reader)
    _require_same_tokens(source, tokenizer, reader)
    if find_adapter_config_file(source) is not None:
        raise DistillError(
            f"the student {source} is a folder of adapters. Merge them first (peft: "
            "merge_and_unload, then save_pretrained), and give that folder, with its tokenizer."
        )
    try:
        if pretrained:
            student = load_causal_lm(source, dtype=torch.float32, device_map=None)
        else:
            config = AutoConfig.from_pretrained(source)
            student = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (CacheError, OSError, ValueError) as error:
        raise DistillError(f"the student {source} could not be loaded: {error}") from error
    positions = max_positions_of(student)
    if positions is not None and positions < reader.max_length:
        longest = max(int(reader.document_lengths(split).max()) for split in reader.splits)
        if longest > positions:
            raise DistillError(
                f"the student {source} takes {positions} tokens, but the cache has documents of "
                f"up to {longest}. Take another student, or build the cache with --max-length "
                f"{positions}."
            )
    resize_vocabulary(student, reader.vocab_size)
    for name, value in {**special_ids(tokenizer), "pad_token_id": None}.items():
        setattr(student.config, name, value)
    student.generation_config = generation_config(tokenizer)
    plain_head(student, torch.arange(min(PROBE_TOKENS, reader.vocab_size)).unsqueeze(0))
    return student


def count_parameters(source: str, vocab_size: int) -> int:
    """Weights of a model from a folder or the hub with V rows; only its configuration is read.

    Raises:
        DistillError: there is none.
    """
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise DistillError(f"the student {source} could not be found: {error}") from error
    config.get_text_config().vocab_size = vocab_size
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).num_parameters()


@torch.no_grad()
def resize_vocabulary(student: PreTrainedModel, vocab_size: int) -> None:
    """Cut a model's embedding and head to V rows, or add rows that are the mean of those there."""
    before = student.get_output_embeddings().weight.shape[0]
    if before == vocab_size:
        return
    student.resize_token_embeddings(vocab_size, mean_resizing=False)
    modules: tuple[Any, Any] = (student.get_input_embeddings(), student.get_output_embeddings())
    for module in modules:
        module.weight[before:] = module.weight[:before].mean(0)
        bias: Any = getattr(module, "bias", None)
        if bias is not None:
            bias[before:] = bias[:before].mean()


def _require_same_teacher(source: str, reader: CacheReader) -> None:
    """Raise DistillError where a student was cut from a teacher that is not the cache's."""
    origin = read_origin(Path(source))
    if origin is not None and origin.teacher_sha256 != reader.identity.teacher_sha256:
        raise DistillError(
            f"the student {source} was cut from {origin.teacher}, but the cache at {reader.path} "
            f"is of {reader.identity.teacher}, with other weights (or the same in another dtype). "
            "Cut it from the cache's teacher: python cli.py init-student --cache ..."
        )


def _require_same_tokens(
    source: str, tokenizer: PreTrainedTokenizerBase, reader: CacheReader
) -> None:
    """Raise DistillError unless every token of the cache has the same id in the student."""
    try:
        there = load_tokenizer(source).get_vocab()
    except CacheError as error:
        raise DistillError(
            f"the tokenizer of the student {source} could not be loaded. Save it beside the model: "
            f"its ids must mean what the cache's mean. {error}"
        ) from error
    other = [token for token, number in tokenizer.get_vocab().items() if there.get(token) != number]
    if other:
        raise DistillError(
            f"the student {source} and the teacher {reader.identity.teacher} have different "
            f"tokenizers: {len(other)} tokens of the teacher's have another id or none in the "
            f"student's, such as {other[0]!r}. Take a student of the teacher's family."
        )
