"""Taxonomies over months: lasting ids, early refits on novelty, and a past that stays as it was; on vectors planted by hand."""

import hashlib
import json
import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.naming import Namer
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    BORN,
    CLUSTER_LINEAGE,
    CLUSTERS,
    COVERAGE_METRICS,
    EMBEDDINGS,
    RAW_TRACES,
    REFIT_LINEAGE,
    STRATIFIED_SAMPLES,
    TAXONOMY_REFITS,
    TAXONOMY_TEXTS,
    TRACE_SIGNALS,
    Table,
)
from evalflow.adapters.taxonomy import Fitted, fitted_for, load_taxonomy, taxonomy_in_force
from evalflow.cli import app
from evalflow.core.calendar import days_between
from evalflow.definitions import ASSIGNMENTS, GRADING, REFITS, STATIONS, TAXONOMY, station_definitions
from evalflow.defs import clusters, embeddings, samples, traffic
from evalflow.defs.automation import RANGE_START, REASON, next_runs, novelty, range_tags
from evalflow.defs.clusters import assign_week, fit_window
from evalflow.defs.embeddings import VECTORS
from evalflow.defs.fitting import fit_metadata, fit_new, write_new
from evalflow.defs.refits import refit_window
from evalflow.defs.samples import SAMPLES
from evalflow.defs.traffic import RAW, SIGNALS
from evalflow.errors import BadInputError, CannotTellError, UsageError
from evalflow.runner import RunFailedError, Walked, instance_of, refit, walk
from evalflow.settings import Judge
from evalflow_tests.judge_server import MODEL as MODEL_NAME
from evalflow_tests.judge_server import JudgeServer

MODEL = "planted@000000000000/16d"
START, LAUNCH, RUNNING = date(2026, 6, 1), date(2026, 7, 13), date(2026, 7, 22)
LAUNCH_WEEK, W = date(2026, 7, 13), date(2026, 7, 20)
JUNE, JULY, AUGUST = date(2026, 6, 1), date(2026, 7, 1), date(2026, 8, 1)
TOPICS = ("apple", "birch", "cedar", "daisy", "elder", "fern")
FADING, LAUNCHED = "gorse", "hazel"
AXES = {topic: axis for axis, topic in enumerate((*TOPICS, FADING, LAUNCHED))}
PER_DAY = 14
WALKED = (TAXONOMY, REFITS, ASSIGNMENTS)


def topics_of(day: date) -> tuple[str, ...]:
    """Six topics all the time; one fades on 18 June, another is launched on 13 July."""
    return (*TOPICS, *([FADING] if day < date(2026, 6, 18) else []), *([LAUNCHED] if day >= LAUNCH else []))


def write_day(home: Home, day: date) -> None:
    """A day's sample and vectors: each text lies near its topic's axis, all distinct, all drawn with certainty."""
    chance = np.random.default_rng(day.toordinal())
    topics = topics_of(day)
    rows, vectors = [], []
    for number in range(PER_DAY):
        topic = topics[number % len(topics)]
        vector = np.eye(16)[AXES[topic]] + chance.normal(size=16) * 0.08
        rows.append(sampled(day, number, f"{topic} question {day} {number}"))
        vectors.append((vector / np.linalg.norm(vector)).tolist())
    put(home, day, rows, vectors)


def sampled(day: date, number: int, text: str) -> dict[str, Any]:
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    return {
        "trace_id": f"{day}-{number}",
        "text": text,
        "text_hash": key,
        "day_traces": PER_DAY,
        "inclusion_probability": 1.0,
    }


def put(home: Home, day: date, rows: list[dict[str, Any]], vectors: list[list[float]], model_id: str = MODEL) -> None:
    home.lake.write(STRATIFIED_SAMPLES, day, filled(rows, STRATIFIED_SAMPLES), made_from=f"by hand {rows}")
    known = {row["text_hash"]: vector for row, vector in zip(rows, vectors, strict=True)}
    texts = [{"text_hash": key, "model_id": model_id, "vector": vector} for key, vector in sorted(known.items())]
    home.lake.write(EMBEDDINGS, day, filled(texts, EMBEDDINGS), made_from=f"by hand {texts}")


def filled(rows: list[dict[str, Any]], table: Table) -> pl.DataFrame:
    """The rows with null in every column of the table that they do not name."""
    return pl.DataFrame([{name: row.get(name) for name in table.schema} for row in rows], schema=table.schema)


