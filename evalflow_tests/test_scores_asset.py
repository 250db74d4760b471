"""Runs of the suite become a weekly series: recorded once, seen only by later weeks, never without what they cover."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    COVERAGE_METRICS,
    QUALITY_METRICS,
    SUITE_RUNS,
    SUITE_SCORES,
    Table,
)
from evalflow.core.attempts import attempts_of
from evalflow.core.grading import SIGNALS_GRADER
from evalflow.core.records import GoldenCase, parse_golden_case
from evalflow.defs.scores import SCORES, score_week
from evalflow.errors import BadInputError
from evalflow.runner import instance_of, walk
from evalflow_tests.test_cli import Outcome, evalflow

FIRST, WEEKS = date(2026, 6, 1), 6
LAST = FIRST + timedelta(weeks=WEEKS - 1)
SHARES = {"parcels": 0.5, "refunds": 0.3, "hole": 0.2}
"""Planted: a fifth of the traffic lies where no case is."""
N_CASES = 60


def monday(number: int) -> date:
    return FIRST + timedelta(weeks=number)


def sunday(number: int) -> date:
    return monday(number) + timedelta(days=6)


def write(home: Home, table: Table, key: date, rows: list[dict[str, Any]]) -> None:
    full = [{name: row.get(name) for name in table.schema} for row in rows]
    home.lake.write(table, key, pl.DataFrame(full, schema=table.schema), made_from=f"{table.name} {key}")


def measured(home: Home, number: int, jsd: float = 0.1, pass_rate: float = 0.8) -> None:
    """A week as the stations before would have left it, with the suite of its Sunday dealt over two of three bins."""
    week = monday(number)
    golden = [
        {"side": "golden", "item_id": case.case_id, "bin": "parcels" if case.case_id < "c40" else "refunds"}
        for case in home.ledger.as_of(sunday(number))
    ]
    write(home, BIN_ASSIGNMENTS, week, [{"side": "production", "item_id": "t1", "bin": "parcels"}, *golden])
    head = {"m_eff": 2000.0, "jsd": jsd, "jsd_sd": 0.005, "taxonomy_id": "2026-06-aaaa", "n_bins": 3}
    bins = [{"bin": name, "production_share": share, "weighting": "traffic"} for name, share in SHARES.items()]
    write(home, COVERAGE_METRICS, week, [{**head, **row} for row in bins])
    costs = {"latency_p95_ms": 900.0, "cost_per_trace_usd": 0.002}
    graded = {"grader": SIGNALS_GRADER, "grader_version": "1", "pass_rate": pass_rate, "pass_rate_se": 0.01}
    write(home, QUALITY_METRICS, week, [{**graded, **costs}, {**graded, "bin": "parcels", "pass_rate": 0.1}])


def add_cases(home: Home, names: list[str], created_at: str = "2026-05-20T09:00:00Z", text: str = "about") -> None:
    rows = [{"case_id": name, "input": f"{text} {name}", "created_at": created_at} for name in names]
    parsed = [parse_golden_case(row, 10**6) for row in rows]
    home.ledger.import_cases([case for case in parsed if isinstance(case, GoldenCase)], "test", home.now())


def results(failing: int = 0) -> dict[str, bool | None]:
    """All cases, the first so many failing: they lie in the bin of parcels."""
    return {f"c{n:02d}": n >= failing for n in range(N_CASES)}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Six closed weeks that nothing happens in, and a suite of 60 from before them."""
    opened = open_home(tmp_path / "home")
    write_setting(opened.path, "traffic_start", FIRST)
    write_setting(opened.path, "traffic_end", sunday(WEEKS - 1))
    opened = opened.reloaded().prepare()
    add_cases(opened, list(results()))
    for number in range(WEEKS):
        measured(opened, number)
    return opened


def record(home: Home, outcomes: dict[str, bool | None], ran_on: date, name: str | None = None) -> None:
    home.suite_runs.add(attempts_of(outcomes), ran_on, name, "results.jsonl", datetime(2026, 7, 20, tzinfo=UTC))


