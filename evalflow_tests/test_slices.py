"""Slices: a hole that exists in one slice only is seen there, and what a slice cannot tell is said."""

import io

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evalflow.adapters.charts import as_cell, coverage_png
from evalflow.core.divergence import jsd
from evalflow.core.slices import MOST_VALUES, OTHER, measure_slice, slices_by, tag_value, thin_below
from evalflow.defs.golden import slice_tags

LABELS = {"a": "about a", "b": "about b", "c": "about c"}


def production(rows: list[tuple[str, str | None, float]]) -> pl.DataFrame:
    """Traces as (bin, value, weight), each in a session of its own."""
    return pl.DataFrame(
        {
            "item_id": [f"t{i}" for i in range(len(rows))],
            "session_id": [f"s{i}" for i in range(len(rows))],
            "bin": [row[0] for row in rows],
            "value": [row[1] for row in rows],
            "weight": [row[2] for row in rows],
        },
        schema_overrides={"value": pl.String, "weight": pl.Float64},
    )


def golden(bins: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"bin": bins}, schema={"bin": pl.String})


def test_a_hole_in_one_slice_is_seen_there() -> None:
    """Over all, suite and traffic agree; German asks b alone, and the cases say which language they are in."""
    rows = [("a", "en", 0.005)] * 100 + [("b", "de", 0.005)] * 100
    tags = [{"locale": "de"}, {"locale": "en"}]
    german, english = slices_by("locale", production(rows), golden(["a", "b"]), tags, LABELS)
    assert (german.value, english.value) == ("de", "en")
    assert german.slice_share == pytest.approx(0.5)
    assert german.jsd_raw == english.jsd_raw == 1.0
    everything = measure_slice("all", None, production(rows), golden(["a", "b"]), 0, LABELS)
    assert everything.jsd_raw == pytest.approx(0.0)
    (b, a) = german.bins
    assert (b.bin, b.production_share, b.golden_cases, b.density_ratio) == ("b", 1.0, 0, 0.0)
    assert (a.bin, a.production_share, a.golden_cases, a.density_ratio) == ("a", 0.0, 1, None)


def test_a_case_without_a_tag_speaks_for_every_slice() -> None:
    rows = [("a", "en", 0.5), ("a", "de", 0.5)]
    tags = [None, ["vip"], {"tier": "free"}, {"locale": "de"}]
    german, english = slices_by("locale", production(rows), golden(["a", "a", "b", "c"]), tags, LABELS)
    assert (german.n_golden, german.n_golden_named) == (4, 1)
    assert (english.n_golden, english.n_golden_named) == (3, 0)


def test_values_beyond_the_ten_largest_are_pooled() -> None:
    """A thousand locales are ten and one, and a real value called `other` is among the rest."""
    rows = [("a", f"x{i:04d}", 2.0 - i / 1000) for i in range(1000)] + [("b", OTHER, 50.0), ("b", None, 1.0)]
    tags = [{"locale": "x0999"}, {"locale": "nobody"}, {"locale": "x0000"}]
    found = slices_by("locale", production(rows), golden(["a", "b", "c"]), tags, LABELS)
    assert [own.value for own in found] == [*(f"x{i:04d}" for i in range(MOST_VALUES)), OTHER, None]
    other = found[MOST_VALUES]
    assert (other.n_sampled, other.n_golden_named) == (991, 2)
    assert found[0].n_golden_named == 1
    assert sum(own.n_sampled for own in found) == 1002


def test_long_values_are_cut_on_both_sides() -> None:
    long = "x" * 500
    (own,) = slices_by("locale", production([("a", long, 1.0)]), golden(["a"]), [{"locale": long}], LABELS)
    assert own.value == "x" * 60
    assert own.n_golden_named == 1


def test_a_slice_that_only_cases_name_has_no_shares() -> None:
    found = slices_by("locale", production([("a", "en", 1.0)]), golden(["a"]), [{"locale": "fr"}], LABELS)
    french = next(own for own in found if own.value == "fr")
    assert (french.n_sampled, french.slice_share, french.jsd_raw, french.m_eff) == (0, 0.0, None, 0.0)
    assert french.is_thin
    assert [row.density_ratio for row in french.bins] == [None]


def test_a_column_that_nobody_fills_gives_no_slices() -> None:
    assert slices_by("locale", production([("a", None, 1.0)]), golden(["a"]), [None], LABELS) == []


@pytest.mark.parametrize("cases", [[], ["a"]])
@pytest.mark.parametrize("rows", [[], [("a", "en", 1.0)], [("a", "en", 0.0), ("b", "en", 0.0)]])
def test_nothing_on_a_side_is_no_figure(rows: list[tuple[str, str, float]], cases: list[str]) -> None:
    """Without traffic of any weight, or without cases, there is no JSD and no ratio; the counts are there."""
    own = measure_slice("week", "2026-06-01", production(rows), golden(cases), 0, LABELS)
    has_both = bool(cases) and sum(weight for _, _, weight in rows) > 0
    assert (own.jsd_raw is not None) == has_both
    assert all((row.density_ratio is not None) == has_both for row in own.bins if row.bin == "a")
    assert (own.n_sampled, own.n_golden) == (len(rows), len(cases))


