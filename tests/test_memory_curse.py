"""Test the curse of memory: closed forms, and sensitivities against JAX's Jacobians."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.probes import bind, curse_of_memory, memory_sensitivity


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def leak(decay):
    cell = sj.Cell(
        init=lambda key, x: jnp.asarray(decay),
        initial_carry=lambda params, x: jnp.zeros_like(x),
        recurrence=sj.Step(lambda params, h, x: (params * h + x,) * 2),
    )
    return bind(sj.recurrent(cell), jnp.asarray(decay))


@pytest.mark.parametrize(
    ("decay", "correlation"), [(0.9, 0.0), (0.5, 0.5), (0.95, 0.9), (0.9, -0.6), (0.0, 0.3)]
)
def test_the_closed_form_is_the_sum_over_pairs_of_lags(decay, correlation):
    """dh/dlambda = sum_j j lambda^(j-1) x_{T-j}, so its square is a sum over pairs of the inputs' correlations."""
    j = np.arange(1, 1500)
    weights = j * decay ** (j - 1.0)
    correlations = float(correlation) ** np.abs(j[:, None] - j[None]) if correlation else np.eye(len(j))
    assert curse_of_memory(decay, correlation) == pytest.approx(weights @ correlations @ weights, rel=1e-9)


def test_the_published_values():
    assert curse_of_memory(0.9) == pytest.approx(263.887, rel=1e-5)
    assert curse_of_memory(0.99) == pytest.approx(251262.6, rel=1e-6)
    assert curse_of_memory(0.95, 0.9) == pytest.approx(34815.1, rel=1e-5)
    with pytest.raises(ValueError, match=r"curse_of_memory\(decay\): expected a number in \(-1, 1\), got 1"):
        curse_of_memory(1.0)


@pytest.mark.parametrize(("decay", "correlation"), [(0.9, 0.0), (0.9, 0.9)])
@pytest.mark.fast_cases(1)
def test_a_leaky_sum_is_as_sensitive_as_the_closed_form_says(decay, correlation):
    """C10."""
    length, batch = 250, 4096
    noise = normal(0, length, batch, 1)
    xs = noise.copy()
    for t in range(1, length):
        xs[t] = correlation * xs[t - 1] + math.sqrt(1 - correlation**2) * noise[t]
    found = jax.jit(memory_sensitivity, static_argnames="num_probes")(
        leak(decay), jnp.asarray(xs), num_probes=None
    )
    ratio = math.exp(found.log_square[-1]) / curse_of_memory(decay, correlation)
    error = float(found.relative_error[-1])
    assert 0.01 < error < 0.03 and abs(ratio - 1) < 4 * error


def test_sensitivity_is_the_norm_of_the_jacobian_with_resets_and_masks():
    length, batch = 6, 3
    layer = sj.recurrent(sj.lstm(2))
    xs = jnp.asarray(normal(1, length, batch, 2))
    params = jax.tree.map(lambda p: p.astype(float), layer.init(jax.random.key(0), xs[0]))
    rng = np.random.default_rng(2)
    reset, mask = rng.random((length, batch)) < 0.2, rng.random((length, batch)) < 0.7
    start = layer.initial_carry(params, xs[0])

    def carries(params):
        def body(carry, inputs):
            x, r, m = inputs
            carry = layer.step(params, carry, x, reset=r, mask=m)[0]
            return carry, carry

        return jax.lax.scan(body, start, (xs, jnp.asarray(reset), jnp.asarray(mask)))[1]

    jacobians = jax.tree.leaves(jax.jit(jax.jacrev(carries))(params))
    square = sum((np.asarray(j).reshape(length, batch, -1) ** 2).sum(2) for j in jacobians)
    step, poisoned = bind(layer, params), jnp.where(mask[..., None], xs, jnp.nan)
    measure, whole = memory_sensitivity, sj.Batch(xs, None, reset, mask)
    found = jax.jit(functools.partial(measure, num_probes=None))(step, whole._replace(xs=poisoned))
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(found.log_square, np.log(square.mean(1)), rtol=1e-9, atol=1e-9)
    error = square.std(1, ddof=1) / math.sqrt(batch) / np.where(square.mean(1), square.mean(1), 1)
    np.testing.assert_allclose(found.relative_error, error, rtol=1e-9)
    assert np.isfinite(
        measure(step, whole._replace(xs=poisoned), num_probes=1, key=jax.random.key(0)).log_square
    ).any()
    probed = jax.jit(functools.partial(measure, num_probes=4000))(step, whole, key=jax.random.key(1))
    # A probe's relative variance is at most 2 per example: 4000 of them are within 4 * sqrt(2 / 4000).
    some = square.mean(1) > 0
    np.testing.assert_allclose(
        np.exp(probed.log_square)[some] / square.mean(1)[some], 1, atol=4 * math.sqrt(2 / 4000)
    )


