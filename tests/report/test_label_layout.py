import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.report.label_layout import Box, place

ROOM = Box(0, 0, 400, 400)


def test_boxes() -> None:
    box = Box(0, 0, 4, 2)
    # The two share x from 3 to 4 and y from 1 to 2.
    assert box.shared(Box(3, 1, 9, 9)) == 1
    assert box.shared(Box(4, 0, 9, 9)) == 0
    assert box.widened(1) == Box(-1, -1, 5, 3)
    assert box.inside(Box(0, 0, 4, 2)) and not box.inside(Box(0.1, 0, 4, 2))
    assert box.nearest(9, 1) == (4, 1)


def test_a_name_alone_stands_close_at_the_right() -> None:
    # Ten to the right of the point, its middle at the point's height.
    assert place([(100, 100)], [(50, 12)], [], ROOM) == [Box(110, 94, 160, 106)]


def test_a_name_stays_in_the_room() -> None:
    # No room at the right: at the left then, ten away.
    assert place([(390, 100)], [(50, 12)], [], ROOM) == [Box(330, 94, 380, 106)]


def test_a_name_goes_where_nothing_is() -> None:
    right, left = Box(105, 80, 400, 120), Box(0, 80, 95, 120)
    (box,) = place([(100, 100)], [(50, 12)], [right, left], ROOM)
    assert box.shared(right) == box.shared(left) == 0


def test_a_name_crosses_a_thin_line_rather_than_go_far() -> None:
    # Every place below y = 160 crosses a line of half a point, at a cost of 0.5 x 16 with air around the name; above
    # nothing is in the way, at a cost of 35 for a distance of 70.
    lines = [Box(x, 0, x + 0.5, 160) for x in range(0, 400, 30)]
    (box,) = place([(100, 100)], [(50, 12)], lines, ROOM)
    assert math.dist(box.nearest(100, 100), (100, 100)) < 20


def test_a_name_larger_than_the_room_is_still_placed() -> None:
    assert len(place([(5, 5)], [(50, 50)], [], Box(0, 0, 10, 10))) == 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(20, 380), st.floats(20, 380)), min_size=1, max_size=8))
def test_names_do_not_cover_each_other(points: list[tuple[float, float]]) -> None:
    boxes = place(points, [(60, 12)] * len(points), [Box(x - 5, y - 5, x + 5, y + 5) for x, y in points], ROOM)
    assert all(box.inside(ROOM) for box in boxes)
    assert all(one.shared(other) == 0 for i, one in enumerate(boxes) for other in boxes[:i])


def test_the_check_for_covering_can_fail() -> None:
    with pytest.raises(AssertionError):
        assert Box(0, 0, 10, 10).shared(Box(5, 5, 15, 15)) == 0
