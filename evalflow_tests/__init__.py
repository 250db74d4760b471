"""Tests: each plants a truth and recovers it, or holds a promise that its name or docstring states."""