def test_a_thin_slice_says_so() -> None:
    """Thin: (K - 1) / (8 ln 2 m) above .05. Two bins need m of 3.6, three hundred bins 1,078."""
    assert thin_below(2) == pytest.approx(1 / (8 * np.log(2) * 0.05))
    assert thin_below(300) == pytest.approx(1078.4, abs=0.1)
    assert thin_below(1) == 2.0
    few, many = ([("a", "en", 1.0), ("b", "en", 1.0)] * n for n in (1, 20))
    assert measure_slice("locale", "en", production(few), golden(["a"]), 0, LABELS).is_thin
    assert not measure_slice("locale", "en", production(many), golden(["a"]), 0, LABELS).is_thin


def test_a_slice_that_missed_bins_by_luck_is_thin() -> None:
    """Four traces of one bin against 60 cases of 60 bins: over the one bin that was seen nothing would be in doubt."""
    labels = {f"b{n}": f"about {n}" for n in range(60)}
    own = measure_slice("locale", "en", production([("b0", "en", 1.0)] * 4), golden(list(labels)), 0, labels)
    assert own.m_eff >= thin_below(1)
    assert own.is_thin


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["en", "de", None]), st.floats(0.01, 5)),
        min_size=1,
        max_size=60,
    ),
    st.lists(st.sampled_from("abc"), max_size=20),
)
def test_slices_split_the_whole(rows: list[tuple[str, str | None, float]], cases: list[str]) -> None:
    """Shares of a slice sum to one, slices sum to the whole, and weighing them together gives the whole's shares."""
    frame = production(rows)
    frame = frame.with_columns(weight=pl.col("weight") / frame["weight"].sum())
    found = slices_by("locale", frame, golden(cases), [None] * len(cases), LABELS)
    if frame["value"].null_count() == len(frame):
        assert found == []
        return
    assert sum(own.slice_share for own in found) == pytest.approx(1.0)
    whole = measure_slice("all", None, frame, golden(cases), 0, LABELS)
    for name in {row[0] for row in rows}:
        parts = [row.production_share * own.slice_share for own in found for row in own.bins if row.bin == name]
        assert sum(parts) == pytest.approx(next(row.production_share for row in whole.bins if row.bin == name))
    for own in [whole, *found]:
        assert sum(row.production_share for row in own.bins) == pytest.approx(1.0)
        if cases:
            assert sum(row.jsd_term or 0 for row in own.bins) == pytest.approx(own.jsd_raw, abs=1e-12)
            counts = np.array([row.golden_cases for row in own.bins], dtype=float)
            assert own.jsd_raw == pytest.approx(
                jsd(np.array([r.production_share for r in own.bins]), counts), abs=1e-12
            )


@pytest.mark.parametrize(
    ("tags", "value"),
    [
        ({"locale": "de"}, "de"),
        ({"locale": 3}, "3"),
        ({"locale": None}, None),
        ({"locale": True}, None),
        (["de"], None),
        (None, None),
    ],
)
def test_what_a_tag_says(tags: object, value: str | None) -> None:
    assert tag_value(tags, "locale") == value


def test_a_promoted_case_is_tagged_with_the_slice_of_its_trace() -> None:
    row = {"locale": "de-DE", "user_tier": None, "text": "hello"}
    assert slice_tags(row, ["locale", "user_tier", "intent"]) == {"locale": "de-DE"}


def test_the_picture_holds_sixty_bins_and_ten_slices() -> None:
    """Readable in size and small in bytes, with text of strangers, missing cells and more bins than fit."""
    shares = np.random.default_rng(1).dirichlet(np.ones(64), 10).T
    ratios = np.where(shares > 0.01, 0.0, 40.0)
    shares[0, 0] = ratios[0, 0] = np.nan
    rows, columns = ["$\\frac{ <b>"] * 64, ["a very long name of a slice\nworth 3\nthin"] * 10
    png = coverage_png(shares, ratios, rows, columns, "$x")
    width, height = Image.open(io.BytesIO(png)).size
    assert (width, height) > (1400, 1200)
    assert len(png) < 250_000


def test_a_picture_of_nothing_known_is_drawn() -> None:
    """One bin, one slice, neither share nor ratio; drawn again it is the same, byte for byte."""
    nothing = np.array([[np.nan]])
    png = coverage_png(nothing, nothing, ["a"], ["b"], "c")
    assert png.startswith(b"\x89PNG")
    assert png == coverage_png(nothing, nothing, ["a"], ["b"], "c")


def test_a_strangers_text_stays_in_its_cell() -> None:
    assert as_cell("a|b\nc") == "a&#124;b c"
    assert as_cell("<b> `x` [y](z)") == "&#60;b&#62; &#96;x&#96; &#91;y&#93;(z)"
    links = "https://a.example www.b.example c@d.example @team/all (@one)"
    assert as_cell(links) == "https: //a.example www. b.example c@ d.example @ team/all (@ one)"
