"""Compare the batched gradients of the gated recurrence with the specification, for every form of a cell."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.base import Activation, Dense, Gated, GatedWeights
from seqjax.cells import ElmanCarry, ElmanParams, LSTMCarry, LSTMParams
from seqjax.jaxprs import equations
from seqjax.ops.gated.batched import gated
from seqjax.ops.step import recurrent_product

T, B, D, H = 8, 3, 3, 4
SIGMOID, TANH, RELU, IDENTITY = Activation.SIGMOID, Activation.TANH, Activation.RELU, Activation.IDENTITY
BATCHED, AUTODIFF = sj.Scan(), sj.Scan(gradient="autodiff")


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


# ---------------------------------------------------------------- recurrences that no registered cell has


def peephole_update(w, state, u_i, r_i, u_f, r_f, g):
    (c,) = state
    i = jax.nn.sigmoid(u_i + r_i + w["i"] * c)
    f = jax.nn.sigmoid(u_f + r_f + w["f"] * c)
    return (f * c + i * g,)


def slstm_update(w, state, i, f, z):
    """Beck et al. 2024, arXiv:2405.04517, eq. 8-17: exponential gates, a normalizer n and a stabilizer m."""
    c, n, m = state
    log_f = jax.nn.log_sigmoid(f)
    m_after = jnp.maximum(log_f + m, i)
    i, f = jnp.exp(i - m_after), jnp.exp(log_f + m - m_after)
    return f * c + i * z, f * n + i, m_after


def two_state_update(w, state, n_u, n_r, z, f):
    """A state beside h, and a candidate that arrives in two parts as the first gate."""
    s, h = state
    s = f * s + (1 - f) * jnp.tanh(n_u + s * n_r)
    return s, z * h + (1 - z) * s


RECURRENCES = {
    # Peepholes on the state before (update) and after (emit); b_h; two split gates, the last one not among them.
    "peephole": Gated(
        (SIGMOID, SIGMOID, TANH, SIGMOID),
        num_update=3,
        update=peephole_update,
        emit=lambda w, state, o: o * jnp.tanh(w["o"] * state[0]),
        weights=lambda p: GatedWeights(p["w_h"], p["b_h"], p["w"]),
        split=(0, 1),
    ),
    # Three states; raw gates; the last gate emits.
    "slstm": Gated(
        (IDENTITY, IDENTITY, TANH, SIGMOID),
        num_update=3,
        update=slstm_update,
        emit=lambda w, state, o: o * state[0] / state[1],
        weights=lambda p: GatedWeights(p["w_h"]),
    ),
    # No emit: the last of two states is h; the split gate comes first.
    "two_states": Gated(
        (TANH, SIGMOID, SIGMOID),
        num_update=3,
        update=two_state_update,
        emit=None,
        weights=lambda p: GatedWeights(p["w_h"], p["b_h"]),
        split=(0,),
    ),
    # Relu, with two gates of emit, one of them unused by anything but the sum.
    "relu": Gated(
        (RELU, IDENTITY, RELU),
        num_update=1,
        update=lambda w, state, a: (0.5 * state[0] + a,),
        emit=lambda w, state, b, c: state[0] * c - 0.1 * b,
        weights=lambda p: GatedWeights(p["w_h"]),
    ),
    # A state that reads no gate, and a gate that is read by emit alone.
    "counter": Gated(
        (TANH,),
        num_update=0,
        update=lambda w, state: (0.9 * state[0] + 1,),
        emit=lambda w, state, a: a + w["o"] * state[0],
        weights=lambda p: GatedWeights(p["w_h"], None, {"o": p["w"]["o"]}),
    ),
}
NUM_STATES = {"slstm": 3, "two_states": 1}
FORMS = ["dense", "heads", "diagonal"]


@functools.cache
def setting(name, form="dense", batch=(B,)):
    """Recurrence, params, carry, initial carry and inputs, all random."""
    gates = len(RECURRENCES[name].activations)
    shape = {"dense": (H, gates * H), "heads": (2, H // 2, gates, H // 2), "diagonal": (gates, H)}[form]
    params = {
        "w_x": normal(0, D, gates * H),
        "b": normal(1, gates * H),
        "w_h": 0.7 * normal(2, *shape),
        "b_h": 0.5 * normal(3, gates * H),
        "w": {key: normal(4 + i, H) for i, key in enumerate("ifo")},
        "initial": normal(10, H),
    }
    carry = tuple(normal(20 + i, *batch, H) for i in range(NUM_STATES.get(name, 1) + 1))
    if name == "slstm":
        carry = (carry[0], 1 + np.abs(carry[1]), *carry[2:])  # a normalizer is positive
    rng = np.random.default_rng(30)
    reset, mask = rng.random((T, *batch)) < 0.25, rng.random((T, *batch)) < 0.75
    xs = normal(31, T, *batch, D)
    return jax.tree.map(jnp.asarray, (params, carry, xs, reset, mask))


def cell_of(name, *, dense=True):
    """A cell whose initial carry depends on the params, so that resets have a gradient."""

    def initial_carry(params, x):
        leaves = NUM_STATES.get(name, 1) + 1
        start = jnp.abs(params["initial"]).astype(x.dtype)
        return tuple(jnp.broadcast_to(start, (*x.shape[:-1], H)) for _ in range(leaves))

    def project(params, xs, key=None):
        return jnp.sin(xs @ params["w_x"]) + params["b"]

    return sj.Cell(
        init=lambda key, x: None,
        initial_carry=initial_carry,
        recurrence=RECURRENCES[name],
        project=Dense(lambda params: (params["w_x"], params["b"])) if dense else project,
    )


def layer_of(name, method, *, dense=True):
    return sj.recurrent(cell_of(name, dense=dense), method)


def weighted(carry, ys):
    total = jnp.sum(ys * normal(40, *ys.shape))
    for i, leaf in enumerate(jax.tree.leaves(carry)):
        total = total + jnp.sum(leaf * normal(41 + i, *leaf.shape))
    return total


def gradients(layer, params, carry, xs, reset=None, mask=None):
    """Everything that a layer computes: outputs, final carry, gradients by params, carry and inputs."""

    def loss(params, carry, xs):
        after, ys = layer.unroll(params, carry, xs, reset=reset, mask=mask)
        return weighted(after, ys), (after, ys)

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(params, carry, xs)


@functools.cache
def expected_gradients(name, form="dense", batch=(B,), dense=True):
    return gradients(layer_of(name, AUTODIFF, dense=dense), *setting(name, form, batch))


def assert_close(got, expected, rtol=1e-11):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * max(1, np.abs(y).max()))


def assert_same(got, expected):
    """Bit by bit."""
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)


# ---------------------------------------------------------------- batched equals autodiff


def every_form_and_every_recurrence():
    """Each at least once; the rest of the product is slow."""
    chosen = {("peephole", form) for form in FORMS}
    chosen |= {("slstm", "heads"), ("two_states", "diagonal"), ("relu", "dense"), ("counter", "heads")}
    assert {name for name, _ in chosen} == set(RECURRENCES)
    cases = itertools.product(RECURRENCES, FORMS)
    return [pytest.param(*case, marks=[] if case in chosen else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(("name", "form"), every_form_and_every_recurrence())
@pytest.mark.fast_cases(2)
def test_batched_equals_autodiff_in_values_and_all_gradients(name, form):
    got = gradients(layer_of(name, sj.Scan(chunk=4)), *setting(name, form))
    expected = expected_gradients(name, form)
    assert_close(got, expected)
    (d_params, _, _), _ = expected
    used = set(d_params) - ({"b_h"} if name in ("slstm", "relu", "counter") else set())
    used -= set() if name in ("peephole", "counter") else {"w"}
    for key in used:  # the comparison is not one of zeros
        assert any(np.abs(leaf).max() > 0.01 for leaf in jax.tree.leaves(d_params[key])), key


def as_dense(w_h, form):
    """The matrix ``[H, G*H]`` that a form stands for, entry by entry."""
    if form == "dense":
        return w_h
    gates = w_h.shape[2] if form == "heads" else w_h.shape[0]
    dense = np.zeros((H, gates, H))
    for g, i in itertools.product(range(gates), range(H)):
        if form == "diagonal":
            dense[i, g, i] = w_h[g, i]
        else:
            head, row = divmod(i, H // 2)
            dense[i, g, head * (H // 2) : (head + 1) * (H // 2)] = w_h[head, row, g]
    return dense.reshape(H, gates * H)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_the_recurrent_weights_stands_for_a_matrix(form):
    w_h, h = setting("peephole", form)[0]["w_h"], normal(70, T, B, H)
    expected = h @ as_dense(np.asarray(w_h), form)
    assert_close(recurrent_product(jnp.asarray(h), w_h, 4), jnp.asarray(expected))


def test_the_order_in_which_split_gates_are_listed_makes_no_difference():
    params, carry, xs, reset, mask = setting("peephole")
    assert RECURRENCES["peephole"].split == (0, 1)
    turned = dataclasses.replace(RECURRENCES["peephole"], split=(1, 0))
    cell = dataclasses.replace(cell_of("peephole"), recurrence=turned)
    got = gradients(sj.recurrent(cell, BATCHED), params, carry, xs, reset, mask)
    assert_close(got, expected_gradients("peephole"))


@pytest.mark.slow  # conformance runs `Scan` with kept gates
@pytest.mark.parametrize("name", ["peephole", pytest.param("slstm", marks=pytest.mark.slow)])
def test_keeping_the_gates_changes_no_result(name):
    params, carry, xs, reset, mask = setting(name)
    cell = cell_of(name)

    def of(keep_gates):
        def loss(params, carry, xs):
            return weighted(
                *gated(
                    cell.recurrence, cell.recurrence.weights(params), cell.project.weights(params), carry, xs,
                    sj.Flags(reset, mask, initial=cell.initial_carry(params, xs[0])), chunk=3,
                    keep_gates=keep_gates,
                )
            )  # fmt: skip

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(params, carry, xs)

    assert_close(of(True), of(False))


@pytest.mark.parametrize(
    "chunk", [None, 1, 3, T + 5, *(pytest.param(c, marks=pytest.mark.slow) for c in (T - 1, T))]
)
@pytest.mark.fast_cases(1)
def test_the_chunk_changes_no_result(chunk):
    got = gradients(layer_of("peephole", sj.Scan(chunk=chunk)), *setting("peephole"))
    assert_close(got, expected_gradients("peephole"))


def test_chunks_and_unrolled_loops_change_nothing_of_autodiff():
    method = sj.Scan(chunk=3, gradient="autodiff", unroll_factor=2)
    assert_close(gradients(layer_of("relu", method), *setting("relu")), expected_gradients("relu"))


@pytest.mark.parametrize(
    "options",
    [{"unroll_factor": 3}, {"unroll_factor": 3, "chunk": 5, "keep_gates": True}]
    + [pytest.param({"unroll_factor": T + 2}, marks=pytest.mark.slow)],
    ids=str,
)
@pytest.mark.fast_cases(1)
def test_unrolled_loops_change_no_result(options):
    """Neither T nor the chunk is a multiple of the steps per iteration."""
    assert T % 3 and 5 % 3
    got = gradients(layer_of("peephole", sj.Scan(**options)), *setting("peephole"))
    assert_close(got, expected_gradients("peephole"))


def test_both_loops_are_unrolled():
    params, carry, xs, _, _ = setting("relu")
    layer = layer_of("relu", sj.Scan(unroll_factor=4))

    def loss(params):
        return weighted(*layer.unroll(params, carry, xs))

    eqns = equations(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
    assert [eqn.params["unroll"] for eqn in eqns if eqn.primitive.name == "scan"] == [4, 4]


def test_auto_unrolls_loops_on_a_gpu():
    xs = jax.ShapeDtypeStruct((512, 8, 512), jnp.float32)
    selected = sj.Auto().select(sj.lstm(512), xs, platform="gpu")
    assert selected == sj.Scan(chunk=256, unroll_factor=8)
    length = jax.export.symbolic_shape("t")[0]
    xs = jax.ShapeDtypeStruct((length, 8, 512), jnp.float32)
    assert sj.Auto().select(sj.lstm(512), xs, platform="gpu") == sj.Scan()


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=["unbatched", "two axes"])
@pytest.mark.parametrize("name", [pytest.param("peephole", marks=pytest.mark.slow), "two_states"])
@pytest.mark.fast_cases(1)
def test_a_batch_may_have_no_axis_or_two(name, batch):
    got = gradients(layer_of(name, sj.Scan(chunk=4)), *setting(name, batch=batch))
    assert_close(got, expected_gradients(name, batch=batch))


@pytest.mark.parametrize("name", ["relu", pytest.param("two_states", marks=pytest.mark.slow)])
def test_a_projection_need_not_be_affine(name):
    got = gradients(layer_of(name, sj.Scan(chunk=4), dense=False), *setting(name))
    assert_close(got, expected_gradients(name, dense=False))


@pytest.mark.parametrize("which", [(), ("reset",), ("mask",)], ids=str)
@pytest.mark.fast_cases(1)
def test_without_reset_or_mask_it_is_the_same(which):
    params, carry, xs, reset, mask = setting("counter")
    flags = {key: value for key, value in {"reset": reset, "mask": mask}.items() if key in which}
    assert_close(
        gradients(layer_of("counter", BATCHED), params, carry, xs, **flags),
        gradients(layer_of("counter", AUTODIFF), params, carry, xs, **flags),
    )


def test_the_unroll_is_the_loop_of_step():
    params, carry, xs, reset, mask = setting("peephole")
    layer = layer_of("peephole", sj.Scan(chunk=4))
    after, ys = jax.jit(layer.unroll)(params, carry, xs, reset=reset, mask=mask)
    step, outputs = jax.jit(layer.step), []
    for t in range(T):
        carry, y = step(params, carry, xs[t], reset=reset[t], mask=mask[t])
        outputs.append(y)
    assert_close((carry, jnp.stack(outputs)), (after, ys))


# ---------------------------------------------------------------- derivatives of derivatives, and of each example


@pytest.mark.slow  # conformance compares them with differences
@pytest.mark.parametrize("name", ["two_states", pytest.param("peephole", marks=pytest.mark.slow)])
def test_second_derivatives_equal_those_of_autodiff(name):
    params, carry, xs, reset, mask = setting(name)

    def of(method):
        layer = layer_of(name, method)

        def loss(params, carry, xs):
            return weighted(*layer.unroll(params, carry, xs, reset=reset, mask=mask))

        def total(*operands):
            grads = jax.grad(loss, (0, 1, 2))(*operands)
            return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads))

        return jax.jit(jax.grad(total, (0, 1, 2)))(params, carry, xs)

    assert_close(of(BATCHED), of(AUTODIFF))


@pytest.mark.slow  # conformance adds them up
def test_gradients_per_example_equal_those_of_autodiff_and_add_up():
    operands = setting("two_states")

    def of(method, axes):
        layer = layer_of("two_states", method)

        def loss(params, carry, xs, reset, mask):
            after, ys = layer.unroll(params, carry, xs, reset=reset, mask=mask)
            return jnp.sum(jnp.square(ys)) + sum(map(jnp.sum, after))

        gradient = jax.grad(loss)
        return jax.jit(gradient if axes is None else jax.vmap(gradient, axes))(*operands)

    rows = of(sj.Scan(chunk=4), (None, 0, 1, 1, 1))
    assert_close(rows, of(AUTODIFF, (None, 0, 1, 1, 1)))
    assert_close(jax.tree.map(lambda row: row.sum(0), rows), of(sj.Scan(chunk=4), None))


@pytest.mark.parametrize("param_dtype", [jnp.bfloat16, jnp.float32], ids=["bfloat16", "float32"])
@pytest.mark.fast_cases(1)
def test_gradients_of_weights_add_up_over_time_in_float32(param_dtype):
    """512 ones; in bfloat16 a sum of ones ends at 256."""

    def step(w, h, x):
        return h, w * x

    cells = {
        "step": sj.Cell(
            init=lambda key, x: None, initial_carry=lambda w, x: jnp.zeros_like(x), recurrence=sj.Step(step)
        ),
        "gated": sj.elman(1, activation="identity"),
    }
    w, ones = jnp.ones((1,), param_dtype), jnp.ones((512, 1, 1), jnp.bfloat16)
    zeros = jnp.zeros((1, 1), param_dtype)
    params = {"step": w, "gated": ElmanParams(zeros, zeros, w)}
    for name, cell in cells.items():
        layer = sj.recurrent(cell, AUTODIFF)

        def total(params, layer=layer):
            # Both h are one from the start.
            carry = jax.tree.map(jnp.ones_like, layer.initial_carry(params, ones[0]))
            return jnp.sum(layer.unroll(params, carry, ones)[1], dtype=jnp.float32)

        gradient = jax.jit(jax.grad(total))(params[name])
        found = gradient if name == "step" else gradient.w_h
        assert found.dtype == param_dtype and float(found.ravel()[0]) == 512


def test_forward_mode_of_autodiff_equals_reverse_mode_of_batched():
    params, carry, xs, reset, mask = setting("relu")
    direction = jax.tree.map(lambda leaf: jnp.asarray(normal(50, *leaf.shape)), (params, carry, xs))

    def loss(method, *operands):
        return weighted(*layer_of("relu", method).unroll(*operands, reset=reset, mask=mask))

    forward = jax.jit(lambda p, d: jax.jvp(functools.partial(loss, AUTODIFF), p, d)[1])(
        (params, carry, xs), direction
    )
    (d_params, d_carry, d_xs), _ = gradients(layer_of("relu", BATCHED), params, carry, xs, reset, mask)
    pairs = zip(jax.tree.leaves((d_params, d_carry, d_xs)), jax.tree.leaves(direction), strict=True)
    np.testing.assert_allclose(forward, sum(np.sum(g * d) for g, d in pairs), rtol=1e-11)


def test_forward_mode_of_batched_is_refused():
    params, carry, xs, _, _ = setting("slstm")
    layer = layer_of("slstm", BATCHED)
    with pytest.raises(
        TypeError, match=r"got forward mode .* Use recurrent\(cell, Scan\(gradient=\"autodiff\"\)\)"
    ):
        jax.jvp(lambda xs: layer.unroll(params, carry, xs)[1], (xs,), (xs,))


def test_a_tap_equals_that_of_autodiff_for_every_state():
    params, carry, xs, reset, mask = setting("slstm")
    taps = tuple(jnp.zeros((T, B)) for _ in carry)

    def of(method):
        layer = layer_of("slstm", method)

        def loss(taps):
            return weighted(*layer.unroll(params, carry, xs, reset=reset, mask=mask, tap=taps))

        return jax.jit(jax.grad(loss))(taps)

    norms = of(sj.Scan(chunk=4))
    assert_close(norms, of(AUTODIFF))
    assert all(np.asarray(norm).max() > 0.01 for norm in norms)


# ---------------------------------------------------------------- what must not leak

METHODS = pytest.mark.parametrize("method", [sj.Scan(chunk=4), AUTODIFF], ids=repr)


@pytest.mark.parametrize("logit", [-18.0, -60.0])
@pytest.mark.fast_cases(1)
def test_a_nearly_shut_gate_keeps_its_relative_accuracy(logit):
    """In float32 sigmoid(-18) is 1.5e-8, below eps/2: by way of tanh it, and every gradient through it, would be 0."""
    params = sj.lstm(H).init(jax.random.key(0), jnp.zeros((B, D), jnp.float32))
    params = jax.tree.map(jnp.zeros_like, params)
    params = params._replace(b=params.b.at[H : 2 * H].set(logit))
    carry = LSTMCarry(jnp.ones((B, H), jnp.float32), jnp.zeros((B, H), jnp.float32))
    xs = jnp.zeros((1, B, D), jnp.float32)
    for keep_gates in (False, True):
        layer = sj.recurrent(sj.lstm(H), sj.Scan(keep_gates=keep_gates))
        found = jax.grad(lambda carry, layer=layer: jnp.sum(layer.unroll(params, carry, xs)[0].c))(carry).c
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-logit)), rtol=1e-6)


@METHODS
@pytest.mark.parametrize("name", ["peephole", pytest.param("two_states", marks=pytest.mark.slow)])
@pytest.mark.fast_cases(1)
def test_nan_before_a_reset_reaches_nothing_after_it(name, method):
    params, carry, xs, _, _ = setting(name)
    reset = jnp.zeros((T, B), bool).at[6, 0].set(True)
    layer = layer_of(name, method)

    @jax.jit
    def run(carry, xs):
        def loss(xs):
            after, ys = layer.unroll(params, carry, xs, reset=reset)
            return weighted(after, ys), (after, ys)

        return jax.grad(loss, has_aux=True)(xs)

    d_clean, (after, clean) = run(carry, xs)
    nan_carry = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), carry)
    for d_xs, (got, ys) in (run(carry, xs.at[4, 0].set(jnp.nan)), run(nan_carry, xs)):
        assert np.isnan(np.asarray(ys)[4:6, 0]).all()
        assert_same((got, ys[6:], d_xs[6:]), (after, clean[6:], d_clean[6:]))
        assert_same((ys[:, 1:], d_xs[:, 1:]), (clean[:, 1:], d_clean[:, 1:]))
    d_xs, _ = run(
        carry, xs.at[7, 0].set(jnp.nan)
    )  # nor does the gradient of what comes after reach before it
    assert np.isnan(np.asarray(d_xs)[6, 0]).all()
    assert_same(d_xs[:6], d_clean[:6])


@METHODS
@pytest.mark.parametrize("name", [pytest.param("peephole", marks=pytest.mark.slow), "slstm"])
@pytest.mark.fast_cases(1)
def test_what_masked_inputs_hold_changes_nothing(name, method):
    params, carry, xs, reset, mask = setting(name)
    run = jax.jit(functools.partial(gradients, layer_of(name, method)))
    clean = run(params, carry, xs, reset, mask)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))
    for poison in (jnp.nan, jnp.inf, 1e30):
        assert_same(run(params, carry, jnp.where(mask[..., None], xs, poison), reset, mask), clean)
    gone = ~np.asarray(mask)
    (_, _, d_xs), (_, ys) = clean
    assert (np.asarray(d_xs)[gone] == 0).all() and (np.asarray(ys)[gone] == 0).all()


@METHODS
@pytest.mark.fast_cases(1)
def test_a_row_that_is_masked_throughout_passes_its_carry_on(method):
    params, carry, xs, _, _ = setting("counter")
    mask = jnp.ones((T, B), bool).at[:, 1].set(False)
    (d_params, d_carry, d_xs), (after, ys) = gradients(
        layer_of("counter", method), params, carry, xs, None, mask
    )
    for i, (a, b, d) in enumerate(zip(after, carry, d_carry, strict=True)):
        np.testing.assert_array_equal(a[1], b[1])
        np.testing.assert_array_equal(d[1], normal(41 + i, B, H)[1])
    assert (np.asarray(ys)[:, 1] == 0).all() and (np.asarray(d_xs)[:, 1] == 0).all()


# ---------------------------------------------------------------- dtypes


@pytest.mark.parametrize(
    "name", ["lstm", *(pytest.param(n, marks=pytest.mark.slow) for n in ("gru", "elman"))]
)
def test_bfloat16_stays_bfloat16_and_close_to_float32(name):
    """Errors in multiples of eps = 2^-7: each step rounds some ten times by eps/2 and forgets what came before."""
    cell = sj.REGISTRY[name].make(32)
    xs = jnp.asarray(normal(60, T, B, 16), jnp.bfloat16)
    shapes = jax.eval_shape(cell.init, jax.random.key(0), xs[0])
    params = jax.tree.map(lambda like: jnp.asarray(0.2 * normal(62, *like.shape), like.dtype), shapes)
    weights = jnp.asarray(normal(61, T, B, 32), jnp.float32)
    layer = sj.recurrent(cell, BATCHED)

    def loss(params, xs):
        carry, ys = layer.unroll(params, layer.initial_carry(params, xs[0]), xs)
        return jnp.sum(ys.astype(jnp.float32) * weights), (carry, ys)

    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (d_params, d_xs), (carry, ys) = run(params, xs)
    (wide_params, wide_xs), (_, wide) = run(params, xs.astype(jnp.float32))
    low = {leaf.dtype for leaf in jax.tree.leaves((d_xs, carry, ys))}
    assert low == {jnp.dtype(jnp.bfloat16)} and wide.dtype == jnp.float32
    assert {leaf.dtype for leaf in d_params} == {leaf.dtype for leaf in params} == {jnp.dtype(jnp.float32)}
    eps = float(jnp.finfo(jnp.bfloat16).eps)

    def error(got, expected):
        return np.linalg.norm(np.asarray(got, np.float32) - expected) / np.linalg.norm(expected)

    assert error(ys, wide) < 2 * eps
    for got, expected in zip([d_xs, *d_params], [wide_xs, *wide_params], strict=True):
        assert error(got, expected) < 4 * eps


def test_params_of_another_dtype_get_gradients_of_their_own():
    params, carry, xs, reset, mask = setting("counter")
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    for method in (BATCHED, AUTODIFF):
        (d_params, d_carry, d_xs), (_, ys) = gradients(
            layer_of("counter", method), narrow, carry, xs, reset, mask
        )
        assert {leaf.dtype for leaf in jax.tree.leaves(d_params)} == {jnp.dtype(jnp.float32)}
        assert {leaf.dtype for leaf in jax.tree.leaves((d_carry, d_xs, ys))} == {jnp.dtype(jnp.float64)}


def test_the_weights_are_computed_from_the_params_and_differentiated_through():
    """An antisymmetric W_h, made once per unroll."""

    def weights(params):
        return GatedWeights(params["a"] - params["a"].T)

    cell = sj.Cell(
        init=lambda key, x: None,
        initial_carry=lambda params, x: ElmanCarry(jnp.zeros_like(x)),
        recurrence=Gated((TANH,), 1, lambda w, state, a: (state[0] + 0.1 * a,), None, weights),
    )
    params, carry, xs = (
        {"a": jnp.asarray(normal(0, H, H))},
        ElmanCarry(normal(1, B, H)),
        jnp.asarray(normal(2, T, B, H)),
    )
    got = gradients(sj.recurrent(cell, sj.Scan(chunk=4)), params, carry, xs)
    assert_close(got, gradients(sj.recurrent(cell, AUTODIFF), params, carry, xs))
    np.testing.assert_allclose(got[0][0]["a"], -got[0][0]["a"].T, atol=1e-12)
    assert isinstance(got[1][0], ElmanCarry)


# ---------------------------------------------------------------- what unroll and step say when inputs do not fit


def lstm_setting():
    cell = sj.lstm(8)
    params = LSTMParams(jnp.ones((3, 32)), jnp.ones((8, 32)), jnp.ones(32))
    return sj.recurrent(cell), params, LSTMCarry(jnp.zeros((B, 8)), jnp.zeros((B, 8))), jnp.ones((T, B, 3))


UNROLL = r"lstm\(hidden_size=8\)\)?\.unroll: "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"xs": jnp.ones((T, B, 5))},
            r"expected xs \[T, \.\.\., 3\] \(the .* are \[3, 32\]\), got \[8, 3, 5\]",
        ),
        ({"xs": jnp.ones(T)}, r"expected xs \[T, \.\.\., D\], got \[8\]"),
        (
            {"xs": jnp.ones((T, B, 3), int)},
            r"expected floating xs \[T, \.\.\., D\], got int64\. Turn tokens into",
        ),
        ({"xs": jnp.ones((T, B, 3), bool)}, r"expected floating xs .*, got bool"),
        ({"mask": jnp.ones((T, B))}, r"expected mask of dtype bool, got float64"),
        ({"mask": jnp.ones((T, B), int)}, r"expected mask of dtype bool, got int64"),
        ({"mask": jnp.ones((B, T), bool)}, r"expected mask \[8, 3\], as xs \[8, 3, 3\], got \[3, 8\]"),
        ({"mask": jnp.ones((T, B, 1), bool)}, r"expected mask \[8, 3\], .* got \[8, 3, 1\]"),
        ({"mask": jnp.ones(T, bool)}, r"expected mask \[8, 3\], .* got \[8\]"),
        ({"reset": jnp.ones((T, B))}, r"expected reset of dtype bool, got float64"),
        ({"reset": jnp.ones((T + 1, B), bool)}, r"expected reset \[8, 3\], .* got \[9, 3\]"),
        ({"carry": jnp.zeros((B, 8))}, r"expected a carry LSTMCarry\(c=\*, h=\*\), got \*\."),
        ({"carry": (jnp.zeros((B, 8)),) * 2}, r"expected a carry LSTMCarry\(c=\*, h=\*\), got \(\*, \*\)\."),
        (
            {"carry": LSTMCarry(jnp.zeros((B, 8)), jnp.zeros((B, 7)))},
            r"expected carry\.h \[3, 8\], got \[3, 7\]",
        ),
        (
            {"carry": LSTMCarry(jnp.zeros((1, 8)), jnp.zeros((B, 8)))},
            r"expected carry\.c \[3, 8\], got \[1, 8\]",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_inputs_of_unroll_that_do_not_fit_are_named(change, message):
    layer, params, carry, xs = lstm_setting()
    arguments = {"carry": carry, "xs": xs, "reset": None, "mask": None, **change}
    with pytest.raises(ValueError, match=UNROLL + message):
        layer.unroll(
            params, arguments["carry"], arguments["xs"], reset=arguments["reset"], mask=arguments["mask"]
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": jnp.ones((B, 5))},
            r"expected xs \[\.\.\., 3\] \(the input weights are \[3, 32\]\), got \[3, 5\]",
        ),
        ({"x": jnp.ones(())}, r"expected xs \[\.\.\., D\], got \[\]"),
        ({"x": jnp.ones((B, 3), int)}, r"expected floating xs \[\.\.\., D\], got int64"),
        ({"mask": jnp.ones((T, B), bool)}, r"expected mask \[3\], .* got \[8, 3\]"),
        ({"reset": jnp.ones(B)}, r"expected reset of dtype bool, got float64"),
        ({"carry": LSTMCarry(jnp.zeros((B, 8)), jnp.zeros(8))}, r"expected carry\.h \[3, 8\], got \[8\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_inputs_of_step_that_do_not_fit_are_named(change, message):
    layer, params, carry, xs = lstm_setting()
    arguments = {"carry": carry, "x": xs[0], "reset": None, "mask": None, **change}
    with pytest.raises(ValueError, match=r"lstm\(hidden_size=8\)\)?\.step: " + message):
        layer.step(
            params, arguments["carry"], arguments["x"], reset=arguments["reset"], mask=arguments["mask"]
        )


@pytest.mark.parametrize("length", [T, 2])
@pytest.mark.fast_cases(1)
def test_a_key_of_the_old_style_is_one_key(length):
    """Also where its two numbers could be taken for the keys of two steps."""
    layer, params, carry, xs = lstm_setting()
    for model, p, c in ((layer, params, carry), (sj.dropout(0.5), (), ())):
        old, new = jax.random.PRNGKey(0), jax.random.key(0)
        found, expected = (model.unroll(p, c, xs[:length], key=key)[1] for key in (old, new))
        np.testing.assert_array_equal(found, expected)


def test_a_method_that_cannot_run_the_recurrence_is_refused():
    message = r"AssociativeScan\(\) cannot run lstm\(hidden_size=8\): its recurrence is Gated; "
    message += r"AssociativeScan runs Diagonal\. "
    with pytest.raises(
        TypeError, match=message + r"Methods that can: Scan, Fused, Newton, TimeSharded, Auto"
    ):
        sj.recurrent(sj.lstm(8), sj.AssociativeScan())


@pytest.mark.parametrize(
    "options", [{"chunk": 0}, {"chunk": True}, {"chunk": 2.5}, {"unroll_factor": 0}], ids=str
)
def test_numbers_of_a_method_are_checked(options):
    (name, value), *_ = options.items()
    or_none = ", or None" if name == "chunk" else ""
    message = rf"Scan\({name}\): expected a whole number of at least 1{or_none}, got {value}"
    with pytest.raises(ValueError, match=message):
        sj.Scan(**options)


def test_an_unknown_gradient_is_refused():
    with pytest.raises(
        ValueError, match=r"Scan\(gradient\): expected one of 'batched', 'autodiff', got 'exact'"
    ):
        sj.Scan(gradient="exact")
