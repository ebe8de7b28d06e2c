"""Heads that are not plain: the cached rows are those that transformers computes."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    PhiConfig,
)

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.reading.reader import CacheReader
from cache.targets.format import LogitMap, TargetFormat
from cache.tools.reencode import reencode_cache
from cache.tools.verify import verify_cache
from distill.batches.batch import collate
from distill.loss.fused import head_losses
from distill.loss.terms import LossTerms, sparse_kl_sum
from tests.support.paths import EXAMPLES
from tests.support.tiny_teacher import save_tokenizer

SMALL = {
    "vocab_size": 384, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
    "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
NO_GROUPS = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
MODELS = {
    "soft-capped": (
        Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=5.0), LogitMap(softcap=5.0)
    ),
    "divided": (GraniteConfig(**SMALL, logits_scaling=0.25), LogitMap(scale=4.0)),
    "multiplied": (Cohere2Config(**SMALL, logit_scale=0.5), LogitMap(scale=0.5)),
    "biased": (PhiConfig(**NO_GROUPS), LogitMap()),
    "sliding": (
        Gemma3TextConfig(**SMALL, head_dim=8, sliding_window=16, layer_types=["sliding_attention",
                         "full_attention"]), LogitMap(),
    ),
    "untied": (LlamaConfig(**SMALL, tie_word_embeddings=False), LogitMap()),
    "large": (LlamaConfig(**SMALL, tie_word_embeddings=False), LogitMap()),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def made(request, tmp_path_factory):
    """A teacher, what it does to its logits, and caches of it with each exact and coded tail."""
    folder = tmp_path_factory.mktemp(request.param)
    config, logit_map = MODELS[request.param]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    if model.get_output_embeddings().bias is not None:
        torch.nn.init.normal_(model.get_output_embeddings().bias, std=2.0)
    if request.param == "large":  # hidden states beyond fp16, the same logits
        with torch.no_grad():
            model.model.norm.weight.mul_(2.0**16)
            model.lm_head.weight.div_(2.0**16)
    model.save_pretrained(folder / "teacher")
    save_tokenizer(folder / "teacher")
    for tail in ("hidden", "lowrank"):
        targets = TargetFormat(top_k=8, logprob_bits=16, tail=tail, tail_rank=32, tail_bytes=48)
        build_cache(
            BuildConfig(
                out=folder / tail, teacher=str(folder / "teacher"), dataset=str(EXAMPLES),
                targets=targets, limit=4, splits=("train",),
            )
        )  # fmt: skip
    return folder, model.eval(), logit_map


@torch.no_grad()
def dense(model, token_ids, temperature):
    """p_T of the rows, from transformers' own logits, float64."""
    logits = model(input_ids=torch.from_numpy(token_ids).unsqueeze(0)).logits[0, :-1]
    return (logits.double() / temperature).softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize(("tail", "tolerance"), [("hidden", 0.01), ("lowrank", 0.06)])
def test_decoded_targets_are_what_the_model_says(made, tail, tolerance, temperature):
    folder, model, logit_map = made
    with CacheReader(folder / tail) as reader:
        assert reader.identity.logits == logit_map
        for index in range(4):
            documents = reader.read("train", [index])
            found = documents.targets.at(temperature).to_dense(384).double()
            expected = dense(model, documents.token_ids, temperature)
            distance = (found - expected).abs().sum(-1) / 2
            assert float(distance.mean()) < tolerance
            best = documents.targets.topk_logprobs[:, 0].double()
            torch.testing.assert_close(
                best, dense(model, documents.token_ids, 1.0).amax(-1).log(), atol=2e-3, rtol=2e-3
            )
    assert verify_cache(folder / tail) == []


def test_the_fused_loss_is_that_of_the_decoded_targets(made):
    folder = made[0]
    with CacheReader(folder / "hidden") as reader:
        batch = collate(reader.read("train", [0, 1]), pad_id=0)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(batch.num_rows, 16, generator=generator)
    weight = torch.randn(384, 16, generator=generator)
    terms = LossTerms(temperature=2.0, alpha=1.0)
    found = head_losses(hidden, weight, batch.labels, batch.targets, terms)
    expected = 4.0 * sparse_kl_sum(hidden @ weight.T, batch.targets, 2.0)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_hidden_tail_encoded_again_is_capped_and_scaled_as_before(made, tmp_path):
    folder, model, logit_map = made
    reencode_cache(folder / "hidden", tmp_path / "again", TargetFormat(top_k=8, tail="mass"))
    with CacheReader(folder / "hidden") as one, CacheReader(tmp_path / "again") as other:
        assert other.identity.logits == logit_map
        masses = [reader.read_rows("train", [0], "tail_log_mass") for reader in (one, other)]
        decoded = [np.asarray(mass, dtype=np.int64) for mass in masses]
        assert np.abs(decoded[0] - decoded[1]).max() <= 24  # 0.02 nats: the hidden state is fp16
