"""Stage one with a tiny teacher: alignment, resume after kill -9, refusals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cache.building.prepare
import cache.teacher.rows
import cache.teacher.teacher
from cache.building.config import BuildConfig
from cache.building.encode import compute_rows
from cache.building.local import build_cache
from cache.data.documents import build_documents
from cache.data.problems import load_problems
from cache.errors import CacheError
from cache.machine.lock import writer_lock
from cache.reading.reader import CacheReader
from cache.targets.format import TargetFormat
from cache.teacher.load import load_causal_lm, load_tokenizer
from cache.tools.verify import verify_cache
from tests.support.builds import (
    FORK,
    build_words,
    cli,
    config_of,
    datasets_of,
    small_batches,
    wait_for_shards,
)
from tests.support.paths import EXAMPLES, ROOT
from tests.support.tiny_teacher import save_teacher


@pytest.mark.parametrize("batch_tokens", [1, 700, 4096])
def test_stored_top_1_is_the_arg_max_for_the_next_token(tmp_path, tiny_teacher, batch_tokens):
    build_cache(config_of(tmp_path / "c", tiny_teacher, batch_tokens=batch_tokens))
    model, tokenizer = load_causal_lm(str(tiny_teacher)), load_tokenizer(str(tiny_teacher))
    documents, _ = build_documents(
        load_problems(str(EXAMPLES), "train")[:10], tokenizer, template="instruction",
        max_length=512,
    )  # fmt: skip
    with CacheReader(tmp_path / "c") as reader:
        for i, document in enumerate(documents):
            cached = reader.read("train", [i])
            with torch.inference_mode():
                logits = model(torch.from_numpy(document.token_ids)[None]).logits[0, :-1]
            assert cached.targets.num_rows == document.num_tokens - 1
            assert torch.equal(cached.targets.topk_ids[:, 0], logits.argmax(-1))
            np.testing.assert_array_equal(cached.token_ids, document.token_ids)
            assert cached.prompt_lengths[0] == document.prompt_length
            expected = logits.log_softmax(-1).gather(-1, cached.targets.topk_ids)
            assert (cached.targets.topk_logprobs - expected).abs().max() < 5e-3


@pytest.mark.parametrize(
    "targets",
    [
        TargetFormat(top_k=8, tail="lowrank", tail_rank=32, tail_bytes=40.0),
        TargetFormat(top_k=8, tail="hidden"),
        TargetFormat(top_k=8, tail="sampled", tail_samples=4),
        TargetFormat(top_k=16, top_p=0.5, tail="mass"),
        TargetFormat(top_k=8, tail="renormalize"),
    ],
    ids=lambda targets: targets.tail,
)
def test_every_tail_is_built_verified_and_read_back(tmp_path, tiny_teacher, targets):
    manifest = build_cache(config_of(tmp_path / "c", tiny_teacher, targets=targets)).manifest
    assert verify_cache(tmp_path / "c") == []
    model = load_causal_lm(str(tiny_teacher))
    at_two = {row.temperature: row for row in manifest.fidelity}[2.0]
    with CacheReader(tmp_path / "c") as reader:
        documents = reader.read("train", [7, 2])
        found = documents.targets.at(2.0).to_dense(384)
        ids = torch.from_numpy(documents.token_ids[: documents.token_offsets[1]])
        with torch.inference_mode():
            expected = (model(ids[None]).logits[0, :-1] / 2).softmax(-1)
    assert torch.allclose(found.sum(-1), torch.ones(len(found)), atol=0.5)
    distance = (found[: len(expected)] - expected).abs().sum(-1).mean() / 2
    assert float(distance) == pytest.approx(at_two.total_variation, rel=0.3, abs=2e-3)
    limits = {"lowrank": 0.05, "hidden": 0.004, "mass": 0.5, "sampled": 1.2, "renormalize": 0.95}
    assert float(distance) < limits[targets.tail]


def test_a_killed_build_fits_no_second_basis(tmp_path, tiny_teacher, monkeypatch):
    targets = TargetFormat(top_k=8, tail="lowrank", tail_rank=8, tail_bytes=10.0)
    config = config_of(tmp_path / "c", tiny_teacher, targets=targets)
    build_cache(config)
    before = datasets_of(tmp_path / "c")
    (tmp_path / "c" / "manifest.json").unlink()
    (tmp_path / "c" / "train" / "shard-00001.h5").unlink()
    monkeypatch.setattr(cache.building.prepare, "fit_basis", None)
    build_cache(config)
    assert datasets_of(tmp_path / "c") == before
    monkeypatch.undo()
    (tmp_path / "c" / "manifest.json").unlink()
    (tmp_path / "c" / "tail.safetensors").unlink()
    assert build_cache(config).num_new_rows == 0  # the basis is the same when fitted again


def test_gold_logprob_is_the_loss_of_the_teacher(tmp_path, tiny_teacher):
    build_cache(config_of(tmp_path / "c", tiny_teacher))
    model = load_causal_lm(str(tiny_teacher))
    with CacheReader(tmp_path / "c") as reader:
        ids = torch.from_numpy(reader.read("train", [4]).token_ids)[None]
        gold = reader.read_rows("train", [4], "gold_logprob").astype(np.float64)
    with torch.inference_mode():
        assert -gold.mean() == pytest.approx(float(model(ids, labels=ids).loss), abs=1e-3)


def test_a_finished_build_computes_nothing_again(tmp_path, tiny_teacher, monkeypatch):
    config = config_of(tmp_path / "c", tiny_teacher)
    build_cache(config)
    monkeypatch.setattr(cache.building.prepare, "load_causal_lm", None)
    assert build_cache(config).already_complete


def test_killed_build_resumes_to_identical_bytes(tmp_path, tiny_teacher):
    config = small_batches(tmp_path / "killed", tiny_teacher)
    for shards_before_kill in (1, 3, 5):
        process = FORK.Process(target=build_cache, args=(config,))
        process.start()
        wait_for_shards(process, config.out, shards_before_kill)
        process.kill()
        process.join()
        with pytest.raises(CacheError, match="not complete: . of its 28 shards are written"):
            CacheReader(config.out)
    num_before = len(list(config.out.rglob("*.h5")))
    build_cache(config)
    build_cache(small_batches(tmp_path / "whole", tiny_teacher))
    killed, whole = datasets_of(tmp_path / "killed"), datasets_of(tmp_path / "whole")
    assert num_before < len({name.split(":")[0] for name in whole})
    assert killed == whole
    assert not list((tmp_path / "killed").rglob("*.partial"))


def test_ctrl_c_stops_cleanly_and_prints_the_command_that_goes_on(tmp_path, tiny_teacher):
    words = build_words(tmp_path / "c", tiny_teacher)
    process = cli(*words)
    wait_for_shards(process, tmp_path / "c", 2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130
    assert "To resume:\n  python cli.py cache-teacher --teacher" in output
    assert "Traceback" not in output
    assert not list((tmp_path / "c").rglob("*.partial"))


def test_a_damaged_shard_of_an_unfinished_build_is_computed_again(tmp_path, tiny_teacher):
    config = config_of(tmp_path / "c", tiny_teacher)
    build_cache(config)
    before = datasets_of(tmp_path / "c")
    (tmp_path / "c" / "manifest.json").unlink()
    shard = tmp_path / "c" / "train" / "shard-00000.h5"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert 0 < build_cache(config).num_new_rows < build_cache(config).num_rows
    assert datasets_of(tmp_path / "c") == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (
            {"targets": TargetFormat(top_k=9, logprob_bits=16, tail="mass")},
            "top_k: 8 there, 9 asked for",
        ),
        ({"targets": TargetFormat(top_k=8, tail="renormalize")}, "targets.tail"),
        ({"template": "docstring"}, "template"),
        ({"limit": 9}, "dataset_sha256"),
        ({"max_length": 500}, "max_length"),
        ({"dtype": "bf16"}, "dtype"),
    ],
)
def test_another_identity_is_refused_by_the_name_of_its_field(
    tmp_path, tiny_teacher, change, field
):
    build_cache(config_of(tmp_path / "c", tiny_teacher))
    for unfinished in (False, True):
        if unfinished:
            (tmp_path / "c" / "manifest.json").unlink()
        with pytest.raises(CacheError, match=field):
            build_cache(config_of(tmp_path / "c", tiny_teacher, **change))


def test_other_weights_and_another_tokenizer_are_refused(tmp_path, tiny_teacher):
    build_cache(config_of(tmp_path / "c", tiny_teacher))
    (tmp_path / "c" / "manifest.json").unlink()
    save_teacher(tmp_path / "weights", seed=1)
    with pytest.raises(CacheError, match="teacher_sha256"):
        build_cache(config_of(tmp_path / "c", tmp_path / "weights"))
    save_teacher(tmp_path / "tokenizer", vocab_size=300)
    with pytest.raises(CacheError, match="tokenizer_sha256"):
        build_cache(config_of(tmp_path / "c", tmp_path / "tokenizer"))


def test_other_batches_on_an_unfinished_build_are_refused(tmp_path, tiny_teacher):
    build_cache(config_of(tmp_path / "c", tiny_teacher))
    (tmp_path / "c" / "manifest.json").unlink()
    with pytest.raises(CacheError, match="other batches or shards"):
        build_cache(config_of(tmp_path / "c", tiny_teacher, shard_tokens=500))


def test_a_second_writer_is_refused_by_host_and_pid(tmp_path, tiny_teacher):
    out = tmp_path / "c"
    out.mkdir()
    with writer_lock(out), pytest.raises(CacheError, match=f"pid {os.getpid()}"):
        build_cache(config_of(out, tiny_teacher))


def test_nan_logits_name_the_documents_and_leave_no_shard(tmp_path, tiny_teacher, monkeypatch):
    model = load_causal_lm(str(tiny_teacher))
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    monkeypatch.setattr(cache.building.prepare, "load_causal_lm", lambda *a, **k: model)
    with pytest.raises(CacheError, match=r"NaN or inf .*; batch of task_id 6"):
        build_cache(config_of(tmp_path / "c", tiny_teacher))
    assert not list((tmp_path / "c").rglob("*.h5*"))


def test_a_vocabulary_that_does_not_fit_the_head_is_refused(tmp_path, tiny_teacher):
    folder = tmp_path / "teacher"
    save_teacher(folder, vocab_size=384)
    config = json.loads((folder / "config.json").read_text())
    from transformers import Starcoder2Config, Starcoder2ForCausalLM

    small = Starcoder2Config(**{**config, "vocab_size": 64})
    Starcoder2ForCausalLM(small).save_pretrained(folder)
    with pytest.raises(CacheError, match="head has only 64 rows"):
        build_cache(config_of(tmp_path / "c", folder))


def test_documents_beyond_the_teachers_positions_are_refused(tmp_path, tiny_teacher, monkeypatch):
    monkeypatch.setattr(cache.teacher.teacher.Teacher, "max_positions", 100)
    with pytest.raises(CacheError, match="--max-length 100"):
        build_cache(config_of(tmp_path / "c", tiny_teacher))


def test_a_split_without_documents_is_refused(tmp_path, tiny_teacher):
    with pytest.raises(CacheError, match="No document of split 'train' is left"):
        build_cache(config_of(tmp_path / "c", tiny_teacher, max_length=10))


def test_a_teacher_that_cannot_be_loaded_says_why(tmp_path):
    with pytest.raises(CacheError, match="tokenizer of .* could not be loaded"):
        build_cache(config_of(tmp_path / "c", tmp_path / "nothing"))
    with pytest.raises(CacheError, match="There is no file .*x.gguf"):
        build_cache(config_of(tmp_path / "c", tmp_path / "x.gguf"))


def in_small_disk(tmp_path: Path, size: str, options: str, script: str) -> str:
    """Output of a Python script run where `disk` is a tmpfs of this size, in a mount namespace."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = f"mount -t tmpfs -o size={size}{options} tmpfs {mount} && exec {sys.executable} -"
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command],
        input=script, capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if "unshare" in result.stderr or "mount:" in result.stderr:
        pytest.skip(f"no user and mount namespaces here: {result.stderr.strip()[:80]}")
    return result.stdout + result.stderr


