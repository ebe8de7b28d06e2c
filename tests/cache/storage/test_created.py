"""What the teacher's run cost stands in the manifest, for the ledger of those who train."""

from cache.reading.reader import CacheReader
from cache.storage.created import merged_created
from cache.storage.manifest import Manifest
from cache.targets.format import TargetFormat
from cache.tools.merge import merge_caches
from cache.tools.reencode import reencode_cache


def test_a_build_records_the_teachers_size_and_time(tiny_cache, tiny_teacher):
    from transformers import AutoModelForCausalLM

    with CacheReader(tiny_cache) as reader:
        created = reader.created
        num_rows = sum(reader.document_lengths(split).sum() for split in reader.splits)
        num_rows -= sum(reader.num_documents(split) for split in reader.splits)
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher)
    assert created["teacher_parameters"] == model.num_parameters()
    assert created["teacher_rows"] == num_rows
    assert created["teacher_seconds"] > 0


def test_caches_made_from_caches_keep_what_the_teacher_cost(tmp_path, tiny_cache):
    cost = merged_created([Manifest.read(tiny_cache)])
    assert set(cost) == {"teacher_parameters", "teacher_rows", "teacher_seconds", "teacher_stamp"}
    merged = merge_caches(tmp_path / "merged", [tiny_cache])
    fewer = reencode_cache(tiny_cache, tmp_path / "fewer", TargetFormat(top_k=4, tail="mass"))
    assert merged_created([merged]) == merged_created([fewer]) == cost


def test_the_costs_of_two_runs_of_one_teacher_add_up(tiny_cache):
    manifest = Manifest.read(tiny_cache)
    one, two = merged_created([manifest]), merged_created([manifest, manifest])
    assert two["teacher_parameters"] == one["teacher_parameters"]
    assert two["teacher_rows"] == 2 * one["teacher_rows"]
    assert two["teacher_seconds"] == 2 * one["teacher_seconds"]
    manifest.created.pop("teacher_seconds")
    assert set(merged_created([manifest, Manifest.read(tiny_cache)])) == {"teacher_stamp"}
    manifest.created["teacher_stamp"] = "of other files"
    assert merged_created([manifest, Manifest.read(tiny_cache)]) == {}
