"""Whether a graph is bipartite, and how. Loads without torch, since processes that shuffle weights start with it."""

from collections.abc import Sequence
from typing import TypeVar

Name = TypeVar("Name", int, str)


def two_sides(edges: Sequence[tuple[Name, Name]], names: Sequence[Name]) -> dict[Name, bool] | None:
    """A side for each of the names, so that every edge is between the two; None where there is no such choice."""
    side: dict[Name, bool] = {}
    for start in names:
        todo = [] if start in side else [start]
        side.setdefault(start, False)
        while todo:
            here = todo.pop()
            for other in [b if here == a else a for a, b in edges if here in (a, b)]:
                if other not in side:
                    side[other] = not side[here]
                    todo.append(other)
                elif side[other] == side[here]:
                    return None
    return side
