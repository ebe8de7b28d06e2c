"""A cut model computes what the teacher would with its other layers left out."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from distill.errors import DistillError
from distill.learning.blocks import blocks_of, keep_blocks, only_blocks
from tests.support.cut_models import FAMILIES, TEXT, logits, model_of, with_blocks_passed_over


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [0, 3], [1, 2], [2]])
def test_a_cut_model_is_the_teacher_with_its_other_blocks_passed_over(family, kept, tmp_path):
    teacher = model_of(family)
    expected = with_blocks_passed_over(teacher, kept)
    with only_blocks(teacher, kept):
        torch.testing.assert_close(logits(teacher), expected)
    keep_blocks(teacher, kept)
    teacher.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(loaded), expected)
    assert len(blocks_of(loaded)) == len(kept)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert len(saved.get("layer_types") or kept) == len(kept)
    ids = loaded.generate(TEXT, max_new_tokens=4, do_sample=False, pad_token_id=0)
    whole = loaded(input_ids=ids[:, :-1], use_cache=False).logits[:, -4:].argmax(-1)
    assert ids[:, -4:].tolist() == whole.tolist()  # its cache of keys has a place a layer


@pytest.mark.parametrize("family", FAMILIES)
def test_afterwards_the_teacher_is_as_it_was(family):
    teacher = model_of(family)
    before, config = logits(teacher), teacher.config.to_dict()
    with only_blocks(teacher, [1, 3]):
        assert not torch.equal(logits(teacher), before)
    assert torch.equal(logits(teacher), before)
    assert teacher.config.to_dict() == config


@pytest.mark.parametrize("kept", [[], [0, 0], [1, 0], [-1, 2], [0, 4]])
def test_layers_that_are_not_there_are_refused(kept):
    with pytest.raises(DistillError, match="rising numbers from 0 to 3, at least one"):
        keep_blocks(model_of("llama"), kept)


def test_a_model_whose_layers_cannot_be_told_is_refused():
    teacher = model_of("llama")
    teacher.base_model.others = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(4))
    with pytest.raises(DistillError, match="has 2 lists of 4 modules"):
        blocks_of(teacher)
