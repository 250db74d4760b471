"""What dbt-duckdb loads to read the lake wherever it lies: a folder as it is, a URL through fsspec.

Runs inside dbt's own process; ``dbt_models/profiles.yml`` names it.
"""

import os

import duckdb
from dbt.adapters.duckdb.plugins import BasePlugin

LAKE_VARIABLE = "DBT_EVALFLOW_LAKE"


class Plugin(BasePlugin):
    """Found by dbt-duckdb under this very name."""

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        url = os.environ[LAKE_VARIABLE]
        if "://" in url:
            from evalflow.adapters.lake import lake_at

            conn.register_filesystem(lake_at(url).fs)
