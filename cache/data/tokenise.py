"""Texts to token ids, with what the tokenizer itself puts before them, and joined as texts join.

What is tokenised apart has an exact boundary; that the parts decode to the whole is checked, since
SentencePiece tokenizers put a space before whatever they are given.
"""

import warnings
from collections.abc import Sequence

from cache.data.text_format import BOS_CHOICES, require_unicode
from cache.errors import CacheError, CacheWarning

_PROBE = "def f"
_BODY = ('def f(x):\n    """Add one."""', "\n    return x + 1")
_ANCHORS = ("\n", "\ue000")
"""What a completion is tokenised behind, where it cannot be alone: a line's end, and a character
that is in no text and so in no token with what follows it."""


def prefix_of(tokenizer, bos: str = "auto") -> tuple[int, ...]:
    """Ids that belong before every text.

    Args:
        bos: `auto`: what the tokenizer adds by itself; `always`: its beginning-of-sequence token;
            `never`: nothing.

    Raises:
        CacheError: `always`, and it has none; or it adds what no text of a causal model begins
            or ends with.
    """
    if bos not in BOS_CHOICES:
        raise CacheError(f"bos is {bos!r}; choose from {', '.join(BOS_CHOICES)}.")
    if bos == "never":
        return ()
    if bos == "always":
        if tokenizer.bos_token_id is None:
            raise CacheError(
                f"The tokenizer {tokenizer.name_or_path} has no beginning-of-sequence token. "
                "Give --bos auto."
            )
        return (tokenizer.bos_token_id,)
    bare = list(tokenizer(_PROBE, add_special_tokens=False)["input_ids"])
    full = list(tokenizer(_PROBE)["input_ids"])
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            before, after = full[:start], full[start + len(bare) :]
            if set(after) <= {tokenizer.eos_token_id}:  # documents are closed by it anyway
                return tuple(before)
    raise CacheError(
        f"The tokenizer {tokenizer.name_or_path} makes {full} of {_PROBE!r}, and {bare} without "
        "special tokens: what it adds is no beginning and no end of text. Give --bos always or "
        "never."
    )


def encode(tokenizer, text: str, *, parse_special: bool) -> list[int]:
    """Ids of a text, without anything added; special tokens' names in it are text unless parsed."""
    return encode_all(tokenizer, [text], parse_special=parse_special)[0]


def encode_all(tokenizer, texts: Sequence[str], *, parse_special: bool) -> list[list[int]]:
    """As `encode`, of several texts at once.

    Raises:
        CacheError: one has half a surrogate pair.
    """
    for text in texts:
        require_unicode(text)
    return tokenizer(
        list(texts),
        add_special_tokens=False,
        return_attention_mask=False,
        verbose=False,
        split_special_tokens=not parse_special,
    )["input_ids"]


def as_tokens_part(
    tokenizer, prompt: str, completion: str, *, parse_special: bool = False
) -> tuple[str, str]:
    """Prompt and completion, parted where the tokens of the whole text part.

    Tokenizers differ in where a line's end belongs. GPT-2's and StarCoder2's join it to the
    indentation behind it; Qwen's and Llama 3's to the punctuation before it: the `\"""` of a
    docstring and the line's end are one token. Cut before the line's end, a text then ends in a
    token that no model has seen before a new line, and what the model says there is no answer.

    Returns:
        The two as they are, or the first line's end of the completion moved to the prompt.
    """
    if not completion.startswith("\n") or completion == "\n":
        return prompt, completion
    moved = (f"{prompt}\n", completion[1:])
    texts = [prompt, moved[0], prompt + completion]
    short, long, whole = encode_all(tokenizer, texts, parse_special=parse_special)
    if whole[: len(short)] != short and whole[: len(long)] == long:
        return moved
    return prompt, completion


def joins_line_ends(tokenizer) -> bool:
    """Whether the line's end behind a docstring is one token with the docstring's end."""
    return as_tokens_part(tokenizer, *_BODY) != _BODY


def encode_pair(
    tokenizer, prompt: str, completion: str, *, parse_special: bool
) -> tuple[list[int], list[int]]:
    """Ids of a prompt as it is tokenised alone, and of the completion as it follows it.

    The line's end between them is where `as_tokens_part` puts it. A CacheWarning says where the
    tokenizer makes one token of the prompt's end and what follows it.

    Raises:
        CacheError: one is empty, or they cannot be joined without changing the text.
    """
    prompt, completion = as_tokens_part(tokenizer, prompt, completion, parse_special=parse_special)
    prompt_ids = encode(tokenizer, prompt, parse_special=parse_special)
    completion_ids = encode(tokenizer, completion, parse_special=parse_special)
    if not prompt_ids or not completion_ids:
        raise CacheError("prompt or completion is empty")
    whole_ids = encode(tokenizer, prompt + completion, parse_special=parse_special)
    whole = _decoded(tokenizer, whole_ids)
    if _decoded(tokenizer, [*prompt_ids, *completion_ids]) == whole:
        if [*prompt_ids, *completion_ids] != whole_ids:
            _warn_of_joining()
        return prompt_ids, completion_ids
    if whole_ids[: len(prompt_ids)] == prompt_ids:  # the boundary falls between two tokens
        return prompt_ids, whole_ids[len(prompt_ids) :]
    for before in _ANCHORS:
        first = encode(tokenizer, before, parse_special=parse_special)
        after = encode(tokenizer, before + completion, parse_special=parse_special)
        joined = after[len(first) :]
        if after[: len(first)] == first and _decoded(tokenizer, [*prompt_ids, *joined]) == whole:
            _warn_of_joining()
            return prompt_ids, joined
    raise CacheError("the tokenizer has no boundary between prompt and completion")


def _warn_of_joining() -> None:
    warnings.warn(  # the same words for every document, so that they are said once
        "In some documents the tokenizer makes one token of a prompt's end and the completion's "
        "beginning. They are parted, and the teacher has not seen texts that part there. Where "
        "prompts end with a space, begin the completions with it instead.",
        CacheWarning,
        stacklevel=2,
    )


def _decoded(tokenizer, token_ids: Sequence[int]) -> str:
    return tokenizer.decode(
        token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
