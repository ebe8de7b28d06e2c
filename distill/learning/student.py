"""A student: GPT-2's shape, random weights, and the words of the cache's teacher.

Letters of shapes: V vocabulary.
"""

from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
)

from cache.reading.reader import CacheReader
from distill.batches.batch import padding_id
from distill.errors import DistillError
from distill.settings.shapes import StudentShape

MIN_POSITIONS = 512
"""Positions of every student, and more where the cache's documents are longer."""


def build_student(
    shape: StudentShape,
    *,
    vocab_size: int,
    max_length: int,
    tokenizer: PreTrainedTokenizerBase,
    dropout: float = 0.1,
) -> GPT2LMHeadModel:
    """A student with random weights from torch's generator, on torch's default device.

    The output head is the input embedding, so that V x width is paid for once.

    Args:
        vocab_size: V of the teacher's output.
        max_length: tokens of the longest document it will meet.
        tokenizer: gives the ids that begin, end and pad a text. GPT-2's own 50256 lies
            outside a vocabulary of 49,152, and a student with it never stops generating.

    Raises:
        DistillError: the tokenizer has ids outside the vocabulary, or none that ends a text.
    """
    require_tokenizer_fits(tokenizer, vocab_size)
    eos_id = tokenizer.eos_token_id
    bos_id = eos_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=num_positions(max_length),
        n_layer=shape.num_layers,
        n_embd=shape.width,
        n_head=shape.num_heads,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        resid_pdrop=dropout,
        tie_word_embeddings=True,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
    )  # no pad_token_id: with it transformers warns of every batch that has padding at its end
    student = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    student.generation_config = GenerationConfig(
        bos_token_id=bos_id, eos_token_id=eos_id, pad_token_id=padding_id(tokenizer)
    )
    return student


def num_positions(max_length: int) -> int:
    """Positions of a student that meets documents of up to `max_length` tokens."""
    return max(MIN_POSITIONS, max_length)


def require_tokenizer_fits(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Raises DistillError unless every token has a place in a vocabulary of that size."""
    if tokenizer.eos_token_id is None:
        raise DistillError(
            f"the tokenizer at {tokenizer.name_or_path} has no end-of-text token; a student "
            "would never stop. Rebuild the cache with a teacher whose tokenizer has one: "
            "python cli.py cache-teacher --teacher ..."
        )
    if len(tokenizer) > vocab_size:
        raise DistillError(
            f"the tokenizer at {tokenizer.name_or_path} has {len(tokenizer)} tokens, but the "
            f"cache was built with vocab_size={vocab_size}. Token ids would mean nothing to the "
            "student. Put back the cache's own tokenizer, or rebuild: "
            "python cli.py cache-teacher --teacher ..."
        )


def require_same_vocabulary(student: GPT2LMHeadModel, reader: CacheReader) -> None:
    """Raises DistillError unless the student has the vocabulary of the cache's rows."""
    if student.config.vocab_size != reader.vocab_size:
        raise DistillError(
            f"cache at {reader.path} was built with vocab_size={reader.vocab_size} (teacher "
            f"{reader.identity.teacher}), but this student has "
            f"vocab_size={student.config.vocab_size}. Token ids would mean different words. "
            "Use a student preset with the cache's tokenizer, or rebuild: "
            "python cli.py cache-teacher --teacher ..."
        )