def home_of(path: Path, end: date = RUNNING) -> Home:
    home = open_home(path).prepare()
    for key, value in {
        "traffic_start": START,
        "traffic_end": end,
        "clustering.method": "kmeans",  # the fit is not what is tested, and UMAP takes seconds
        "clustering.kmeans_k": 7,
        "clustering.fewest_clusters": 1,
        "clustering.min_fit_texts": 100,
    }.items():
        write_setting(home.path, key, value)
    return home.reloaded()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Wednesday 22 July: seven weeks have closed, the week of 20 July is running, and nobody has refitted anything."""
    home = home_of(tmp_path_factory.mktemp("refits") / "home")
    for day in home.calendar.days():
        write_day(home, day)
    compute(home)
    return home


@pytest.fixture
def copy(world: Home, tmp_path: Path) -> Home:
    shutil.copytree(world.path, tmp_path / "home")
    return open_home(tmp_path / "home")


@pytest.fixture(scope="module")
def refitted(world: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The same world after the refit that the launch week asked for, with a running week that goes by it."""
    path = tmp_path_factory.mktemp("refitted") / "home"
    shutil.copytree(world.path, path)
    home = open_home(path)
    publish(home, LAUNCH_WEEK)
    with instance_of(home) as instance:
        refit(home, instance, W, "as the test wants")
        walk(home, instance, date.min, date.max, WALKED)
    return home


def compute(home: Home) -> None:
    """What a walk over the stations does, without Dagster around it."""
    for month in home.calendar.months():
        made_from, fitted = TAXONOMY.made_from(home, month), Fitted(month, False)
        write_new(home, fitted, fit_new(home, fitted, fit_window(home, month), None), made_from)
    for week in home.calendar.weeks():
        home.lake.write(BIN_ASSIGNMENTS, week, assign_week(home, week), made_from=ASSIGNMENTS.made_from(home, week))


def walk_all(home: Home, stations: tuple[Any, ...] = WALKED) -> Walked:
    with instance_of(home) as instance:
        return walk(home, instance, date.min, date.max, stations)


