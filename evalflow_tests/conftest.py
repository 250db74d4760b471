"""What every test stands on: an environment without evalflow's variables, and reproducible property tests."""

import os

import pytest
from hypothesis import settings

# No database, so that a run leaves nothing behind; derandomised, so that a failure comes back.
settings.register_profile("evalflow", database=None, deadline=None, derandomize=True)
settings.load_profile("evalflow")


@pytest.fixture(autouse=True)
def _no_inherited_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own EVALFLOW_* variables must not reach a test."""
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "yes")
    for name in list(os.environ):
        if name.upper().startswith("EVALFLOW_"):
            monkeypatch.delenv(name)