BUILD_SCRIPT = """
from pathlib import Path
from cache.building.local import build_cache
from cache.errors import CacheError
from tests.support.builds import config_of
out = Path({out!r})
try:
    build_cache(config_of(out / "c", Path({teacher!r})))
except CacheError as error:
    print("CacheError:", error)
print("left:", sorted(p.name for p in out.rglob("*") if p.name.endswith((".partial", ".h5"))))
"""


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path, tiny_teacher):
    script = BUILD_SCRIPT.format(out=str(tmp_path / "disk"), teacher=str(tiny_teacher))
    output = in_small_disk(tmp_path, "100k", "", script)
    assert "CacheError" in output and "no space left on its disk" in output
    assert "give the same command again" in output
    assert ".partial" not in output.split("left:")[1]
    assert "Traceback" not in output


def test_an_unwritable_directory_is_named(tmp_path, tiny_teacher):
    script = BUILD_SCRIPT.format(out=str(tmp_path / "disk"), teacher=str(tiny_teacher))
    output = in_small_disk(tmp_path, "1m", ",ro", script)
    assert "CacheError" in output and "Choose another --out" in output
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="could not be written"):
        build_cache(config_of(tmp_path / "file" / "c", tiny_teacher))


def test_a_model_without_a_separate_head_is_refused():
    from transformers import GPT2Config, GPT2Model

    from cache.teacher.teacher import Teacher

    with pytest.raises(CacheError, match="no output head separate from its trunk"):
        Teacher(GPT2Model(GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=1)))


