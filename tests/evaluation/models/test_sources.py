import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from cache.errors import CacheError
from cache.machine.precision import resolve_dtype
from evaluation.config import LatencySettings
from evaluation.errors import EvaluationError
from evaluation.models import sources as models
from evaluation.models.latency import measure_latency
from evaluation.models.sources import (
    ModelSource,
    list_sources,
    load_model,
    model_identity,
    num_parameters,
    resolve_device,
    safetensors_bytes,
    split_bystanders,
)
from tests.support.tiny_models import save_tiny, tiny_gpt2

CPU = torch.device("cpu")


def source(folder, **fields):
    return ModelSource(label="model", source=str(folder), **fields)


def test_size_of_a_checkpoint_is_that_of_its_file(tmp_path):
    folder = save_tiny(tmp_path / "model")
    size, label = safetensors_bytes(source(folder), tiny_gpt2())
    assert size == (folder / "model.safetensors").stat().st_size
    assert label == "file (F32)"


def test_size_of_a_sharded_checkpoint_is_that_of_the_files_in_its_index(tmp_path):
    folder = tmp_path / "model"
    tiny_gpt2().save_pretrained(folder, max_shard_size="20KB")
    shards = list(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    (folder / "adapter.safetensors").write_bytes(b"not of the model")
    expected = sum(path.stat().st_size for path in shards)
    assert safetensors_bytes(source(folder), tiny_gpt2())[0] == expected


@pytest.mark.parametrize(
    "name", ["consolidated", "model.fp16", "adapter_model", "diffusion_pytorch_model"]
)
def test_size_counts_no_file_that_is_not_the_model(tmp_path, name):
    folder = save_tiny(tmp_path / "model")
    expected = (folder / "model.safetensors").stat().st_size
    shutil.copy(folder / "model.safetensors", folder / f"{name}.safetensors")
    assert safetensors_bytes(source(folder), tiny_gpt2())[0] == expected
    (folder / "model.safetensors").unlink()
    assert safetensors_bytes(source(folder), tiny_gpt2())[1].startswith("computed")


@pytest.mark.parametrize(
    "settings",
    [
        {"max_time": 0.0001},
        {"stop_strings": ["a"]},
        {"cache_implementation": "static"},
        {"no_repeat_ngram_size": 2},
        {"guidance_scale": 2.0},
        {"num_beams": 4},
        {"num_return_sequences": 2, "do_sample": True, "temperature": 0.7},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_generation_settings_of_a_model_but_its_ends_are_left_aside(tmp_path, settings):
    folder = save_tiny(tmp_path / "model")
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings, "eos_token_id": [7]}))
    model, tokenizer = load_model(source(folder), torch.float32, CPU)
    assert model.generation_config.eos_token_id == [7]
    for name in settings:
        assert getattr(model.generation_config, name) == getattr(GenerationConfig(), name)
    timed = LatencySettings(prompts=1, new_tokens=3, prompt_tokens=9, warmup=0, batch=2)
    assert measure_latency(model, tokenizer, [[1, 2, 3], [4]], timed).batched.batch == 2


def test_size_without_safetensors_is_computed_with_tied_weights_once(tmp_path):
    model = tiny_gpt2().to(torch.bfloat16)
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    size, label = safetensors_bytes(source(file), model)
    assert size == 2 * num_parameters(model)
    assert label == "computed: parameters x 2 bytes (bfloat16)"
    head, table = model.lm_head.weight, model.transformer.wte.weight
    assert head is table
    untied = num_parameters(model) + head.numel()
    assert untied == sum(p.numel() for p in model.parameters(recurse=True)) + head.numel()


