from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

import trained
from dwcp.contract import CANDIDATES, FEATURES, SEED_FEATURES
from dwcp.pipeline.ladder import run_ladder
from dwcp.release.ladder import found, regress, score, selectors
from dwcp.release.ladder.calibrate import calibrate, fit_temperature
from dwcp.release.ladder.climb import climb
from dwcp.release.ladder.found import Ladder
from dwcp.release.ladder.groups import SEED, steps
from dwcp.release.ladder.looks import FILE, count_looks, record_look
from dwcp.release.ladder.markdown import ladder_markdown
from dwcp.release.ladder.page import render
from dwcp.release.ladder.regress import QUANTITIES, predicted_costs_ms
from dwcp.release.ladder.rows import SPLITS, Rows
from dwcp.release.ladder.worth import ceilings_in, ceilings_of
from dwcp.training.dataset import TEST, TRAIN
from dwcp.training.split import split_by_time

# One climb trains 12 networks: half a minute, or many of them beside other tests.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return Rows.of(trained.labelled_transfers(2_000))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    short = {"home": tmp_path_factory.mktemp("home"), "xgboost_rounds": 12, "network_epochs": 1}
    return trained.SETTINGS.model_copy(update=short)


@pytest.fixture(scope="module")
def ladder(rows, settings) -> Ladder:
    """The real climb, its trainings cut short, in an installation that has searched its hyperparameters."""
    (settings.home / "tuning").mkdir()
    (settings.home / "tuning" / "best.json").write_text('{"settings": {"xgboost_max_depth": 2}}')
    return climb(rows, settings, command="test")


def test_steps_add_every_feature_once_from_the_seeds_to_all():
    found_steps = steps()
    assert found_steps[SEED] == tuple(feature.name for feature in SEED_FEATURES)
    assert list(found_steps.values())[-1] == tuple(feature.name for feature in FEATURES)
    counts = [len(inputs) for inputs in found_steps.values()]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("name", SPLITS)
def test_rows_stay_beside_their_dataset_through_every_split(rows, name):
    split = rows.split(name, trained.SETTINGS).only(TRAIN)
    assert split.dataset.rows == split.table.num_rows > 0
    np.testing.assert_array_equal(split.numbers("timestamp_ns"), split.dataset.timestamp_ns)
    np.testing.assert_array_equal(split.numbers("data_size_bytes"), split.dataset.size_bytes)


def test_time_split_is_the_one_that_the_gate_looks_at(rows):
    ours, gates = rows.split("time", trained.SETTINGS).dataset, split_by_time(rows.dataset, trained.SETTINGS)
    np.testing.assert_array_equal(ours.split, gates.split)
    assert ours.dropped == gates.dropped


def test_every_selector_stands_on_every_split(ladder):
    assert [split.name for split in ladder.splits] == list(SPLITS)
    names = [[rung.name for rung in split.rungs] for split in ladder.splits]
    assert names[0] == names[1] == names[2]
    assert len(names[0]) == len(set(names[0]))
    wanted = {"majority class", "always zstd", "rules", *steps(), selectors.SEED_ENSEMBLE, selectors.NETWORK}
    assert wanted | {
        found.ENSEMBLE,
        found.PRODUCT,
        selectors.SEED_FALLBACK,
        selectors.REGRESSORS,
        selectors.TUNED,
    } <= set(names[0])


def test_tuned_settings_make_a_model_of_their_own(ladder):
    time = ladder.split("time")
    assert time.rung(selectors.TUNED).mean_regret != time.rung(found.ENSEMBLE).mean_regret


def test_always_one_candidate_is_right_as_often_as_it_is_best(ladder, rows):
    truth = rows.split("time", trained.SETTINGS).only(TEST).dataset.labels
    time = ladder.split("time")
    shares = [time.rung(f"always {name}").accuracy.estimate for name in CANDIDATES]
    assert shares == pytest.approx([float((truth == n).mean()) for n in range(3)])
    assert time.rung("always zstd").accuracy.estimate == 0
    assert time.rung("always zstd").gain_over_zstd.estimate == pytest.approx(0)


