"""Run every registered cell, method and combinator through the public conformance suite."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.cells import REGISTRY
from seqjax.combinators.context import ConditionedCarry, MemoryCarry
from seqjax.testing import (
    CHECKS,
    check_cell,
    check_method,
    methods_for,
    params_do_not_depend_on_method,
    strict_promotion,
)
from seqjax.testing.cases import make_case, random_like, weighted_loss
from seqjax.testing.checks import (
    empty_sequences_work,
    gradients_per_example_add_up,
    keys_belong_to_steps,
    low_precision_is_close,
    masked_steps_do_not_happen,
    nothing_before_a_reset_matters,
    padding_poison_never_leaks,
    resets_separate_packed_sequences,
    second_derivatives_work,
    streaming_equals_whole,
    unroll_is_the_loop_of_step,
)
from seqjax.testing.layers import LAYERS, WIDE

X = jnp.zeros((3, 4))
EXAMPLES = {name: entry.example((3,), 4) for name, entry in REGISTRY.items()}
CELLS = {name: entry.make(6) for name, entry in REGISTRY.items()}
FIRST_OF_KIND = {type(cell.recurrence): name for name, cell in reversed(CELLS.items())}


# These differentiate what other checks have compared already, and take as long to compile as all of them.
TWICE = (second_derivatives_work, gradients_per_example_add_up)
# What resets, masks, pieces and keys do is up to the method; the first cell of each kind shows it under every one.
BY_METHOD = (
    *TWICE,
    resets_separate_packed_sequences,
    masked_steps_do_not_happen,
    streaming_equals_whole,
    keys_belong_to_steps,
)
# These compile more programs, of which no option of Scan changes more than what the comparison with the loop shows.
BY_SCAN = (
    gradients_per_example_add_up,
    resets_separate_packed_sequences,
    masked_steps_do_not_happen,
    streaming_equals_whole,
    keys_belong_to_steps,
    low_precision_is_close,
)


# The interpreter of kernels compiles slowly. One cell for each form of `Gated`: a state, a split gate, heads, diagonal
# recurrent weights, peepholes. The first one has the checks that differ by method, the others only equal the loop.
FUSED = sj.Fused(interpret=True)
FORMS = ("lstm", "gru", "slstm", "indrnn", "peephole_lstm")
OF_FUSED = (
    unroll_is_the_loop_of_step,
    padding_poison_never_leaks,
    nothing_before_a_reset_matters,
    empty_sequences_work,
    *TWICE,
)


def every_cell_and_method():
    """The fast tier: every cell under the default of Scan, one cell per kind under every method."""
    for name, cell in CELLS.items():
        for method in methods_for(cell, EXAMPLES[name]):
            fast = method == sj.Scan() or FIRST_OF_KIND[type(cell.recurrence)] == name
            if method == FUSED:
                fast = name in FORMS
            yield pytest.param(name, method, id=f"{name}-{method}", marks=() if fast else pytest.mark.slow)


def every_cell_method_and_check():
    """The same with every check; under other methods than `Scan`, `BY_METHOD` for the first cell of each kind alone.

    An option of `Scan` changes how gradients are computed: the fast tier compares it with the loop, in values and
    gradients with every combination of flags, and runs the checks that need no more programs. Of two options at once,
    it compares with the loop alone. `Auto` is the method that it selects, see
    `test_auto_is_the_method_that_it_selects`.
    """
    for param in every_cell_and_method():
        name, method = param.values
        first = FIRST_OF_KIND[type(CELLS[name].recurrence)] == name
        optional = isinstance(method, sj.Scan) and method != sj.Scan()
        for check in CHECKS:
            left_out = BY_SCAN if optional else BY_METHOD if not first and method != sj.Scan() else ()
            fast = check not in left_out
            if optional and check is second_derivatives_work:  # of kinds with a backward pass of their own
                fast = isinstance(CELLS[name].recurrence, sj.Gated | sj.Diagonal)
            if method == sj.Scan(chunk=5, gradient="autodiff"):
                fast = check is unroll_is_the_loop_of_step
            if method == FUSED:
                fast = check in (OF_FUSED if name == FORMS[0] else OF_FUSED[:1])
            marks = param.marks if fast and method != sj.Auto() else pytest.mark.slow
            yield pytest.param(*param.values, check, id=f"{param.id}-{check.__name__}", marks=marks)


@pytest.mark.parametrize(("name", "method", "check"), list(every_cell_method_and_check()))
def test_cells(name, method, check):
    with strict_promotion():
        check(sj.recurrent(CELLS[name], method), EXAMPLES[name])


@pytest.mark.parametrize("flagged", [False, True], ids=["plain", "flags"])
@pytest.mark.parametrize("name", FIRST_OF_KIND.values())
def test_auto_is_the_method_that_it_selects(name, flagged):
    """The programs of a loss and its gradients are equal, so the checks of the one method are those of the other."""
    case = make_case(sj.recurrent(CELLS[name], sj.Scan()), EXAMPLES[name])
    reset, mask, key = (case.reset, case.mask, jax.random.key(0)) if flagged else (None, None, None)

    def program(method):
        unroll = functools.partial(sj.recurrent(CELLS[name], method).unroll, key=key)
        both = jax.value_and_grad(functools.partial(weighted_loss, unroll), (0, 1, 2), allow_int=True)
        return jax.make_jaxpr(both)(case.params, case.carry, case.xs, reset, mask, case.weights)

    selected = sj.Auto().select(CELLS[name], case.xs)
    assert str(program(sj.Auto())) == str(program(selected))


@pytest.mark.parametrize(("name", "method"), list(every_cell_and_method()))
def test_params_do_not_depend_on_method(name, method):
    params_do_not_depend_on_method(method, CELLS[name], EXAMPLES[name])


def forward_mode():
    """For every kind of recurrence the methods that support forward mode."""
    for kind, name in FIRST_OF_KIND.items():
        yield name, sj.Scan(gradient="autodiff")
        if issubclass(kind, sj.Matrix | sj.Attention):
            yield name, sj.Chunked(4)


@pytest.mark.parametrize(("name", "method"), list(forward_mode()), ids=str)
def test_forward_mode_equals_reverse_mode(name, method):
    case = make_case(sj.recurrent(CELLS[name], method), EXAMPLES[name])
    loss = functools.partial(weighted_loss, case.layer.unroll)
    direction = random_like(case.params, 5)

    def both(params):
        flags = jnp.asarray(case.reset), jnp.asarray(case.mask)
        of = functools.partial(
            loss, carry=case.carry, xs=case.xs, reset=flags[0], mask=flags[1], weights=case.weights
        )
        return jax.jvp(of, (params,), (direction,))[1], jax.grad(of)(params)

    along, gradient = jax.jit(both)(case.params)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    expected = sum(jnp.vdot(g, d) for g, d in pairs)
    assert abs(along - expected) <= 1e-10 * max(1, abs(expected))


def with_context(layer):
    """The layer with a context, or a memory of three entries with one masked, in its initial carry."""

    def initial_carry(params, x):
        carry = layer.initial_carry(params, x)
        ones = jnp.ones_like(x)[..., :1]
        if hasattr(carry, "context"):
            return sj.set_context(carry, ones * jnp.asarray([0.5, -1.0], x.dtype))
        entries = jnp.asarray([[0.5, -1.0], [2.0, 0.3], [5.0, 5.0]], x.dtype)
        memory = ones[..., None] * entries
        return sj.set_memory(
            carry, memory, jnp.broadcast_to(jnp.asarray([True, True, False]), memory.shape[:-1])
        )

    return dataclasses.replace(layer, initial_carry=initial_carry)


# The conformance of these is in the slow tier, and of the stacks in a few checks: their parts are all here. So is that
# of second examples of a factory.
SLOW_LAYERS = {"recurrent", "pre_norm", *(name for name in LAYERS if LAYERS[name].x is WIDE)} - {
    "gated",
    "transformer_block",
}
SLOW_LAYERS |= {
    name
    for name, entry in LAYERS.items()
    if entry.factory is sj.stack or ".models." in entry.factory.__module__
}
STACKS = ("griffin", "samba", "xlstm", "hybrid_delta")
SECOND_EXAMPLES = (
    "short convolution of one step",
    "zoneout diagonal",
    "learned carry diagonal",
    "parallel gate",
    "parallel tuple",
    "strided zero",
    "checkpointed nested",
    "checkpointed binomial",
    "conditioned add",
    "with_memory feed",
    "bidirectional sum",
)
OF_STACKS = (unroll_is_the_loop_of_step, resets_separate_packed_sequences, masked_steps_do_not_happen)


def layer_of(name):
    layer = LAYERS[name].make(sj.Auto())
    carry = jax.eval_shape(lambda x: layer.initial_carry(layer.init(jax.random.key(0), x), x), LAYERS[name].x)
    return with_context(layer) if isinstance(carry, ConditionedCarry | MemoryCarry) else layer


def every_layer_and_check():
    for name, entry in LAYERS.items():
        if name == "batch_major":  # the checks are for time-major sequences
            continue
        for check in CHECKS:
            if check.__name__ in entry.besides or (name in STACKS and check not in OF_STACKS):
                continue
            slow = name in SLOW_LAYERS or name in SECOND_EXAMPLES or check in TWICE
            marks = pytest.mark.slow if slow else ()
            yield pytest.param(name, check, id=f"{name}-{check.__name__}", marks=marks)


LAYERS_MADE = functools.cache(layer_of)


@pytest.mark.parametrize(("name", "check"), list(every_layer_and_check()))
def test_layers(name, check):
    check(LAYERS_MADE(name), jnp.asarray(LAYERS[name].x))


def broken(**changes):
    """An elman layer with one view replaced by a faulty one."""
    layer = sj.recurrent(sj.elman(4))
    return dataclasses.replace(layer, **{name: change(layer) for name, change in changes.items()})


def forgets_mask(layer):
    return lambda params, carry, xs, flags: layer.unroll_fn(params, carry, xs, flags._replace(mask=None))


def resets_by_multiplying(layer):
    def unroll(params, carry, xs, flags):
        def body(carry, inputs):
            x, now = inputs
            if now.reset is not None:
                carry = jax.tree.map(lambda c: c * (1 - now.reset[:, None]), carry)
            return layer.step(params, carry, x, mask=now.mask)

        return jax.lax.scan(body, carry, (xs, flags))

    return unroll


def looks_ahead(layer):
    def unroll(params, carry, xs, flags):
        carry, ys = layer.unroll_fn(params, carry, xs, flags)
        return carry, jnp.concatenate([ys[1:], ys[:1]])

    return unroll


def mixes_rows(layer):
    def unroll(params, carry, xs, flags):
        carry, ys = layer.unroll_fn(params, carry, xs, flags)
        return carry, ys - jnp.mean(ys, 1, keepdims=True)

    return unroll


def detached(layer):
    def unroll(params, carry, xs, flags):
        return layer.unroll_fn(jax.lax.stop_gradient(params), carry, xs, flags)

    return unroll


def upcasts(layer):
    def unroll(params, carry, xs, flags):
        carry, ys = layer.unroll_fn(params, carry, xs, flags)
        return carry, ys.astype(jnp.promote_types(ys.dtype, jnp.float32))

    return unroll


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (forgets_mask, "masked_steps_do_not_happen"),
        (forgets_mask, "padding_poison_never_leaks"),
        (resets_by_multiplying, "nothing_before_a_reset_matters"),
        (looks_ahead, "future_never_leaks"),
        (looks_ahead, "streaming_equals_whole"),
        (mixes_rows, "batch_rows_are_independent"),
        (detached, "unroll_is_the_loop_of_step"),
        (upcasts, "low_precision_is_close"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_faulty_layer_fails(fault, check):
    (run,) = [c for c in CHECKS if c.__name__ == check]
    with pytest.raises(AssertionError, match=check):
        run(broken(unroll_fn=fault), X)


def test_a_silent_broadcast_is_explained():
    with pytest.raises(ValueError, match="rank_promotion") as caught, strict_promotion():
        jnp.ones((2, 3)) + jnp.ones(3)
    assert any("jnp.broadcast_to" in note for note in caught.value.__notes__)


@pytest.mark.slow  # what it runs for each method runs here and for the cell of CONTRIBUTING.md
def test_check_cell_runs_a_cell_of_ones_own():
    def leak(params, h, x):
        h = params * h + (1 - params) * x
        return h, h

    cell = sj.Cell(
        init=lambda key, x: jnp.full((1, x.shape[-1]), 0.5),
        initial_carry=lambda params, x: jnp.zeros_like(x),
        recurrence=sj.Step(leak),
    )
    check_cell(cell, X, strict=True)


def test_check_cell_takes_an_ordinary_cell_and_switches_float64_on():
    """Its params broadcast by rank, and its carry and output promote dtypes, as JAX does by default."""

    def leak(params, h, x):
        h = params["decay"] * h + (1 - params["decay"]) * x
        return h, h

    cell = sj.Cell(
        init=lambda key, x: {"decay": jnp.full(x.shape[-1:], 0.5), "scale": jnp.ones(1)},
        initial_carry=lambda params, x: jnp.zeros((x.shape[0], x.shape[-1]), x.dtype),
        recurrence=sj.Step(leak),
        readout=lambda params, hs, xs: hs * params["scale"],
    )
    with jax.enable_x64(False):
        check_method(sj.Scan(), cell, X)
    with pytest.raises(Exception, match="rank_promotion|numpy_rank_promotion"):
        check_method(sj.Scan(), cell, X, strict=True)


def returns(carry):
    return sj.Cell(
        init=lambda key, x: (),
        initial_carry=lambda params, x: {"a": x, "b": x},
        recurrence=sj.Step(lambda params, c, x: (carry(c), x)),
    )


@pytest.mark.parametrize(
    ("carry", "message"),
    [
        (
            lambda c: (c["a"], c["b"]),
            r"\{'a': float64\[3, 4\], 'b': .*\}, got \(float64\[3, 4\], float64\[3, 4\]\)",
        ),
        (lambda c: {"a": c["a"]}, r"in the structure in which it came, .*, got \{'a': float64\[3, 4\]\}"),
        (
            lambda c: c | {"b": c["b"][:1]},
            r"carry\['b'\] as it came, float64\[3, 4\], got float64\[1, 4\]\. Make init",
        ),
        (
            lambda c: c | {"b": c["b"].astype(jnp.float32)},
            r"carry\['b'\] .*, got float32\[3, 4\]\. Cast it to float64",
        ),
    ],
    ids=["tuple", "fewer", "shape", "dtype"],
)
def test_a_step_that_returns_another_carry_is_named_with_both(carry, message):
    layer = sj.recurrent(returns(carry))
    for run in (lambda: layer.step((), None, X), lambda: layer.unroll((), None, X[None])):
        with pytest.raises(
            TypeError, match=r"<Cell without origin>\.\w+: expected a step that returns .*" + message
        ):
            run()


def test_a_step_that_returns_no_pair_is_named():
    cell = dataclasses.replace(returns(dict), recurrence=sj.Step(lambda params, c, x: x))
    with pytest.raises(
        TypeError, match=r"unroll: expected a step that returns \(carry, h\), got float64\[3, 4\]"
    ):
        sj.recurrent(cell).unroll((), None, X[None])


@pytest.mark.parametrize("name", ["lstm", "lru", "clockwork", "gla", "conv_lstm"])
@pytest.mark.fast_cases(3)
def test_a_learned_carry_is_where_every_sequence_starts(name):
    entry = REGISTRY[name]
    cell = entry.make(6)
    plain, layer = sj.recurrent(cell), sj.recurrent(sj.learned_carry(cell))
    x = jax.tree.map(lambda a: jnp.ones(a.shape), entry.example((3,), 4))
    xs = jax.tree.map(lambda a: jnp.stack([a, a, a]), x)
    params = jax.jit(layer.init)(jax.random.key(0), x)
    learned = jax.tree.map(jnp.asarray, random_like(params.carry, 1))
    params = params._replace(carry=learned)
    start = layer.initial_carry(params, x)
    floating = [c for c in jax.tree.leaves(start) if jnp.issubdtype(c.dtype, jnp.inexact)]
    for leaf, one in zip(floating, learned, strict=True):
        value = one[0] + 1j * one[1] if jnp.iscomplexobj(leaf) else one
        assert all(np.array_equal(row, value) for row in np.asarray(leaf))
    expected = np.asarray(jax.jit(plain.unroll)(params.cell, start, xs)[1])
    unroll = jax.jit(layer.unroll)
    np.testing.assert_allclose(unroll(params, None, xs)[1], expected, rtol=1e-12, atol=1e-12)
    restarted = unroll(params, None, xs, reset=jnp.ones((3, 3), bool))[1]
    np.testing.assert_allclose(
        restarted, np.broadcast_to(expected[0], expected.shape), rtol=1e-12, atol=1e-12
    )
    g = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(layer.unroll(p, None, xs)[1])), allow_int=True))(params)
    assert all(np.any(leaf) for leaf in g.carry[-1:])


def test_learned_carries_of_what_has_none_are_refused():
    with pytest.raises(TypeError, match=r"expected a cell whose carry has a state, got attention\("):
        sj.learned_carry(sj.attention(4, num_heads=2, window=3))
    with pytest.raises(TypeError, match=r"learned_carry\(cell\): expected a Cell"):
        sj.learned_carry(sj.recurrent(sj.lstm(2)))