def import_run(home: Home, folder: Path, outcomes: dict[str, Any], *options: object, extra: str = "") -> Outcome:
    path = folder / "results.jsonl"
    lines = "".join(json.dumps({"case_id": case_id, "pass": passed}) + "\n" for case_id, passed in outcomes.items())
    path.write_text(lines + extra)
    return evalflow("score", "import", path, *options, home=home.path)


# -- the record of runs ----------------------------------------------------------------------------------------


def test_a_run_is_recorded_once_and_published(home: Home, tmp_path: Path) -> None:
    said = import_run(home, tmp_path, {**results(2), "c59": None}, "--ran-on", "2026-06-10", "--name", "candidate 7")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(
        "The run of 2026-06-10 is recorded: 60 cases in the suite, 57 passed, 2 failed, 1 unscored, 0 without a result."
    )
    again = import_run(
        home, tmp_path, {**results(2), "c59": None}, "--ran-on", "2026-06-10", "--name", "candidate 7", "--json"
    )
    assert (again.code, again.document["is_new"]) == (0, False)
    (key,) = home.suite_runs.keys()
    assert again.document["run_id"] == key.run_id
    rows = home.lake.read(SUITE_RUNS, home.lake.keys(SUITE_RUNS))
    assert dict(rows.group_by("verdict").len().iter_rows()) == {"pass": 57, "fail": 2, "unscored": 1}
    assert rows["name"].unique().to_list() == ["candidate 7"]
    assert import_run(home, tmp_path, results(2), "--ran-on", "2026-06-11").code == 0
    assert len(home.suite_runs.keys()) == 2


def test_of_two_runs_on_a_day_the_one_recorded_later_counts(home: Home) -> None:
    record(home, results(9), sunday(2))
    record(home, results(1), sunday(2))
    assert score_week(home, monday(2))["n_passed"] == N_CASES - 1
    recorded_at = datetime(2026, 7, 20, tzinfo=UTC)
    again = home.suite_runs.add(attempts_of(results(9)), sunday(2), None, "results.jsonl", recorded_at)
    assert (again.is_new, again.standing) == (False, home.suite_runs.keys()[1]), "known already, and a later one stands"
    assert score_week(home, monday(2))["n_passed"] == N_CASES - 1


def test_a_run_that_was_edited_by_hand_is_refused(home: Home) -> None:
    record(home, results(9), sunday(2))
    (path,) = home.suite_runs.journal.root.glob("*.jsonl")
    path.write_text(path.read_text().replace('"fail"', '"pass"'))
    with pytest.raises(BadInputError, match="was changed after it was written"):
        score_week(home, monday(2))
    for name in ("run-1", f"run-2026-13-45-000001-{'a' * 32}"):
        path = path.rename(path.with_name(f"{name}.jsonl"))
        with pytest.raises(BadInputError, match=rf"a file {name}\.jsonl that evalflow did not write"):
            score_week(home, monday(2))


def test_what_cannot_be_recorded_is_refused_in_a_sentence_and_leaves_nothing(home: Home, tmp_path: Path) -> None:
    """The future, strangers only, a contradiction, an unusable line, an empty suite, a name that is none."""
    refusals = [
        (import_run(home, tmp_path, results(), "--ran-on", "2026-07-14"), 2, "--ran-on 2026-07-14 lies in the future"),
        (import_run(home, tmp_path, results(), "--ran-on", "soon"), 2, "--ran-on 'soon' is not a day"),
        (import_run(home, tmp_path, results(), "--name", " "), 2, "--name ' ' is no name"),
        (import_run(home, tmp_path, {"who": True}), 4, "None of the 1 case of "),
        (
            import_run(home, tmp_path, results(), extra='{"case_id": "c01", "pass": false}'),
            4,
            "The case 'c01' is a pass",
        ),
        (import_run(home, tmp_path, results(), "--ran-on", "2026-05-01"), 3, "The golden set has no cases as of"),
    ]
    for said, code, message in refusals:
        assert (said.code, said.message.startswith(message)) == (code, True), said
    bad = import_run(home, tmp_path, results(), extra='{"case_id": "c01", "pass": "yes"}')
    assert bad.code == 4
    assert "results.jsonl:61: pass is 'yes', not true, false or null" in bad.err
    assert "nothing was recorded" in bad.err
    assert home.suite_runs.keys() == []