def test_accuracy_is_of_the_argmax_and_regret_of_what_runs(ladder):
    time = ladder.split("time")
    said, product = time.rung(found.ENSEMBLE), time.rung(found.PRODUCT)
    assert said.accuracy == product.accuracy
    assert time.rung(selectors.SEED_FALLBACK).mean_regret != said.mean_regret
    assert all(rung.accuracy.lower <= rung.accuracy.estimate <= rung.accuracy.upper for rung in time.rungs)


def test_only_selectors_that_look_pay_for_looking(ladder):
    time = ladder.split("time")
    assert time.look_share > 0
    for name in ("majority class", "always hde", "cost structure by history, argmin"):
        assert time.rung(name).gain_paid == time.rung(name).gain_over_zstd
    for name in ("rules", found.ENSEMBLE, found.PRODUCT):
        assert time.rung(name).gain_paid.estimate < time.rung(name).gain_over_zstd.estimate


@pytest.mark.parametrize("by", [score.LINK, score.TYPE, score.LINK_TYPE, score.SIZE, score.GAP, score.AGE])
def test_slices_of_one_kind_hold_every_test_row_once(ladder, by):
    for split in ladder.splits:
        assert sum(part.rows for part in split.slices if part.by == by) == split.test_rows


def test_unseen_objects_are_unseen(ladder):
    unseen = ladder.split("unseen objects")
    assert unseen.new_objects == unseen.test_objects > 0
    assert [part.name for part in unseen.slices if part.by == score.AGE] == ["first seen in the test"]


def test_knee_is_chosen_by_validation_among_the_good(ladder):
    (knee,) = [size for size in ladder.sizes if size.knee]
    best = max(size.validation_accuracy for size in ladder.sizes)
    assert knee.validation_accuracy >= best - 0.001
    assert all(size.latency_us >= knee.latency_us for size in ladder.sizes if size.validation_accuracy >= best - 0.001)


def test_curve_ends_with_all_rows_and_mistakes_are_sorted_by_what_they_cost(ladder):
    assert ladder.curve[-1].rows == ladder.split("time").training_rows
    lost = [one.lost_ms for one in ladder.mistakes]
    assert lost == sorted(lost, reverse=True)
    assert min(lost) >= 0
    assert sum(kind.share_of_lost for kind in ladder.mistake_kinds) == pytest.approx(1)
    wrong = 1 - ladder.split("time").rung(found.ENSEMBLE).accuracy.estimate
    assert sum(kind.rows for kind in ladder.mistake_kinds) == round(wrong * ladder.split("time").test_rows)


def test_definitions_stand_side_by_side(ladder):
    assert [one.name for one in ladder.worth.definitions] == ["seed_3_1", "seed_3_2", "stream_aware"]
    assert ladder.worth.definitions[0].agreement == 1
    assert ladder.worth.definitions[1].agreement < 1
    assert all(sum(one.mix.values()) == pytest.approx(1) for one in ladder.worth.definitions)


def test_figures_survive_as_json(ladder):
    assert Ladder.from_json(ladder.to_json()) == ladder


def test_pages_show_every_rung_and_need_nothing_else(ladder):
    page, text = render(ladder).decode(), ladder_markdown(ladder)
    for rung in ladder.splits[0].rungs:
        assert rung.name.replace("'", "&#39;") in page
        assert f"| {rung.name} |" in text
    assert re.findall(r"""(?:src|href)=["'](?!#)|@import|url\((?!#)""", page) == []
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert page.count("<svg") == 10
    assert page.startswith("<!doctype html>")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []


