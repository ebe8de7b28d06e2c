"""Tokenizers of several families: what they put before and behind a text, and how they join."""

import json

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.support.paths import EXAMPLES

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen, SmolLM2 and many others; no `{% generation %}`."""


def examples() -> list[str]:
    return [json.loads(line)["code"] for line in EXAMPLES.read_text().splitlines()]


def _fast(tokenizer: Tokenizer, adds: str, chat_template: str | None) -> PreTrainedTokenizerFast:
    before, behind = ("<s>" if "b" in adds else ""), ("</s>" if "e" in adds else "")
    ids = [(token, tokenizer.token_to_id(token)) for token in SPECIAL[:2]]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{before} $A {behind}".split(), special_tokens=ids
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
        additional_special_tokens=SPECIAL[2:],
    )  # fmt: skip
    made.chat_template = chat_template
    return made


def _train_on_bytes(tokenizer: Tokenizer, texts: list[str]) -> None:
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)


def byte_level(adds: str = "", chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Like GPT-2's; `adds`: `b` for a beginning, `e` for an end of text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    _train_on_bytes(tokenizer, examples())
    return _fast(tokenizer, adds, chat_template)


def line_ends_joined() -> PreTrainedTokenizerFast:
    """Like Qwen's and Llama 3's: a line's end is one token with the punctuation before it."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+| ?\p{L}+|\p{N}")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    documented = ['def f():\n    """Do it."""\n    x\n', 'def f():\n    """ It.\n    """\n    x\n']
    _train_on_bytes(tokenizer, examples() + documented * 20)
    return _fast(tokenizer, "", None)


def prefix_space() -> PreTrainedTokenizerFast:
    """Like `byte_level`, and a text begins with a space, as in RoBERTa and some of GPT-2's kin."""
    made = byte_level()
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return made


def byte_fallback() -> PreTrainedTokenizerFast:
    """As `sentencepiece`, with bytes for what it lacks, and tokens that span the ends of lines."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )  # fmt: skip
    trainer = trainers.BpeTrainer(
        vocab_size=900, show_progress=False,
        special_tokens=["<unk>", *SPECIAL, *(f"<0x{i:02X}>" for i in range(256))],
    )  # fmt: skip
    tokenizer.train_from_iterator(examples(), trainer)
    return _fast(tokenizer, "b", None)


def sentencepiece(adds: str = "b", chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Like Llama 2's: a normaliser that puts a space before whatever it is given."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", *SPECIAL], show_progress=False,
        initial_alphabet=[chr(i) for i in range(33, 127)] + ["\n", "▁"],
    )  # fmt: skip
    lines = [line for text in examples() for line in text.split("\n")]
    tokenizer.train_from_iterator(lines, trainer)
    return _fast(tokenizer, adds, chat_template)
