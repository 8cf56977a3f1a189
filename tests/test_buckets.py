"""Test batches of sequences of different lengths against the sequences themselves."""

import numpy as np
import pytest

from seqjax.base import Batch
from seqjax.datasets import END, START, bucketed, pad, teacher_forced

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(1, 20, 50)
XS = [RNG.normal(size=(n, 3)).astype(np.float32) for n in LENGTHS]
NUMBERS = np.arange(50)


def rows(array, mask):
    """The sequences [T_i, ...] of time-major batches."""
    return [array[: mask[:, b].sum(), b] for b in range(mask.shape[1])]


def batches(loader, epoch=0):
    return [loader(epoch * loader.steps_per_epoch + step) for step in range(loader.steps_per_epoch)]


def test_padding_is_zero_and_masked():
    array, mask = pad(XS, 25)
    assert array.shape == (50, 25, 3) and array.dtype == np.float32
    for row, valid, x in zip(array, mask, XS, strict=True):
        np.testing.assert_array_equal(row[: len(x)], x)
        assert valid[: len(x)].all() and not valid[len(x) :].any() and not row[len(x) :].any()


def test_an_epoch_has_every_example_and_little_padding():
    loader = bucketed(XS, NUMBERS, batch_size=8, num_buckets=4, seed=3)
    found, steps = [], 0
    for batch in batches(loader):
        assert batch.xs.shape[1] == 8 and batch.mask.dtype == bool and batch.targets.shape == (8,)
        for x, number in zip(rows(batch.xs, batch.mask), batch.targets, strict=True):
            np.testing.assert_array_equal(x, XS[number])
            found.append(int(number))
        assert not batch.xs[~batch.mask].any()
        steps += batch.mask.size
    assert set(found) == set(range(50))
    assert len({batch.xs.shape for batch in batches(loader)}) == 4
    assert steps < 0.8 * 20 * len(found)


def test_epochs_have_other_orders_and_steps_are_functions_of_the_seed():
    loader, again = (bucketed(XS, NUMBERS, batch_size=8, seed=5) for _ in range(2))
    first, second = ([b.targets.tolist() for b in batches(loader, epoch)] for epoch in (0, 1))
    assert first != second and first == [b.targets.tolist() for b in batches(again)]
    assert first != [b.targets.tolist() for b in batches(bucketed(XS, NUMBERS, batch_size=8, seed=6))]


def test_processes_read_parts_of_a_batch():
    loader = bucketed(XS, NUMBERS, batch_size=8)
    whole, part = loader(2), loader.part(2, 1, 4)
    np.testing.assert_array_equal(part.xs, whole.xs[:, 2:4])
    np.testing.assert_array_equal(part.targets, whole.targets[2:4])


def test_targets_are_per_step_or_sequences_of_their_own():
    steps = [np.full(n, i) for i, n in enumerate(LENGTHS)]
    batch = bucketed(XS, steps, batch_size=4)(0)
    assert batch.targets.shape == batch.mask.shape
    assert all(len(set(row.tolist())) == 1 for row in rows(batch.targets, batch.mask))
    labels = [np.full(1 + i % 3, i) for i in NUMBERS]
    for batch in batches(bucketed(XS, labels, batch_size=4)):
        assert batch.targets.shape == (4, 3) and batch.targets.dtype == np.int32
        for x, row in zip(rows(batch.xs, batch.mask), batch.targets, strict=True):
            number = row[0]
            assert row.tolist() == [number] * (1 + number % 3) + [-1] * (2 - number % 3)
            np.testing.assert_array_equal(x, XS[number])
    batch = bucketed(XS, steps, batch_size=4, per_step=False)(0)
    np.testing.assert_array_equal(batch.targets >= 0, batch.mask.T)


def test_a_list_of_numbers_is_an_array_with_one_number_per_sequence():
    for kind in (int, float):
        numbers = [kind(n) for n in NUMBERS]
        one, other = (
            bucketed(XS, targets, batch_size=4)(1).targets for targets in (numbers, np.array(numbers))
        )
        np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.skipif("context" not in Batch._fields, reason="batches have no context yet")
def test_a_context_belongs_to_its_sequence():
    sources = [np.full(1 + (7 * i) % 13, i) for i in NUMBERS]
    inputs, targets = teacher_forced([np.full(n, 4 + i) for i, n in enumerate(LENGTHS)])
    for batch in batches(bucketed(inputs, targets, context=sources, batch_size=4)):
        source, mask = batch.context
        assert batch.xs.shape == batch.targets.shape == batch.mask.shape and (batch.xs[0] == START).all()
        for row, valid, target, happens in zip(source, mask, batch.targets.T, batch.mask.T, strict=True):
            number = row[0]
            assert row[valid].tolist() == [number] * (1 + (7 * number) % 13)
            assert target[happens].tolist() == [4 + number] * LENGTHS[number] + [END]
    images = np.arange(50)[:, None, None] * np.ones((50, 2, 2))
    batch = bucketed(XS, NUMBERS, context=images, batch_size=4)(1)
    np.testing.assert_array_equal(batch.context[:, 0, 0], batch.targets)


def test_a_bucket_smaller_than_a_batch_repeats_its_examples():
    loader = bucketed(XS[:3], NUMBERS[:3], batch_size=8, num_buckets=1)
    assert loader.steps_per_epoch == 1 and sorted(set(loader(0).targets.tolist())) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "expected sequences of at least one step, got none"),
        (([np.zeros(0, int)], [1]), "expected sequences of at least one step"),
        ((XS, NUMBERS[:4]), "expected 50 targets, one for each sequence, got 4"),
        ((XS, [1, 2]), "expected 50 targets, one for each sequence, got 2"),
        ((XS, ["a"] * 50), "expected numbers for targets, got <U1. Number classes"),
        ((["ab", "c"], [0, 1]), r"expected integers \[N\], got \[\] of <U2. Encode text with a vocabulary"),
        ((XS, [1, [2]] * 25), r"expected integers \[N\], got \[\]"),
        ((XS, 3), "expected 50 targets, one for each sequence, got a number"),
        ((XS, [np.zeros((2, 1))] * 50), "expected tokens, or floats as long as xs, for targets"),
        ((XS, [np.arange(2)] * 50, True), "expected targets per step, as long as xs"),
        (
            ([np.full((2, 1), np.nan)], NUMBERS[:1]),
            "expected finite sequences, got NaN or infinity in sequence 0",
        ),
    ],
)
def test_wrong_data_are_refused(arguments, message):
    xs, targets, *per_step = arguments
    with pytest.raises(ValueError, match=message):
        bucketed(xs, targets, batch_size=2, per_step=per_step[0] if per_step else None)


def test_padding_refuses_shorter_lengths_and_nothing():
    with pytest.raises(ValueError, match=r"pad\(length\): expected a whole number of at least"):
        pad(XS, 2)
    with pytest.raises(ValueError, match="pad: expected at least one sequence, got none"):
        pad([])
