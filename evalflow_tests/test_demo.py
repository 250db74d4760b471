"""The demo: its corpus, the world that is made of it, and the story that the whole pipeline tells about it."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evalflow.adapters.home import open_home, write_setting
from evalflow.adapters.scrubber import Scrubber
from evalflow.core.calendar import WINDOW_WEEKS
from evalflow.core.records import FeedbackEvent, GoldenCase, Limits, Trace, parse_golden_case, parse_record
from evalflow.core.text import normalise
from evalflow.demo import story as storytelling
from evalflow.demo.corpus import Corpus, load_corpus
from evalflow.demo.story import Planted, Story, play
from evalflow.demo.wording import TOPICS
from evalflow.demo.world import (
    FIRST_DAY,
    LAST_DAY,
    LAUNCH_DAY,
    N_GOLDEN,
    PERSONAL_DATA_CHANCE,
    PROMOTION_DAYS,
    PROMOTION_MIX,
    SEED,
    STAY_ON_TOPIC,
    World,
    differing_files,
    files_of,
    generate,
    write,
)
from evalflow.errors import UsageError
from evalflow.settings import Privacy

LIMITS = Limits(
    datetime.combine(FIRST_DAY, datetime.min.time(), UTC),
    datetime.combine(LAST_DAY + timedelta(days=1), datetime.min.time(), UTC),
    1_000_000,
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


@pytest.fixture(scope="module")
def world(corpus: Corpus) -> World:
    return generate(SEED, corpus)


def day_of(trace: dict[str, Any]) -> date:
    return date.fromisoformat(trace["timestamp"][:10])


def test_the_corpus_is_wide_and_says_nothing_twice(corpus: Corpus) -> None:
    intents = [*corpus.base, *corpus.launch]
    assert len(intents) >= 30
    assert len({intent.name for intent in intents}) == len(intents)
    wordings = [normalise(text).casefold() for intent in intents for text in intent.phrasings]
    assert len(set(wordings)) == len(wordings)
    for intent in intents:
        assert len(intent.phrasings) >= 20, intent.name
        assert len(intent.good_answers) >= 2, intent.name
        assert len(intent.bad_answers) >= 2, intent.name
        assert not set(intent.good_answers) & set(intent.bad_answers), intent.name


def test_details_are_given_for_intents_that_exist(corpus: Corpus) -> None:
    assert set(TOPICS) <= {intent.name for intent in (*corpus.base, *corpus.launch)}
    assert {intent.name for intent in corpus.launch} <= set(TOPICS)


def test_a_seed_gives_the_same_bytes_and_another_seed_others(corpus: Corpus, world: World) -> None:
    assert files_of(generate(SEED, corpus)) == files_of(world)
    other = generate(SEED + 1, corpus)
    assert [trace["input"] for trace in other.traces] != [trace["input"] for trace in world.traces]
    assert [case["input"] for case in other.golden] != [case["input"] for case in world.golden]


def test_every_row_is_in_the_native_format(world: World) -> None:
    for row in world.traces:
        assert isinstance(parse_record(json.loads(json.dumps(row)), LIMITS), Trace), row
    for row in world.feedback:
        assert isinstance(parse_record(json.loads(json.dumps(row)), LIMITS), FeedbackEvent), row
    for row in world.golden:
        assert isinstance(parse_golden_case(json.loads(json.dumps(row)), LIMITS.max_text_bytes), GoldenCase), row


def test_no_field_is_left_to_metadata(world: World) -> None:
    """The generator writes the format's own names only: an unknown one would be kept as metadata."""
    parsed = parse_record(json.loads(json.dumps(world.traces[0])), LIMITS)
    assert isinstance(parsed, Trace)
    assert parsed.metadata is None


def test_the_truth_covers_every_trace_once(world: World) -> None:
    ids = [trace["trace_id"] for trace in world.traces]
    assert len(set(ids)) == len(ids)
    assert [known["trace_id"] for known in world.truth] == ids
    assert {event["trace_id"] for event in world.feedback} <= set(ids)


