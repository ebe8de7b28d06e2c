import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, XLNetConfig

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.data.corpus import Corpus
from cache.targets.format import TargetFormat
from evaluation.agreement.held_out import CachedTeacher, HeldOut, LiveTeacher, measure_documents
from evaluation.agreement.scores import (
    Agreement,
    DocumentSums,
    RowSums,
    TeacherRows,
    row_values,
    sum_document,
    summarize,
)
from evaluation.errors import EvaluationError
from tests.support import reference
from tests.support.paths import EXAMPLES
from tests.support.tiny_models import gpt2

FEW = 3


@pytest.fixture(scope="module")
def teacher(tiny_teacher):
    return AutoModelForCausalLM.from_pretrained(tiny_teacher).eval()


@pytest.fixture(scope="module")
def held_out(tiny_cache):
    return HeldOut(tiny_cache, FEW)


@pytest.fixture(scope="module")
def live(teacher, held_out, tmp_path_factory):
    path = tmp_path_factory.mktemp("live") / "teacher.safetensors"
    LiveTeacher.save(path, teacher, held_out, lambda count: None)
    return LiveTeacher(path, torch.device("cpu"))


def expected_sums(student, teacher, token_ids, first):
    """(kl, cross-entropy, teacher's, top-1, top-5, TV) from row `first` on, by scalar formulas."""
    with torch.no_grad():
        q_logits, p_logits = (m(torch.tensor([token_ids])).logits[0] for m in (student, teacher))
    sums = [0.0] * 6
    for t in range(first, len(token_ids) - 1):
        q = reference.softmax(q_logits[t].tolist(), 1.0)
        p = reference.softmax(p_logits[t].tolist(), 1.0)
        best = max(range(len(p)), key=p.__getitem__)
        likely = sorted(range(len(q)), key=lambda i: -q[i])[:5]
        gold = token_ids[t + 1]
        row = (
            reference.kl(p, q), -math.log(q[gold]), -math.log(p[gold]), best == likely[0],
            best in likely, reference.total_variation(p, q),
        )  # fmt: skip
        sums = [total + value for total, value in zip(sums, row, strict=True)]
    return sums


def measures(sums: RowSums):
    return [
        sums.kl, sums.cross_entropy, sums.teacher_cross_entropy, sums.top1, sums.top5,
        sums.total_variation,
    ]  # fmt: skip


def test_live_sums_are_those_of_the_scalar_formulas(teacher, held_out, live):
    student = gpt2()
    found = measure_documents(student, held_out, live)
    texts = held_out.reader.read("validation", range(FEW))
    for i, document in enumerate(found):
        tokens = texts.token_ids[texts.token_offsets[i] : texts.token_offsets[i + 1]].tolist()
        prompt = int(texts.prompt_lengths[i])
        assert document.task_id == texts.task_ids[i]
        assert document.whole.num_rows == len(tokens) - 1
        assert document.completion.num_rows == len(tokens) - prompt
        whole = expected_sums(student, teacher, tokens, 0)
        assert measures(document.whole) == pytest.approx(whole, rel=1e-5)
        completion = expected_sums(student, teacher, tokens, prompt - 1)
        assert measures(document.completion) == pytest.approx(completion, rel=1e-5)


def test_bytes_are_those_of_the_text(held_out, live):
    found = measure_documents(gpt2(), held_out, live)
    texts = held_out.reader.read("validation", range(FEW))
    tokenizer = held_out.tokenizer()
    for i, document in enumerate(found):
        tokens = texts.token_ids[texts.token_offsets[i] : texts.token_offsets[i + 1]].tolist()
        prompt = tokenizer.decode(tokens[: texts.prompt_lengths[i]])
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        assert document.completion.num_bytes == len(text.encode()) - len(prompt.encode())
        first = tokenizer.decode(tokens[:1])
        assert document.whole.num_bytes == len(text.encode()) - len(first.encode())


def test_live_teacher_agrees_with_itself(teacher, held_out, live):
    result = summarize(measure_documents(teacher, held_out, live), reference="live", num_cut=0)
    for scores in (result.whole, result.completion):
        assert abs(scores.kl) < 1e-6 and scores.top1 == scores.top5 == 1
        assert scores.cross_entropy == pytest.approx(scores.teacher_cross_entropy, abs=1e-6)
        assert scores.perplexity == pytest.approx(math.exp(scores.cross_entropy))


def test_cached_targets_stand_for_the_live_teacher(teacher, held_out, live):
    student = gpt2()
    cached = summarize(
        measure_documents(student, held_out, CachedTeacher(held_out)), reference="cache", num_cut=0
    ).whole
    exact = summarize(measure_documents(student, held_out, live), reference="live", num_cut=0).whole
    assert cached.kl == pytest.approx(exact.kl, rel=0.01)
    assert cached.teacher_cross_entropy == pytest.approx(exact.teacher_cross_entropy, rel=1e-3)
    assert (cached.cross_entropy, cached.top1, cached.top5) == pytest.approx(
        (exact.cross_entropy, exact.top1, exact.top5)
    )


