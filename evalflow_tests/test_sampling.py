"""Sampling: every stored inclusion probability is the true one, and figures weighted by it are unbiased."""

import hashlib
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

from evalflow.core.sampling import SamplingPlan, draw, random_numbers

PLAN = SamplingPlan(
    target_per_day=150,
    uniform_share=0.35,
    strata_share=0.1,
    signal_share=0.4,
    uncertainty_share=0.15,
    strata_columns=("locale",),
    uncertain_below=0.5,
    salt="test",
)
UNIFORM_ONLY = replace(PLAN, uniform_share=1.0, strata_share=0.0, signal_share=0.0, uncertainty_share=0.0)
N_TRACES = 1500
N_SALTS = 400
FAILURE_RATE = 0.10


def traffic(n: int, seed: int = 0) -> pl.DataFrame:
    """A day of ``n`` traces, exactly a tenth of them failures, which complain and are unsure more often."""
    rng = np.random.default_rng(seed)
    is_failure = rng.permutation(np.arange(n) < round(FAILURE_RATE * n))
    session = rng.integers(0, max(n // 3, 1), n)
    has_session = rng.random(n) < 0.8
    return pl.DataFrame(
        {
            "trace_id": [f"t{i}" for i in range(n)],
            "session_id": [f"s{s}" if known else None for s, known in zip(session, has_session, strict=True)],
            "is_negative": rng.random(n) < np.where(is_failure, 0.7, 0.05),
            "confidence": np.where(
                rng.random(n) < 0.9, np.clip(rng.normal(0.75 - 0.2 * is_failure, 0.2, n), 0, 1), np.nan
            ),
            "locale": rng.choice(["en", "de", "is"], n, p=[0.80, 0.18, 0.02]),
            "is_failure": is_failure,
        },
        schema_overrides={"trace_id": pl.String, "session_id": pl.String},
    ).with_columns(pl.col("confidence").fill_nan(None))


@pytest.fixture(scope="module")
def world() -> pl.DataFrame:
    return traffic(N_TRACES)


@pytest.fixture(scope="module")
def many_draws(world: pl.DataFrame) -> list[pl.DataFrame]:
    """The same day drawn under many salts: the sampling distribution itself."""
    return [draw(world, replace(PLAN, salt=f"salt {n}")) for n in range(N_SALTS)]


@pytest.fixture(scope="module")
def frequencies(world: pl.DataFrame, many_draws: list[pl.DataFrame]) -> pl.DataFrame:
    """Per trace: its stored probability and how often the salts drew it, by any rule and by each."""
    drawn = pl.concat(many_draws)
    counted = drawn.group_by("trace_id").agg(
        pl.col("inclusion_probability").first().alias("pi"),
        pl.col("inclusion_probability").n_unique().alias("n_pi"),
        (pl.len() / N_SALTS).alias("frequency"),
        *(
            (pl.col("rules").list.contains(rule).sum() / N_SALTS).alias(rule)
            for rule in ("uniform", "signal", "uncertainty")
        ),
    )
    return world.join(counted, on="trace_id", how="left")


# -- permanent random numbers -------------------------------------------------------------------------------


def test_a_number_is_the_first_53_bits_of_the_hash_of_salt_and_id() -> None:
    digest = hashlib.blake2b(b"salt\x1ftrace-1", digest_size=8).hexdigest()
    assert random_numbers("salt", pl.Series(["trace-1"]))[0] == int(digest, 16) // 2**11 / 2**53


def test_numbers_are_uniform_and_independent_between_salts() -> None:
    ids = pl.Series([f"trace-{n}" for n in range(20_000)])
    one, other = random_numbers("one", ids), random_numbers("other", ids)
    assert one.min() >= 0
    assert one.max() < 1
    assert stats.kstest(one, "uniform").pvalue > 0.001
    # The standard error of a correlation of independent columns is 1 / sqrt(20,000) = .007; four of them.
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


@given(ids=st.lists(st.text(), min_size=1, max_size=20), salt=st.text(max_size=10))
def test_a_number_depends_on_salt_and_id_alone(ids: list[str], salt: str) -> None:
    together = random_numbers(salt, pl.Series(ids))
    assert together.tolist() == [random_numbers(salt, pl.Series([one]))[0] for one in ids]


@given(salt=st.text(max_size=8), plan=st.sampled_from([PLAN, UNIFORM_ONLY]))
@hypothesis_settings(max_examples=15)
def test_a_ten_percent_sample_lies_inside_the_twenty_percent_sample_of_the_same_salt(
    salt: str, plan: SamplingPlan
) -> None:
    day = traffic(500)
    small = draw(day, replace(plan, salt=salt, target_per_day=50))
    large = draw(day, replace(plan, salt=salt, target_per_day=100))
    assert set(small["trace_id"]) <= set(large["trace_id"])


def test_the_same_salt_draws_the_same_rows_whatever_their_order(world: pl.DataFrame) -> None:
    shuffled = world.sample(fraction=1.0, shuffle=True, seed=3)
    assert draw(world, PLAN).sort("trace_id").equals(draw(shuffled, PLAN).sort("trace_id"))


# -- the probabilities are true -----------------------------------------------------------------------------


def test_hajek_is_unbiased_where_the_naive_average_is_far_off(
    world: pl.DataFrame, many_draws: list[pl.DataFrame]
) -> None:
    hajek, naive = [], []
    for sample in many_draws:
        weight, failed = 1 / sample["inclusion_probability"].to_numpy(), sample["is_failure"].to_numpy()
        hajek.append((weight * failed).sum() / weight.sum())
        naive.append(failed.mean())
    assert world["is_failure"].mean() == FAILURE_RATE
    # One draw's SD is about .02, so the mean over 400 salts has a standard error of about .001: five of them.
    assert np.std(hajek) < 0.03
    assert np.mean(hajek) == pytest.approx(FAILURE_RATE, abs=0.005)
    assert np.mean(naive) > 0.25


def test_every_trace_is_drawn_as_often_as_its_probability_says(frequencies: pl.DataFrame) -> None:
    # With pi >= .03, 400 salts miss a trace with probability under .97^400 = 5e-6, so every trace was seen.
    assert frequencies["pi"].null_count() == 0
    assert frequencies["n_pi"].max() == 1, "a probability must not depend on the salt"
    pi, seen = frequencies["pi"].to_numpy(), frequencies["frequency"].to_numpy()
    z = (seen - pi) / np.sqrt(pi * (1 - pi) / N_SALTS)
    # 1,500 standard normals: the mean square is 1 with SD sqrt(2 / 1,500) = .037, about .06 as sessions go
    # together; the largest of 1,500 lies near 3.4, and a binomial of small pi has a longer tail.
    assert np.mean(z**2) == pytest.approx(1.0, abs=0.2)
    assert np.abs(z).max() < 5.5
    assert abs(np.mean(z)) < 0.15


def test_the_union_is_one_minus_both_misses_where_rules_share_a_number(frequencies: pl.DataFrame) -> None:
    """A complaint that is also uncertain: its two trace rules share a number, so only the larger counts."""
    both = frequencies.filter(pl.col("is_negative") & (pl.col("confidence") < PLAN.uncertain_below))
    assert len(both) > 30
    session, signal, uncertain = (both[rule].mean() for rule in ("uniform", "signal", "uncertainty"))
    union = 1 - (1 - session) * (1 - max(signal, uncertain))
    as_if_independent = 1 - (1 - session) * (1 - signal) * (1 - uncertain)
    # Each group mean rests on over 30 x 400 trials: its standard error is at most .5 / sqrt(12,000) = .005.
    assert both["pi"].mean() == pytest.approx(union, abs=0.01)
    assert both["frequency"].mean() == pytest.approx(union, abs=0.01)
    assert as_if_independent > union + 0.05


def test_the_expected_size_is_the_target(frequencies: pl.DataFrame, many_draws: list[pl.DataFrame]) -> None:
    assert frequencies["pi"].sum() == pytest.approx(PLAN.target_per_day, abs=1e-6)
    sizes = np.array([len(sample) for sample in many_draws])
    assert sizes.mean() == pytest.approx(PLAN.target_per_day, abs=4 * sizes.std() / np.sqrt(N_SALTS))


@given(
    target=st.integers(1, 400),
    shares=st.tuples(st.floats(0.05, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    n=st.integers(0, 400),
)
@hypothesis_settings(max_examples=40)
def test_any_plan_gives_every_drawn_trace_a_probability_above_zero(
    target: int, shares: tuple[float, ...], n: int
) -> None:
    uniform, strata, signal, uncertainty = shares
    plan = replace(
        PLAN,
        target_per_day=target,
        uniform_share=uniform,
        strata_share=strata,
        signal_share=signal,
        uncertainty_share=uncertainty,
    )
    sample = draw(traffic(n), plan)
    pi = sample["inclusion_probability"]
    assert pi.is_between(0, 1, closed="right").all()
    assert (pi == 1 - (1 - sample["pi_session"]) * (1 - sample["pi_trace"])).all()
    assert (sample["rules"].list.len() > 0).all()
    assert (sample["day_traces"] == n).all()


# -- what the rules promise ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 149, 150])
def test_a_day_up_to_the_target_is_kept_whole_with_certainty(n: int) -> None:
    day = traffic(n)
    sample = draw(day, PLAN)
    assert sample["trace_id"].to_list() == day["trace_id"].to_list()
    assert (sample["inclusion_probability"] == 1.0).all()
    assert sample["rules"].to_list() == [["uniform"]] * n


def test_a_day_just_above_the_target_is_sampled() -> None:
    assert draw(traffic(151), PLAN)["inclusion_probability"].min() < 1


def test_the_uniform_rule_draws_whole_sessions(world: pl.DataFrame) -> None:
    sample = draw(world, UNIFORM_ONLY)
    drawn = sample.filter(pl.col("session_id").is_not_null())
    size = dict(world.group_by("session_id").len().iter_rows())
    assert drawn["session_id"].n_unique() > 20
    assert all(n == size[session] for session, n in drawn.group_by("session_id").len().iter_rows())


def test_traces_without_a_session_are_drawn_one_by_one() -> None:
    day = traffic(2000).with_columns(session_id=pl.lit(None, pl.String))
    sample = draw(day, UNIFORM_ONLY)
    # Were they one session, all or none would come; one by one it is binomial:
    # 150 +- 4 x sqrt(2000 x .075 x .925) = 47.
    assert len(sample) == pytest.approx(150, abs=47)
    assert sample["session_id"].null_count() == len(sample)


def test_a_small_slice_gets_its_floor() -> None:
    """Three slices share 15 % of 300: 15 each, so a slice of 20 is drawn with at least 15 / 20 = .75."""
    n, n_small = 3000, 20
    day = traffic(n).with_columns(locale=pl.Series(["is"] * n_small + ["de"] * 480 + ["en"] * 2500))
    plan = replace(
        PLAN,
        target_per_day=300,
        uniform_share=0.6,
        strata_share=0.15,
        signal_share=0.15,
        uncertainty_share=0.1,
    )
    sample = draw(day, plan)
    assert sample.filter(pl.col("locale") == "is")["pi_trace"].min() >= 0.75
    # At pi >= .75 fewer than 10 of 20 come for under .4 % of salts (binomial); uniformly 2 would be expected.
    assert len(sample.filter(pl.col("locale") == "is")) >= 10


def test_a_slice_without_a_value_is_a_slice_of_its_own() -> None:
    day = traffic(1000).with_columns(locale=pl.Series([None] * 10 + ["en"] * 990, dtype=pl.String))
    plan = replace(UNIFORM_ONLY, uniform_share=0.5, strata_share=0.5)
    sample = draw(day, plan)
    # Half of 150 over two slices is 37.5 for ten traces: certain.
    assert sample.filter(pl.col("locale").is_null())["pi_trace"].to_list() == [1.0] * 10


def test_signals_that_are_unknown_count_as_none() -> None:
    day = traffic(1000).with_columns(is_negative=pl.lit(None, pl.Boolean), confidence=pl.lit(None, pl.Float64))
    rules = set(draw(day, PLAN)["rules"].explode())
    assert rules == {"uniform", "strata"}


def test_an_empty_day_gives_an_empty_sample_with_all_columns() -> None:
    empty = draw(traffic(0), PLAN)
    assert len(empty) == 0
    assert empty.schema == draw(traffic(10), PLAN).schema