class Tags(HTMLParser):
    """Checks that every element that opens closes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br", "use", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("meta", "br", "use", "path"):
            assert self.open.pop() == tag


def test_true_sizes_and_times_give_the_oracles_own_costs(rows):
    dataset = rows.dataset
    measured = {
        f"{engine}_{what}": rows.numbers(f"{engine}_{what}") for engine in regress.ENGINES for what in QUANTITIES
    }
    costs = predicted_costs_ms(dataset, measured, "seed_3_1")
    np.testing.assert_allclose(costs, dataset.costs_ms[:, :3], rtol=1e-5)


def test_temperature_mends_confidence_that_is_too_high():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=4_000)
    said = np.where(rng.random(4_000) < 0.7, labels, (labels + 1) % 3)
    sure = np.full((4_000, 3), 0.005, np.float32)
    sure[np.arange(4_000), said] = 0.99
    assert fit_temperature(sure, labels) > 1.5
    mended = calibrate((sure[:2_000], labels[:2_000]), sure[2_000:], labels[2_000:])
    assert mended.error_before == pytest.approx(0.29, abs=0.03)
    assert mended.error_after < 0.05


def test_ceilings_are_read_from_a_manifest_and_nothing_else():
    manifest = {"repeatability": {"second_set": {"label_agreement": 0.98, "mean_regret": 0.001, "payloads": 3}}}
    (ceiling,) = ceilings_of(manifest)
    assert (ceiling.source, ceiling.agreement, ceiling.mean_regret) == ("second set", 0.98, 0.001)
    with pytest.raises(ValueError, match="give a library's manifest"):
        ceilings_of({"runs": 5})


def test_ceiling_falls_with_the_noise_of_repeated_measurements(rows):
    def repeated(sigma: float) -> Rows:
        """Every payload measured twice on one node."""
        half = rows.take(np.arange(rows.dataset.rows) % 2 == 0).table
        rng = np.random.default_rng(0)
        tables = [half]
        for _ in range(2):
            again = half.set_column(
                half.schema.get_field_index("transfer_id"),
                "transfer_id",
                pa.array([f"again{rng.integers(2**60)}" for _ in range(half.num_rows)]),
            )
            for name in ("hde_compression_time_ms", "amst_compression_time_ms"):
                times = again[name].to_numpy() * np.exp(rng.normal(0, sigma, half.num_rows))
                again = again.set_column(again.schema.get_field_index(name), name, pa.array(times))
            tables.append(again)
        return Rows.of(pa.concat_tables(tables))

    assert ceilings_in(rows, "seed_3_1", 0) == (), "no payload was measured twice"
    exact, noisy = (ceilings_in(repeated(sigma), "seed_3_1", 0) for sigma in (1e-9, 0.5))
    assert [one.agreement for one in exact] == pytest.approx([1, 1], abs=1e-3)
    predictor, two_measurements = (one.agreement for one in noisy)
    assert two_measurements < predictor < 0.99


def test_looks_are_counted_by_dataset(tmp_path):
    settings = trained.SETTINGS.model_copy(update={"home": tmp_path / "new"})
    assert count_looks(settings, "a").anywhere == 0
    record_look(settings, "a", "one")
    record_look(settings, "b", "two")
    looks = record_look(settings, "a", "three")
    assert (looks.here, looks.anywhere) == (2, 3)
    lines = (settings.home / FILE).read_text().splitlines()
    assert json.loads(lines[1])["command"] == "two"
    (settings.home / FILE).write_text("nonsense\n")
    with pytest.raises(ValueError, match="line 1 of"):
        count_looks(settings, "a")


def test_a_climb_is_one_look(ladder, settings):
    assert (ladder.looks.here, ladder.looks.anywhere) == (1, 1)
    assert count_looks(settings, ladder.dataset_digest).here == 1


def test_a_file_of_rows_becomes_the_pages(rows, settings, tmp_path, ladder, monkeypatch):
    path = tmp_path / "rows.parquet"
    pq.write_table(rows.table, path)
    monkeypatch.setattr("dwcp.release.ladder.climb.climb", lambda *_, **__: ladder)
    written = run_ladder(settings, to=tmp_path / "docs" / "eval.md", rows=path)
    assert written.markdown.read_text().startswith("# Evaluation of the compression selector\n\n## The ladder\n")
    assert written.page.read_bytes() == render(ladder)
    assert Ladder.from_json(written.figures.read_bytes()) == ladder


def test_other_files_are_refused_for_people(settings, tmp_path):
    other, few = tmp_path / "other.parquet", tmp_path / "few.parquet"
    other.write_text("rows")
    pq.write_table(pa.table({"region": ["us-east"]}), few)
    for path, line in ((other, "no readable Parquet file"), (few, r"lacks availability_zone, .*dwcp export")):
        with pytest.raises(ValueError, match=line):
            run_ladder(settings, to=tmp_path / "eval.md", rows=path)
    with pytest.raises(ValueError, match="no JSON object"):
        run_ladder(settings, to=tmp_path / "eval.md", rows=few, ceilings=other)
    assert not (tmp_path / "eval.md").exists()
