"""Which prompts a student completes, of problems and of corpora, and how far."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from cache.data.documents import ASSISTANT, BEGINS
from cache.reading.reader import CacheReader
from distill.learning.student import build_student
from distill.samples.completions import complete_prompts
from distill.samples.prompts import MAX_NEW_TOKENS, Prompt, read_prompts
from distill.settings.shapes import parse_shape
from tests.support.distill_fakes import FakeReader


class CorpusReader(FakeReader):
    """Documents without a prompt, whose second text begins at `begins`."""

    begins = 5

    def read(self, split, indices):
        documents = super().read(split, indices)
        documents.prompt_lengths[:] = 1
        documents.marks[:] = ASSISTANT
        documents.marks[[0, self.begins]] |= BEGINS
        return documents


def test_prompts_end_where_completions_begin_and_are_spread_over_the_split(tiny_cache):
    with CacheReader(tiny_cache) as reader:
        prompts = read_prompts(reader, 3)
        documents = reader.read("validation", [0, 3, 6])
    assert [prompt.task_id for prompt in prompts] == documents.task_ids.tolist()
    for place, prompt in enumerate(prompts):
        own = documents.token_ids[slice(*documents.token_offsets[place : place + 2])]
        length = documents.prompt_lengths[place]
        assert prompt.prompt_ids.tolist() == own[:length].tolist()
        assert prompt.reference_ids.tolist() == own[length : length + 64].tolist()


def test_of_a_corpus_the_first_half_of_the_first_text_is_the_prompt(tmp_path):
    reader = CorpusReader(tmp_path)
    prompt = read_prompts(reader, 1)[0]
    ids = reader.read("validation", [0]).token_ids
    assert prompt.prompt_ids.tolist() == ids[:2].tolist()
    assert prompt.reference_ids.tolist() == ids[2:5].tolist()
    reader.begins = 1  # a text of one token
    assert read_prompts(reader, 1)[0].prompt_ids.tolist() == ids[:1].tolist()


def test_there_are_no_more_prompts_than_documents_and_none_without_a_split(tmp_path):
    assert len(read_prompts(FakeReader(tmp_path), 50)) == 6
    assert read_prompts(FakeReader(tmp_path), 0) == []
    assert read_prompts(FakeReader(tmp_path, num_validation=0), 3) == []


def test_a_completion_ends_with_the_students_positions_and_leaves_no_trace(tmp_path):
    reader = FakeReader(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(reader.tokenizer_path)
    torch.manual_seed(0)
    student = build_student(
        parse_shape("1x16x1"), vocab_size=64, max_length=40, tokenizer=tokenizer
    )
    student.train()
    generator = np.random.default_rng(0)
    prompts = [
        Prompt(
            task_id=length,
            prompt_ids=generator.integers(1, 64, length),
            reference_ids=np.array([1]),
        )
        for length in (2, 500, 512, 511)
    ]
    before = torch.get_rng_state()
    samples = complete_prompts(student, prompts, tokenizer)
    assert torch.equal(torch.get_rng_state(), before) and student.training
    assert [sample["task_id"] for sample in samples] == [2, 500, 511]  # 512 positions: no room
    lengths = [len(sample["completion"].split()) for sample in samples]
    assert lengths == [MAX_NEW_TOKENS, 12, 1]


@pytest.mark.parametrize(("shape", "seed"), [("2x32x2", 2), ("llama:2x32x4x2", 1)])
def test_prompts_side_by_side_are_completed_as_each_alone(tmp_path, shape, seed):
    reader = FakeReader(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(reader.tokenizer_path)
    torch.manual_seed(seed)
    student = build_student(parse_shape(shape), vocab_size=64, max_length=40, tokenizer=tokenizer)
    student.eval()
    with torch.no_grad():  # so that many tokens follow, and an end of text among them
        for weights in student.parameters():
            weights.mul_(5 if weights.ndim == 2 else 1)
    prompts = read_prompts(reader, 6)
    samples = complete_prompts(student, prompts, tokenizer)
    ends = []
    for prompt, sample in zip(prompts, samples, strict=True):
        ids = torch.from_numpy(prompt.prompt_ids).unsqueeze(0)
        written = student.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False
        )[0, ids.shape[1] :]
        assert sample["completion"] == tokenizer.decode(written)
        ends.append(len(written))
    assert len(set(ends)) > 1 and min(ends) < 64  # some end before others