def hashes(home: Home, table: Table) -> dict[str, str]:
    files = (home.path / "lake" / table.name).rglob("*.parquet")
    return {path.parent.name.split("=")[1]: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def publish(home: Home, week: date, **changed: Any) -> None:
    """Coverage of a week as the station would have written it, as far as novelty goes."""
    row = {
        "bin": "c01",
        "is_provisional": False,
        "is_in_sample": False,
        "taxonomy_id": taxonomy_in_force(home, week).taxonomy_id,
        "week_novel_share": 0.112,
        "week_novel_share_low": 0.091,
        "novel_calibration": 0.03,
        "is_novelty_risen": True,
    }
    home.lake.write(COVERAGE_METRICS, week, filled([row | changed], COVERAGE_METRICS))


# -- lasting ids ----------------------------------------------------------------------------------------------


def test_a_topic_keeps_its_id_and_label_from_month_to_month(world: Home) -> None:
    """July is fitted on June like June itself: all seven clusters are matched, under the same ids and labels."""
    june, july = (world.lake.read(CLUSTERS, [month]) for month in (JUNE, JULY))
    assert june["label_source"].to_list() == ["terms"] * 7
    assert july["label_source"].to_list() == ["terms"] * 7, "the terms of June, which are still no name"
    assert dict(july.select("cluster_id", "label").iter_rows()) == dict(june.select("cluster_id", "label").iter_rows())
    assert world.lake.read(CLUSTER_LINEAGE, [JUNE])["relation"].to_list() == ["born"] * 7
    kin = world.lake.read(CLUSTER_LINEAGE, [JULY])
    assert kin["relation"].to_list() == ["matched"] * 7
    assert kin["cluster_id"].to_list() == kin["previous_cluster_id"].to_list()
    assert july["previous_taxonomy_id"].unique().to_list() == june["taxonomy_id"].unique().to_list()


def test_texts_and_clusters_speak_of_the_same_ids(refitted: Home) -> None:
    for fitted in (Fitted(JUNE, False), Fitted(W, True)):
        rows = refitted.lake.read(fitted.clusters, [fitted.key])
        texts = refitted.lake.read(fitted.texts, [fitted.key])
        counted = dict(texts.group_by("cluster_id").len().iter_rows())
        assert counted == dict(rows.select("cluster_id", "n_texts").iter_rows())
        assert rows["traffic_share"].to_list() == sorted(rows["traffic_share"], reverse=True)


def test_a_refit_knows_who_was_born_and_who_died(refitted: Home) -> None:
    """The launched topic gets an id that was never given, the faded one's is gone, the other six keep theirs."""
    before, after = taxonomy_in_force(refitted, LAUNCH_WEEK), taxonomy_in_force(refitted, W)
    kin = refitted.lake.read(REFIT_LINEAGE, [W])
    assert kin["relation"].value_counts().sort("relation").rows() == [("born", 1), ("died", 1), ("matched", 6)]
    born, died = (kin.filter(pl.col("relation") == relation).row(0, named=True) for relation in ("born", "died"))
    assert (born["cluster_id"], born["previous_cluster_id"]) == ("c08", None)
    assert LAUNCHED in born["label"]
    assert FADING in died["previous_label"]
    assert (before.n_ids, after.n_ids) == (7, 8)
    assert died["previous_cluster_id"] not in after.clusters["cluster_id"]
    assert after.fitted_on == "2026-06-22 to 2026-07-19"
    assert not after.is_in_sample


def test_a_dead_id_is_not_given_again(refitted: Home, tmp_path: Path) -> None:
    """August, fitted on July, comes after the refit and not after July's own fit: c08 lives on, nothing is c07 again."""
    shutil.copytree(refitted.path, tmp_path / "home")
    write_setting(tmp_path / "home", "traffic_end", date(2026, 8, 5))
    home = open_home(tmp_path / "home")
    for day in days_between(date(2026, 7, 23), date(2026, 8, 5)):
        write_day(home, day)
    compute(home)
    died = home.lake.read(REFIT_LINEAGE, [W]).filter(pl.col("relation") == "died")["previous_cluster_id"][0]
    august = home.lake.read(CLUSTERS, [AUGUST])
    assert august["previous_taxonomy_id"][0] == taxonomy_in_force(home, W).taxonomy_id
    assert "c08" in august["cluster_id"]
    assert died not in august["cluster_id"]
    assert august["n_ids"][0] >= 8


def test_another_model_matches_nothing_and_says_so(copy: Home) -> None:
    """From June to July the model changes: every cluster is born anew, and the metadata name both models."""
    for day in copy.calendar.days_of_month(JUNE):
        rows = copy.lake.read(STRATIFIED_SAMPLES, [day]).to_dicts()
        vectors = dict(copy.lake.read(EMBEDDINGS, [day]).select("text_hash", "vector").iter_rows())
        put(copy, day, rows, [vectors[row["text_hash"]] for row in rows], model_id="other@111111111111/16d")
    new = fit_new(copy, Fitted(JULY, False), fit_window(copy, JULY), None)
    assert new is not None
    assert new.lineage["relation"].value_counts().sort("relation").rows() == [("born", 7), ("died", 7)]
    assert new.clusters["cluster_id"].to_list() == [f"c{number:02d}" for number in range(8, 15)]
    note = fit_metadata(new, copy.settings.clustering)["note"]
    assert "no cluster could be matched" in note
    assert MODEL in note
    assert "other@111111111111/16d" in note


def by_first_term(document: dict[str, Any]) -> str:
    return json.dumps({"name": f"{document['terms'][0]} matters"})


def namer_at(server: JudgeServer, cache: Path) -> Namer:
    return Namer(Judge(base_url=server.base_url, model=MODEL_NAME, api_key=SecretStr("sk-names")), cache)


def test_only_clusters_without_a_name_to_keep_are_named(copy: Home, refitted: Home, tmp_path: Path) -> None:
    """July's clusters had names, and the six that the refit finds again keep them; the launched one is asked about,
    with its own terms and texts."""
    july = copy.lake.read(CLUSTERS, [JULY]).with_columns(label_source=pl.lit("llm"))
    copy.lake.write(CLUSTERS, JULY, july, made_from=copy.lake.made_from(CLUSTERS, JULY))
    with JudgeServer(by_first_term) as server:
        new = fit_new(copy, Fitted(W, True), refit_window(copy, W), namer_at(server, tmp_path))
    assert new is not None
    (asked,) = server.asked
    assert asked.document["terms"][0] == LAUNCHED
    assert all(LAUNCHED in text for text in asked.document["examples"])
    sources = dict(new.clusters.select("cluster_id", "label_source").iter_rows())
    assert sources.pop("c08") == "llm"
    assert set(sources.values()) == {"kept"}
    assert f"{LAUNCHED} matters" in new.clusters["label"]
    metadata = fit_metadata(new, refitted.settings.clustering)
    assert (metadata["named by the model"], metadata["without a name"]) == (1, None)
    stored = refitted.lake.read(TAXONOMY_REFITS, [W])
    assert new.clusters["taxonomy_id"][0] == stored["taxonomy_id"][0], "a name makes no other taxonomy"


def test_a_matched_cluster_that_is_known_by_terms_is_named_at_the_next_fit(copy: Home, tmp_path: Path) -> None:
    """June was fitted while no model was set: July's clusters are all June's, and get names under the same ids."""
    with JudgeServer(by_first_term) as server:
        new = fit_new(copy, Fitted(JULY, False), fit_window(copy, JULY), namer_at(server, tmp_path))
    assert new is not None
    assert new.lineage["relation"].to_list() == ["matched"] * 7
    assert new.clusters["label_source"].to_list() == ["llm"] * 7
    assert all(label.endswith(" matters") for label in new.clusters["label"])
    assert new.lineage["previous_label"].to_list() != new.lineage["label"].to_list()
    before = copy.lake.read(CLUSTERS, [JULY])
    assert new.clusters["cluster_id"].to_list() == before["cluster_id"].to_list()
    assert new.clusters["taxonomy_id"][0] == before["taxonomy_id"][0]


def test_a_month_that_still_fills_pays_for_no_names(copy: Home, tmp_path: Path) -> None:
    """Its clusters move with each fit: they are called by their terms until it is over, and the metadata say why."""
    window = fit_window(copy, JUNE)._replace(is_provisional=True)
    write_setting(copy.path, "traffic_end", date(2099, 12, 31))
    with JudgeServer(by_first_term) as server:
        new = fit_new(copy.reloaded(), Fitted(JUNE, False), window, namer_at(server, tmp_path))
        assert server.asked == []
        closed = fit_new(copy, Fitted(JUNE, False), window, namer_at(server, tmp_path))
    assert new is not None
    assert closed is not None
    assert set(new.clusters["label_source"]) == {"terms"}
    assert fit_metadata(new, copy.settings.clustering)["without a name"].startswith("7: the month is not over")
    assert set(closed.clusters["label_source"]) == {"llm"}, "an archive that ends within a month is not fitted again"


def test_a_silent_endpoint_leaves_the_terms_and_the_metadata_say_so(world: Home, tmp_path: Path) -> None:
    with JudgeServer() as server:
        server.always = "server_error"
        settings = Judge(base_url=server.base_url, model=MODEL_NAME, api_key=SecretStr("sk-names"), max_retries=0)
        new = fit_new(world, Fitted(JUNE, False), fit_window(world, JUNE), Namer(settings, tmp_path))
    assert new is not None
    assert set(new.clusters["label_source"]) == {"terms"}
    assert new.clusters.drop("label_source").equals(world.lake.read(CLUSTERS, [JUNE]).drop("label_source"))
    assert fit_metadata(new, world.settings.clustering)["without a name"].startswith("7: The judge endpoint")


# -- both figures in the first week ---------------------------------------------------------------------------


def test_the_first_week_of_a_taxonomy_has_both_bins_and_no_other_week_has(refitted: Home) -> None:
    """The week of 6 July is July's first, that of 20 July the refit's; elsewhere there is no bin before."""
    weeks = refitted.calendar.weeks()
    before = {week: refitted.lake.read(BIN_ASSIGNMENTS, [week])["previous_taxonomy_id"] for week in weeks}
    doubled = {week: ids[0] for week, ids in before.items() if ids.null_count() == 0}
    assert doubled == {
        date(2026, 7, 6): load_taxonomy(refitted.lake, Fitted(JUNE, False)).taxonomy_id,
        W: load_taxonomy(refitted.lake, Fitted(JULY, False)).taxonomy_id,
    }
    assert all(ids.null_count() == len(ids) for week, ids in before.items() if week not in doubled)
    rows = refitted.lake.read(BIN_ASSIGNMENTS, [W])
    launched = rows.filter(pl.col("bin") == "c08")
    assert set(launched["previous_bin"]) == {"novel"}, "the taxonomy before did not know the launched topic"
    others = rows.filter(~pl.col("bin").is_in(["c08", "novel"]) & (pl.col("previous_bin") != "novel"))
    assert len(others) > 250
    assert (others["bin"] == others["previous_bin"]).all(), "what stayed has the same bin by the same name"


# -- novelty --------------------------------------------------------------------------------------------------


def test_the_launch_stands_out_against_the_calibration(world: Home) -> None:
    """By construction a seventh of the launch week is novel; traffic like June's is near the quantile's 5 %."""
    taxonomy = taxonomy_in_force(world, LAUNCH_WEEK)
    rows = world.lake.read(BIN_ASSIGNMENTS, [LAUNCH_WEEK]).filter(pl.col("day") >= LAUNCH)
    assert taxonomy.novel_calibration is not None
    assert taxonomy.novel_calibration < 0.1
    assert float(rows["is_novel"].mean()) > taxonomy.novel_calibration + 0.03  # type: ignore[arg-type]


def test_novelty_asks_for_one_refit_of_each_taxonomy(copy: Home) -> None:
    """From the Monday after the newest closed week, with the figures as its reason; asked twice it is the same run."""
    publish(copy, LAUNCH_WEEK)
    request = novelty(copy)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == str(W)
    assert request.run_key == f"refit:{taxonomy_in_force(copy, LAUNCH_WEEK).taxonomy_id}"
    assert request.run_config == {"ops": {"taxonomy_refits": {"config": {"in_force_from": str(W)}}}}
    assert request.tags[REASON] == "novel share 11.2 % [9.1 %, ] against 3.0 % when the taxonomy was fitted"
    assert novelty(copy) == request


def test_a_taxonomy_that_was_fitted_again_is_not_asked_for_twice(refitted: Home) -> None:
    answer = novelty(refitted)
    assert isinstance(answer, dg.SkipReason)
    assert "has been fitted again since: novel share 11.2 %" in str(answer.skip_message)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"is_novelty_risen": False}, "No refit in the week of 2026-07-13: novel share 11.2 % [9.1 %, ] against 3.0 %"),
        ({"is_in_sample": True}, "a taxonomy of its own month"),
        ({"novel_calibration": None}, "is 11.2 % and has no level to be held against"),
        ({"week_novel_share": None}, "is not known and has no level"),
        ({"is_provisional": True}, "is not there yet"),
        ({"taxonomy_id": "2026-07-other"}, "The taxonomy 2026-07-other has been fitted again since"),
    ],
)
def test_no_refit_without_cause(copy: Home, changed: dict[str, Any], said: str) -> None:
    publish(copy, LAUNCH_WEEK, **changed)
    answer = novelty(copy)
    assert isinstance(answer, dg.SkipReason)
    assert said in str(answer.skip_message)


