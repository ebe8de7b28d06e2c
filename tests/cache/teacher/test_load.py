"""Checkpoints that are not whole, and adapters: nothing is read beside what was meant."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from cache.errors import CacheError
from cache.teacher.load import load_causal_lm

SMALL = {
    "vocab_size": 96, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2,
}  # fmt: skip


def save_llama(folder, **options):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL, **options))
    model.save_pretrained(folder)
    return model.eval()


def test_a_trunk_without_a_head_is_refused(tmp_path):
    save_llama(tmp_path).model.save_pretrained(tmp_path)
    with pytest.raises(CacheError, match=r"lacks 1 of the weights of a Llama.* \(lm_head.weight\)"):
        load_causal_lm(str(tmp_path))


def test_a_checkpoint_with_a_layer_too_few_is_refused(tmp_path):
    save_llama(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers.1." not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CacheError, match="lacks 9 of the weights .* which would be random numbers"):
        load_causal_lm(str(tmp_path))


def test_a_tied_head_is_not_missed(tmp_path):
    saved = save_llama(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = load_causal_lm(str(tmp_path))
    assert torch.equal(loaded.lm_head.weight, saved.lm_head.weight)


def test_an_adapter_is_never_passed_over(tmp_path, monkeypatch):
    save_llama(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/a"}))
    monkeypatch.setattr("transformers.utils.is_peft_available", lambda: False)
    with pytest.raises(CacheError, match="is an adapter, which needs peft: pip install peft"):
        load_causal_lm(str(tmp_path))
    monkeypatch.setattr("transformers.utils.is_peft_available", lambda: True)
    with pytest.raises(CacheError, match="holds a whole model and an adapter"):
        load_causal_lm(str(tmp_path))
