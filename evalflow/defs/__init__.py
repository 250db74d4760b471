"""Dagster wiring: each asset reads, computes, replaces and reports; what it computes lives in ``core``."""