def test_a_week_measured_by_an_earlier_version_asks_for_nothing(copy: Home) -> None:
    path = Path(copy.lake.path(COVERAGE_METRICS, LAUNCH_WEEK))
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"bin": ["c01"], "taxonomy_id": ["x"], "is_provisional": [False]}).write_parquet(path)
    answer = novelty(copy)
    assert isinstance(answer, dg.SkipReason)
    assert "was made by an earlier version" in str(answer.skip_message)


def test_at_the_months_end_the_next_fit_takes_over_anyway(copy: Home) -> None:
    """The week of 27 July is July's last: from 3 August on August's own fit is in force, and no refit is needed."""
    write_setting(copy.path, "traffic_end", date(2026, 8, 5))
    home = copy.reloaded()
    publish(home, date(2026, 7, 27))
    answer = novelty(home)
    assert isinstance(answer, dg.SkipReason)
    assert "The fit of 2026-08 takes over on 2026-08-03 anyway" in str(answer.skip_message)


# -- the past -------------------------------------------------------------------------------------------------


def test_a_refit_leaves_every_earlier_week_as_it_was(world: Home, refitted: Home) -> None:
    """Byte for byte: only the running week, which is the refit's first, changes."""
    before, after = hashes(world, BIN_ASSIGNMENTS), hashes(refitted, BIN_ASSIGNMENTS)
    assert {week for week in before if before[week] != after[week]} == {str(W)}
    for table in (CLUSTERS, TAXONOMY_TEXTS, CLUSTER_LINEAGE):
        assert hashes(refitted, table) == hashes(world, table)
    assert [fitted_for(refitted, week) for week in (LAUNCH_WEEK, W, W + timedelta(weeks=1))] == [
        Fitted(JULY, False),
        Fitted(W, True),
        Fitted(W, True),
    ]
    assert fitted_for(refitted, date(2026, 8, 3)) == Fitted(AUGUST, False)


