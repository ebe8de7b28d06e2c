"""Shapes and vocabulary of the default teacher: StarCoder2-3B's real configuration, 2 layers."""

import numpy as np
import pytest
import torch

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.reading.reader import CacheReader
from cache.tools.verify import verify_cache
from tests.support.paths import EXAMPLES, SHARED

TOKENIZER = SHARED / "data" / "starcoder2-tokenizer"


@pytest.mark.slow
def test_a_cut_starcoder2_3b_fits_its_tokenizer_and_the_format(tmp_path):
    from transformers import AutoTokenizer, Starcoder2Config, Starcoder2ForCausalLM

    if not TOKENIZER.is_dir():
        pytest.skip("the StarCoder2 tokenizer is not on this machine")
    # https://huggingface.co/bigcode/starcoder2-3b/blob/main/config.json, with 2 of 30 layers
    config = Starcoder2Config(
        vocab_size=49152,
        hidden_size=3072,
        intermediate_size=12288,
        num_hidden_layers=2,
        num_attention_heads=24,
        num_key_value_heads=2,
        max_position_embeddings=16384,
        sliding_window=4096,
        rope_theta=999999.4420358813,
        use_bias=True,
        bos_token_id=0,
        eos_token_id=0,
        hidden_act="gelu_pytorch_tanh",
        initializer_range=0.018042,
    )
    torch.manual_seed(0)
    Starcoder2ForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "teacher")
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(tmp_path / "teacher")
    summary = build_cache(
        BuildConfig(
            out=tmp_path / "cache",
            teacher=str(tmp_path / "teacher"),
            dataset=str(EXAMPLES),
            dtype="bf16",
            limit=4,
            batch_tokens=512,
        )  # fmt: skip
    )
    assert summary.manifest.identity.vocab_size == 49152
    assert verify_cache(tmp_path / "cache") == []
    with CacheReader(tmp_path / "cache") as reader:
        documents = reader.read("train", range(4))
        assert documents.token_ids[-1] == 0
        assert documents.targets.topk_ids.shape == (len(documents.token_ids) - 4, 64)
        distribution = documents.targets.at(2.0)
        total = distribution.to_dense(49152).sum(-1)
        np.testing.assert_allclose(total.numpy(), 1, atol=1e-4)
    print(f"{summary.num_rows} rows, {summary.num_new_rows / summary.seconds:.0f} tokens/s")
