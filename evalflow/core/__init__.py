"""Pure functions: frames, arrays and numbers in, the same out.

No Dagster, DuckDB, HTTP, environment or clock here: ``as_of``, ``seed`` and ``rng`` are arguments.
"""
