"""The ids that begin, end and pad a student's texts: those of the cache's tokenizer."""

from transformers import GenerationConfig, PreTrainedTokenizerBase

from distill.batches.batch import padding_id


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """What a student's configuration says of them.

    Without a `pad_token_id`: with it transformers warns of every batch that has padding at its end.
    """
    eos_id, bos_id = tokenizer.eos_token_id, tokenizer.bos_token_id
    return {"bos_token_id": eos_id if bos_id is None else bos_id, "eos_token_id": eos_id}


def generation_config(tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """What `generate` begins, ends and pads with."""
    return GenerationConfig(**special_ids(tokenizer), pad_token_id=padding_id(tokenizer))
