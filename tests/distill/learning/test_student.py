"""Students: exact sizes, the cache's vocabulary and special tokens."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer

from distill.batches.batch import padding_id
from distill.errors import DistillError
from distill.learning.student import build_student, require_same_vocabulary
from distill.settings.shapes import parse_shape
from tests.support.distill_fakes import FakeReader, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def build(student, tokenizer, *, vocab_size=64, max_length=40, **options):
    return build_student(
        parse_shape(student),
        vocab_size=vocab_size,
        max_length=max_length,
        tokenizer=tokenizer,
        **options,
    )


@pytest.mark.parametrize(("student", "count"), [("44m", 44_343_296), ("202m", 202_012_672)])
def test_presets_have_the_exact_sizes_of_the_original_students(student, count, tokenizer):
    with torch.device("meta"):
        model = build(student, tokenizer, vocab_size=49_152, max_length=512)
    assert model.num_parameters() == count


def test_special_tokens_are_the_tokenizers_and_inside_the_vocabulary(tokenizer):
    model = build("tiny", tokenizer)
    for settings in (model.config, model.generation_config):
        assert (settings.bos_token_id, settings.eos_token_id) == (0, 0)
    assert model.generation_config.pad_token_id == 0
    assert model.config.pad_token_id is None  # or transformers warns of padding in a batch


def test_a_tokenizer_with_a_padding_token_keeps_it(tokenizer):
    assert padding_id(SimpleNamespace(pad_token_id=3, eos_token_id=0)) == 3
    assert padding_id(tokenizer) == tokenizer.eos_token_id


def test_head_is_tied_attention_is_sdpa_and_dropout_is_everywhere(tokenizer):
    model = build("tiny", tokenizer, dropout=0.2)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.config._attn_implementation == "sdpa"
    config = model.config
    assert (config.embd_pdrop, config.attn_pdrop, config.resid_pdrop) == (0.2, 0.2, 0.2)


@pytest.mark.parametrize(("max_length", "positions"), [(40, 512), (700, 700)])
def test_there_are_positions_for_the_longest_document(tokenizer, max_length, positions):
    assert build("tiny", tokenizer, max_length=max_length).config.n_positions == positions


def test_the_seed_decides_the_weights(tokenizer):
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(build("tiny", tokenizer).transformer.wte.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tokenizer):
    with pytest.raises(DistillError, match="has 64 tokens, but the cache was built with .*=63"):
        build("tiny", tokenizer, vocab_size=63)


def test_a_tokenizer_without_an_end_of_text_is_refused():
    unending = SimpleNamespace(eos_token_id=None, name_or_path="here")
    with pytest.raises(DistillError, match="tokenizer at here has no end-of-text token"):
        build("tiny", unending)


def test_a_student_with_another_vocabulary_is_refused(tokenizer, tmp_path):
    reader = FakeReader(tmp_path)
    require_same_vocabulary(build("tiny", tokenizer), reader)
    with pytest.raises(
        DistillError,
        match=r"vocab_size=64 \(teacher example/bigram-teacher\), but this student has "
        "vocab_size=70.*would mean different words.*cache-teacher",
    ):
        require_same_vocabulary(build("tiny", tokenizer, vocab_size=70), reader)
