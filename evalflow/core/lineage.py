"""Fingerprints: a short hash of everything that a partition was made from.

A partition whose stored fingerprint equals the one computed from today's inputs is up to date; any other is
missing or changed. There are no clocks in it, so a lake can be compared and rebuilt.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

FINGERPRINT_LENGTH = 16


def fingerprint(*parts: Any) -> str:
    """Hash of JSON-serialisable parts, order-sensitive; dates and paths count as their text."""
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_LENGTH]


def contiguous_ranges(keys: Iterable[Any], all_keys: list[Any]) -> list[tuple[Any, Any]]:
    """Group ``keys`` into (first, last) runs that are neighbours in ``all_keys``; order follows ``all_keys``."""
    wanted = set(keys)
    ranges: list[tuple[Any, Any]] = []
    previous_taken = False
    for key in all_keys:
        if key in wanted:
            ranges = [*ranges[:-1], (ranges[-1][0], key)] if previous_taken else [*ranges, (key, key)]
        previous_taken = key in wanted
    return ranges
