"""A student before its first step: of a shape and with random weights, or a model that is there.

Letters of shapes: V vocabulary.
"""

from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from cache.reading.reader import CacheReader
from distill.errors import DistillError
from distill.learning.lora import add_adapters
from distill.learning.pretrained import load_student
from distill.learning.special_ids import generation_config, special_ids
from distill.settings.recipe import Recipe
from distill.settings.shapes import StudentShape, names_model, parse_shape

MIN_POSITIONS = 512
"""Positions of every student, and more where the cache's documents are longer."""


def first_student(
    recipe: Recipe, reader: CacheReader, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """The student that a recipe begins with, on the CPU, fp32.

    Weights that are random come from torch's generator. Parts that the recipe freezes ask for no
    gradient; with adapters nothing else does.

    Args:
        tokenizer: the cache's.

    Raises:
        DistillError: the student and the cache do not fit, nothing is left to learn, or adapters
            are asked for and peft is not installed.
    """
    if names_model(recipe.student):
        student = load_student(
            recipe.student, reader, tokenizer, pretrained=recipe.init != "random"
        )
    else:
        student = build_student(
            parse_shape(recipe.student),
            vocab_size=reader.vocab_size,
            max_length=reader.max_length,
            tokenizer=tokenizer,
            dropout=recipe.dropout,
        )
    require_same_vocabulary(student, reader)
    _freeze(student, recipe)
    add_adapters(student, recipe)
    return student


def _freeze(student: PreTrainedModel, recipe: Recipe) -> None:
    """Raises DistillError where a name fits no parameter, or all are frozen."""
    parameters = dict(student.named_parameters())
    for part in recipe.freeze:
        found = [name for name in parameters if part in name]
        if not found:
            raise DistillError(
                f"recipe {recipe.name}: freeze names {part!r}, but no parameter of the student has "
                f"that in its name. They are {', '.join(list(parameters)[:4])} and so on."
            )
        for name in found:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise DistillError(f"recipe {recipe.name}: freeze leaves nothing to learn.")


def build_student(
    shape: StudentShape,
    *,
    vocab_size: int,
    max_length: int,
    tokenizer: PreTrainedTokenizerBase,
    dropout: float = 0.1,
) -> PreTrainedModel:
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
    config = _config(
        shape,
        dropout,
        vocab_size=vocab_size,
        max_position_embeddings=num_positions(max_length),
        tie_word_embeddings=True,
        **special_ids(tokenizer),
    )
    student = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    student.generation_config = generation_config(tokenizer)
    return student


def _config(shape: StudentShape, dropout: float, **common) -> PreTrainedConfig:
    if shape.family == "llama":
        return LlamaConfig(
            **common,
            hidden_size=shape.width,
            intermediate_size=shape.feed_forward_width,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_kv_heads or shape.num_heads,
            attention_dropout=dropout,
        )
    return GPT2Config(
        **common,
        n_embd=shape.width,
        n_layer=shape.num_layers,
        n_head=shape.num_heads,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        resid_pdrop=dropout,
    )


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


def require_same_vocabulary(student: PreTrainedModel, reader: CacheReader) -> None:
    """Raises DistillError unless the student has the vocabulary of the cache's rows."""
    vocab_size = student.get_output_embeddings().weight.shape[0]
    if vocab_size != reader.vocab_size:
        raise DistillError(
            f"cache at {reader.path} was built with vocab_size={reader.vocab_size} (teacher "
            f"{reader.identity.teacher}), but this student has "
            f"vocab_size={vocab_size}. Token ids would mean different words. "
            "Use a student preset with the cache's tokenizer, or rebuild: "
            "python cli.py cache-teacher --teacher ..."
        )
