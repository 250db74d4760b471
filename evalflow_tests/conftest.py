"""What every test stands on: an environment without evalflow's variables, and reproducible property tests."""

import os

import pytest
from hypothesis import settings

# No database, so that a run leaves nothing behind; derandomised, so that a failure comes back.
settings.register_profile("evalflow", database=None, deadline=None, derandomize=True)
settings.load_profile("evalflow")


SLOW_FILES = ("test_demo.py", "test_ui.py", "test_pipeline.py", "test_flywheel.py", "test_marts.py")
"""Whole pipelines: begun first, so that no worker still waits for one of them when the others have finished."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))  # stable: each file keeps its own order


@pytest.fixture(autouse=True)
def _no_inherited_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own EVALFLOW_* variables must not reach a test."""
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "yes")
    for name in list(os.environ):
        if name.upper().startswith("EVALFLOW_"):
            monkeypatch.delenv(name)
