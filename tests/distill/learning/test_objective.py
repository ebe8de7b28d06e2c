"""The loss on causal LMs of many families, beside dense distillation of their own logits."""

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM as CausalLM
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Cohere2Config,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

from distill.batches.batch import collate
from distill.errors import DistillError
from distill.learning.objective import distillation_loss
from tests.support.distill_fakes import VOCAB_SIZE, FakeReader

SMALL = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2}
FAMILIES = {
    "gpt2": GPT2Config(vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "llama": LlamaConfig(**GROUPED, tie_word_embeddings=False),
    "mistral": MistralConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "starcoder2": Starcoder2Config(**GROUPED),
    "gemma": GemmaConfig(**GROUPED, head_dim=8),
    "neox": GPTNeoXConfig(**SMALL),
    "opt": OPTConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, ffn_dim=48, num_hidden_layers=2, dropout=0.0,
        num_attention_heads=4, max_position_embeddings=64, word_embed_proj_dim=32, pad_token_id=0,
    ),
    "bloom": BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=32, n_layer=2, n_head=4),
}  # fmt: skip
TEMPERATURE, ALPHA = 2.0, 0.3


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("reader"))


def build(config):
    torch.manual_seed(0)
    for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return CausalLM.from_config(config).double().eval()


def dense_loss(model, documents):
    """Σ over rows, each document run alone through the whole model, logits and all."""
    targets = documents.targets.at(TEMPERATURE).to_dense(VOCAB_SIZE).double()
    ends = documents.token_offsets
    logits, labels = [], []
    for first, last in zip(ends[:-1], ends[1:], strict=True):
        ids = torch.from_numpy(documents.token_ids[first:last])
        logits.append(model(input_ids=ids.unsqueeze(0)).logits[0, :-1])
        labels.append(ids[1:])
    student, label = torch.cat(logits), torch.cat(labels)
    log_q = (student / TEMPERATURE).log_softmax(-1)
    kl = (torch.special.xlogy(targets, targets) - targets * log_q).sum()
    ce = functional.cross_entropy(student, label, reduction="sum")
    return ALPHA * TEMPERATURE**2 * kl + (1 - ALPHA) * ce


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradients_are_those_of_dense_distillation(name, reader):
    model = build(FAMILIES[name])
    documents = reader.read("train", [0, 4, 2])
    expected = dense_loss(model, documents)
    wanted = gradients(model, expected)
    found = distillation_loss(model, collate(documents, pad_id=0), TEMPERATURE, ALPHA)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for one, other in zip(gradients(model, found.loss), wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted({*FAMILIES} - {"bloom", "opt"}))
def test_packed_documents_do_not_see_each_other(name, reader):
    model = build(FAMILIES[name])
    documents = reader.read("train", [0, 4, 2])
    batch = collate(documents, pad_id=0, per_sequence=[3])
    found = distillation_loss(model, batch, TEMPERATURE, ALPHA)
    assert found.loss.item() == pytest.approx(dense_loss(model, documents).item(), rel=1e-6)


@pytest.mark.parametrize("name", ["bloom", "opt"])  # no positions, and a mask without them
def test_a_model_that_would_mix_packed_documents_refuses_them(name, reader):
    documents = reader.read("train", [0, 4])
    batch = collate(documents, pad_id=0, per_sequence=[2])
    with pytest.raises(DistillError, match="ForCausalLM does not keep packed documents apart"):
        distillation_loss(build(FAMILIES[name]), batch, TEMPERATURE, ALPHA)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Gemma2Config(**GROUPED, head_dim=8), "final_logit_softcapping=30.0"),
        (GraniteConfig(**GROUPED, logits_scaling=8.0), "logits_scaling=8.0"),
        (Cohere2Config(**GROUPED, logit_scale=0.25), "logit_scale=0.25"),
        (PhiConfig(**SMALL), "a bias in the output head"),
        (
            GPTJConfig(
                vocab_size=VOCAB_SIZE, n_embd=32, n_layer=1, n_head=4, n_positions=64, rotary_dim=8
            ),
            "a bias in the output head",
        ),
    ],
)
def test_a_head_that_is_not_plain_is_refused_by_name(config, words, reader):
    batch = collate(reader.read("train", [0]), pad_id=0)
    with pytest.raises(DistillError, match=words):
        distillation_loss(build(config), batch, TEMPERATURE, ALPHA)


class Doubled(BloomForCausalLM):
    """Scales its logits where no configuration says so."""

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.logits = outputs.logits * 1.001
        return outputs


def test_logits_changed_without_a_word_are_noticed(reader):
    batch = collate(reader.read("train", [0]), pad_id=0)
    with pytest.raises(DistillError, match="Doubled changes its logits after the output head"):
        distillation_loss(Doubled(FAMILIES["bloom"]).double(), batch, TEMPERATURE, ALPHA)


def test_another_vocabulary_and_another_kind_of_model_are_refused(reader):
    batch = collate(reader.read("train", [0]), pad_id=0)
    small = LlamaConfig(**{**GROUPED, "vocab_size": VOCAB_SIZE + 2})
    with pytest.raises(DistillError, match="a vocabulary of 66, the cache one of 64"):
        distillation_loss(build(small), batch, TEMPERATURE, ALPHA)
    with pytest.raises(DistillError, match="but this is Linear"):
        distillation_loss(torch.nn.Linear(2, 2), batch, TEMPERATURE, ALPHA)
