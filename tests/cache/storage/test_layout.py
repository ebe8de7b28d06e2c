"""What a build is said to take beforehand is what its code then writes."""

import h5py
import pytest

from cache.building.job import first_documents
from cache.building.local import build_cache
from cache.storage.layout import ShardLayout
from cache.targets.format import TargetFormat
from cache.teacher.load import head_shape, load_tokenizer
from tests.support.builds import config_of

FORMATS = {
    "hidden": TargetFormat(tail="hidden"),
    "lowrank": TargetFormat(tail="lowrank", tail_bytes=20),
    "sampled": TargetFormat(tail="sampled", logprob_bits=16),
    "mass": TargetFormat(tail="mass", top_k=5),
    "renormalize": TargetFormat(tail="renormalize"),
}


@pytest.mark.parametrize("tail", FORMATS)
def test_an_estimate_is_the_size_of_the_datasets_that_a_build_writes(tmp_path, tiny_teacher, tail):
    config = config_of(tmp_path / "c", tiny_teacher, targets=FORMATS[tail], limit=6)
    rows, width = head_shape(str(tiny_teacher))
    assert (rows, width) == (384, 32)
    layout = ShardLayout(
        vocab_size=rows, targets=config.targets, tail_width=config.targets.tail_width(width)
    )
    with first_documents(config, load_tokenizer(str(tiny_teacher))) as job:
        estimate = job.estimated_bytes(layout)
    build_cache(config)
    found = 0
    for path in config.out.rglob("*.h5"):
        with h5py.File(path) as file:
            found += sum(file[name].nbytes for name in file)
    assert estimate == pytest.approx(found, rel=0.15 if tail == "lowrank" else 0.005)