def test_where_traffic_is_over_a_run_without_a_day_is_of_the_last_one(home: Home, tmp_path: Path) -> None:
    """Its today is the day after, which no week holds."""
    said = import_run(home, tmp_path, results(10))
    assert (said.code, said.out.splitlines()[-1]) == (0, "`evalflow score` shows what it stands for.")
    assert evalflow("score", "--json", home=home.path).document["weeks"][-1]["ran_on"] == "2026-07-12"


def test_a_run_that_no_measured_week_sees_says_from_when_it_counts(home: Home, tmp_path: Path) -> None:
    said = import_run(home, tmp_path, results(10), "--ran-on", "2026-07-13")
    counts = "from the week of 2026-07-13, but traffic ends on 2026-07-12; record a run of that time with --ran-on"
    assert said.out.splitlines()[-1] == f"No measured week ends on or after 2026-07-13: the run counts {counts}."
    again = import_run(home, tmp_path, results(10), "--ran-on", "2026-07-13", "--json").document
    assert (again["first_week"], again["is_in_a_measured_week"]) == ("2026-07-13", False)
    said = evalflow("score", home=home.path)
    assert said.code == 3
    newest = f"the newest run is of 2026-07-13, which counts {counts}"
    assert said.err.strip() == f"There is no run of the suite up to 2026-07-12; {newest}."
    assert (
        "which counts from the week of 2026-07-13, but"
        in evalflow("score", "--as-of", "2026-06-09", home=home.path).err
    )


def test_the_first_of_three_runs_on_a_day_again_says_that_it_does_not_count(home: Home, tmp_path: Path) -> None:
    for outcomes in (results(9), results(1)):
        record(home, outcomes, date(2026, 6, 10))
    said = import_run(home, tmp_path, results(9), "--ran-on", "2026-06-10")
    assert "was recorded before, nothing was added" in said.out
    assert "It does not count: another run of 2026-06-10 was recorded after it." in said.out
    document = import_run(home, tmp_path, results(9), "--ran-on", "2026-06-10", "--json").document
    assert document["standing_run_id"] == home.suite_runs.keys()[1].run_id != document["run_id"]
    record(home, results(9), date(2026, 6, 10), "third")
    assert score_week(home, monday(1))["n_passed"] == N_CASES - 9


def test_strangers_and_repeats_are_named_and_missing_cases_counted(home: Home, tmp_path: Path) -> None:
    outcomes = {name: passed for name, passed in results().items() if name != "c07"} | {"[b]who": True}
    said = import_run(home, tmp_path, outcomes, extra='{"case_id": "c01", "pass": true}\n')
    assert said.code == 0
    assert "59 passed, 0 failed, 0 unscored, 1 without a result" in said.out
    assert "  [b]who: not in the golden set" in said.err.splitlines()
    assert "1 case given more than once with the same outcome, counted once: 'c01'" in said.err


# -- the week --------------------------------------------------------------------------------------------------


def test_a_week_shows_its_score_with_what_it_covers(home: Home) -> None:
    """10 of 40 fail in parcels: (.5 * .75 + .3) / .8 = .84375, .675 of all traffic if the hole fails, .875 if it passes."""
    record(home, results(10), sunday(4) - timedelta(days=3), "candidate 7")
    row = score_week(home, monday(4))
    assert (row["n_cases"], row["n_scored"], row["n_passed"], row["run_age_days"]) == (60, 60, 50, 3)
    assert row["pass_rate"] == pytest.approx(50 / 60)
    assert row["weighted_pass_rate"] == pytest.approx(0.84375)
    assert row["weighted_pass_rate_low"] < 0.84375 < row["weighted_pass_rate_high"]
    assert row["covered_share"] == pytest.approx(0.8)
    assert (row["bound_low"], row["bound_high"]) == pytest.approx((0.675, 0.875))
    assert (row["jsd"], row["pass_rate_signals"], row["latency_p95_ms"]) == (0.1, 0.8, 900.0)
    assert row["reason"] is None


