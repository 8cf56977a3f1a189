"""Compare terminal influence and input saliency with products of Jacobians in NumPy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.cells import REGISTRY, LRUParams
from seqjax.probes import bind, input_saliency, spectral_influence, terminal_influence

T, B, S = 9, 2, 3
RESET = np.zeros((T, B), bool)
RESET[4, 0] = True
RESET[2, 1] = RESET[6, 1] = True
MASK = np.ones((T, B), bool)
MASK[6, 0] = MASK[8, 0] = MASK[2, 1] = MASK[3, 1] = False


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def products(jacobians, reset, mask):
    """M_{T,t} of the carry entering step t, after its reset; by multiplying them up from the end."""
    out, product = [], np.eye(jacobians.shape[-1], dtype=jacobians.dtype)
    for t in reversed(range(len(jacobians))):
        if mask[t]:
            product = product @ jacobians[t]
        out.append(product)
        if reset[t]:
            product = 0 * product
    return np.stack(out[::-1])


@functools.cache
def elman_products():
    """An Elman layer, its inputs, and M by row: J = diag(1 - h^2) W_h'."""
    layer = sj.recurrent(sj.elman(S))
    params = sj.cells.ElmanParams(*map(jnp.asarray, (normal(0, 2, S), normal(1, S, S), normal(2, S))))
    xs, carry = jnp.asarray(normal(3, T, B, 2)), sj.cells.ElmanCarry(jnp.asarray(normal(4, B, S)))
    expected = []
    for b in range(B):
        h, jacobians = np.asarray(carry.h[b]), []
        for t in range(T):
            h = 0 * h if RESET[t, b] else h
            new = np.tanh(xs[t, b] @ params.w_x + h @ params.w_h + params.b)
            jacobians.append(np.diag(1 - new**2) @ np.asarray(params.w_h).T)
            h = new if MASK[t, b] else h
        expected.append(products(np.stack(jacobians), RESET[:, b], MASK[:, b]))
    return bind(layer, params), carry, xs, np.stack(expected, 1)


def where_it_happened(norms):
    return np.where(MASK, norms, np.nan)


def logs(norms):
    with np.errstate(divide="ignore"):
        return np.log(norms)


def test_the_exact_influence_is_the_norm_of_the_product_of_jacobians():
    step, carry, xs, m = elman_products()
    measure = functools.partial(terminal_influence, num_probes=None)
    found = jax.jit(measure)(step, sj.Batch(xs, None, RESET, MASK), carry=carry)
    frobenius = np.sqrt((m**2).sum((2, 3)))
    np.testing.assert_allclose(found.log_norm, logs(where_it_happened(frobenius)), rtol=1e-11)
    assert (np.asarray(found.relative_error)[MASK] == 0).all()
    assert np.isneginf(found.log_norm[:4, 0]).all() and np.isfinite(found.log_norm[4, 0])


def test_random_probes_are_within_their_own_standard_error_of_the_norm():
    step, carry, xs, m = elman_products()
    measure = functools.partial(terminal_influence, num_probes=4096)
    found = jax.jit(measure)(step, sj.Batch(xs, None, RESET, MASK), carry=carry, key=jax.random.key(0))
    sure = MASK & np.isfinite(found.log_norm)
    ratio = np.exp(2 * np.asarray(found.log_norm)) / np.where(sure, (m**2).sum((2, 3)), 1)
    error = np.asarray(found.relative_error)
    # The relative variance of one probe is at most 2; where all columns are parallel it is not far below.
    assert (error[sure] < math.sqrt(2.2 / 4096)).all() and error[sure].max() > 0.005
    assert (np.abs(ratio - 1)[sure] < 4.5 * error[sure] + 1e-12).all()


def test_power_iteration_finds_the_2_norm():
    step, carry, xs, m = elman_products()
    times = [0, 4, 5, 6, 7, 8]
    measure = functools.partial(spectral_influence, times=times, num_iterations=40)
    found = jax.jit(measure)(step, sj.Batch(xs, None, RESET, MASK), carry=carry, key=jax.random.key(0))
    expected = where_it_happened(np.linalg.norm(m, 2, (2, 3)))[times]
    np.testing.assert_allclose(found.log_norm, logs(expected), rtol=1e-6, atol=1e-6)
    assert np.nanmax(np.asarray(found.change)) < 1e-6


def test_influence_of_a_plain_function_at_any_depth():
    """A Jordan block in float32: entries far below the range, their sizes in closed form."""
    decay, length = 0.5, 600
    block = jnp.asarray([[decay, 1], [0, decay]], jnp.float32)
    step = lambda h, _: (block @ h, h)  # noqa: E731
    start = jnp.ones(2, jnp.float32)
    n = np.arange(length, 0, -1)
    # J^n = lambda^n [[1, n/lambda], [0, 1]]
    frobenius = n * math.log(decay) + 0.5 * np.log(2 + (n / decay) ** 2)
    spectral = n * math.log(decay) + np.log(n / (2 * decay) + np.sqrt(1 + (n / (2 * decay)) ** 2))
    times = [0, 300, length - 2]
    found, power = jax.jit(
        lambda start: (
            terminal_influence(step, length, carry=start, num_probes=None),
            spectral_influence(step, length, carry=start, times=times, key=jax.random.key(1)),
        )
    )(start)
    np.testing.assert_allclose(found.log_norm, frobenius, rtol=3e-6)
    np.testing.assert_allclose(power.log_norm, spectral[times], rtol=3e-6)