def test_fitting_a_month_again_leaves_the_weeks_of_other_months(copy: Home) -> None:
    """July's taxonomy becomes another one; exactly the weeks that begin in July are out of date, and the others' files stay."""
    before = hashes(copy, BIN_ASSIGNMENTS)
    july = Fitted(JULY, False)
    for table in (CLUSTERS, TAXONOMY_TEXTS):
        rows = copy.lake.read(table, [JULY]).with_columns(taxonomy_id=pl.lit("2026-07-other"))
        copy.lake.write(table, JULY, rows, made_from=copy.lake.made_from(july.clusters, JULY))
    assert ASSIGNMENTS.stale_ranges(copy, date.min, date.max) == [(date(2026, 7, 6), W)]
    compute_weeks = walk_all(copy).computed["bin_assignments"]
    changed = {week for week, digest in hashes(copy, BIN_ASSIGNMENTS).items() if digest != before[week]}
    assert changed == {"2026-07-06", "2026-07-13", str(W)}
    assert compute_weeks == 3


def test_a_refit_that_would_change_a_published_week_is_refused(copy: Home) -> None:
    publish(copy, LAUNCH_WEEK)
    with (
        instance_of(copy) as instance,
        pytest.raises(RunFailedError, match="closed week of 2026-07-13, which is published"),
    ):
        refit(copy, instance, LAUNCH_WEEK, "too late")
    assert copy.lake.keys(TAXONOMY_REFITS) == []


