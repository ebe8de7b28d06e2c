"""Planning a cache: sizes that the build then has, fidelity that it then measures, a choice."""

import dataclasses

import matplotlib.image
import pytest

import cache.building.prepare
import cache.tools.recommend
from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.errors import CacheError
from cache.storage.manifest import Manifest
from cache.targets.fidelity import Fidelity
from cache.targets.format import TargetFormat
from cache.tools.plots import plot_fidelity, plot_settings
from cache.tools.recommend import (
    TriedFormat,
    candidate_formats,
    frontier,
    recommend,
    try_formats,
    with_recommended_targets,
)
from cache.tools.trial import TrialResult
from cache.tools.verify import verify_cache
from tests.support.command_line import run
from tests.support.paths import EXAMPLES


def config_of(out, teacher, **options) -> BuildConfig:
    defaults = {"limit": 24, "max_length": 512, "batch_tokens": 2048, "shard_tokens": 4000}
    return BuildConfig(
        out=out, teacher=str(teacher), dataset=str(EXAMPLES), **{**defaults, **options}
    )


def setting(num_bytes: float, distance: float, **targets) -> TriedFormat:
    """A setting as if measured: total variation `distance` at T = 2 and half of it at T = 1."""
    fidelity = tuple(
        Fidelity(
            temperature=temperature, num_rows=9, captured=0.5, total_variation=distance * share,
            total_variation_p99=distance, kl=distance**2, gradient_cosine=1.0,
        )
        for temperature, share in ((2.0, 1.0), (1.0, 0.5))
    )  # fmt: skip
    result = TrialResult(
        bytes_per_row=num_bytes, shared_bytes=1000, num_columns=0, fidelity=fidelity
    )
    return TriedFormat(
        targets=TargetFormat(**{"tail": "mass", **targets}), result=result, num_rows=10
    )


SETTINGS = [setting(50, 0.4), setting(100, 0.1), setting(150, 0.2), setting(300, 0.02)]


@pytest.fixture(scope="module")
def planned(tmp_path_factory, tiny_teacher) -> list[TriedFormat]:
    out = tmp_path_factory.mktemp("none") / "c"
    settings = try_formats(config_of(out, tiny_teacher), temperatures=(1.0, 2.0), num_rows=2000)
    assert not out.exists()
    return settings


def test_the_candidates_are_those_that_a_teacher_allows():
    formats = candidate_formats(width=32, vocab_size=384)
    assert {f.tail for f in formats} == {"renormalize", "mass", "lowrank", "sampled", "hidden"}
    assert {f.tail_rank for f in formats if f.tail == "lowrank"} == {32}
    assert max(f.top_k for f in formats) == 64
    large = candidate_formats(width=3072, vocab_size=49152)
    assert {f.tail_rank for f in large if f.tail == "lowrank"} == {256, 576, 2048}
    assert len(large) == len(set(large)) == 37


def test_settings_come_cheapest_first_with_a_fidelity_for_every_temperature(planned):
    sizes = [s.bytes_per_row for s in planned]
    assert sizes == sorted(sizes)
    assert all([f.temperature for f in s.result.fidelity] == [1.0, 2.0] for s in planned)
    by_tail = {s.targets.tail: s for s in planned}
    assert by_tail["hidden"].total_variation < 0.01 < by_tail["renormalize"].total_variation
    assert by_tail["hidden"].result.num_columns == 32
    assert by_tail["hidden"].result.shared_bytes == 384 * 32 * 4 + 384 * 4
    assert by_tail["mass"].result.num_columns == by_tail["mass"].result.shared_bytes == 0


def test_the_same_configuration_gives_the_same_plan(planned, tmp_path, tiny_teacher):
    again = try_formats(
        config_of(tmp_path / "c", tiny_teacher), temperatures=(1.0, 2.0), num_rows=2000
    )
    assert again == planned


@pytest.mark.parametrize("tail", ["mass", "lowrank", "hidden", "sampled", "renormalize"])
def test_a_built_cache_has_the_size_and_the_fidelity_that_were_planned(
    planned, tmp_path, tiny_teacher, tail
):
    wanted = next(s for s in planned if s.targets.tail == tail)
    summary = build_cache(config_of(tmp_path / "c", tiny_teacher, targets=wanted.targets))
    assert wanted.num_rows == summary.num_rows
    assert summary.row_bytes / summary.num_rows == pytest.approx(wanted.bytes_per_row, rel=0.1)
    rest = wanted.total_bytes - summary.row_bytes
    assert rest == pytest.approx(wanted.result.shared_bytes, abs=0.1 * summary.row_bytes)
    at_two = {f.temperature: f for f in summary.manifest.fidelity}[2.0]
    assert at_two.total_variation == pytest.approx(wanted.total_variation, rel=0.25, abs=2e-3)


def test_the_cheapest_that_is_true_enough_or_the_truest_that_is_small_enough():
    assert recommend(SETTINGS, max_tv=0.1) is SETTINGS[1]
    assert recommend(SETTINGS, max_tv=0.09) is SETTINGS[3]
    assert recommend(SETTINGS, bytes_per_token=200) is SETTINGS[1]
    assert recommend(SETTINGS, bytes_per_token=1e6) is SETTINGS[3]
    assert frontier(SETTINGS) == [SETTINGS[0], SETTINGS[1], SETTINGS[3]]