def test_the_teacher_against_its_cache_shows_the_error_of_the_cache(teacher, held_out):
    found = measure_documents(teacher, held_out, CachedTeacher(held_out))
    scores = summarize(found, reference="cache", num_cut=0).whole
    assert 0 < scores.kl < 0.02 and held_out.cache_kl < 0.02
    assert scores.top1 == 1


def test_every_tail_is_compared_as_it_decodes(tiny_teacher, teacher, tmp_path):
    student = gpt2()
    for tail in ("hidden", "mass", "renormalize", "sampled"):
        build_cache(
            BuildConfig(
                out=tmp_path / tail,
                teacher=str(tiny_teacher),
                dataset=str(EXAMPLES),
                max_length=512,
                targets=TargetFormat(top_k=16, tail=tail),
                limit=2,
                splits=("validation",),
            )
        )
        held_out = HeldOut(tmp_path / tail, 1)
        (found,) = measure_documents(student, held_out, CachedTeacher(held_out))
        text = held_out.reader.read("validation", [0])
        p = text.targets.at(1.0).to_dense(384)
        with torch.no_grad():
            q = student(torch.from_numpy(text.token_ids)[None]).logits[0, :-1].softmax(-1)
        expected = sum(map(reference.kl, p.tolist(), q.tolist()))
        assert found.whole.kl == pytest.approx(expected, rel=1e-4)
        if tail == "hidden":  # exact up to half precision
            exact = expected_sums(student, teacher, text.token_ids.tolist(), 0)[0]
            assert found.whole.kl == pytest.approx(exact, rel=1e-2)


def test_documents_are_cut_to_the_positions_of_the_model(held_out, live):
    short, long = gpt2(positions=48), gpt2(positions=512)
    with torch.no_grad():
        long.transformer.wpe.weight[:48] = short.transformer.wpe.weight
    for name, part in short.named_parameters():
        if "wpe" not in name:
            long.get_parameter(name).data.copy_(part.data)
    cut = measure_documents(short, held_out, live)
    assert [document.whole.num_rows for document in cut] == [
        min(48, length) - 1 for length in held_out.lengths
    ]
    whole = HeldOut(held_out.reader.path, 1)
    tokens = whole.reader.read("validation", [0]).token_ids[:48].tolist()
    assert cut[0].whole.cross_entropy == pytest.approx(
        -sum(
            math.log(reference.softmax(row.tolist(), 1.0)[gold])
            for row, gold in zip(
                long(torch.tensor([tokens])).logits[0, :-1], tokens[1:], strict=True
            )
        ),
        rel=1e-5,
    )


def test_results_do_not_depend_on_the_batches(held_out, monkeypatch):
    student = gpt2()
    together = measure_documents(student, held_out, CachedTeacher(held_out))
    monkeypatch.setattr("evaluation.agreement.held_out.BATCH_TOKENS", 1)
    seen = []
    alone = measure_documents(student, held_out, CachedTeacher(held_out), seen.append)
    assert seen == [1] * FEW
    for one, other in zip(alone, together, strict=True):
        assert measures(one.whole) == pytest.approx(measures(other.whole), rel=1e-5)


def test_other_vocabularies_are_named(held_out, teacher, tmp_path):
    own = AutoTokenizer.from_pretrained(held_out.reader.tokenizer_path)
    assert held_out.why_not_comparable(teacher, own) is None
    why = held_out.why_not_comparable(gpt2(vocab_size=400), own)
    assert why == "its vocabulary has 400 tokens and the cache's 384"
    other = AutoTokenizer.from_pretrained(held_out.reader.tokenizer_path)
    other.add_tokens(["another"])
    assert "another meaning" in held_out.why_not_comparable(teacher, other)


def test_a_model_that_is_not_causal_is_not_compared(held_out):
    torch.manual_seed(0)
    config = XLNetConfig(vocab_size=384, d_model=32, n_layer=1, n_head=2, d_inner=32)
    model = AutoModelForCausalLM.from_config(config).eval()
    own = AutoTokenizer.from_pretrained(held_out.reader.tokenizer_path)
    assert "XLNetLMHeadModel is not causal" in held_out.why_not_comparable(model, own)