def test_a_refit_that_is_there_is_kept_up_to_date_and_none_is_made_unasked(copy: Home, refitted: Home) -> None:
    """A late text of June changes July's fit, and with it the identity that the refit was given: it is made again, by
    its own job; where nobody asked for a refit there is none to be missing."""
    assert REFITS.wanted(copy) == []
    assert REFITS.wanted(refitted) == [W]
    assert walk_all(refitted).computed == {"clusters": 0, "taxonomy_refits": 0, "bin_assignments": 0}
    made_from = refitted.lake.made_from(TAXONOMY_REFITS, W)
    rows = refitted.lake.read(TAXONOMY_REFITS, [W])
    refitted.lake.write(TAXONOMY_REFITS, W, rows, made_from="outdated")
    (asked,) = [
        request
        for request in next_runs(refitted, (TAXONOMY, REFITS, ASSIGNMENTS), (), "x")
        if request.job_name != "marts"
    ]
    assert (asked.job_name, asked.tags[RANGE_START]) == ("refit", str(W))
    assert walk_all(refitted).computed["taxonomy_refits"] == 1
    assert refitted.lake.made_from(TAXONOMY_REFITS, W) == made_from


def test_materializing_every_week_makes_no_refit_that_nobody_asked_for(copy: Home) -> None:
    """*Materialize all* over the whole range ends well, writes nothing and says why; naming a day that is none of the
    run's weeks is an error."""
    first, last = copy.calendar.weeks()[0], copy.calendar.weeks()[-1]
    job = station_definitions(copy).resolve_implicit_global_asset_job_def()

    def run(config: dict[str, Any]) -> dg.ExecuteInProcessResult:
        return job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey("taxonomy_refits")],
            tags=range_tags(first, last),
            run_config={"ops": {"taxonomy_refits": {"config": config}}} if config else {},
            raise_on_error=False,
        )

    with instance_of(copy) as instance:
        result = run({})
        assert result.success
        said = [event.materialization.metadata["reason"].value for event in result.get_asset_materialization_events()]
        assert said == ["nobody asked for a refit of this week, so there is none"] * len(copy.calendar.weeks())
        assert copy.lake.keys(TAXONOMY_REFITS) == []
        assert not run({"in_force_from": "2026-07-21"}).success
    assert copy.lake.keys(TAXONOMY_REFITS) == []


def test_a_folder_that_a_kill_left_is_no_refit(copy: Home) -> None:
    Path(copy.lake.path(TAXONOMY_REFITS, W)).parent.mkdir(parents=True)
    assert fitted_for(copy, W) == Fitted(JULY, False)
    assert REFITS.wanted(copy) == []


# -- inputs that change while a partition is computed -----------------------------------------------------------


