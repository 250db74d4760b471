"""Intervals for proportions, and how many cases it takes until one tells.

Keep out: intervals of weighted or clustered means, which come from resampling, not from a formula.
"""

from math import inf, isfinite, sqrt
from statistics import NormalDist
from typing import NamedTuple

CONFIDENCE = 0.95
"""Of every interval, two-sided: each end alone holds at (1 + CONFIDENCE) / 2."""
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


class Interval(NamedTuple):
    """Both ends included; for a proportion in [0, 1]."""

    low: float
    high: float


def wilson(successes: float, n: float) -> Interval:
    """Wilson's score interval of a proportion at ``CONFIDENCE``: every p that a two-sided score test does not reject.

    It keeps its coverage near 0 and 1 and for small n, where the usual p +- 1.96 SE does not: 10 of 10 gives
    (.722, 1), not (1, 1).

    Args:
        successes: from 0 to n.
        n: independent trials; an effective n (Kish, design effect) may be fractional. None at all says nothing: (0, 1).

    Raises:
        ValueError: ``successes`` lies outside 0 to ``n``.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    z = _Z
    if not (0 <= successes <= n and isfinite(n)):
        raise ValueError(f"{successes} successes in {n} trials are no proportion")
    if n == 0:
        return Interval(0.0, 1.0)
    centre = (successes + z**2 / 2) / (n + z**2)
    half = z * sqrt(successes * ((n - successes) / n) + z**2 / 4) / (n + z**2)
    # Exact where it is known, so that "at or above 0" and "at most 1" do not hang on the last bit.
    low = 0.0 if successes == 0 else max(centre - half, 0.0)
    high = 1.0 if successes == n else min(centre + half, 1.0)
    return Interval(low, high)


def trials_to_tell(rate: float, limit: float) -> float:
    """The n from which Wilson's interval around ``rate`` no longer holds ``limit`` inside: z^2 m(1-m) / (r-m)^2.

    Infinite where the rate is the limit: no number of trials tells them apart.
    """
    if rate == limit:
        return inf
    return _Z**2 * limit * (1 - limit) / max((rate - limit) ** 2, 1e-300)
