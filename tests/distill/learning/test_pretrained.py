"""Any causal language model as a student: made to fit the cache, or refused with the reason."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config

from distill.errors import DistillError
from distill.learning.objective import Objective
from distill.learning.pretrained import count_parameters
from distill.learning.student import build_student
from distill.loss.terms import LossTerms
from distill.settings.shapes import parse_shape
from tests.support.distill_fakes import VOCAB_SIZE, FakeReader, write_tokenizer
from tests.support.learners import batches
from tests.support.students import FAMILIES, SIZES, save_student, student_of

IDS = torch.arange(1, 30).unsqueeze(0)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tokenizer(reader):
    return AutoTokenizer.from_pretrained(reader.tokenizer_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_from_a_folder_has_its_weights_in_fp32(family, tmp_path, reader, tokenizer):
    source, model = save_student(tmp_path, family, tokenizer, dtype=torch.bfloat16)
    student = student_of(source, reader, tokenizer).eval()
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    for name, weight in model.state_dict().items():
        assert torch.equal(student.state_dict()[name], weight.float()), name
    assert student.generation_config.eos_token_id == tokenizer.eos_token_id
    assert student.generation_config.pad_token_id == tokenizer.eos_token_id
    assert count_parameters(source, VOCAB_SIZE) == student.num_parameters()


def test_its_configuration_alone_gives_random_weights_by_the_seed(tmp_path, reader, tokenizer):
    source, model = save_student(tmp_path, "llama", tokenizer)
    torch.manual_seed(7)
    one = student_of(source, reader, tokenizer, init="random")
    torch.manual_seed(7)
    same = student_of(source, reader, tokenizer, init="random")
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    own = model.model.embed_tokens.weight
    assert not torch.equal(one.model.embed_tokens.weight, own)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("rows", [VOCAB_SIZE, VOCAB_SIZE + 8, VOCAB_SIZE + 24])
def test_a_vocabulary_of_another_size_is_brought_to_the_teachers(
    family, rows, tmp_path, tokenizer, tmp_path_factory
):
    """The tokenizer has 64 tokens, the teacher's head 72 rows, the student's 64, 72 or 88."""
    padded = FakeReader(tmp_path_factory.mktemp("cache"), vocab_size=VOCAB_SIZE + 8)
    source, model = save_student(tmp_path, family, tokenizer, vocab_size=rows)
    student = student_of(source, padded, tokenizer).eval()
    assert student.get_output_embeddings().weight.shape[0] == VOCAB_SIZE + 8
    assert student.config.vocab_size == VOCAB_SIZE + 8
    before, after = model(input_ids=IDS).logits, student(input_ids=IDS).logits
    torch.testing.assert_close(after[..., :VOCAB_SIZE], before[..., :VOCAB_SIZE])
    if rows == VOCAB_SIZE:
        beyond = before.mean(-1, keepdim=True)  # of a mean row the logit is the mean
        torch.testing.assert_close(after[..., VOCAB_SIZE:], beyond.expand(-1, -1, 8))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_rows_of_no_token_carry_at_most_their_share_of_the_tail(temperature, tmp_path):
    """The teacher gives them next to nothing: training has only ever pushed them down."""
    padded = FakeReader(tmp_path, vocab_size=VOCAB_SIZE + 8)
    padded._table[:, VOCAB_SIZE:] -= 60
    documents = padded.read("train", [0])
    found = documents.targets.at(temperature).to_dense(VOCAB_SIZE + 8)[:, VOCAB_SIZE:].sum(-1)
    teacher = (padded._table[documents.token_ids[:-1]] / temperature).softmax(-1)  # float64
    assert float(teacher[:, VOCAB_SIZE:].sum(-1).max()) < 1e-4
    # This tail knows its mass alone and spreads it evenly over the 64 tokens outside the top-8.
    share = (1 - teacher.topk(8).values.sum(-1)) * 8 / VOCAB_SIZE
    torch.testing.assert_close(found.double(), share, rtol=0.01, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_packed_document_changes_no_bit_of_anothers_loss(
    family, attention, tmp_path, reader, tokenizer
):
    source, _ = save_student(tmp_path, family, tokenizer)
    student = student_of(source, reader, tokenizer).eval()
    student.set_attn_implementation(attention)
    objective = Objective(student, LossTerms(temperature=2.0, alpha=0.5))
    (batch,) = batches(reader, [[0, 1]], per_sequence=[2])
    boundary = len(reader.read("train", [0]).token_ids)
    of_first = torch.nonzero(batch.places < boundary - 1).flatten()
    of_second = torch.nonzero(batch.places >= boundary).flatten()
    for changed, kept in ((slice(0, boundary), of_second), (slice(boundary, None), of_first)):
        other = batch.input_ids.clone()
        other[0, changed] = (other[0, changed] + 1) % VOCAB_SIZE
        losses = []
        for ids in (batch.input_ids, other):
            batch_of = batch.select(kept)
            object.__setattr__(batch_of, "input_ids", ids)
            losses.append(objective(batch_of).loss)
        assert torch.equal(*losses)


def test_frozen_parts_stay_and_the_others_learn(tmp_path, reader, tokenizer):
    source, model = save_student(tmp_path, "llama", tokenizer)
    student = student_of(source, reader, tokenizer, freeze=("embed_tokens", "layers.0."))
    learning = {name for name, p in student.named_parameters() if p.requires_grad}
    assert not any("embed_tokens" in name or "layers.0." in name for name in learning)
    assert any("layers.1." in name for name in learning) and "lm_head.weight" in learning
    with pytest.raises(DistillError, match="freeze names 'wte', but no parameter"):
        student_of(source, reader, tokenizer, freeze=("wte",))
    with pytest.raises(DistillError, match="freeze leaves nothing to learn"):
        student_of(source, reader, tokenizer, freeze=("weight",))


def test_another_tokenizer_is_refused_with_both_named(tmp_path, reader, tokenizer):
    source, _ = save_student(tmp_path / "s", "llama", tokenizer)
    write_tokenizer(tmp_path / "s", 60)
    with pytest.raises(
        DistillError, match=f"student {source} and the teacher example/bigram-teacher have differ"
    ):
        student_of(source, reader, tokenizer)
    (tmp_path / "s" / "tokenizer.json").unlink()
    with pytest.raises(DistillError, match=r"tokenizer of the student .* could not be loaded"):
        student_of(source, reader, tokenizer)


def test_documents_longer_than_its_positions_are_refused(tmp_path, reader, tokenizer):
    source, _ = save_student(tmp_path, "gpt2", tokenizer, n_positions=20)
    with pytest.raises(DistillError, match=r"takes 20 tokens, but .* up to \d\d.*--max-length 20"):
        student_of(source, reader, tokenizer)


def test_a_head_that_is_not_plain_is_refused_by_name(tmp_path, reader, tokenizer):
    torch.manual_seed(1)
    config = Gemma2Config(**SIZES, vocab_size=VOCAB_SIZE, head_dim=8)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DistillError, match="final_logit_softcapping"):
        student_of(str(tmp_path), reader, tokenizer)


def test_a_student_cut_from_another_teacher_is_refused(tmp_path, reader, tokenizer):
    source, _ = save_student(tmp_path, "llama", tokenizer)
    origin = {
        "teacher": "other/teacher", "teacher_sha256": "ab", "teacher_layers": 4,
        "kept_layers": [0, 3], "chosen_by": "uniform", "kl_before_training": None,
    }  # fmt: skip
    (tmp_path / "student.json").write_text(json.dumps(origin))
    with pytest.raises(DistillError, match="was cut from other/teacher"):
        student_of(source, reader, tokenizer)
    (tmp_path / "student.json").write_text("{")
    with pytest.raises(DistillError, match="student.json is damaged"):
        student_of(source, reader, tokenizer)


def test_a_model_that_is_not_there_is_refused(tmp_path, reader, tokenizer):
    with pytest.raises(DistillError, match="nothing could not be"):
        student_of(f"{tmp_path}/nothing", reader, tokenizer)


@pytest.mark.parametrize("student", ["llama:3x48x4", "llama:2x64x8x2", "gpt2:3x48x4", "2x64x2"])
def test_shapes_of_a_family_have_the_sizes_they_say(student, tokenizer):
    shape = parse_shape(student)
    with torch.device("meta"):
        model = build_student(shape, vocab_size=VOCAB_SIZE, max_length=40, tokenizer=tokenizer)
    assert model.num_parameters() == shape.num_parameters(VOCAB_SIZE, 512)
    assert model.config.model_type == shape.family
