"""The dataset card of a cache."""

from dataclasses import replace

import pytest
import yaml
from huggingface_hub import DatasetCard
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.remote.card import cache_card, find_license
from cache.storage.manifest import Manifest


@pytest.fixture(scope="module")
def manifest(tiny_cache) -> Manifest:
    return Manifest.read(tiny_cache)


def renamed(manifest: Manifest, **names: str) -> Manifest:
    identity = replace(manifest.identity, **names)
    return replace(manifest, plan=replace(manifest.plan, identity=identity))


def front_matter(card: str) -> dict:
    assert card.startswith("---\n")
    return yaml.safe_load(card[4:].split("\n---\n", 1)[0])


def test_a_card_names_the_cache_its_sizes_and_how_to_train_from_it(manifest):
    named = renamed(manifest, teacher="org/teacher", dataset="org/data")
    card = cache_card(named, "s3://bucket/x y", teacher_license="mit", data_license="mit")
    data = front_matter(card)
    assert data["license"] == "mit" and data["size_categories"] == "n<1K"
    assert data["pretty_name"] == "Soft targets of org/teacher on org/data"
    assert "logitcache" in data["tags"]
    assert "python cli.py train --cache 's3://bucket/x y' --recipe" in card
    assert manifest.identity.sha256 in card and "| train | 24 |" in card
    assert f"over {manifest.fidelity[0].num_rows:,} rows" in card
    assert "| teacher | org/teacher | mit |" in card and "not known" not in card


def test_licences_that_are_not_known_or_differ_are_said_so(manifest):
    card = cache_card(manifest, "r", teacher_license="bigcode-openrail-m")
    assert front_matter(card)["license"] == "unknown"
    assert "| bigcode-openrail-m |" in card
    assert "not known: whoever shares or uses this has to look it up" in card
    both = cache_card(manifest, "r", teacher_license="mit", data_license="cc-by-4.0")
    assert front_matter(both)["license"] == "other"


def test_what_was_dropped_is_listed(manifest):
    dropped = {"train": [{"task_id": n, "reason": "too | long"} for n in range(12)]}
    card = cache_card(replace(manifest, plan=replace(manifest.plan, dropped=dropped)), "r")
    assert "- train: 12 (0: too \\| long; 1:" in card and "and 2 more" in card


@settings(max_examples=60, deadline=None)
@given(name=st.text(min_size=1, max_size=60))
def test_front_matter_is_valid_for_any_name(manifest, name):
    card = cache_card(renamed(manifest, teacher=name, dataset=name), "r", data_license=name)
    assert front_matter(card)["license"] == "unknown"
    assert DatasetCard(card).data.tags == ["distillation", "soft-targets", "logitcache"]


@pytest.mark.parametrize(
    "name",
    ["a: b", "x\n---\nlicense: mit", "'\"", "#", "- x", "{}", "<script>", "|`", "\x00\ud800"],
)
def test_names_that_look_like_yaml_or_markup_stay_names(manifest, name):
    card = cache_card(renamed(manifest, teacher=name), "r", teacher_license=name)
    assert front_matter(card)["license"] == "unknown"
    assert "<script>" not in card.split("\n---\n", 1)[1]
    card.encode()


def test_licences_come_from_the_front_matter_of_a_local_teacher(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("---\nlicense: [mit, apache-2.0]\n---\n# x\n")
    assert find_license(str(tmp_path), kind="model") == "mit, apache-2.0"
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: my-own\n---\n")
    assert find_license(str(tmp_path), kind="model") == "my-own"
    for text in ("---\n: [\n---\n", "---\n- 1\n---\n", "no front matter"):
        (tmp_path / "README.md").write_text(text)
        assert find_license(str(tmp_path), kind="model") is None
    (tmp_path / "README.md").unlink()
    assert find_license(str(tmp_path), kind="model") is None
    assert find_license("org/absent", kind="dataset") is None  # the hub is off in tests


def test_licences_come_from_the_hub(monkeypatch):
    import huggingface_hub

    asked = []

    class Api:
        def dataset_info(self, name, timeout):
            asked.append((name, timeout > 0))
            data = huggingface_hub.DatasetCardData(license="cc-by-4.0")
            return type("Info", (), {"card_data": data})()

        def model_info(self, name, timeout):
            return type("Info", (), {"card_data": None})()

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert find_license("google-research-datasets/mbpp", kind="dataset") == "cc-by-4.0"
    assert asked == [("google-research-datasets/mbpp", True)]
    assert find_license("org/model", kind="model") is None