def test_a_later_run_changes_no_earlier_week(home: Home) -> None:
    """Neither rows nor fingerprints of the weeks before it, which is what makes a backfill repeat what was published."""
    record(home, results(10), sunday(1))
    before = [(score_week(home, monday(n)), SCORES.made_from(home, monday(n))) for n in range(WEEKS)]
    assert [row["ran_on"] for row, _ in before] == [None, *[sunday(1)] * 5]
    record(home, results(0), monday(4))
    after = [(score_week(home, monday(n)), SCORES.made_from(home, monday(n))) for n in range(WEEKS)]
    assert after[:4] == before[:4]
    assert [row["n_passed"] for row, _ in after[3:]] == [50, 60, 60]
    assert all(after[n][1] != before[n][1] for n in (4, 5))


def no_result(home: Home) -> None:
    record(home, {f"c{n:02d}": None for n in range(N_CASES)}, FIRST)


def no_suite(home: Home) -> None:
    home.ledger.retire(list(results()), "gone", "test", datetime(2026, 6, 2, tzinfo=UTC))
    record(home, results(), FIRST)


def no_traffic(home: Home) -> None:
    record(home, results(), FIRST)
    write(home, COVERAGE_METRICS, LAST, [])


def no_bin(home: Home) -> None:
    record(home, results(), FIRST)
    write(home, BIN_ASSIGNMENTS, LAST, [{"side": "production", "item_id": "t1", "bin": "parcels"}])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda home: None, "no run of the suite is recorded up to 2026-07-12"),
        (no_result, "the run of 2026-06-01 scored no case of the suite as it stands on 2026-07-12"),
        (no_suite, "the golden set has no cases as of 2026-07-12"),
        (no_traffic, "the coverage of the week is not known, or its window holds no traces"),
        (no_bin, "no scored case lies in a bin with traffic"),
    ],
)
def test_a_week_without_a_score_says_why_and_shows_no_rate_alone(home: Home, spoil: Any, reason: str) -> None:
    spoil(home)
    row = score_week(home, LAST)
    assert (row["weighted_pass_rate"], row["reason"]) == (None, reason)
    assert row["diagnosis"] == "cannot_tell"
    if row["pass_rate"] is not None:
        assert row["covered_share"] == 0.0


def test_a_result_counts_only_for_what_the_case_said_when_it_ran(home: Home) -> None:
    """One case is changed after the run, one came after it: neither has a result yet; the rest still counts."""
    record(home, {**results(), "c60": True}, sunday(2))
    changed = [{"case_id": "c03", "input": "asks something else now"}]
    parsed = [parse_golden_case(row, 10**6) for row in changed]
    home.ledger.import_cases(
        [p for p in parsed if isinstance(p, GoldenCase)], "test", datetime(2026, 6, 23, tzinfo=UTC)
    )
    add_cases(home, ["c60"], "2026-06-24T00:00:00Z")
    row = score_week(home, monday(3))
    assert (row["n_cases"], row["n_scored"], row["n_changed"], row["n_missing"]) == (61, 59, 2, 0)
    assert score_week(home, monday(2))["n_scored"] == N_CASES


# -- four weeks ------------------------------------------------------------------------------------------------


def test_traffic_that_walks_away_from_a_suite_that_still_passes_is_a_coverage_gap(home: Home) -> None:
    record(home, results(4), sunday(0))
    record(home, results(4) | {"c00": True}, sunday(4))
    for number, jsd in enumerate((0.10, 0.12, 0.14, 0.16, 0.20)):
        measured(home, number, jsd)
    row = score_week(home, monday(4))
    assert (row["diagnosis"], row["compared_week"], row["n_paired"]) == ("coverage_gap", FIRST, N_CASES)
    assert row["jsd_change"] == pytest.approx(0.1)
    assert "JSD rose (+0.100" in row["diagnosis_text"]


