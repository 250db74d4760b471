"""What the assets are given: the home, and DuckDB in memory."""

import dagster as dg
from dagster_duckdb import DuckDBResource

from evalflow.adapters.home import Home, open_home


class HomeResource(dg.ConfigurableResource):
    """The EVALFLOW_HOME that a run works in."""

    path: str

    def open(self) -> Home:
        """The home with its settings read anew, its folders and empty tables in place."""
        return open_home(self.path).prepare()


def resources_of(home: Home) -> dict[str, dg.ConfigurableResource]:
    return {"home": HomeResource(path=str(home.path)), "duckdb": DuckDBResource(database=":memory:")}