def test_ten_whole_weeks_have_traffic_every_day(world: World) -> None:
    volumes = Counter(day_of(trace) for trace in world.traces)
    assert FIRST_DAY.weekday() == 0
    assert sorted(volumes) == [FIRST_DAY + timedelta(days=n) for n in range(70)]
    assert max(volumes) == LAST_DAY
    ordinary = {day: n for day, n in volumes.items() if day not in PROMOTION_DAYS}
    weekdays = [n for day, n in ordinary.items() if day.weekday() < 5]
    assert min(weekdays) >= 100
    assert max(weekdays) <= 170
    assert max(n for day, n in ordinary.items() if day.weekday() >= 5) < min(weekdays)
    assert 8_000 <= len(world.traces) <= 9_500


def test_a_promotion_triples_two_days(world: World) -> None:
    volumes = Counter(day_of(trace) for trace in world.traces)
    for day in PROMOTION_DAYS:
        week_before = volumes[day - timedelta(days=7)]
        assert 2.5 <= volumes[day] / week_before <= 3.6
        about = [
            known["intent"] for known, trace in zip(world.truth, world.traces, strict=True) if day_of(trace) == day
        ]
        # The mix adds 67 points to two intents that ordinarily hold about 12: mostly, not only.
        assert sum(intent in PROMOTION_MIX for intent in about) / len(about) > 0.6


def test_the_launch_takes_at_least_half_of_the_last_window(world: World) -> None:
    first = LAST_DAY - timedelta(days=WINDOW_WEEKS * 7 - 1)
    window = [
        known["is_launch"] for known, trace in zip(world.truth, world.traces, strict=True) if day_of(trace) >= first
    ]
    assert 0.5 <= sum(window) / len(window) <= 0.7
    before = [
        known
        for known, trace in zip(world.truth, world.traces, strict=True)
        if day_of(trace) < LAUNCH_DAY and known["is_launch"]
    ]
    assert before == []


def test_every_old_question_is_asked_often_enough_to_be_found(world: World) -> None:
    before = Counter(
        known["intent"]
        for known, trace in zip(world.truth, world.traces, strict=True)
        if day_of(trace) < PROMOTION_DAYS[0]
    )
    shares = {intent: n / before.total() for intent, n in before.items()}
    assert len(shares) == 26
    assert min(shares.values()) > 0.01
    assert max(shares.values()) < 0.15


def test_sessions_are_short_belong_to_one_user_and_mostly_stay_on_topic(world: World) -> None:
    sessions: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for trace, known in zip(world.traces, world.truth, strict=True):
        sessions.setdefault(trace["session_id"], []).append((trace, known))
    stays: list[bool] = []
    for turns in sessions.values():
        assert [trace["turn_index"] for trace, _ in turns] == list(range(len(turns)))
        assert 1 <= len(turns) <= 4
        assert len({(trace["user_id"], day_of(trace)) for trace, _ in turns}) == 1
        stays += [one["intent"] == next_one["intent"] for (_, one), (_, next_one) in pairwise(turns)]
    # 60 % stay, and another draw can fall on the same intent by chance (about 4 %): 1.6 points more; n is about 3,800.
    assert sum(stays) / len(stays) == pytest.approx(STAY_ON_TOPIC + 0.02, abs=0.035)


def test_failures_are_more_frequent_after_the_launch_and_leave_signals(world: World) -> None:
    def rate(rows: list[bool]) -> float:
        return sum(rows) / len(rows)

    assert 0.06 <= rate([known["is_failure"] for known in world.truth if not known["is_launch"]]) <= 0.11
    assert 0.25 <= rate([known["is_failure"] for known in world.truth if known["is_launch"]]) <= 0.35
    for signal in ("regenerated", "escalated", "abandoned"):
        seen = {True: [], False: []}
        for trace, known in zip(world.traces, world.truth, strict=True):
            seen[known["is_failure"]].append(trace["signals"][signal])
        assert rate(seen[True]) > 4 * rate(seen[False]), signal