def test_a_complex_state_counts_as_two_real_ones():
    moduli, angles, length = np.array([0.5, 0.9]), np.array([1.0, 2.5]), 6
    params = LRUParams(
        *map(jnp.asarray, (np.log(-np.log(moduli)), np.log(angles), np.zeros(2))),
        *map(jnp.asarray, (np.ones((1, 4)), np.ones((4, 1)), np.zeros((1, 1)))),
    )
    step, xs = bind(sj.recurrent(sj.lru(1, state_size=2)), params), jnp.ones((length, 1, 1))
    n = np.arange(length, 0, -1)[:, None]
    expected = 0.5 * np.log(2 * (moduli ** (2 * n)).sum(1))
    # Diagonal in its own basis: random signs have no variance.
    key = jax.random.key(0)

    @jax.jit
    def measure(step):
        exact = terminal_influence(step, xs, num_probes=None)
        probed = terminal_influence(step, xs, num_probes=2, key=key)
        return exact, probed, spectral_influence(step, xs, times=[0, 3], key=key, num_iterations=60)

    exact, probed, power = measure(step)
    np.testing.assert_allclose(exact.log_norm[:, 0], expected, rtol=1e-12)
    np.testing.assert_allclose(probed.log_norm[:, 0], expected, rtol=1e-12)
    np.testing.assert_allclose(power.log_norm[:, 0], np.log(0.9) * n[[0, 3], 0], rtol=1e-9)


def test_saliency_is_the_norm_of_the_gradient_by_each_input():
    entry = REGISTRY["lstm"]
    layer = sj.serial(sj.recurrent(entry.make(S)), sj.recurrent(sj.elman(2)))
    xs, targets = jnp.asarray(normal(5, T, B, 2)), jnp.asarray(normal(6, T, B, 2))
    params = jax.tree.map(lambda p: p.astype(float), layer.init(jax.random.key(0), xs[0]))
    loss = lambda ys, targets: jnp.sum(ys * targets, -1)  # noqa: E731

    def total(xs):
        carry = layer.initial_carry(params, xs[0])
        flags = {"reset": jnp.asarray(RESET), "mask": jnp.asarray(MASK)}
        losses = loss(layer.unroll(params, carry, xs, **flags)[1], targets)
        return jnp.where(MASK, losses, 0).sum() / MASK.sum()

    expected = np.linalg.norm(jax.jit(jax.grad(total))(xs), axis=-1)
    measure = functools.partial(input_saliency, loss=loss)
    found = jax.jit(measure)(bind(layer, params), batch=sj.Batch(xs, targets, RESET, MASK))
    np.testing.assert_allclose(found, logs(where_it_happened(expected)), rtol=1e-10)


def test_saliency_of_a_tree_with_integers_at_any_depth():
    step = lambda h, x: (h / 2 + x[0] * x[1], h)  # noqa: E731
    xs = (jnp.arange(1, 1001), jnp.ones(1000, jnp.float32))
    found = input_saliency(step, lambda ys, _: ys[-1], xs, carry=jnp.zeros((), jnp.float32))
    assert found[0] is None
    n = np.arange(1000)
    np.testing.assert_allclose(found[1][:-1], (np.log(n + 1.0) - (998 - n) * math.log(2))[:-1], rtol=3e-6)
    assert found[1][-1] == -np.inf


def test_a_poisoned_masked_step_of_a_plain_function_leaks_nowhere():
    step = lambda h, x: (jnp.sqrt(h) * x, h * x)  # noqa: E731
    mask = np.array([True, False, True, True])
    xs = jnp.asarray([2.0, np.nan, 3.0, 4.0])
    loss = lambda ys, _, mask=None: ys.sum()  # noqa: E731
    found = input_saliency(step, loss, sj.Batch(xs, None, mask=mask), carry=jnp.asarray(4.0))
    alone = input_saliency(step, loss, xs[mask], carry=jnp.asarray(4.0))
    np.testing.assert_allclose(np.asarray(found)[mask], alone, rtol=1e-14)
    assert np.isnan(found[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_probes": 1, "key": jax.random.key(0)}, r"terminal_influence\(num_probes\): expected a whole"),
        ({}, r"terminal_influence\(key\): expected a key for the random probes"),
        ({"num_probes": None, "reset": np.zeros(3, bool)}, r"terminal_influence: expected reset bool\[4\]"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        batch = sj.Batch(4, None, options.pop("reset", None))
        terminal_influence(lambda h, x: (h, h), batch, carry=jnp.ones(2), **options)


def test_times_outside_of_the_sequence_are_refused():
    with pytest.raises(
        ValueError, match=r"spectral_influence\(times\): expected steps from 0 to 3, got \[4\]"
    ):
        spectral_influence(
            lambda h, x: (h, h), 4, carry=jnp.ones(2), times=np.arange(5)[4:], key=jax.random.key(0)
        )