def test_a_fit_that_lands_while_a_week_is_placed_leaves_the_week_out_of_date(
    copy: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """July gets another taxonomy between reading and writing: the walk places the week again, under that one."""
    landed: list[date] = []

    def and_a_fit_lands(home: Home, week: date) -> pl.DataFrame:
        rows = assign_week(home, week)
        if not landed:
            landed.append(week)
            for table in (CLUSTERS, TAXONOMY_TEXTS):
                other = home.lake.read(table, [JULY]).with_columns(taxonomy_id=pl.lit("2026-07-other"))
                home.lake.write(table, JULY, other, made_from=home.lake.made_from(CLUSTERS, JULY))
        return rows

    monkeypatch.setattr(clusters, "assign_week", and_a_fit_lands)
    Path(copy.lake.path(BIN_ASSIGNMENTS, W)).unlink()
    walk_all(copy, (ASSIGNMENTS,))
    assert landed == [W]
    assert set(copy.lake.read(BIN_ASSIGNMENTS, [W])["taxonomy_id"]) == {"2026-07-other"}


def test_what_lands_while_a_day_is_computed_leaves_the_day_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From files to vectors: each station's stamp is of what it read, not of what came while it computed."""
    home, day = home_of(tmp_path / "home", end=START), START
    for table in (RAW_TRACES, TRACE_SIGNALS, STRATIFIED_SAMPLES):
        home.lake.write(table, day, filled([], table), made_from="before")
    wanted = {station.name: station.made_from(home, day) for station in (RAW, SIGNALS, SAMPLES, VECTORS)}

    def lands_after(module: Any, name: str, table: Table) -> None:
        compute_rows = getattr(module, name)

        def changed(*arguments: Any) -> Any:
            rows = compute_rows(*arguments)
            home.lake.write(table, day, filled([{"trace_id": "late"}], table), made_from="after")
            return rows

        monkeypatch.setattr(module, name, changed)

    n_asked = 0

    def one_more_file(lake: Any, table: Table, days_column: str, days: list[date]) -> dict[date, list[str]]:
        nonlocal n_asked
        n_asked += 1
        return {each: [lake.path(table, BORN["day"])] * (n_asked - 1) for each in days}

    class NoModel:
        model_id = MODEL

        def __init__(self, *settings: Any) -> None:
            pass

        def known(self, hashes: Any) -> set[str]:
            return set()

        def embed(self, texts: list[str], on_progress: Any) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(embeddings, "Embedder", NoModel)
    lands_after(embeddings, "vector_frame", STRATIFIED_SAMPLES)
    lands_after(samples, "scrubbed", TRACE_SIGNALS)
    lands_after(traffic, "signals_of", RAW_TRACES)
    definitions = station_definitions(home)
    made = [asset for asset in definitions.assets or () if isinstance(asset, dg.AssetsDefinition)]
    assets = {asset.key.to_user_string(): asset for asset in made if len(asset.keys) == 1}
    for station in (VECTORS, SAMPLES, SIGNALS, RAW):
        if station is RAW:
            monkeypatch.setattr(traffic, "landing_files", one_more_file)
        assert dg.materialize([assets[station.name]], partition_key=str(day), resources=definitions.resources).success
        assert home.lake.made_from(station.table, day) == wanted[station.name]
        assert station.made_from(home, day) != wanted[station.name]


# -- the command ----------------------------------------------------------------------------------------------


def test_the_command_refits_once_and_then_says_why_not(copy: Home) -> None:
    publish(copy, LAUNCH_WEEK)
    arguments = ["refit", "--as-of", "2026-07-19", "--home", str(copy.path)]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "7 clusters, 6 of them as before, 1 born, 1 died." in first.output
    assert "In force from 2026-07-20; `evalflow run` measures the weeks from then on by it." in first.output
    again = CliRunner().invoke(app, [*arguments, "--json"])
    assert '"is_refitted": false' in again.output
    assert "has been fitted again since" in again.output


def test_a_week_that_was_not_measured_cannot_be_told(copy: Home) -> None:
    """Exit code 3, as for every question that has no answer yet."""
    result = CliRunner().invoke(app, ["refit", "--as-of", "2026-07-19", "--home", str(copy.path)])
    assert isinstance(result.exception, CannotTellError)
    assert "Coverage of the closed week of 2026-07-13 is not there yet" in str(result.exception)


def test_a_refit_into_published_weeks_is_refused_before_a_run_is_started(copy: Home) -> None:
    publish(copy, date(2026, 7, 6))
    publish(copy, LAUNCH_WEEK)
    result = CliRunner().invoke(app, ["refit", "--as-of", "2026-07-12", "--home", str(copy.path)])
    assert isinstance(result.exception, UsageError)
    assert "closed week of 2026-07-13, which is published" in str(result.exception)
    with instance_of(copy) as instance:
        assert instance.get_runs_count() == 0


def test_a_week_that_runs_cannot_be_asked(copy: Home) -> None:
    result = CliRunner().invoke(app, ["refit", "--as-of", "2026-07-21", "--home", str(copy.path)])
    assert "The week of 2026-07-20 has not closed or holds no traffic" in str(result.exception)


# -- bad input ------------------------------------------------------------------------------------------------


def small(path: Path, texts: list[tuple[date, str, list[float]]]) -> Home:
    """A home of two weeks with the given texts."""
    home = home_of(path, end=date(2026, 6, 14))
    for day in home.calendar.days():
        own = [(text, vector) for on, text, vector in texts if on == day]
        put(home, day, [sampled(day, i, text) for i, (text, _) in enumerate(own)], [vector for _, vector in own])
    return home


ONE = [1.0, 0.0, 0.0, 0.0]
FAR = [0.0, 1.0, 0.0, 0.0]


def assigned(home: Home, week: date) -> pl.DataFrame:
    compute(home)
    return home.lake.read(BIN_ASSIGNMENTS, [week])


def test_one_trace_is_one_cluster_that_holds_it(tmp_path: Path) -> None:
    home = small(tmp_path / "home", [(date(2026, 6, 2), "how long does delivery take", ONE)])
    rows = assigned(home, date(2026, 6, 8))
    assert rows.select("bin", "distance", "is_novel", "weight").rows() == [("c01", 0.0, False, 1.0)]
    taxonomy = taxonomy_in_force(home, date(2026, 6, 8))
    assert (taxonomy.novel_above, taxonomy.novel_calibration) == (0.0, None), "one week says nothing about another"


def test_identical_texts_are_one_cluster_and_never_novel(tmp_path: Path) -> None:
    texts = [(day, "ping", ONE) for day in days_between(date(2026, 6, 1), date(2026, 6, 14))]
    home = small(tmp_path / "home", texts)
    rows = assigned(home, date(2026, 6, 8))
    assert set(rows["bin"]) == {"c01"}
    assert taxonomy_in_force(home, date(2026, 6, 8)).novel_calibration == 0.0


def test_a_window_of_nothing_but_novel_texts_is_one_bin_and_the_next_fit_is_born_anew(
    world: Home, tmp_path: Path
) -> None:
    """July asks about nothing that June asked: all of it is in the bin `novel`, and August has no cluster of July's."""
    shutil.copytree(world.path, tmp_path / "home")
    write_setting(tmp_path / "home", "traffic_end", date(2026, 8, 5))
    home = open_home(tmp_path / "home")
    for day in days_between(JULY, date(2026, 8, 5)):
        rows = [sampled(day, number, f"zebra {day} {number}") for number in range(4)]
        chance = np.random.default_rng(day.toordinal())
        vectors = np.eye(16)[15] + chance.normal(size=(4, 16)) * 0.05
        put(home, day, rows, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).tolist())
    compute(home)
    last = home.lake.read(BIN_ASSIGNMENTS, [date(2026, 7, 27)])
    assert set(last["bin"]) == {"novel"}
    assert float(last["weight"].sum()) == pytest.approx(1.0)
    assert set(home.lake.read(CLUSTER_LINEAGE, [AUGUST])["relation"]) == {"born", "died"}


