"""Teachers that would be cached wrongly without a word are refused with the reason."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MixtralConfig,
    Phi3Config,
    XLMConfig,
    XLNetConfig,
)

from cache.data.documents import Document, completion_marks
from cache.errors import CacheError
from cache.teacher.notes import teacher_notes
from cache.teacher.probe import require_understood
from cache.teacher.rows import hidden_rows
from cache.teacher.teacher import Teacher
from tests.support.tiny_teacher import save_tokenizer

SMALL = {
    "vocab_size": 384, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip


def teacher_of(config, dtype=torch.float32):
    torch.manual_seed(0)
    return Teacher(AutoModelForCausalLM.from_config(config).to(dtype).eval())


def document(num_tokens, seed=0, **options):
    ids = np.random.default_rng(seed).integers(1, 384, num_tokens)
    marks = completion_marks(num_tokens, 1)
    return Document(task_id=seed, token_ids=ids, prompt_length=1, marks=marks, **options)


LLAMA = LlamaConfig(**SMALL, max_position_embeddings=1024)


def test_a_causal_teacher_is_understood():
    require_understood(teacher_of(LLAMA), [document(30)], 200)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        (XLNetConfig(vocab_size=384, d_model=32, n_layer=2, n_head=4, d_inner=48), torch.float32),
        (XLMConfig(vocab_size=384, emb_dim=32, n_layers=2, n_heads=4, init_std=0.3), torch.float32),
        (
            XLMConfig(vocab_size=384, emb_dim=32, n_layers=2, n_heads=4, init_std=0.3),
            torch.bfloat16,
        ),
    ],
)
def test_a_teacher_that_is_not_causal_is_refused(config, dtype):
    with pytest.raises(CacheError, match="is not causal: other last tokens change the rows"):
        require_understood(teacher_of(config, dtype), [document(30)], 60)


def test_a_teacher_whose_positions_depend_on_the_longest_text_is_refused():
    scaling = {
        "type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    config = Phi3Config(
        **SMALL, max_position_embeddings=1024, original_max_position_embeddings=64,
        rope_parameters=scaling,
    )  # fmt: skip
    teacher = teacher_of(config)
    require_understood(teacher, [document(30)], 60)
    with pytest.raises(CacheError, match="when one of 200 stands beside it"):
        require_understood(teacher, [document(30)], 200)


def test_logits_changed_without_a_word_are_refused_however_small_they_are():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LLAMA).eval()
    plain = model.forward

    def capped(*args, **kwargs):
        outputs = plain(*args, **kwargs)
        outputs.logits = 30.0 * torch.tanh(outputs.logits / 30.0)
        return outputs

    model.forward = capped
    scale = plain(input_ids=torch.arange(8).unsqueeze(0)).logits.abs().max().item()
    assert scale < 6.0  # where the cap changes nothing by more than 1 %
    with pytest.raises(CacheError, match="in a way that is not known here"):
        Teacher(model)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("num_tokens", [2, 3, 511, 512])
def test_rows_are_those_of_the_document_alone_whatever_stands_beside_it(
    num_tokens, dtype, tolerance
):
    teacher = teacher_of(LLAMA, dtype)
    own = document(num_tokens, seed=1)
    alone = hidden_rows(teacher, [own]).float()
    others = [document(n, seed=n) for n in (2, 40, 512)]
    for batch in ([own, *others], [*others, own], [others[2], own]):
        place = batch.index(own)
        first = sum(d.num_rows for d in batch[:place])
        found = hidden_rows(teacher, batch)[first : first + own.num_rows].float()
        assert float((found - alone).norm(dim=-1).max() / alone.norm(dim=-1).mean()) < tolerance


def test_isolated_texts_do_not_see_each_other_to_the_bit():
    teacher = teacher_of(LLAMA)
    marks = np.array([2] + [0] * 9 + [2] + [0] * 9, dtype=np.uint8)
    ids = np.random.default_rng(0).integers(1, 384, 20)
    changed = ids.copy()
    changed[:10] = changed[:10][::-1]
    rows = [
        hidden_rows(
            teacher,
            [Document(task_id=0, token_ids=t, prompt_length=1, marks=marks, isolated=True)],
        )
        for t in (ids, changed)
    ]
    assert torch.equal(rows[0][10:], rows[1][10:])
    assert not torch.equal(rows[0][:9], rows[1][:9])
    alone = hidden_rows(teacher, [document(10)])
    second = Document(task_id=0, token_ids=ids[10:], prompt_length=1, marks=completion_marks(10, 1))
    torch.testing.assert_close(rows[0][10:], hidden_rows(teacher, [second]), atol=1e-5, rtol=1e-4)
    assert alone.shape == rows[0][10:].shape


def test_a_teacher_that_mixes_packed_texts_is_refused():
    from transformers import OPTConfig

    config = OPTConfig(
        vocab_size=384, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, word_embed_proj_dim=32, init_std=0.3,
    )  # fmt: skip
    with pytest.raises(CacheError, match="lets packed texts see each other"):
        require_understood(teacher_of(config), [document(30, isolated=True)], 60)


def test_experts_are_named_in_the_notes_on_a_teacher(tmp_path):
    save_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    experts = MixtralConfig(
        **SMALL, num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=1
    )
    teacher = teacher_of(experts)
    require_understood(teacher, [document(30)], 200)
    (note,) = teacher_notes(teacher, [document(30)], tokenizer)
    assert note.startswith("The teacher routes each token among 3 experts.")
    assert teacher_notes(teacher_of(LLAMA), [document(30)], tokenizer) == ()
