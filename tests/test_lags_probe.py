"""Compare the gradient by lag and the bias of truncation with closed forms and one gradient per pair of steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import seqjax as sj
from seqjax.cells import ElmanParams
from seqjax.ops.select import select
from seqjax.probes import bind, lag_decomposition, truncation_bias

Partial = jax.tree_util.Partial
T, B = 7, 3


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def leak(decay, h, x):
    h = decay * h + x
    return h, h


# ---------------------------------------------------------------- by brute force


def by_pairs(layer, params, carry, xs, loss, targets, reset, mask):
    """The gradient by lag: a copy of the params per step, and one backward pass per output and example.

    Lags count the steps of each example that happened, so the batch is taken one row at a time.
    """
    length, batch = xs.shape[:2]

    def outputs(copies):
        def body(carry, inputs):
            p, x, r, m = inputs
            initial = layer.initial_carry(p, x)
            return layer.step(p, select(r, initial, carry), x, mask=m)

        return jax.lax.scan(body, carry, (copies, xs, reset, mask))[1]

    copies = jax.tree.map(lambda p: jnp.broadcast_to(p, (length, *p.shape)), params)
    ys, pull = jax.vjp(outputs, copies)

    def mean(ys):
        losses = loss(ys, targets)
        return jnp.where(mask, losses, 0).sum() / mask.sum() if losses.ndim == 2 else losses.mean()

    d_ys = jax.grad(mean)(ys)
    parts = [0 for _ in range(length)]
    pull = jax.jit(pull)
    d_ys, mask = np.asarray(d_ys), np.asarray(mask)
    for b in range(batch):
        number = np.cumsum(mask[:, b])
        for t in np.flatnonzero(mask[:, b]):
            only = np.zeros_like(d_ys)
            only[t, b] = d_ys[t, b]
            by_step = [np.asarray(leaf).reshape(length, -1) for leaf in jax.tree.leaves(pull(only))]
            for s in np.flatnonzero(mask[: t + 1, b]):
                lag = number[t] - number[s]
                parts[lag] = parts[lag] + np.concatenate([leaf[s] for leaf in by_step])
    return parts


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def squares(ys, targets):
    return jnp.sum(ys**2 * targets, -1)


def last(ys, targets):
    return squares(ys, targets)[-1]


@functools.cache
def model():
    layer = sj.serial(sj.recurrent(sj.elman(2)), sj.recurrent(sj.gru(2)))
    xs = normal(0, T, B, 2)
    params = jax.tree.map(lambda p: 1.5 * p.astype(float), layer.init(jax.random.key(1), xs[0]))
    carry = jax.tree.map(lambda c: c + normal(1, *c.shape), layer.initial_carry(params, xs[0]))
    rng = np.random.default_rng(3)
    return (
        layer,
        params,
        carry,
        xs,
        normal(2, T, B, 2),
        *map(jnp.asarray, (rng.random((T, B)) < 0.2, rng.random((T, B)) < 0.7)),
    )


@pytest.mark.parametrize(
    ("loss", "flags"),
    [
        (squares, "both"),
        (last, "none"),
        pytest.param(last, "both", marks=pytest.mark.slow),
        pytest.param(squares, "none", marks=pytest.mark.slow),
        pytest.param(squares, "reset", marks=pytest.mark.slow),
    ],
)
@pytest.mark.fast_cases(1)
def test_each_lag_is_the_sum_over_pairs_of_steps(loss, flags):
    layer, params, carry, xs, targets, reset, mask = model()
    reset = reset if flags != "none" else np.zeros_like(reset)
    mask = mask if flags == "both" else np.ones_like(mask)
    parts = np.stack(np.broadcast_arrays(*by_pairs(layer, params, carry, xs, loss, targets, reset, mask)))
    full = sum(parts)
    options = {"none": {}, "reset": {"reset": reset}, "both": {"reset": reset, "mask": mask}}[flags]

    @jax.jit
    def measure(step, xs):
        arguments = (step, loss, sj.Batch(xs, targets, **options))
        return lag_decomposition(*arguments, carry=carry), truncation_bias(*arguments, carry=carry)

    poisoned = xs if flags != "both" else jnp.where(mask[..., None], xs, jnp.nan)
    found, bias = measure(bind(layer, params), poisoned)
    norms = np.linalg.norm(parts, axis=1)
    np.testing.assert_allclose(np.exp(found.log_norm), norms, rtol=1e-10, atol=1e-13 * norms.max())
    np.testing.assert_allclose(flat(found.gradients.params), full, rtol=1e-10, atol=1e-13)
    size = np.linalg.norm(full)
    some = norms > 0
    cosines = parts @ full / np.where(some, norms, 1) / size
    np.testing.assert_allclose(np.asarray(found.cosine)[some], cosines[some], rtol=1e-9, atol=1e-12)
    assert np.isnan(found.cosine)[~some].all() and np.isneginf(found.log_norm)[~some].all()
    cut = np.cumsum(parts, 0)
    np.testing.assert_allclose(bias.bias, np.linalg.norm(cut - full, axis=1) / size, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(bias.cosine, cut @ full / np.linalg.norm(cut, axis=1) / size, rtol=1e-10)
    np.testing.assert_array_equal(bias.windows, np.arange(1, T + 1))


@pytest.mark.slow  # each lag is tested by its sum
def test_fewer_lags_are_the_first_of_all():
    xs = normal(4, 9)

    @jax.jit
    def measure(step):
        bias = functools.partial(truncation_bias, step, lambda ys, _: ys**2, xs, carry=jnp.zeros(()))
        lags = lag_decomposition(step, lambda ys, _: ys**2, xs, carry=jnp.zeros(()), max_lag=2)
        return bias(max_window=3), bias(), lags

    few, every, lags = measure(Partial(leak, jnp.asarray(0.9)))
    np.testing.assert_allclose(few.bias, every.bias[:3], rtol=1e-12)
    assert few.window_1 == np.inf and 3 < every.window_1 <= 9
    assert len(lags.log_norm) == 3


def test_an_initial_carry_that_is_learned_counts_at_the_start_and_at_resets():
    """Of the gradient by the initial value, the first lag is the part that is read in the step it begins."""
    cell = sj.Cell(
        init=lambda key, x: (jnp.asarray(0.5), jnp.asarray(1.0)),
        initial_carry=lambda params, x: params[1] * jnp.ones_like(x),
        recurrence=sj.Step(lambda params, h, x: (params[0] * h + x,) * 2),
    )
    xs = jnp.zeros((4, 1, 1))
    step = bind(sj.recurrent(cell), (jnp.asarray(0.5), jnp.asarray(1.0)))
    reset = np.array([False, False, True, False])[:, None]
    weights = jnp.asarray([1.0, 10.0, 100.0, 1000.0])[:, None, None]
    loss = lambda ys, _: (ys * weights).sum()  # noqa: E731
    batch = sj.Batch(xs, None, reset)
    found = jax.jit(lambda step: lag_decomposition(step, loss, batch))(step)
    # y_t = d^k v with k = 1, 2, 1, 2 steps since the start: by d k d^(k-1) v, by v d^k; the last two shares by lag.
    by_decay = [0.5 * 10 + 1 + 0.5 * 1000 + 100, 0.5 * 10 + 0.5 * 1000, 0, 0]
    by_value = [0.5 * 101, 0.25 * 1010, 0, 0]
    np.testing.assert_allclose(np.exp(found.log_norm), np.hypot(by_decay, by_value), rtol=1e-12)
    np.testing.assert_allclose(found.gradients.params, (sum(by_decay), sum(by_value)), rtol=1e-12)
    # With another carry for resets, the learned one counts at the start alone.
    other = jnp.full((1, 1), 2.0)
    found = jax.jit(lambda step: lag_decomposition(step, loss, batch, initial=other))(step)
    by_decay = [0.5 * 10 + 1 + 2 * (0.5 * 1000 + 100), 0.5 * 10 + 2 * 0.5 * 1000, 0, 0]
    by_value = [0.5 * 1, 0.25 * 10, 0, 0]
    np.testing.assert_allclose(np.exp(found.log_norm), np.hypot(by_decay, by_value), rtol=1e-12)
    np.testing.assert_allclose(found.gradients.params, (sum(by_decay), sum(by_value)), rtol=1e-12)


# ---------------------------------------------------------------- closed forms


def gaussian(length, decay, stationary):
    """Inputs ``[T, B, 1]`` and a first carry whose second moments over the batch are exactly those of the model.

    The gradient is quadratic in them, so that the mean over this batch *is* the expectation.
    """
    rows = scipy.linalg.hadamard(256)[: length + 1].astype(float)
    return jnp.asarray(rows[1:, :, None]), jnp.asarray(rows[0][:, None]) * stationary / np.sqrt(1 - decay**2)


@pytest.mark.parametrize("decay", [0.9, 0.5])
@pytest.mark.fast_cases(1)
def test_the_expected_truncated_gradient_has_relative_bias_lambda_to_the_2k(decay):
    """C11: h' = lambda h + x in its stationary state, loss h_T^2 / 2, independent inputs."""
    length = 200
    xs, carry = gaussian(length, decay, stationary=True)
    layer = sj.recurrent(sj.Cell(
        init=lambda key, x: jnp.asarray(decay), initial_carry=lambda params, x: jnp.zeros_like(x),
        recurrence=sj.Step(leak),
    ))  # fmt: skip
    step = bind(layer, jnp.asarray(decay))
    measure = functools.partial(truncation_bias, loss=lambda ys, _: ys[-1, :, 0] ** 2 / 2)
    found = jax.jit(functools.partial(measure, max_window=30))(step, batch=xs, carry=carry)
    k = np.arange(1, 31)
    np.testing.assert_allclose(found.bias, decay ** (2 * k), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(found.cosine, 1, rtol=1e-12)
    assert found.window_10 == np.ceil(np.log(0.1) / np.log(decay) / 2)
    assert found.window_1 == np.ceil(np.log(0.01) / np.log(decay) / 2)


def test_from_rest_the_bias_is_another():
    """C11 at finite T: from h = 0, lambda = .9, T = 20, K = 5: .308, where the stationary state has .349."""
    decay, length = 0.9, 20
    xs, carry = gaussian(length, decay, stationary=False)
    layer = sj.recurrent(sj.elman(1, activation="identity"))
    params = ElmanParams(jnp.ones((1, 1)), jnp.full((1, 1), decay), jnp.zeros(1))
    measure = functools.partial(truncation_bias, loss=lambda ys, _: ys[-1, :, 0] ** 2 / 2)
    found = jax.jit(measure)(bind(layer, params), batch=xs, carry=sj.cells.ElmanCarry(carry))
    # Of W_h alone, E h_T sum_j lambda^j h_{T-1-j}: lambda^(2j+1) (1 - lambda^(2(T-1-j))) / (1 - lambda^2).
    j = np.arange(length)
    terms = decay ** (2 * j + 1) * (1 - decay ** (2 * (length - 1 - j))) / (1 - decay**2)
    assert abs(terms[5:].sum() / terms.sum() - 0.308) < 5e-4
    # Here w_x and b take part as well: E h_T^2 by lag, and zero.
    w_x = decay ** (2 * j)
    left = [np.hypot(terms[k:].sum(), w_x[k:].sum()) for k in range(1, length + 1)]
    np.testing.assert_allclose(found.bias, left / np.hypot(terms.sum(), w_x.sum()), rtol=1e-9, atol=1e-12)


def test_truncation_may_reverse_the_sign():
    """C12: influence balancing."""
    n, length = 23, 120
    a = jnp.eye(n) / 2 + jnp.diag(jnp.ones(n - 1), 1) / 2
    s = jnp.asarray([1.0] * 10 + [-1.0] * 13)
    step = Partial(lambda theta, h, x: (a @ h + theta * s,) * 2, jnp.asarray(0.5))
    loss = lambda ys, _: ys[-1, 0]  # noqa: E731
    found, part = jax.jit(
        lambda step: [f(step, loss, length, carry=jnp.zeros(n)) for f in (truncation_bias, lag_decomposition)]
    )(step)
    # dh_1/dtheta = sum_j (A^j s)_1, by binomials, in exact arithmetic of NumPy's float64.
    powers, v = [], np.asarray(s)
    for _ in range(length):
        powers.append(v[0])
        v = np.asarray(a) @ v
    full = sum(powers)
    assert abs(full + 6) < 1e-6
    cut = np.cumsum(powers)
    np.testing.assert_allclose(part.gradients.args[0], full, rtol=1e-12)
    np.testing.assert_allclose(found.bias, np.abs(cut - full) / abs(full), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(np.sign(found.cosine), np.where(cut < 0, 1, -1))
    assert (np.asarray(found.cosine[:40]) == -1).all() and (np.asarray(found.cosine[40:]) == 1).all()
    np.testing.assert_allclose(np.exp(part.log_norm), np.abs(powers), rtol=1e-9, atol=1e-15)


def test_lags_beyond_the_range_of_floats_keep_their_norms():
    decay, length = 0.5, 400
    step = Partial(leak, jnp.asarray(decay, jnp.float32))
    xs = jnp.ones(length, jnp.float32)
    measure = functools.partial(lag_decomposition, loss=lambda ys, _: ys[-1])
    found = jax.jit(measure)(step, batch=xs, carry=jnp.zeros((), jnp.float32))
    lag = np.arange(length - 1)
    expected = np.log(decay) * lag + np.log((1 - decay ** (length - 1.0 - lag)) / (1 - decay))
    np.testing.assert_allclose(found.log_norm[:-1], expected, rtol=2e-6, atol=2e-6)
    assert found.log_norm[-1] == -np.inf


# ---------------------------------------------------------------- errors


def test_in_half_precision_the_parts_of_many_steps_add_up():
    """What 256 steps add to a gradient, and 256 lags to it, would be lost to the roundings of a sum in bfloat16."""
    length, decay = 256, 0.8984375
    xs = np.asarray(normal(5, length, 8).astype(jnp.bfloat16), float)
    step = Partial(leak, jnp.full(8, decay, jnp.bfloat16))

    def loss(ys, _):
        return jnp.sum(jnp.square(ys.astype(float)), -1)

    found = jax.jit(lambda step, xs: truncation_bias(step, loss, xs, carry=jnp.zeros(8, jnp.bfloat16)))(
        step, jnp.asarray(xs, jnp.bfloat16)
    )
    hs = np.zeros((length + 1, 8))  # entering each step
    for t in range(length):
        hs[t + 1] = decay * hs[t] + xs[t]
    parts = [(decay**tau * hs[: length - tau] * 2 * hs[tau + 1 :]).sum(0) for tau in range(length)]
    left = np.sum(parts, 0) - np.cumsum(parts, 0)
    bias = np.linalg.norm(left, axis=1) / np.linalg.norm(np.sum(parts, 0))
    np.testing.assert_allclose(found.bias, bias, atol=0.02)
    assert found.bias[-1] < 0.005 and np.isfinite(found.window_1)


@pytest.mark.parametrize("measure", [lag_decomposition, truncation_bias])
def test_a_step_without_params_is_refused(measure):
    message = rf"{measure.__name__}\(bound\): expected a step that holds its params, bind\(layer, params\) or"
    with pytest.raises(TypeError, match=message):
        measure(lambda h, x: (h, h), lambda ys, _: ys.sum(), 3, carry=jnp.ones(2))


def test_a_window_of_zero_is_refused():
    step = Partial(leak, jnp.asarray(0.5))
    with pytest.raises(ValueError, match=r"truncation_bias\(max_window\): expected a whole number"):
        truncation_bias(step, lambda ys, _: ys.sum(), jnp.ones(3), carry=jnp.zeros(()), max_window=0)
