import json
from dataclasses import replace

import pytest

from distill.run.train import train
from distill.settings.origin import STUDENT_FILE
from evaluation.models.training import read_training
from tests.support.distill_fakes import FakeReader, config_for


def write_run(folder, recipe=None, **run):
    asked = {"student": "6x512x8", "temperature": 2.0, "alpha": 0.5, **(recipe or {})}
    content = {"recipe": asked, "tokens_per_s": 100.0, "seconds": 3.0, "device": {"name": "cpu"}}
    (folder / "run.json").write_text(json.dumps({**content, **run}))
    return read_training(str(folder))


def test_a_run_tells_what_it_was(tmp_path):
    reader = FakeReader(tmp_path / "cache")
    result = train(config_for(reader, tmp_path / "run", alpha=0.25), reader=reader)
    found = read_training(str(result.out))
    assert (found.start, found.taught) == ("2x32x2, random weights", "T = 2, α = 0.25")
    lengths = reader.document_lengths("train").sum()
    assert found.tokens == result.num_tokens == result.recipe.epochs * lengths
    assert found.seconds == pytest.approx(result.seconds, abs=1e-3)
    assert read_training(str(result.out / "best")) == found
    assert read_training("bigcode/starcoder2-3b") is None


def test_a_student_that_was_cut_says_from_what(tmp_path):
    reader = FakeReader(tmp_path / "cache")
    start = train(config_for(reader, tmp_path / "start", epochs=1), reader=reader).out
    origin = {
        "teacher": "org/teacher", "teacher_sha256": reader.identity.teacher_sha256,
        "teacher_layers": 4, "kept_layers": [0, 3], "chosen_by": "kl", "kl_before_training": 1.5,
    }  # fmt: skip
    (start / STUDENT_FILE).write_text(json.dumps(origin))
    config = config_for(reader, tmp_path / "run", epochs=1, student=str(start))
    found = read_training(str(train(config, reader=reader).out))
    assert found.start == "2 of the teacher's 4 layers, by kl" and found.from_teacher
    (start / "run.json").unlink()
    untrained = read_training(str(start))
    assert (untrained.start, untrained.taught, untrained.tokens) == (found.start, "nothing", 0)
    (start / STUDENT_FILE).write_text(json.dumps({**origin, "reconstructed_on": 9}))
    assert read_training(str(start)).start == "2 of the teacher's 4 layers, by kl, reconstructed"
    fresh = replace(config.recipe, init="random")
    other = train(replace(config, out=tmp_path / "other", recipe=fresh), reader=reader)
    other = read_training(str(other.out))
    assert other.start == "start, random weights" and not other.from_teacher


def test_a_student_that_lay_beside_the_command_is_no_shape(tmp_path, monkeypatch):
    reader = FakeReader(tmp_path / "cache")
    train(config_for(reader, tmp_path / "start", epochs=1), reader=reader)
    monkeypatch.chdir(tmp_path)
    out = train(config_for(reader, tmp_path / "run", epochs=1, student="start"), reader=reader).out
    monkeypatch.chdir(tmp_path / "cache")
    assert read_training(str(out)).start == "start, its weights"


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"alpha": 0.0}, "labels alone"),
        ({"alpha": 0.0, "alpha_end": 0.5}, "T = 2, α = 0 to 0.5"),
        ({"temperature_end": 1.0, "divergence": "reverse_kl"}, "T = 2 to 1, α = 0.5, reverse kl"),
    ],
)
def test_what_taught_it_is_told_in_words(tmp_path, recipe, words):
    assert write_run(tmp_path, recipe).taught == words


def test_a_model_of_the_hub_is_named_by_its_own_name(tmp_path):
    assert write_run(tmp_path, {"student": "org/small"}).start == "small, its weights"


def test_what_is_no_finished_run_says_nothing(tmp_path):
    assert write_run(tmp_path, seconds=None) is None
    (tmp_path / "run.json").write_text("[]")
    assert read_training(str(tmp_path)) is None
