"""EVALFLOW_HOME: the one folder that holds lake, ledger, marts, cache, settings and Dagster's storage.

Belongs here: where things lie and what "now" is. Keep out: what is done with them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import cached_property
from pathlib import Path

import duckdb
import tomlkit

from evalflow.adapters.attempts import AttemptJournal
from evalflow.adapters.lake import Lake, lake_at
from evalflow.adapters.ledger import Ledger
from evalflow.adapters.preferences import Preferences
from evalflow.adapters.reviews import Reviews
from evalflow.adapters.suite_runs import SuiteRuns
from evalflow.adapters.themes import Themes
from evalflow.core.calendar import TrafficCalendar
from evalflow.errors import UsageError
from evalflow.settings import HOME_VARIABLE, SETTINGS_FILE, Settings, load_settings

DEFAULT_HOME = "data"
DAGSTER_YAML = """\
# Dagster's own storage lies beside this file. Written by evalflow when it is missing.
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  runs:
    max_concurrent_runs: 2
"""


@dataclass(frozen=True)
class Home:
    """One home and the settings in force in it."""

    path: Path
    settings: Settings

    @cached_property
    def lake(self) -> Lake:
        return lake_at(self.settings.lake_url or str(self.path / "lake"))

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.path / "ledger")

    @cached_property
    def reviews(self) -> Reviews:
        return Reviews(self.path / "reviews")

    @cached_property
    def themes(self) -> Themes:
        return Themes(self.path / "themes")

    @cached_property
    def suite_runs(self) -> SuiteRuns:
        return SuiteRuns(self.path / "suite_runs")

    @cached_property
    def attempts(self) -> AttemptJournal:
        return AttemptJournal(self.path / "attempts")

    @cached_property
    def preferences(self) -> Preferences:
        return Preferences(self.path / "preferences")

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def marts(self) -> Path:
        return self.path / "marts"

    @property
    def calendar(self) -> TrafficCalendar:
        end = self.settings.traffic_end
        today = datetime.now(UTC).date()
        return TrafficCalendar(self.settings.traffic_start or end or today, end, today)

    def now(self) -> datetime:
        """The clock, or midnight after ``traffic_end`` in a home that is closed."""
        if self.calendar.is_closed:
            return datetime.combine(self.calendar.now, time(), tzinfo=UTC)
        return datetime.now(UTC)

    def prepare(self) -> "Home":
        """Create what a home needs: folders, empty tables, Dagster's configuration. Safe to repeat."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not (self.path / "dagster.yaml").exists():
                (self.path / "dagster.yaml").write_text(DAGSTER_YAML)
            self.lake.create_tables()
        except OSError as error:
            raise UsageError(
                f"The home {self.path} cannot be written ({error}); set {HOME_VARIABLE} to a folder that can."
            ) from error
        return self

    def publish(self) -> None:
        """Let SQL see what ledger, reviews, suite runs and attempts hold: their tables in the lake are brought up to date."""
        self.ledger.publish(self.lake)
        self.reviews.publish(self.lake)
        self.suite_runs.publish(self.lake)
        self.attempts.publish(self.lake)

    @contextmanager
    def attach(self, connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open one view per table of the lake and per mart that is built, on an in-memory connection."""
        with self.lake.attach(connection):
            for file in sorted([*self.marts.glob("fct_*.parquet"), *self.marts.glob("dim_*.parquet")]):
                path = str(file).replace("'", "''")
                view = f"create or replace view {file.stem} as select * from read_parquet('{path}')"
                connection.execute(view)
            yield connection

    def move_traffic_start(self, first_day: date) -> bool:
        """Write or move back ``traffic_start`` so that ``first_day`` has a partition; True when it changed."""
        start = self.settings.traffic_start
        if start is not None and start <= first_day:
            return False
        write_setting(self.path, "traffic_start", first_day)
        return True

    def reloaded(self) -> "Home":
        """The same home with its settings read again."""
        return Home(self.path, load_settings(self.path))


def open_home(path: Path | str | None = None) -> Home:
    """The home at ``path``, else at $EVALFLOW_HOME, else ``./data``, with its settings loaded."""
    chosen = Path(path or os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser().absolute()
    return Home(chosen, load_settings(chosen))


def write_setting(home: Path, key: str, value: object) -> None:
    """Set one key in the home's evalflow.toml, leaving the rest of the file as its owner wrote it.

    ``key`` may name a section: ``sources.traces``.
    """
    path = home / SETTINGS_FILE
    document = tomlkit.parse(path.read_text()) if path.exists() else tomlkit.document()
    *sections, leaf = key.split(".")
    target: tomlkit.TOMLDocument | tomlkit.items.Table = document
    for section in sections:
        target = target.setdefault(section, tomlkit.table())
    target[leaf] = value
    home.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(tomlkit.dumps(document))
    temporary.replace(path)
