"""Test narrow dtypes: gradients are those of the narrow program, params and optimizer stay wide; loss scales."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.refusals import refusals
from helpers.tiers import slow
from jax.sharding import AxisType

import seqjax as sj
from seqjax.training import BFLOAT16, FLOAT16, FLOAT32, Precision, init_train_state, make_train_step
from seqjax.training.precision import in_precision

T, B, H, V = 6, 8, 4, 5
KEY = jax.random.key(0)
MESH = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))


def squares(ys, targets):
    return jnp.sum((ys - targets) ** 2, -1)


def batch_of(seed=0):
    xs, targets = np.random.default_rng(seed).normal(size=(2, T, B, H)).astype(np.float32)
    return sj.Batch(xs, targets)


def host(tree):
    return jax.tree.map(np.array, tree)


def gradient(model, loss, batch, precision, **options):
    """Of the mean loss, as the change of the params; exact in float32 but for one rounding."""
    probes = {"gradients": lambda params, gradients, updates: gradients}
    estimator = options.get("estimator", sj.full_bptt())
    step = make_train_step(model, loss, optax.sgd(0.1), precision=precision, probes=probes, **options)
    state = init_train_state(
        model, optax.sgd(0.1), KEY, batch.xs[0], precision=precision, estimator=estimator
    )._replace(key=None)
    state, metrics = step(state, batch)
    return host(metrics.probes["gradients"]), float(metrics.loss), state


def distance(got, expected):
    """Relative, of all leaves together."""
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True))
    error = sum(np.sum(np.abs(np.float64(a) - b) ** 2) for a, b in pairs)
    return np.sqrt(error / sum(np.sum(np.abs(np.float64(b)) ** 2) for _, b in pairs))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.fast_cases(1)
def test_gradients_are_those_of_the_narrow_program(dtype):
    """All params and inputs cast by hand, the outputs cast back; an lstm has no params that are kept wide."""
    model, batch = sj.recurrent(sj.lstm(H)), batch_of()
    params = model.init(jax.random.split(KEY)[0], batch.xs[0])

    def mean_loss(narrow):
        xs = jnp.asarray(batch.xs, dtype)
        ys = model.unroll(narrow, model.initial_carry(narrow, xs[0]), xs)[1]
        assert ys.dtype == dtype
        return jnp.mean(squares(ys.astype(jnp.float32), batch.targets))

    narrow = jax.tree.map(lambda p: p.astype(dtype), params)
    loss, expected = jax.jit(jax.value_and_grad(mean_loss))(narrow)
    got, value, state = gradient(model, squares, batch, Precision(dtype))
    # The step differentiates the sum: narrow roundings may fall to the other side.
    assert distance(got, expected) < 2 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(value, loss, rtol=1e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves((got, state.params))} == {np.dtype(np.float32)}


NAMES = ("gru", "lru", "s4d", "mamba", "mlstm", "gated_delta_net", "attention")


@pytest.mark.parametrize(
    "name", ["gru", "lru", "gated_delta_net", *slow("s4d", "mamba", "mlstm", "attention")]
)
@pytest.mark.fast_cases(1)
def test_gradients_are_close_to_those_in_float32(name):
    """Within a few dozen roundings of 2^-9: what T = 6 steps of a few products each may add up to."""
    model, batch = sj.recurrent(sj.cells.REGISTRY[name].make(H)), batch_of()
    exact, loss, _ = gradient(model, squares, batch, FLOAT32)
    got, value, state = gradient(model, squares, batch, BFLOAT16)
    assert 1e-4 < distance(got, exact) < 24 * 2**-9
    np.testing.assert_allclose(value, loss, rtol=4 * 2**-9)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}


def test_embeddings_and_dense_layers_compute_in_the_dtype():
    seen = []

    def spy(ys):
        seen.append(ys.dtype)
        return ys

    model = sj.serial(
        sj.pointwise(nn.Embed(V, H)),
        sj.pointwise(spy),
        sj.recurrent(sj.lru(H)),
        sj.pointwise(nn.Dense(V)),
        sj.pointwise(spy),
    )
    tokens = np.random.default_rng(0).integers(0, V, (T + 1, B))
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    batch = sj.Batch(tokens[:-1], tokens[1:])
    got, _, _ = gradient(model, cross_entropy, batch, BFLOAT16)
    assert set(seen[2:]) == {jnp.dtype(jnp.bfloat16)}  # after `init`, which is wide
    assert 1e-4 < distance(got, gradient(model, cross_entropy, batch, FLOAT32)[0]) < 24 * 2**-9


def test_decays_are_not_rounded():
    """In bfloat16 a decay of 0.9995 would be wrong by some percent of its distance from one."""
    model, x = sj.recurrent(sj.rtu(H, r_min=0.999, r_max=0.9999)), np.zeros((400, 1, H), np.float32)
    x[0] = 1
    params = model.init(KEY, x[0])
    exact = model.unroll(params, model.initial_carry(params, x[0]), jnp.asarray(x))[1][-1]
    narrow = in_precision(model, jnp.bfloat16)
    ys = narrow.unroll(params, narrow.initial_carry(params, x[0]), jnp.asarray(x))[1][-1]
    assert ys.dtype == jnp.float32 and 1e-4 < distance(ys, exact) < 4 * 2**-9
    rounded = jax.tree.map(lambda p: p.astype(jnp.bfloat16).astype(jnp.float32), params)
    ys = model.unroll(rounded, model.initial_carry(params, x[0]), jnp.asarray(x))[1][-1]
    assert distance(ys, exact) > 0.05


@pytest.mark.slow  # other tests have streams, and windows in low precision
@pytest.mark.parametrize("estimator", [sj.truncated_bptt(2), sj.rtrl(), sj.eprop()], ids=str)
@pytest.mark.parametrize("precision", [BFLOAT16, *slow(FLOAT16)], ids=["bfloat16", "float16"])
@pytest.mark.fast_cases(1)
def test_streams_and_their_estimators(estimator, precision):
    model, batch = sj.recurrent(sj.elman(H)), batch_of()
    exact, _, _ = gradient(model, squares, batch, FLOAT32, estimator=estimator)
    got, _, state = gradient(model, squares, batch, precision, estimator=estimator, mesh=MESH, accumulate=2)
    assert 1e-5 < distance(got, exact) < 24 * 2**-9
    assert state.carry.h.dtype == precision.compute


# ---------------------------------------------------------------- the loss scale


def tiny(ys, targets):
    """Losses whose gradients by the outputs are below what float16 can hold, but for a factor."""
    return jnp.sum(ys * 1e-7, -1)


@pytest.mark.parametrize("mean", [None, 0, (0, 1)], ids=["per step", "per sequence", "scalar"])
@pytest.mark.fast_cases(1)
def test_a_scale_keeps_small_gradients(mean):
    """The scale is that of the mean loss, whoever takes the mean."""
    model, batch = sj.recurrent(sj.elman(H)), batch_of()

    def loss_of(ys, targets):
        losses = tiny(ys, targets)
        return losses if mean is None else jnp.mean(losses, mean)

    exact, loss, _ = gradient(model, loss_of, batch, FLOAT32)
    scaled, value, _ = gradient(model, loss_of, batch, FLOAT16)
    bare, _, _ = gradient(model, loss_of, batch, Precision("float16"))
    assert distance(scaled, exact) < 8 * 2**-11 and distance(bare, exact) > 0.1
    np.testing.assert_allclose(value, loss, rtol=1e-2)


@pytest.mark.parametrize("mesh", [None, MESH], ids=["one", "many"])
@pytest.mark.fast_cases(1)
def test_the_scale_is_halved_on_overflow_and_doubled_after_good_steps(mesh):
    """Beside a transcription: halve and skip where the gradient at this scale is beyond float16, else count.

    Each device's gradient is in float16, their sum in float32: four devices get four times as far.
    """
    model = sj.pointwise(nn.Dense(1, use_bias=False, kernel_init=nn.initializers.ones))
    batch = sj.Batch(np.ones((1, 4, 1), np.float32), None)
    precision, limit = (
        Precision("float16", loss_scale=2.0**20, growth_interval=3),
        2.0**16 * (4 if mesh else 1),
    )

    def loss(ys, targets):
        return ys[..., 0]  # the gradient of the mean is 1

    optimizer = optax.sgd(2.0**-10)
    step = make_train_step(model, loss, optimizer, precision=precision, mesh=mesh)
    state = init_train_state(model, optimizer, KEY, batch.xs[0], precision=precision)
    scale, good, skipped, value, seen = 2.0**20, 0, 0, 1.0, []
    for number in range(14):
        state, metrics = step(state, batch)
        overflow = scale >= limit
        if overflow:
            scale, good, skipped = scale / 2, 0, skipped + 1
        else:
            value, good = value - 2.0**-10, good + 1
            if good == 3:
                scale, good = scale * 2, 0
        (kernel,) = jax.tree.leaves(state.params)
        got = (
            float(state.loss_scale.scale),
            int(state.loss_scale.good_steps),
            int(state.skipped),
            float(kernel[0, 0]),
        )
        assert got == (scale, good, skipped, value)
        assert (
            bool(metrics.finite) != overflow and int(state.consecutive) == 0 and int(state.step) == number + 1
        )
        seen.append(overflow)
    first = [True] * (3 if mesh else 5)
    assert seen == (first + ([False] * 3 + [True]) * 3)[:14]


def test_what_a_smaller_scale_cannot_mend_counts_as_consecutive():
    model, batch, optimizer = sj.recurrent(sj.elman(H)), batch_of(), optax.sgd(0.1)
    bad = batch._replace(targets=batch.targets * np.nan)
    step = make_train_step(model, squares, optimizer, precision=FLOAT16)
    state = init_train_state(model, optimizer, KEY, batch.xs[0], precision=FLOAT16)
    for expected in (1, 2):
        state, _ = step(state, bad)
        assert (int(state.skipped), int(state.consecutive)) == (expected, expected)
        assert float(state.loss_scale.scale) == 2.0**15
    state, _ = step(state, batch)
    assert int(state.consecutive) == 0

    def steep(ys, targets):  # overflows at any scale
        return 1e30 * squares(ys, targets)

    precision = Precision("float16", loss_scale=2.0)
    step = make_train_step(model, steep, optimizer, precision=precision)
    state = init_train_state(model, optimizer, KEY, batch.xs[0], precision=precision)
    counts = []
    for _ in range(3):
        state, _ = step(state, batch)
        counts.append((float(state.loss_scale.scale), int(state.skipped), int(state.consecutive)))
    assert counts == [(1, 1, 0), (1, 2, 1), (1, 3, 2)]


def test_float32_adds_nothing_to_the_program():
    model, batch, optimizer = sj.recurrent(sj.elman(H)), batch_of(), optax.sgd(0.1)
    state = init_train_state(model, optimizer, KEY, batch.xs[0])
    assert state.loss_scale is None
    texts = [
        make_train_step(model, squares, optimizer, **options).lower(state, batch).as_text()
        for options in ({}, {"precision": FLOAT32, "accumulate": 1, "probes": {}})
    ]
    assert texts[0] == texts[1]


def train_step_in(precision):
    return make_train_step(sj.recurrent(sj.elman(H)), squares, optax.sgd(0.1), precision=precision)


def train_state_in(**options):
    return init_train_state(sj.recurrent(sj.elman(H)), optax.sgd(0.1), KEY, batch_of().xs[0], **options)


REFUSED = {
    "a text, in the step": (
        lambda: train_step_in("bfloat16"), TypeError,
        r"\(precision\): expected a Precision such as BFLOAT16, got 'bfloat16'"),
    "a text, in the state": (
        lambda: train_state_in(precision="bfloat16"), TypeError,
        r"\(precision\): expected a Precision such as BFLOAT16, got 'bfloat16'"),
    "an integer dtype": (
        lambda: Precision(compute="int8"), ValueError,
        r"Precision\(compute\): expected a floating dtype .* got 'int8'"),
    "no dtype": (
        lambda: Precision(compute="half a float"), ValueError, r"Precision\(compute\): expected a floating dtype"),
    "a loss scale below 1": (
        lambda: Precision(loss_scale=0.5), ValueError,
        r"Precision\(loss_scale\): expected a number of at least 1, got 0.5"),
    "a loss scale that is no power of two": (
        lambda: Precision(loss_scale=1000.0), ValueError,
        r"Precision\(loss_scale\): expected a power of two, .* got 1000.0"),
    "growth_interval": (
        lambda: Precision(growth_interval=0), ValueError,
        r"Precision\(growth_interval\): expected a number of at least 1, got 0"),
    "a state of another precision": (
        lambda: train_step_in(FLOAT16)(train_state_in(), batch_of()), ValueError,
        r"expected a TrainState for Precision\(compute='float16', .* another precision"),
}  # fmt: skip


@refusals(REFUSED)
def test_what_is_not_a_precision_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_precision_is_a_value():
    assert Precision(jnp.bfloat16) == BFLOAT16
    assert repr(FLOAT16) == "Precision(compute='float16', loss_scale=32768.0)"
