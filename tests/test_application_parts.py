"""Test baselines, tasks and metrics of the applications against transcriptions and exact results; without data."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from benchmarks.applications import digits, lags, state_tracking, text
from seqjax.tasks.groups import GROUPS

TEXT = np.random.default_rng(0).integers(0, 4, 60)
SIZE = 5  # token 4 is in no text


def kneser_ney(train, history, token, n, order):
    """Modified Kneser-Ney by dictionaries, from Chen and Goodman's equations 26 and 17."""
    if n == 0:
        return 1 / SIZE
    grams = Counter(tuple(train[i : i + order]) for i in range(len(train) - order + 1))
    for _ in range(order - n):  # how many tokens stand before each shorter one
        grams = Counter(gram[1:] for gram in grams)
    n1, n2, n3, n4 = (max(1, sum(count == i for count in grams.values())) for i in range(1, 5))
    y = n1 / (n1 + 2 * n2)
    discount = {0: 0, 1: 1 - 2 * y * n2 / n1, 2: 2 - 3 * y * n3 / n2, 3: max(0, 3 - 4 * y * n4 / n3)}
    discount = {i: min(max(value, 0), i) for i, value in discount.items()}
    context = tuple(history[len(history) - n + 1 :])
    after = {gram[-1]: count for gram, count in grams.items() if gram[:-1] == context}
    lower = kneser_ney(train, history, token, n - 1, order)
    if not after:
        return lower
    own = after.get(token, 0)
    removed = sum(discount[min(count, 3)] for count in after.values())
    return (own - discount[min(own, 3)] + removed * lower) / sum(after.values())


@pytest.mark.parametrize("order", [1, 2, 3])
def test_kneser_ney_is_its_transcription_and_a_distribution(order):
    train, held_out = TEXT[:45], TEXT[45:]
    found = text.kneser_ney(train, held_out, order, SIZE)
    history = [*train.tolist()]
    for token, probability in zip(held_out.tolist(), found, strict=True):
        np.testing.assert_allclose(
            probability, kneser_ney(train.tolist(), history, token, order, order), rtol=1e-12
        )
        history.append(token)
    nexts = [text.kneser_ney(train, np.append(held_out, token), order, SIZE)[-1] for token in range(SIZE)]
    np.testing.assert_allclose(sum(nexts), 1, rtol=1e-12)
    assert min(nexts) > 0


def test_bits_per_character_count_each_prediction_of_a_text_once():
    model = sj.models.language_model(SIZE, "min_gru", hidden_size=3)
    params = model.init(jax.random.key(0), jnp.zeros(2, int))
    tokens = TEXT[:-1]  # two rows of 29 predictions, in batches of 8
    rows = np.stack([tokens[:30], tokens[29:59]], 1)
    ys = model.unroll(params, None, rows[:-1])[1]
    log_p = np.take_along_axis(jax.nn.log_softmax(ys), rows[1:, :, None], -1)
    found = text.bits_per_character(model, params, tokens, num_rows=2, length=8)
    np.testing.assert_allclose(found, -log_p.mean() / np.log(2), rtol=1e-6)


@pytest.mark.slow  # a part of one application; test_tasks.py has its group
def test_swaps_are_products_of_permutations_and_reflections_track_them():
    xs, targets = state_tracking.swaps(50).sample(jax.random.key(0), 3)
    elements = np.array(GROUPS["S5"]())
    for column in range(3):
        places = list(range(5))
        for x, target in zip(xs[:, column], targets[:, column], strict=True):
            i, j = state_tracking.PAIRS[int(x)]
            places = [{i: j, j: i}.get(place, place) for place in places]
            assert elements[target].tolist() == places
    layer = sj.recurrent(state_tracking.reflections())
    ys = layer.unroll((), layer.initial_carry((), xs[0]), xs)[1]
    np.testing.assert_allclose(ys, elements[targets], atol=1e-5)


@pytest.mark.parametrize("make", [sj.delta_net, sj.gated_delta_net])
def test_eigenvalues_are_those_of_the_jacobian_of_a_step(make):
    cell = make(4, num_heads=1, negative_eigenvalues=True)
    layer, x = sj.recurrent(cell), jax.random.normal(jax.random.key(1), (1, 3))
    params = layer.init(jax.random.key(0), x)
    carry = layer.initial_carry(params, x)
    jacobian = jax.jacobian(lambda carry: layer.step(params, carry, x)[0])(carry).reshape(16, 16)
    found = state_tracking.eigenvalues(cell, params, x[None])[0, 0]
    everywhere = np.linalg.eigvalsh((jacobian + jacobian.T) / 2)
    np.testing.assert_allclose(everywhere.min(), found[0], rtol=1e-5)


def test_the_gradient_by_lag_begins_at_the_last_step():
    model = sj.models.sequence_classifier(3, sj.elman, hidden_size=2, bidirectional=False, pool="last")
    xs = jnp.ones((6, 2, 1))
    params = model.init(jax.random.key(0), xs[0])
    found = lags.gradient_by_lag(model, params, xs, jnp.asarray([0, 2]))
    assert len(found) == 6 and found[0] > found[-1]


def test_every_digit_of_a_part_counts_once():
    images, labels = np.zeros((6, 4, 1), np.float32), np.array([0, 0, 0, 1, 1, 2])
    images[:, -1, 0] = labels
    model = sj.pointwise(lambda x: -((x - jnp.arange(10.0)) ** 2))
    found = digits.held_out(model, (images, np.array([0, 0, 0, 1, 2, 2])))(State)
    np.testing.assert_allclose(found["accuracy"], 5 / 6, rtol=1e-6)


class State:
    """A trained state of a model without params."""

    params = ()
