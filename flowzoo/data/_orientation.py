"""Which way a galaxy stands: proper rotations to its principal plane.

A rotation R has det +1 and acts on columns, so that rows of coordinates turn by ``r @ R.T`` and back by ``r @ R``.
"""

from __future__ import annotations

import numpy as np

_ROUNDING = 1e-6  # a moment below this share of its scale is no direction


def by_angular_momentum(r: np.ndarray, v: np.ndarray, m: np.ndarray) -> np.ndarray:
    """The rotation that turns L = sum m r x v to +z, and as little as it can.

    Args:
        r: ``(n, 3)`` positions.
        v: ``(n, 3)`` velocities.
        m: ``(n,)`` masses.

    Raises:
        ValueError: if L is 0, but for rounding.
    """
    spin = _spin(r, v, m)
    length = float(np.linalg.norm(spin))
    if not length > _ROUNDING * float(m @ np.linalg.norm(np.cross(r, v), axis=1)):
        raise ValueError("its angular momentum is 0, which gives no direction; rotate it by inertia")
    a, b, c = spin / length
    # From the lower half it is turned over first: 1 / (1 + c) below is then at most 1.
    over = np.diag([1.0, -1.0, -1.0]) if c < 0 else np.eye(3)
    a, b, c = over @ (a, b, c)
    # Rodrigues' formula for the axis n x z: R = 1 + K + K^2 / (1 + c)
    k = np.array([[0, 0, -a], [0, 0, -b], [a, b, 0]])
    return np.asarray((np.eye(3) + k + k @ k / (1 + c)) @ over)


def by_inertia(r: np.ndarray, v: np.ndarray | None, m: np.ndarray) -> np.ndarray:
    """The rotation that turns the largest axis of sum m r r^T to x and the smallest to the last axis.

    An axis has two ends. +z is the one on the side of the angular momentum, where there are velocities; any other
    positive end is that of the longer tail, sum m (r e)^3 > 0. Where that is 0, the largest component is positive.
    With three axes y completes a right-handed frame, with two it is x turned by a quarter.

    Args:
        r: ``(n, 2)`` or ``(n, 3)`` positions.
        v: as r, or None.
        m: ``(n,)`` masses.
    """
    vectors = np.linalg.eigh((r * m[:, None]).T @ r)[1]  # ascending
    x = _towards(vectors[:, -1], r, m)
    if r.shape[1] == 2:
        return np.stack([x, [-x[1], x[0]]])
    z = vectors[:, 0]
    spin = np.zeros(3) if v is None else _spin(r, v, m)
    along = float(spin @ z)
    z = z * np.sign(along) if abs(along) > _ROUNDING * float(np.linalg.norm(spin)) else _towards(z, r, m)
    return np.stack([x, np.cross(z, x), z])


def _spin(r: np.ndarray, v: np.ndarray, m: np.ndarray) -> np.ndarray:
    """The angular momentum."""
    return np.asarray(m @ np.cross(r, v))


def _towards(axis: np.ndarray, r: np.ndarray, m: np.ndarray) -> np.ndarray:
    """The axis, with its positive end where ``by_inertia`` says."""
    along = r @ axis
    third, scale = float(m @ along**3), float(m @ np.abs(along) ** 3)
    sign = np.sign(third if abs(third) > _ROUNDING * scale else axis[np.abs(axis).argmax()])
    return np.asarray(axis * sign)