def test_failing_answers_are_the_bad_ones(corpus: Corpus, world: World) -> None:
    intents = {intent.name: intent for intent in (*corpus.base, *corpus.launch)}
    for trace, known in zip(world.traces, world.truth, strict=True):
        intent = intents[known["intent"]]
        answers = intent.bad_answers if known["is_failure"] else intent.good_answers
        assert any(trace["output"].startswith(answer) for answer in answers)


def test_personal_data_is_planted_where_the_truth_says_so_and_can_be_found(world: World) -> None:
    planted = [known["has_pii"] for known in world.truth]
    # Binomial: 3 % of 8,700 has a standard deviation of .2 points; four of them.
    assert sum(planted) / len(planted) == pytest.approx(PERSONAL_DATA_CHANCE, abs=0.008)
    scrubber = Scrubber(Privacy())
    found = [scrubber.scrub(trace["input"]).n_replaced > 0 for trace in world.traces]
    missed = sum(is_planted and not was_found for is_planted, was_found in zip(planted, found, strict=True))
    assert missed == 0


def test_feedback_arrives_one_to_three_days_later(world: World) -> None:
    asked_on = {trace["trace_id"]: day_of(trace) for trace in world.traces}
    delays = {(day_of(event) - asked_on[event["trace_id"]]).days for event in world.feedback}
    assert delays == {1, 2, 3}
    assert max(day_of(event) for event in world.feedback) <= LAST_DAY


def test_the_suite_is_older_than_the_traffic_and_knows_nothing_of_the_launch(corpus: Corpus, world: World) -> None:
    good = {intent.name: intent.good_answers for intent in corpus.base}
    assert len(world.golden) == N_GOLDEN
    assert len({case["case_id"] for case in world.golden}) == len({case["input"] for case in world.golden}) == N_GOLDEN
    counts = Counter(case["tags"]["intent"] for case in world.golden)
    assert set(counts) == set(good)
    assert min(counts.values()) >= 2
    for case in world.golden:
        assert case["expected_output"] in good[case["tags"]["intent"]]
        assert case["origin"] == "hand-authored"
        assert date.fromisoformat(case["created_at"][:10]) < FIRST_DAY


def test_files_are_written_once_and_a_change_is_noticed(tmp_path: Path, world: World) -> None:
    paths = write(world, tmp_path)
    assert sum(path.name.startswith("traces-") for path in paths) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    before = {path: path.stat().st_mtime_ns for path in paths}
    write(world, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in paths} == before
    packed = tmp_path / "truth.jsonl.gz"
    packed.write_bytes(gzip.compress(gzip.decompress(packed.read_bytes()), compresslevel=1))
    assert differing_files(world, tmp_path) == []
    (tmp_path / "golden.jsonl").write_text("{}\n")
    assert differing_files(world, tmp_path) == [tmp_path / "golden.jsonl"]


def week_document(week: str, as_of: str, jsd: float | None) -> dict[str, Any]:
    return {
        "week": week,
        "as_of": as_of,
        "jsd": jsd,
        "band": None,
        "novel_share": 0.0,
        "uncovered_share": 0.0,
        "provisional": False,
        "taxonomy": {"id": "2026-03-a", "n_bins": 3, "fitted_on": "2026-03"},
        "alarms": [],
        "bins": [],
        "n_golden": 120,
    }


@pytest.mark.parametrize(
    ("series", "crossed_on"),
    [
        ((0.1, 0.2, 0.3), "2026-03-22"),
        ((0.3, 0.1, 0.3), "2026-03-22"),
        ((0.1, 0.3, 0.4), "2026-03-15"),
        ((0.3, 0.3, 0.25), None),
        ((None, 0.1, None), None),
    ],
)
def test_crossed_on_is_the_sunday_from_which_jsd_stayed_above(
    series: tuple[float | None, ...], crossed_on: str | None
) -> None:
    sundays = ("2026-03-08", "2026-03-15", "2026-03-22")
    weeks = [week_document("2026-03-02", sunday, jsd) for sunday, jsd in zip(sundays, series, strict=True)]
    assert Story(Path("home"), 1, 0.25, Planted(0.0, 0.0, 0.0), weeks, None, {}).crossed_on == crossed_on