def test_a_suite_that_fails_more_under_the_same_traffic_means_the_system_changed(home: Home) -> None:
    record(home, results(4), sunday(0))
    record(home, results(22), sunday(4))
    row = score_week(home, monday(4))
    assert (row["diagnosis"], row["score_trend"]) == ("model_prompt_or_world_changed", "falling")
    # 18 of the 40 in parcels broke: .5 * 18/40 / .8
    assert row["score_change"] == pytest.approx(-0.28125)


def test_a_score_that_production_does_not_share_is_overfitting(home: Home) -> None:
    record(home, results(22), sunday(0))
    record(home, results(16), monday(1))
    row = score_week(home, monday(4))
    assert (row["diagnosis"], row["production_grader"], row["production_trend"]) == ("overfitting", "signals", "flat")
    # 6 of the 40 in parcels were mended for all of the window: .5 * 6/40 / .8
    assert row["served_score_change"] == row["score_change"] == pytest.approx(0.09375)
    measured(home, 4, pass_rate=0.99)
    assert score_week(home, monday(4))["diagnosis"] == "none"
    measured(home, 0, pass_rate=0.95)
    measured(home, 4, pass_rate=0.95)
    assert "production passed 95.0% before" in score_week(home, monday(4))["diagnosis_text"]


@pytest.mark.parametrize(("day", "share"), [(monday(4), 7 / 28), (sunday(4), 1 / 28)])
def test_a_run_younger_than_productions_window_cannot_be_held_against_it(home: Home, day: date, share: float) -> None:
    """The gain counts for the days from its run on; the snapshot shows all of it."""
    record(home, results(22), sunday(0))
    record(home, results(16), day)
    row = score_week(home, monday(4))
    assert row["score_change"] == pytest.approx(0.09375)
    assert row["served_score_change"] == pytest.approx(0.09375 * share)
    assert row["diagnosis"] == "cannot_tell"
    assert "production's windows hold too few days that are surely of the gain" in row["diagnosis_text"]


def test_a_week_without_coverage_says_that_it_is_not_known(home: Home) -> None:
    record(home, results(22), sunday(0))
    record(home, results(4), sunday(4))
    write(home, COVERAGE_METRICS, monday(4), [])
    text = score_week(home, monday(4))["diagnosis_text"]
    assert text.startswith(
        "Cannot tell: the coverage of the week is not known, or its window holds no traces; production"
    )


def test_the_same_run_is_no_news(home: Home) -> None:
    record(home, results(4), sunday(0))
    row = score_week(home, monday(4))
    assert row["diagnosis"] == "cannot_tell"
    assert row["diagnosis_text"].startswith("Cannot tell: the suite was not run again since 2026-06-07;")


def test_new_cases_that_fail_are_no_fall_of_the_score(home: Home) -> None:
    """Fresh regressions join the suite and fail: the weighted rate drops, the system is as it was."""
    record(home, results(4), sunday(0))
    add_cases(home, [f"new{n:02d}" for n in range(30)], "2026-06-20T00:00:00Z")
    measured(home, 4)
    record(home, results(4) | {"c00": True, "c05": False} | {f"new{n:02d}": False for n in range(30)}, sunday(4))
    row, before = score_week(home, monday(4)), score_week(home, monday(0))
    assert row["weighted_pass_rate"] < before["weighted_pass_rate"] - 0.1
    assert (row["n_paired"], row["score_change"], row["score_trend"]) == (N_CASES, 0.0, "flat")


# -- the asset and the command -----------------------------------------------------------------------------------


