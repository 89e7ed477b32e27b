"""The algebra of digits and views against NumPy: where the elements of a leaf go."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ppuda_jax.tracing.labels import Label, reshape_labels
from ppuda_jax.tracing.values import Joined, Weight
from ppuda_jax.tracing.views import (
    REPEATED,
    UNKNOWN,
    Digit,
    View,
    complete_digits,
    filler,
    regroup,
)

SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4).map(tuple)
MOVES = ("transpose", "reshape", "window", "reverse", "broadcast", "drop")


def leaf_of(shape):
    return np.arange(math.prod(shape)).reshape(shape)


def shown(view, leaf):
    """The value that a view describes, from the definition of a digit."""
    index = [np.zeros(view.shape, int) for _ in leaf.shape]
    for digit in view.fixed:
        index[digit.axis] += digit.start * digit.stride
    for number, axis in enumerate(view.axes):
        rest = np.arange(view.shape[number])
        for digit in reversed(axis):
            rest, place = np.divmod(rest, digit.count)
            if digit.is_leaf:
                along = (digit.start + place * digit.step) * digit.stride
                one = [-1 if i == number else 1 for i in range(len(view.axes))]
                index[digit.axis] += along.reshape(one)
    return leaf[tuple(index)]


def is_known(view):
    return all(digit.axis != UNKNOWN for axis in view.axes for digit in axis)


def factorisations(draw, size):
    """A shape of a given size."""
    shape = []
    while size > 1 and len(shape) < 4:
        factor = draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
        shape.append(factor)
        size //= factor
    return (*shape, size)


def move(draw, view, value):
    """One random operation on a view and on the array that it describes."""
    name, rank = draw(st.sampled_from(MOVES)), value.ndim
    if name == "reshape":
        shape = factorisations(draw, value.size)
        return view.reshape(shape), value.reshape(shape)
    if name == "broadcast":
        place, count = draw(st.integers(0, rank)), draw(st.sampled_from([1, 2]))
        shape = (*value.shape[:place], count, *value.shape[place:])
        where = [i for i in range(rank + 1) if i != place]
        wide = np.broadcast_to(np.expand_dims(value, place), shape)
        return view.broadcast(shape, where), wide
    if not rank:
        return view, value
    axis = draw(st.integers(0, rank - 1))
    size = value.shape[axis]
    if name == "transpose":
        order = draw(st.permutations(range(rank)))
        return view.transpose(order), value.transpose(order)
    if name == "reverse":
        return view.reverse(axis), np.flip(value, axis)
    if name == "drop":
        place = draw(st.integers(0, size - 1))
        return view.window(axis, place, 1).drop((axis,)), value.take(place, axis)
    start = draw(st.integers(0, size - 1))
    step = draw(st.integers(1, 2))
    count = draw(st.integers(1, (size - 1 - start) // step + 1))
    where = np.arange(start, start + count * step, step)
    return view.window(axis, start, count, step), value.take(where, axis)


@settings(max_examples=300, deadline=None)
@given(st.data(), SHAPES)
def test_a_view_shows_what_numpy_shows(data, shape):
    leaf = leaf_of(shape)
    view, value, known = View.of_leaf(7, shape), leaf, True
    for _ in range(data.draw(st.integers(1, 6))):
        assume(value.size <= 1000)
        view, value = move(data.draw, view, value)
        assert view.leaf == 7 and view.shape == value.shape
        known = known and is_known(view)
        if known:
            np.testing.assert_array_equal(shown(view, leaf), value)
            assert view.coverage == len(np.unique(value))


@settings(max_examples=100, deadline=None)
@given(st.data(), SHAPES)
def test_transposes_and_reshapes_of_single_axes_are_always_known(data, shape):
    leaf, view = leaf_of(shape), View.of_leaf(0, shape)
    split = [factorisations(data.draw, n) for n in shape]
    flat = tuple(n for axis in split for n in axis)
    order = data.draw(st.permutations(range(len(flat))))
    moved = view.reshape(flat).transpose(order)
    assert is_known(moved)
    np.testing.assert_array_equal(shown(moved, leaf), leaf.reshape(flat).transpose(order))
    back = moved.transpose(np.argsort(order).tolist()).reshape(shape)
    np.testing.assert_array_equal(shown(back, leaf), leaf)


def test_a_reshape_that_cuts_through_a_window_is_unknown():
    view = View.of_leaf(0, (6,)).window(0, 1, 4)
    assert not is_known(view.reshape((2, 2)))
    assert view.reshape((2, 2)).shape == (2, 2)
    assert is_known(View.of_leaf(0, (6,)).window(0, 2, 4).reshape((2, 2)))


@pytest.mark.parametrize(("axis", "varies"), [(0, True), (1, False), (2, True)])
def test_varying_axes(axis, varies):
    view = View.of_leaf(0, (3, 4)).broadcast((3, 5, 4), (0, 2))
    assert (axis in view.varying()) == varies


# --- digits -----------------------------------------------------------------------------------


def values(digit):
    return [(digit.start + i * digit.step) * digit.stride for i in range(digit.count)]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3))
def test_the_parts_of_a_digit_count_as_the_digit(outer, inner, stride, start):
    digit = Digit(0, stride, inner * (outer + start), inner * start, inner * outer)
    first, second = digit.split(inner)
    assert (first.count, second.count) == (outer, inner)
    assert [a + b for a in values(first) for b in values(second)] == values(digit)


@given(
    st.integers(0, 5), st.integers(1, 5), st.sampled_from([1, 2, -1]), st.integers(0, 4), st.data()
)
def test_a_window_of_a_digit_counts_as_a_part_of_it(start, count, step, first, data):
    digit = Digit(0, 3, 50, start + 10, count + first, step)
    size = data.draw(st.integers(1, count))
    assert values(digit.window(first, size, 1)) == values(digit)[first : first + size]


@pytest.mark.parametrize("digit", [Digit(0, 1, 6, 1, 4), Digit(0, 1, 6, 5, 6, -1)])
def test_windows_that_parts_would_cut_are_not_split(digit):
    assert digit.split(2) is None


def test_fillers_stay_fillers():
    for axis in (REPEATED, UNKNOWN):
        assert [d.axis for d in filler(6, axis).split(2)] == [axis, axis]
        assert filler(6, axis).window(1, 3, 1) == filler(3, axis)


@settings(max_examples=100, deadline=None)
@given(st.data(), SHAPES)
def test_regrouped_digits_have_the_new_shape_and_the_old_order(data, shape):
    digits = [Label(str(i), n) for i, n in enumerate(shape) if n > 1]
    new = factorisations(data.draw, math.prod(shape))

    def split(part, inner):
        return Label(part.kind + "a", part.count // inner), Label(part.kind + "b", inner)

    groups = regroup(digits, new, split)
    assume(groups is not None)
    assert [math.prod(part.count for part in group) for group in groups] == list(new)
    kinds = [part.kind[0] for group in groups for part in group]
    assert kinds == sorted(kinds) and set(kinds) == {d.kind for d in digits}


def test_regroup_refuses_what_does_not_divide():
    digits = View.of_leaf(0, (4, 3)).leaf_digits
    assert regroup(digits, (3, 4), lambda digit, inner: digit.split(inner)) is None


@given(st.data(), SHAPES)
def test_labels_keep_the_shape(data, shape):
    labels = tuple((Label(f"s{i}", n),) if n > 1 else () for i, n in enumerate(shape))
    new = factorisations(data.draw, math.prod(shape))
    again = reshape_labels(labels, new)
    assert tuple(math.prod(part.count for part in axis) for axis in again) == new


@settings(max_examples=100, deadline=None)
@given(st.data(), SHAPES)
def test_missing_digits_are_added_in_their_place(data, shape):
    split = [factorisations(data.draw, n) for n in shape]
    view = View.of_leaf(0, shape).reshape([n for axis in split for n in axis])
    every = sorted(view.leaf_digits, key=lambda d: (d.axis, -d.stride))
    kept = [d for d in every if data.draw(st.booleans())]
    ordered, missing = complete_digits(data.draw(st.permutations(kept)), shape)
    assert set(kept) <= set(ordered) and set(missing) == set(ordered) - set(kept)
    index = [np.zeros((), int) for _ in shape]
    for number, digit in enumerate(ordered):
        one = [-1 if i == number else 1 for i in range(len(ordered))]
        index[digit.axis] = index[digit.axis] + np.array(values(digit)).reshape(one)
    leaf = leaf_of(shape)
    np.testing.assert_array_equal(leaf[tuple(index)].ravel(), leaf.ravel())


@pytest.mark.parametrize(
    "digits",
    [
        [Digit(0, 1, 6, 0, 6), Digit(0, 1, 6, 0, 6)],
        [Digit(0, 2, 3, 0, 3), Digit(0, 1, 3, 0, 3)],
        [Digit(0, 1, 4, 0, 4)],
    ],
)
def test_digits_that_overlap_or_do_not_divide_are_refused(digits):
    assert complete_digits(digits, (6,)) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.data())
def test_a_part_of_joined_parameters(sizes, data):
    leaves = [leaf_of((n, 2)) + 100 * i for i, n in enumerate(sizes)]
    joined = Joined(0, tuple(Weight(View.of_leaf(i, x.shape)) for i, x in enumerate(leaves)))
    assert joined.shape == (sum(sizes), 2)
    start = data.draw(st.integers(0, sum(sizes) - 1))
    count = data.draw(st.integers(1, sum(sizes) - start))
    part = joined.select(start, count)
    parts = part.parts if isinstance(part, Joined) else (part,)
    got = np.concatenate([shown(p.view, leaves[p.view.leaf]) for p in parts])
    np.testing.assert_array_equal(got, np.concatenate(leaves)[start : start + count])
