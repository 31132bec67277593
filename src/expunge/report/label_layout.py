"""Where the names beside the points of a drawing go, so that none covers another. All lengths in one unit, y upward."""

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

# Nearest first; at one distance: right, left, above, below, then slanting.
_REACHES = (10, 18, 28, 40, 54, 70, 90, 115, 145)
_ANGLES = (0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200)
_AIR = 2.0


class Box(NamedTuple):
    """A rectangle with its sides along the axes."""

    x0: float
    y0: float
    x1: float
    y1: float

    def widened(self, by: float) -> "Box":
        """The same with a margin on every side."""
        return Box(self.x0 - by, self.y0 - by, self.x1 + by, self.y1 + by)

    def inside(self, room: "Box") -> bool:
        """Does it lie within `room`?"""
        return self.x0 >= room.x0 and self.x1 <= room.x1 and self.y0 >= room.y0 and self.y1 <= room.y1

    def shared(self, other: "Box") -> float:
        """The area that both cover."""
        width, height = min(self.x1, other.x1) - max(self.x0, other.x0), min(self.y1, other.y1) - max(self.y0, other.y0)
        return width * height if width > 0 and height > 0 else 0.0

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Its point nearest to (x, y)."""
        return min(max(x, self.x0), self.x1), min(max(y, self.y0), self.y1)


def place(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], taken: Sequence[Box], room: Box
) -> list[Box]:
    """A box for the name of each point, near it and inside `room`, that covers as little as can be.

    Two points of distance cost as much as one square point covered: a name rather crosses a thin line than goes far.

    Args:
        points: where the named things are.
        sizes: (width, height) of each name.
        taken: what no name should cover: markers, bars.
        room: what no name should leave; one larger than the room may.

    Returns:
        One box a point, in the order of points. Earlier points choose first.
    """
    covered = list(taken)
    placed = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        spots = {_spot(x, y, reach, angle, width, height): reach / 2 for reach, angle in product(_REACHES, _ANGLES)}
        within = [spot for spot in spots if spot.inside(room)] or list(spots)
        costs = [spots[spot] + sum(spot.widened(_AIR).shared(other) for other in covered) for spot in within]
        best = within[costs.index(min(costs))]
        covered.append(best)
        placed.append(best)
    return placed


def _spot(x: float, y: float, reach: float, angle: float, width: float, height: float) -> Box:
    # The box meets the end of the ray with the side that faces the point: right of the point with its left side.
    across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    left = x + reach * across + (across - 1) / 2 * width
    low = y + reach * up + (up - 1) / 2 * height
    return Box(left, low, left + width, low + height)
