"""The tokenizer that goes along with a student: it gives texts what training gave them."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from distill.errors import DistillError

_PROBE = "def f"


def export_tokenizer(
    source: Path, folder: Path, *, prefix_ids: Sequence[int], num_positions: int | None
) -> None:
    """Save the cache's tokenizer beside a student.

    Called on a text, it puts before it what every document of the cache begins with, and nothing
    behind it: a prompt is prompted as the student was trained. Its length is the student's.

    Args:
        source: folder of the cache's tokenizer.
        folder: of the student.
        prefix_ids: what training put before every text.
        num_positions: of the student; None where it has no limit.

    Raises:
        DistillError: the tokenizer cannot be told to.
    """
    tokenizer = AutoTokenizer.from_pretrained(source)
    if num_positions is not None:
        tokenizer.model_max_length = num_positions
    if not _begins_with(tokenizer, prefix_ids):
        tokens = tokenizer.convert_ids_to_tokens(list(prefix_ids))
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.post_processor = TemplateProcessing(
                single=[*tokens, "$A"],
                pair=[*tokens, "$A", "$B"],
                special_tokens=list(zip(tokens, prefix_ids, strict=True)),
            )
        for name, wanted in (("add_bos_token", bool(prefix_ids)), ("add_eos_token", False)):
            if hasattr(tokenizer, name) and backend is None:
                setattr(tokenizer, name, wanted)
    tokenizer.save_pretrained(folder)
    if not _begins_with(AutoTokenizer.from_pretrained(folder), prefix_ids):
        raise DistillError(
            f"the tokenizer at {source} does not put {list(prefix_ids)} before a text, which "
            "training did, and cannot be told to. Prompts would not be what the student knows."
        )


def _begins_with(tokenizer: PreTrainedTokenizerBase, prefix_ids: Sequence[int]) -> bool:
    bare = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    return list(tokenizer(_PROBE)["input_ids"]) == [*prefix_ids, *bare]