@pytest.mark.slow  # one term of the error, whose closed form is here
def test_the_error_holds_that_of_the_probes_which_all_examples_share():
    """The mean of squares over examples and probes scatters as its standard error says, whatever their numbers."""
    weights = jnp.asarray(normal(3, 3, 3)) / 2
    step = jax.tree_util.Partial(lambda w, h, x: (h @ w + x,) * 2, weights)
    layer = sj.recurrent(
        sj.Cell(
            init=lambda key, x: weights,
            initial_carry=lambda w, x: jnp.zeros_like(x),
            recurrence=sj.Step(lambda w, h, x: (h @ w + x,) * 2),
        )
    )
    many = jnp.asarray(normal(4, 2000, 4, 3))
    exact = jax.vmap(
        lambda xs: memory_sensitivity(step, xs, carry=jnp.zeros(3), num_probes=None).log_square[-1]
    )
    expected = float(jnp.mean(jnp.exp(exact(many))))

    @functools.partial(jax.jit, static_argnames="probes")
    def scatter(xs, probes):
        def once(xs, key):
            found = memory_sensitivity(bind(layer, weights), xs, num_probes=probes, key=key)
            square = jnp.exp(found.log_square[-1])
            return square, square * found.relative_error[-1]

        return jax.vmap(once)(xs, jax.random.split(jax.random.key(5), len(xs)))

    for examples, probes in ((40, 4), (5, 40)):
        xs = jnp.asarray(normal(6, 300, 4, examples, 3))
        squares, errors = scatter(xs, probes)
        squares, errors = np.asarray(squares), np.asarray(errors)
        assert np.mean(squares) == pytest.approx(expected, rel=0.1)
        assert math.sqrt(np.mean(errors**2)) == pytest.approx(np.std(squares), rel=0.2)
    alone = memory_sensitivity(bind(layer, weights), xs[0], num_probes=1, key=jax.random.key(0))
    assert np.isnan(alone.relative_error).all() and np.isfinite(alone.log_square[1:]).all()


def test_a_sensitivity_beyond_the_range_of_floats_is_measured():
    step = jax.tree_util.Partial(lambda rate, h, _: (rate * h,) * 2, jnp.asarray(4.0, jnp.float32))
    start = jnp.asarray(2e-38, jnp.float32)
    found = jax.jit(lambda step: memory_sensitivity(step, 60, carry=start, num_probes=None))(step)
    # h_t = h_0 rate^t, dh_t = t rate^(t-1) h_0; the square leaves float32 after 30 steps.
    t = np.arange(1, 61)
    expected = 2 * (np.log(t) + (t - 1) * math.log(4) + math.log(2e-38))
    np.testing.assert_allclose(found.log_square, expected, rtol=1e-5, atol=1e-3)
    assert np.isnan(found.relative_error).all()


def test_wrong_arguments_are_refused():
    with pytest.raises(
        TypeError, match=r"memory_sensitivity\(bound\): expected a step that holds its params"
    ):
        memory_sensitivity(lambda h, x: (h, h), 3, carry=jnp.ones(2), num_probes=None)
    with pytest.raises(ValueError, match=r"memory_sensitivity\(key\): expected a key"):
        memory_sensitivity(leak(0.5), jnp.ones((3, 1, 1)))


def test_it_is_differentiable_though_it_is_zero_at_the_start():
    """dh/dlambda after 3 ones is 1 + 2 lambda, and zero after the first."""

    def log_square(decay):
        step = jax.tree_util.Partial(lambda decay, h, x: (decay * h + x,) * 2, decay)
        return memory_sensitivity(step, jnp.ones(3), carry=jnp.zeros(()), num_probes=None).log_square

    assert np.isneginf(log_square(jnp.asarray(0.5))[0])
    np.testing.assert_allclose(
        jax.grad(lambda decay: log_square(decay)[-1])(jnp.asarray(0.5)), 4 / (1 + 2 * 0.5), rtol=1e-12
    )