def test_the_station_writes_each_week_and_is_up_to_date_then(home: Home) -> None:
    record(home, results(10), sunday(1), "a | b")
    with instance_of(home) as instance:
        assert walk(home, instance, date.min, date.max, (SCORES,)).computed == {"suite_scores": WEEKS}
        assert walk(home, instance, date.min, date.max, (SCORES,)).computed == {"suite_scores": 0}
        event = instance.get_latest_materialization_event(dg.AssetKey("suite_scores"))
    rows = home.lake.read(SUITE_SCORES, [monday(n) for n in range(WEEKS)])
    assert rows["n_passed"].to_list() == [None, 50, 50, 50, 50, 50]
    assert event is not None
    assert event.asset_materialization is not None
    shown = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert (shown["weighted pass rate"], shown["covered share"]) == (0.8438, 0.8)
    assert shown["bounds"] == "67.5% to 87.5%"
    assert shown["run"] == "a | b, ran on 2026-06-14, 28 days before the week's Sunday"
    assert shown["diagnosis"] == "cannot_tell"
    assert shown["weeks"].count("\n") == 1 + WEEKS
    write(home, COVERAGE_METRICS, FIRST, [{"bin": "parcels", "production_share": 1.0}])
    assert SCORES.stale_ranges(home, FIRST, LAST) == [(FIRST, monday(4))], (
        "the weeks whose four weeks begin or end there"
    )


def test_the_series_leads_with_the_rate_and_what_it_covers(home: Home) -> None:
    record(home, results(10), sunday(1), "[red]x[/y]")
    record(home, results(10), sunday(5))
    said = evalflow("score", "--weeks", 6, home=home.path)
    assert (said.code, said.err) == (0, "")
    first = said.out.splitlines()[0]
    assert first.startswith("84.4% pass (95 % interval ")
    assert "over the 80.0% of the traffic that scored cases stand for; 67.5% of all traffic if the rest fails" in first
    assert [line for line in said.out.splitlines() if "2026-06-01 " in line]
    newest = evalflow("score", "--as-of", "2026-06-17", "--json", home=home.path).document["weeks"]
    assert [row["week"] for row in newest] == ["2026-06-01", "2026-06-08", "2026-06-15"]
    assert list(newest[0]) == ["week", *SUITE_SCORES.schema]
    assert newest[2]["covered_share"] == pytest.approx(0.8)
    named = evalflow("score", "--as-of", "2026-06-17", home=home.path)
    assert "run: [red]x[/y], ran on 2026-06-14" in named.out


def test_without_a_run_the_series_says_how_to_record_one_and_cannot_tell(home: Home) -> None:
    said = evalflow("score", home=home.path)
    assert said.code == 3
    assert said.out.startswith("no score  no run of the suite is recorded up to 2026-07-12")
    assert "record one with `evalflow score import results.jsonl`" in said.err
    said = evalflow("score", "--json", home=home.path)
    assert (said.code, said.document["weeks"][-1]["weighted_pass_rate"]) == (3, None)


def test_a_run_may_come_before_any_coverage_but_the_series_may_not(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home").prepare()
    add_cases(home, list(results()))
    assert import_run(home, tmp_path, results()).code == 0
    said = evalflow("score", home=home.path)
    assert said.code == 3
    assert said.message == ("No week has been measured; land traces with `evalflow ingest PATH`, then `evalflow run`.")


def test_an_option_before_the_subcommand_is_refused(home: Home, tmp_path: Path) -> None:
    """It would be dropped, and with --home the run would land in the default home."""
    said = evalflow("score", "--home", home.path, "import", tmp_path / "results.jsonl")
    assert said.code == 2
    assert said.message == "--home stands before `import`; give it after it."


def test_a_week_measured_by_an_earlier_version_is_not_known_rather_than_an_error(home: Home) -> None:
    record(home, results(), sunday(0))
    path = home.lake.path(QUALITY_METRICS, LAST)
    pl.read_parquet(path).drop("pass_rate_se").write_parquet(path)
    row = score_week(home, LAST)
    assert (row["pass_rate_signals"], row["weighted_pass_rate"]) == (None, 1.0)
    path = home.lake.path(COVERAGE_METRICS, LAST)
    pl.read_parquet(path).drop("golden_cases").write_parquet(path)
    assert score_week(home, LAST)["weighted_pass_rate"] == 1.0, "columns that the score does not read may be missing"