def test_a_home_with_other_traffic_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lake" / "raw_traces" / "day=2026-06-01").mkdir(parents=True)
    (tmp_path / "lake" / "raw_traces" / "day=2026-06-01" / "part.parquet").touch()
    write_setting(tmp_path, "traffic_start", date(2026, 6, 1))
    before = (tmp_path / "evalflow.toml").read_text()
    with pytest.raises(UsageError, match="traffic or cases of its own"):
        play(tmp_path, lambda *_: None)
    assert (tmp_path / "evalflow.toml").read_text() == before


def told(story: Story) -> str:
    page = StringIO()
    story.tell(Console(file=page, width=100))
    return page.getvalue()


@pytest.mark.timeout(900)
def test_the_suite_drifts_out_of_date_and_playing_again_computes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traffic walks away, JSD rises above .25; a refresh brings it down; the gate tells the good release from the bad."""
    stations: list[str] = []
    on_range: Callable[..., None] = lambda name, *_: stations.append(name)  # noqa: E731 - a recorder
    story = play(tmp_path / "home", on_range)
    document = story.document()
    assert json.loads(json.dumps(document)) == document
    series = {week["as_of"]: week["jsd"] for week in document["weeks"]}
    assert len(series) == 10
    before = [jsd for as_of, jsd in series.items() if date.fromisoformat(as_of) < LAUNCH_DAY]
    assert max(before) < 0.15
    assert max(before) - min(before) < 0.06, "stable, the promotion included"
    assert series["2026-05-10"] > 0.25
    assert document["crossed_on"] is not None
    assert date.fromisoformat(document["crossed_on"]) > LAUNCH_DAY
    assert {alarm["week"] for alarm in document["alarms"]} >= {"2026-05-04"}
    assert not any(week["provisional"] for week in document["weeks"])
    assert document["weeks"][-1]["taxonomy"] != document["weeks"][-2]["taxonomy"]
    assert stations[0] == "trace_files"
    assert stations[-1] == "marts"

    flywheel = document["flywheel"]
    assert flywheel["week"] == "2026-05-04"
    assert flywheel["reason"].startswith("JSD ")
    assert flywheel["queued"] == flywheel["budget"]
    assert flywheel["answers"]["real_failure"] > 0
    assert flywheel["promoted"] > 0.8 * flywheel["queued"]
    assert flywheel["jsd_after"] < 0.1 < 0.25 < flywheel["jsd_before"]
    assert flywheel["jsd_predicted"] == pytest.approx(flywheel["jsd_after"], abs=0.05)
    assert [gate["verdict"] for gate in flywheel["gates"]] == ["cannot tell", "fail", "pass"]
    assert flywheel["gates"][1]["failing_regressions"] > 0
    promoted = [case for case in open_home(tmp_path / "home").ledger.as_of(date(2026, 5, 11)) if case.provenance]
    assert {case.provenance.reviewer_kind for case in promoted if case.provenance} == {"script"}

    page = told(story)
    assert "/assets/coverage_metrics" in page
    assert "refresh_on_breach" in page
    assert f"evalflow ui --home {tmp_path / 'home'}" in page.replace("\n", " ")

    again = play(tmp_path / "home", lambda *_: None)
    assert set(again.computed.values()) == {0}
    assert again.document() == document
    assert "nothing was computed" in told(again)

    monkeypatch.setattr(storytelling, "SEED", SEED + 1)
    with pytest.raises(UsageError, match="another version of the demo"):
        play(tmp_path / "home", lambda *_: None)