def test_what_cannot_be_met_is_refused_with_the_best_there_is():
    with pytest.raises(CacheError, match=r"truest, .*tail mass, has 0.0200 at 300 bytes/token"):
        recommend(SETTINGS, max_tv=0.01)
    with pytest.raises(CacheError, match=r"smallest, .* takes 50 .*\n?.*--bytes-per-token 51"):
        recommend(SETTINGS, bytes_per_token=49)
    with pytest.raises(CacheError, match="Give one of --max-tv and --bytes-per-token"):
        recommend(SETTINGS, max_tv=0.1, bytes_per_token=100.0)


def test_without_a_wish_it_is_the_cheapest_that_cost_students_nothing_or_the_truest():
    assert recommend(SETTINGS) is SETTINGS[3]
    assert recommend(SETTINGS[:3]) is SETTINGS[1]


def test_too_few_documents_and_unknown_temperatures_are_refused(tmp_path, tiny_teacher):
    config = config_of(tmp_path / "c", tiny_teacher, limit=1, splits=("train",))
    with pytest.raises(CacheError, match="1 document is too few"):
        try_formats(config)
    with pytest.raises(CacheError, match="temperature is 5.0; a cache knows"):
        try_formats(config, temperatures=(5.0,))
    two = dataclasses.replace(config, limit=2)
    assert try_formats(two)[0].num_rows > 0


def test_a_begun_build_keeps_its_recommendation_without_another_trial(
    tmp_path, tiny_teacher, monkeypatch
):
    config = config_of(tmp_path / "c", tiny_teacher)
    chosen, teacher = with_recommended_targets(config, 100.0, num_rows=1000)
    monkeypatch.setattr(cache.building.prepare, "load_teacher", None)  # it is loaded once
    summary = build_cache(chosen, teacher=teacher)
    monkeypatch.undo()
    assert summary.row_bytes / summary.num_rows < 106
    (tmp_path / "c" / "manifest.json").unlink()
    monkeypatch.setattr(cache.tools.recommend, "try_formats", None)
    again, _ = with_recommended_targets(config, 100.0)
    assert again == chosen
    assert build_cache(again).num_new_rows == 0


def test_the_plots_are_pictures(tmp_path, planned):
    chosen = recommend(planned, max_tv=0.2)
    plot_settings(planned, chosen, tmp_path / "plan.png")
    plot_fidelity(chosen.result.fidelity, tmp_path / "fidelity.png")
    forgetful = next(s for s in planned if s.targets.tail == "renormalize")
    assert forgetful.result.fidelity[0].kl == float("inf")
    plot_fidelity(forgetful.result.fidelity, tmp_path / "infinite.png")
    pictures = [matplotlib.image.imread(path) for path in sorted(tmp_path.glob("*.png"))]
    assert len(pictures) == 3 and all(p[..., :3].std() > 0.01 for p in pictures)
    with pytest.raises(CacheError, match="no fidelity to plot"):
        plot_fidelity((), tmp_path / "none.png")


def test_the_plan_command_prints_a_table_and_marks_its_recommendation(tmp_path, tiny_teacher):
    words = (
        "cache", "plan", "--teacher", tiny_teacher, "--dataset", EXAMPLES, "--rows", 1000,
        "--limit", 24,
    )  # fmt: skip
    code, output = run(*words, "--max-tv", 0.05, "--plot", tmp_path / "plan.png")
    assert code == 0, output
    assert "Recommended: --top-k" in output and "columns" in output
    assert (tmp_path / "plan.png").is_file()
    code, output = run(*words, "--temperature", 1, "--temperature", 1.5)
    assert code == 0 and "Recommended: --top-k" in output and "TV, T" in output
    code, output = run(*words, "--max-tv", 0.05, "--bytes-per-token", 9)
    assert code == 1 and "Give one of --max-tv and --bytes-per-token" in output


def test_cache_teacher_takes_a_budget_and_refuses_targets_beside_it(tmp_path, tiny_teacher):
    words = (
        "cache-teacher", "--teacher", tiny_teacher, "--dataset", EXAMPLES, "--limit", 24,
        "--out", tmp_path / "c", "--bytes-per-token", 120,
    )  # fmt: skip
    code, output = run(*words, "--top-k", 4, "--tail", "mass")
    assert code == 1 and "leave out --top-k, --tail, or leave it out" in output
    code, output = run(*words)
    assert code == 0, output
    assert f"Targets: {Manifest.read(tmp_path / 'c').identity.targets.words()}." in output
    assert verify_cache(tmp_path / "c") == []
    code, output = run(*words)
    assert code == 0 and "was complete already" in output


def test_inspect_writes_the_fidelity_plot(tmp_path, tiny_cache):
    code, output = run("cache", "inspect", tiny_cache, "--plot", tmp_path / "f.png")
    assert code == 0, output
    assert matplotlib.image.imread(tmp_path / "f.png")[..., :3].std() > 0.01
