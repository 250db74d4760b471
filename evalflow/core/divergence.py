"""The Jensen-Shannon divergence in base 2, in [0, 1]: 0 for equal masses, 1 for masses that share no bin.

Source: Lin 1991, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37; docs/methods.md,
"Coverage". Keep out: what is done with it.
"""

import numpy as np


def jsd_terms(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Each bin's part of the divergence; the parts are >= 0 and add up to it exactly.

    Args:
        p, q: masses of shape (k,) or (n, k), not negative, each row with a positive sum; they are normalised here, and a
            single row is held against every row of the other side.

    Raises:
        ValueError: a mass is negative, infinite or NaN, or a side sums to zero.
    """
    p, q = _normalised(p, "p"), _normalised(q, "q")
    middle = p + q
    with np.errstate(divide="ignore", invalid="ignore"):
        of_p = np.where(p > 0, p * np.log2(2 * p / middle), 0.0)
        of_q = np.where(q > 0, q * np.log2(2 * q / middle), 0.0)
    return np.asarray(np.maximum((of_p + of_q) / 2, 0.0))


def jsd_of(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The divergence of each row, shape (n,), or () for two single masses (not its square root)."""
    return np.asarray(np.minimum(jsd_terms(p, q).sum(axis=-1), 1.0))


def jsd(p: np.ndarray, q: np.ndarray) -> float:
    """The divergence of two single masses."""
    return float(jsd_of(p, q))


def _normalised(mass: np.ndarray, name: str) -> np.ndarray:
    mass = np.asarray(mass, dtype=float)
    if not np.isfinite(mass).all() or (mass < 0).any():
        raise ValueError(f"{name} holds a negative or infinite mass or NaN")
    total = mass.sum(axis=-1, keepdims=True)
    if (total <= 0).any():
        raise ValueError(f"{name} has no mass")
    return mass / total
