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

from evalflow.core.sampling import RULES, SamplingPlan, draw, neyman, random_numbers

PLAN = SamplingPlan(
    target_per_day=150,
    uniform_share=0.35,
    strata_share=0.1,
    signal_share=0.4,
    uncertainty_share=0.15,
    strata_columns=("locale",),
    strata_floor=5.0,
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


def test_two_consumers_at_ten_percent_see_the_same_traces(world: pl.DataFrame) -> None:
    """One reads the whole day with all its columns, the other half of it with two: what both can see, both draw."""
    mine = draw(world, replace(UNIFORM_ONLY, target_per_day=150))
    half = world.filter(pl.col("locale") != "de").with_columns(is_negative=None, confidence=pl.lit(None, pl.Float64))
    theirs = draw(half, replace(UNIFORM_ONLY, target_per_day=len(half) // 10, uniform_share=0.3))
    seen = set(half["trace_id"])
    assert set(theirs["trace_id"]) == set(mine["trace_id"]) & seen
    assert len(theirs) > 80


def test_a_second_phase_with_its_own_salt_is_independent_of_the_first(world: pl.DataFrame) -> None:
    """Of what a first draw took, a second one at .5 takes half; with the first one's salt it would take nearly all."""
    taken = draw(world.with_columns(session_id=None), UNIFORM_ONLY)["trace_id"]
    again = (random_numbers("test/judge", taken) < 0.5).mean()
    # 150 traces: the standard error is .041.
    assert again == pytest.approx(0.5, abs=4 * 0.041)
    assert (random_numbers("test/session", taken) < 0.5).all()


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


def test_two_percent_at_random_plus_every_bad_signal_reads_true_when_weighted() -> None:
    """The planted rate is .10 and the plain mean of the sample reads .5: Hajek's bias lies within three standard errors.

    A ratio's own bias is of the order 1 / (number drawn at random), here .0004, far below the standard error.
    """
    n, n_salts = 8000, 60
    rng = np.random.default_rng(1)
    is_failure = np.arange(n) < n // 10
    is_negative = rng.random(n) < np.where(is_failure, 0.7, 0.05)
    day = pl.DataFrame(
        {
            "trace_id": [f"t{i}" for i in range(n)],
            "session_id": pl.Series([None] * n, dtype=pl.String),
            "is_negative": is_negative,
            "confidence": pl.Series([None] * n, dtype=pl.Float64),
            "locale": "en",
            "is_failure": is_failure,
        }
    )
    n_negative = int(is_negative.sum())
    target = round(n_negative + 0.02 * (n - n_negative))
    shares = {"uniform_share": 0.02 * n / target, "signal_share": n_negative / target}
    plan = replace(PLAN, target_per_day=target, strata_share=0.0, uncertainty_share=0.0, **shares)
    hajek, naive = [], []
    for number in range(n_salts):
        sample = draw(day, replace(plan, salt=f"repeat {number}"))
        assert sample["is_negative"].sum() == pytest.approx(n_negative, abs=10)
        weight, failed = 1 / sample["inclusion_probability"].to_numpy(), sample["is_failure"].to_numpy()
        hajek.append((weight * failed).sum() / weight.sum())
        naive.append(failed.mean())
    assert sample["pi_uniform"][0] == pytest.approx(0.02, rel=0.02)
    assert sample.filter(pl.col("is_negative"))["pi_signal"].min() > 0.98
    assert abs(np.mean(hajek) - 0.10) < 3 * np.std(hajek) / np.sqrt(n_salts)
    assert np.mean(naive) > 0.45


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
    of_rule = {rule: sample[f"pi_{rule}"].to_numpy() for rule in RULES}
    largest = np.maximum(np.maximum(of_rule["strata"], of_rule["signal"]), of_rule["uncertainty"])
    assert (pi.to_numpy() == 1 - (1 - of_rule["uniform"]) * (1 - largest)).all()
    assert all(((one >= 0) & (one <= 1)).all() for one in of_rule.values())
    assert (of_rule["signal"][~sample["is_negative"].to_numpy()] == 0).all()
    for rule in RULES:
        chose = sample["rules"].list.contains(rule).to_numpy()
        assert (of_rule[rule][chose] > 0).all(), "a rule never chooses where it gives no chance"
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
    """Ten of a slice of 20 are a probability of .5 for each, whatever its failures; and no slice is left without."""
    n, n_small = 3000, 20
    day = traffic(n).with_columns(
        locale=pl.Series(["is"] * n_small + ["de"] * 480 + ["en"] * 2500),
        is_negative=pl.Series([False] * 500 + [i % 3 == 0 for i in range(2500)]),
    )
    plan = replace(PLAN, target_per_day=300, strata_share=0.15, strata_floor=10.0)
    sample = pl.concat([draw(day, replace(plan, salt=f"salt {number}")) for number in range(20)])
    assert sample.filter(pl.col("locale") == "is")["pi_strata"].unique().to_list() == pytest.approx([0.5])
    for name, size in {"is": n_small, "de": 480, "en": 2500}.items():
        assert sample.filter(pl.col("locale") == name)["pi_strata"].min() >= 10 / size - 1e-12
    # 20 draws of 20 traces at .5 and more: 200 with a standard deviation of 10.
    assert len(sample.filter(pl.col("locale") == "is")) > 170


def test_a_slice_without_a_value_is_a_slice_of_its_own() -> None:
    day = traffic(1000).with_columns(locale=pl.Series([None] * 10 + ["en"] * 990, dtype=pl.String))
    plan = replace(UNIFORM_ONLY, uniform_share=0.5, strata_share=0.5, strata_floor=20.0)
    sample = draw(day, plan)
    # Ten traces are fewer than the floor: certain.
    assert sample.filter(pl.col("locale").is_null())["pi_strata"].to_list() == [1.0] * 10


@st.composite
def slices_of_a_day(draw_: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    sizes = draw_(st.lists(st.integers(1, 5000), min_size=1, max_size=12))
    return np.array(sizes, float), np.array([draw_(st.integers(0, size)) for size in sizes], float)


@given(day=slices_of_a_day(), total=st.floats(0.5, 20_000), floor=st.floats(0, 50))
def test_the_allocation_spends_its_total_between_floor_and_size(
    day: tuple[np.ndarray, np.ndarray], total: float, floor: float
) -> None:
    sizes, negatives = day
    given_out = neyman(sizes, negatives, total, floor)
    assert given_out.sum() == pytest.approx(min(total, sizes.sum()))
    assert (given_out <= sizes).all()
    floors = np.minimum(sizes, floor)
    if floors.sum() <= total:
        assert (given_out >= floors * (1 - 1e-9)).all()
    else:  # equal parts, or all that there is
        assert given_out == pytest.approx(np.minimum(sizes, given_out.max()))
    assert (neyman(sizes, negatives, total * 1.5, floor) >= given_out * (1 - 1e-9)).all(), "more labels take none away"


def test_neyman_is_the_least_variance_that_keeps_the_floors() -> None:
    """No small move of expected traces from one slice to another lowers the error; scipy's optimiser finds the same."""
    from scipy.optimize import minimize

    sizes, negatives, total, floor = np.array([8000.0, 900, 60, 40]), np.array([160.0, 270, 54, 2]), 200.0, 10.0
    f = (negatives.sum() + 0.5) / (sizes.sum() + 1)
    f_h = (negatives + 20 * f) / (sizes + 20)
    spread = f_h * (1 - f) ** 2 + (1 - f_h) * f**2  # mean of (y - f)^2 in the slice
    found = minimize(
        lambda n_h: (sizes**2 * spread / n_h).sum() / 1e4,
        np.full(4, 30.0),
        bounds=[(min(size, floor), size) for size in sizes],
        constraints={"type": "eq", "fun": lambda n_h: n_h.sum() - total},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.success
    assert neyman(sizes, negatives, total, floor) == pytest.approx(found.x, rel=1e-3)
    assert neyman(sizes, negatives, total, floor)[3] == 10.0


def test_a_day_without_negative_signals_is_allocated_all_the_same() -> None:
    """The prior keeps every slice's deviation above 0, so that nothing is divided by it."""
    given_out = neyman(np.array([5000.0, 500, 50]), np.zeros(3), 100.0, 0.0)
    assert given_out.sum() == pytest.approx(100)
    assert (np.diff(given_out) < 0).all()
    assert given_out.min() > 100 * 50 / 5550, "a slice of which less is known gets more than its part"


@pytest.mark.parametrize("failure_rates", [(0.02, 0.1, 0.4), (0.05, 0.3, 0.9), (0.03, 0.1, 0.95)])
def test_neymans_allocation_has_less_error_than_equal_parts(failure_rates: tuple[float, ...]) -> None:
    """The weighted failure rate over many salts: as precise as its formula says, and more than with equal parts."""
    sizes = np.array([1600, 300, 100]) if failure_rates[1] < 0.3 else np.array([800, 800, 400])
    rates = np.array(failure_rates)
    is_failure = np.concatenate([np.arange(n) < round(n * f) for n, f in zip(sizes, rates, strict=True)])
    slice_ = np.repeat(np.arange(3), sizes)
    truth, n = is_failure.mean(), len(is_failure)
    allocations = {"neyman": neyman(sizes.astype(float), rates * sizes, 150.0, 5.0), "equal": np.full(3, 50.0)}
    rng = np.random.default_rng(7)
    u = rng.random((1500, n))
    variance = {}
    for name, n_h in allocations.items():
        pi = (n_h / sizes)[slice_]
        weight = (u < pi) / pi
        estimate = (weight @ is_failure) / weight.sum(axis=1)
        variance[name] = estimate.var()
        # Linearised: the sum of (1 - pi) / pi (y - truth)^2 over the day. A variance over 1,500 salts has a
        # standard error of sqrt(2 / 1,500) = 3.7 %, and the ratio adds a term of the order 1 / 150.
        assert variance[name] == pytest.approx(((1 - pi) / pi * (is_failure - truth) ** 2).sum() / n**2, rel=0.15)
        assert estimate.mean() == pytest.approx(truth, abs=4 * estimate.std() / np.sqrt(1500) + truth / 150)
    assert variance["neyman"] < variance["equal"]


def test_the_deviation_is_that_from_the_days_rate() -> None:
    """Hajek means over a day err by it: with the one within slices, N_h sqrt(f_h (1 - f_h)), equal parts may be better."""
    sizes, rates, total = np.array([8000.0, 8000, 4000]), np.array([0.05, 0.3, 0.9]), 300.0
    day_rate = (sizes * rates).sum() / sizes.sum()
    square = rates * (1 - rates) + (rates - day_rate) ** 2
    within = sizes * np.sqrt(rates * (1 - rates))
    allocations = (neyman(sizes, sizes * rates, total, 0.0), np.full(3, total / 3), total * within / within.sum())
    ours, equal, by_within = (((sizes - n_h) / n_h * sizes * square).sum() for n_h in allocations)
    assert ours < equal < by_within


def test_signals_that_are_unknown_count_as_none() -> None:
    day = traffic(1000).with_columns(is_negative=pl.lit(None, pl.Boolean), confidence=pl.lit(None, pl.Float64))
    rules = set(draw(day, PLAN)["rules"].explode())
    assert rules == {"uniform", "strata"}


def test_an_empty_day_gives_an_empty_sample_with_all_columns() -> None:
    empty = draw(traffic(0), PLAN)
    assert len(empty) == 0
    assert empty.schema == draw(traffic(10), PLAN).schema