def test_parameters_of_the_student_shape_are_the_published_ones():
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        config = GPT2Config(
            vocab_size=49152, n_positions=512, n_embd=512, n_layer=6, n_head=8,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
    model.tie_weights()
    assert num_parameters(model) == 44_343_296


def test_identity_follows_weights_and_tokenizer_but_not_notes(tmp_path):
    folder = save_tiny(tmp_path / "model")
    before = model_identity(source(folder))
    (folder / "README.md").write_text("note")
    (folder / "run.json").write_text("{}")
    assert model_identity(source(folder)) == before
    other = save_tiny(tmp_path / "other", seed=1)
    assert model_identity(source(other)) != before
    (folder / "tokenizer_config.json").write_text("{}")
    assert model_identity(source(folder)) != before


def test_identity_of_a_file_follows_its_content(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"a")
    before = model_identity(source(file))
    file.write_bytes(b"b")
    assert model_identity(source(file)) != before


def test_identity_of_a_hub_model_is_its_commit(monkeypatch):
    monkeypatch.setattr(models, "_hub_folder", lambda *_: Path("cache/snapshots/0123abcd"))
    assert model_identity(source("org/model")) == "org/model@0123abcd"


def test_labels_are_the_shortest_that_differ(tmp_path):
    paths = tuple(save_tiny(tmp_path / name) for name in ("a/model", "b/model"))
    sources = list_sources(paths, "org/teacher", None)
    assert [s.label for s in sources] == ["teacher", "a/model", "b/model"]
    assert [s.is_teacher for s in sources] == [True, False, False]
    assert [s.label for s in list_sources(paths[:1], None, None)] == ["model"]


def test_folder_named_twice_is_refused(tmp_path):
    folder = save_tiny(tmp_path / "model")
    with pytest.raises(EvaluationError, match="is named twice; name it once"):
        list_sources((folder, tmp_path / "." / "model"), None, None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("text"), "is a file"),
        (lambda path: path.mkdir(), "holds no model \\(no config.json\\)"),
        (
            lambda path: (path.mkdir(), (path / "run.json").write_text("{}")),
            "is a run that has not finished",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_the_reason(tmp_path, make, message):
    make(tmp_path / "model")
    with pytest.raises(EvaluationError, match=f"checkpoint .*model {message}"):
        list_sources((tmp_path / "model",), None, None)


def test_loaded_models_have_the_dtype_and_device_asked_for(tmp_path):
    folder = save_tiny(tmp_path / "model")
    for is_teacher in (False, True):
        model, tokenizer = load_model(source(folder, is_teacher=is_teacher), torch.bfloat16, CPU)
        assert next(model.parameters()).dtype == torch.bfloat16
        assert not model.training
        assert tokenizer.eos_token_id == 256


def test_damaged_checkpoint_is_an_error(tmp_path):
    folder = save_tiny(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EvaluationError, match="The model of .* could not be loaded: OSError"):
        load_model(source(folder), torch.float32, CPU)


def test_a_checkpoint_without_all_its_weights_is_refused(tmp_path):
    folder = save_tiny(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.1.attn.c_attn.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EvaluationError, match="lacks 1 of the weights of a GPT2LMHeadModel"):
        load_model(source(folder), torch.float32, CPU)


def test_teacher_that_cannot_be_loaded_is_an_error_of_this_package(monkeypatch):
    def fail(*arguments, **options):
        raise CacheError("there is no such teacher")

    monkeypatch.setattr(models, "load_causal_lm", fail)
    with pytest.raises(EvaluationError, match="there is no such teacher"):
        load_model(source("org/model", is_teacher=True), torch.float32, CPU)


def test_device_that_is_not_there_is_refused():
    with pytest.raises(EvaluationError, match="device 'abacus' cannot be used here"):
        resolve_device("abacus")


def test_auto_dtype_on_the_cpu_is_full_precision():
    assert resolve_dtype("auto", CPU) == torch.float32
    assert resolve_dtype("fp16", CPU) == torch.float16
    assert resolve_device("cpu") == CPU


def test_what_a_pattern_catches_beside_the_runs_is_set_apart(tmp_path):
    for name, file in (("done", "config.json"), ("going", "run.json"), ("plots", "loss.png")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    caught = tuple(sorted(tmp_path.iterdir()))
    runs, bystanders = split_bystanders(caught)
    assert [path.name for path in runs] == ["done", "going"]
    assert [path.name for path in bystanders] == ["plots"]
    assert split_bystanders(bystanders) == (bystanders, ())
    with pytest.raises(EvaluationError, match="a run that has not finished"):
        list_sources(runs, None, None)


def test_a_pattern_may_catch_a_file_first(tmp_path):
    from evaluation.commands import evaluate

    (tmp_path / "ledger.json").write_text("{}")
    words = ["--checkpoints", str(tmp_path / "ledger.json"), str(tmp_path / "run")]
    context = evaluate.make_context("evaluate", words)
    assert context.params["checkpoints"] == (tmp_path / "ledger.json",)
    assert context.params["more_checkpoints"] == (tmp_path / "run",)