def test_texts_that_a_cache_keeps_apart_are_apart_when_they_are_compared(
    tiny_teacher, teacher, tmp_path
):
    lines = [json.loads(line) for line in EXAMPLES.read_text().splitlines()]
    texts = "\n".join(json.dumps({"text": line["text"]}) for line in lines)
    (tmp_path / "texts.jsonl").write_text(texts)
    source = Corpus(sources=(str(tmp_path / "texts.jsonl"),), text_field="text", validation_every=2)
    build_cache(
        BuildConfig(
            out=tmp_path / "c", teacher=str(tiny_teacher), corpus=source, splits=("train",),
            max_length=128, isolate=True, targets=TargetFormat(tail="hidden", logprob_bits=16),
        )
    )  # fmt: skip
    held_out = HeldOut(tmp_path / "c", FEW)
    same = measure_documents(teacher, held_out, CachedTeacher(held_out))
    assert sum(d.whole.kl for d in same) / sum(d.whole.num_rows for d in same) < 1e-3


def test_a_cache_without_validation_documents_is_refused(tiny_teacher, tmp_path):
    build_cache(
        BuildConfig(
            out=tmp_path / "train",
            teacher=str(tiny_teacher),
            dataset=str(EXAMPLES),
            max_length=512,
            targets=TargetFormat(top_k=4, tail="mass"),
            limit=2,
            splits=("train",),
        )  # fmt: skip
    )
    with pytest.raises(EvaluationError, match="agreement.*no split 'validation'"):
        HeldOut(tmp_path / "train", FEW)
    with pytest.raises(EvaluationError, match="agreement with the teacher"):
        HeldOut(tmp_path / "nothing", FEW)


def test_a_live_teacher_with_too_few_positions_is_refused(held_out, tmp_path):
    with pytest.raises(EvaluationError, match="this teacher has 48. Leave --live-agreement away"):
        LiveTeacher.save(tmp_path / "t", gpt2(positions=48), held_out, lambda count: None)


def document(num_rows=10, kl=5.0, num_bytes=40):
    sums = RowSums(
        num_rows=num_rows, num_bytes=num_bytes, kl=kl, cross_entropy=20.0 * math.log(2),
        teacher_cross_entropy=10.0 * math.log(2), top1=4, top5=8, total_variation=0.25 * num_rows,
    )  # fmt: skip
    return DocumentSums(task_id=1, whole=sums, completion=replace(sums, num_rows=0, num_bytes=0))


def test_a_draft_gives_as_many_tokens_a_pass_as_it_does_when_it_is_drawn():
    """Each of the γ tokens is taken with chance 1 - TV until one is not; one more always comes."""
    draft = summarize([document(), document()], reference="live", num_cut=0).whole.draft
    assert draft.acceptance == pytest.approx(0.75)
    taken = np.random.default_rng(0).random((100_000, 8)) < 0.75
    for drafted, tokens in draft.tokens_per_pass.items():
        drawn = 1 + np.cumprod(taken[:, : int(drafted)], axis=1).sum(1).mean()
        assert tokens == pytest.approx(drawn, rel=0.01)
    assert draft.tokens_per_pass["5"] == pytest.approx((1 - 0.75**6) / (1 - 0.75))
    assert draft.acceptance_interval == pytest.approx((0.75, 0.75))


def test_scores_are_ratios_of_sums():
    result = summarize([document(), document(num_rows=30, kl=3.0)], reference="live", num_cut=0)
    assert result.num_documents == 2
    scores = result.whole
    assert (scores.kl, scores.top1, scores.top5) == (8 / 40, 8 / 40, 16 / 40)
    assert scores.kl_interval == pytest.approx((0.1, 0.5))  # of either document alone
    assert scores.bits_per_byte == pytest.approx(40 / 80)
    assert scores.teacher_bits_per_byte == pytest.approx(20 / 80)
    assert scores.perplexity == pytest.approx(2.0 ** (40 / 40))
    assert result.completion is None  # every document was cut within its prompt


def test_text_without_bytes_has_no_bits_per_byte():
    scores = summarize([document(num_bytes=0)], reference="live", num_cut=0).whole
    assert scores.bits_per_byte is None and scores.teacher_bits_per_byte is None


def test_agreement_is_read_back_from_json():
    result = summarize([document(), document(kl=1.0)], reference="live", num_cut=1)
    assert Agreement.from_json(json.loads(json.dumps(asdict(result)))) == result


def test_a_document_cut_within_its_prompt_has_no_completion():
    values = np.ones((4, 6), np.float32)
    sums = sum_document(7, values, 9, (12, 0))
    assert (sums.whole.num_rows, sums.completion.num_rows) == (4, 0)
    assert sums.completion.kl == 0


def test_tokens_without_probability_add_nothing_to_the_divergence():
    p = torch.tensor([[0.5, 0.5, 0.0]])
    teacher = TeacherRows(p, torch.tensor([0]), torch.tensor([0.5]).log())
    (values,) = row_values(torch.zeros(1, 3), torch.tensor([2]), teacher)
    assert values.tolist() == pytest.approx(
        [reference.kl([0.5, 0.5], [1 / 3, 1 / 3]), math.log(3), math.log(2), 1, 1, 1 / 3]
    )