def test_rows_do_not_depend_on_the_slices_of_the_head(tiny_teacher, monkeypatch):
    from cache.targets.row_codec import RowCodec
    from cache.teacher.teacher import Teacher

    model, tokenizer = load_causal_lm(str(tiny_teacher)), load_tokenizer(str(tiny_teacher))
    documents, _ = build_documents(
        load_problems(str(EXAMPLES), "train")[:3], tokenizer, template="instruction",
        max_length=512,
    )  # fmt: skip
    codec = RowCodec(TargetFormat(top_k=8, logprob_bits=16, tail="mass"), 384)
    whole = compute_rows(Teacher(model), documents, codec).to_arrays()[0]
    monkeypatch.setitem(cache.teacher.rows.HEAD_BYTES, "cpu", 384 * 4 * 50)
    monkeypatch.setitem(cache.teacher.rows.REDUCE_BYTES, "cpu", 384 * 4 * 7)
    assert len(compute_rows(Teacher(model), documents, codec).fidelity[0]) > 1
    sliced = compute_rows(Teacher(model), documents, codec).to_arrays()[0]
    np.testing.assert_array_equal(whole["topk_ids"][:, 0], sliced["topk_ids"][:, 0])
    np.testing.assert_allclose(whole["topk_logprobs"], sliced["topk_logprobs"], atol=2e-3)


def test_shards_of_other_problems_of_the_same_size_are_not_taken(tmp_path, tiny_teacher):
    """Their identity does not tell, where a plan was deleted."""
    lines = EXAMPLES.read_text().splitlines()[:2]
    for name, text in (("one", "1"), ("two", "2")):
        problems = [json.loads(line) | {"test_list": [f"assert f() == {text}"]} for line in lines]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(p) for p in problems))
    given = {"teacher": str(tiny_teacher), "targets": TargetFormat(top_k=8, tail="mass")}
    out = tmp_path / "c"
    build_cache(
        BuildConfig(out=out, dataset=str(tmp_path / "one.jsonl"), splits=("test",), **given)
    )
    (out / "manifest.json").unlink()
    (out / "plan.json").unlink()
    summary = build_cache(
        BuildConfig(out=out, dataset=str(tmp_path / "two.jsonl"), splits=("test",), **given)
    )
    assert summary.num_new_rows == summary.num_rows