def test_vectors_with_nan_end_the_run_with_a_sentence(tmp_path: Path) -> None:
    home = small(tmp_path / "home", [(date(2026, 6, 2), "a", ONE), (date(2026, 6, 3), "b", [float("nan"), 0, 0, 0])])
    with pytest.raises(RunFailedError, match=r"1 of 2 vectors hold NaN or infinity .* `evalflow run` embeds") as raised:
        walk_all(home)
    assert raised.value.exit_code == BadInputError.exit_code


def test_vectors_of_two_models_are_not_fitted_together(tmp_path: Path) -> None:
    home = small(tmp_path / "home", [(date(2026, 6, 2), "a", ONE)])
    put(home, date(2026, 6, 3), [sampled(date(2026, 6, 3), 0, "b")], [FAR], model_id="other@111111111111/4d")
    with pytest.raises(UsageError, match=r"other@1{12}/4d and planted@0{12}/16d cannot be fitted together"):
        fit_new(home, Fitted(JUNE, False), fit_window(home, JUNE), None)


def test_a_taxonomy_of_an_earlier_version_can_still_be_followed(copy: Home) -> None:
    """Its files lack the columns of today; its ids are counted, and its novelty has no calibration."""
    path = copy.lake.path(CLUSTERS, JUNE)
    pl.read_parquet(path).drop("n_ids", "novel_calibration", "label_source", "previous_taxonomy_id").write_parquet(path)
    june = load_taxonomy(copy.lake, Fitted(JUNE, False))
    assert (june.n_ids, june.novel_calibration) == (7, None)
    new = fit_new(copy, Fitted(JULY, False), fit_window(copy, JULY), None)
    assert new is not None
    assert new.lineage["relation"].to_list() == ["matched"] * 7


def test_labels_of_traffic_are_shown_as_text_and_not_as_markup(copy: Home) -> None:
    rows = copy.lake.read(CLUSTERS, [JUNE]).with_columns(label=pl.lit("a|b <img src=x> [c](http://d)"))
    copy.lake.write(CLUSTERS, JUNE, rows, made_from="by hand")
    shown = fit_metadata(fit_new(copy, Fitted(JULY, False), fit_window(copy, JULY), None), copy.settings.clustering)  # type: ignore[arg-type]
    assert "<img" not in shown["largest clusters"].value
    assert "](http" not in shown["largest clusters"].value


def test_refits_are_stations_before_the_weeks_they_serve() -> None:
    names = [station.name for station in STATIONS]
    assert names.index("clusters") + 1 == names.index("taxonomy_refits")
    assert names.index("taxonomy_refits") < names.index("bin_assignments")
    assert all(station.name != "taxonomy_refits" for station in GRADING)
