"""The checks of the conformance suite: one function per guarantee of a layer; its name is a sentence."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Cell, Layer, Method
from seqjax.layers.recurrent import recurrent
from seqjax.testing.cases import (
    LENGTH,
    Case,
    Outcome,
    assert_close,
    assert_true,
    compiled,
    form,
    keyed,
    loop_by_hand,
    looped,
    make_case,
    other_inputs,
    random_like,
    run,
    unrolled,
    weighted_loss,
)

# The pieces of a sequence. Two have the same length and share a program; the other one is as long as the steps of a
# row that are not masked, and shares theirs.
PIECES = ((0, 2), (2, LENGTH - 2), (LENGTH - 2, LENGTH))


def unroll_is_the_loop_of_step(layer: Layer, x: Any) -> None:
    """Values and gradients by params, carry and inputs agree, with and without resets and masks."""
    if not layer.causal:
        return
    case = make_case(layer, x)
    never, always = case.never, case.always
    for reset, mask in ((never, always), (case.reset, always), (never, case.mask), (case.reset, case.mask)):
        found = case.run(reset=reset, mask=mask)
        expected = run(looped(layer), case.params, case.carry, case.xs, reset, mask, case.weights)
        assert_close("unroll_is_the_loop_of_step", layer, found, expected)
    found = run(compiled(layer), case.params, case.carry, case.xs)
    expected = loop_by_hand(layer, case.params, case.carry, case.xs)
    assert_close("unroll_is_the_loop_of_step (without flags)", layer, found, expected)


def resets_separate_packed_sequences(layer: Layer, x: Any) -> None:
    """Packed sequences have the outputs of separate sequences, and no gradient crosses a reset."""
    case = make_case(layer, x)
    reset = case.never
    reset[[begin for begin, _ in PIECES[1:]]] = True
    # A layer that runs backward starts the last piece from the carry, not the first.
    start = case.carry if layer.causal else case.initial
    outcome, _ = run(unrolled(layer), case.params, start, case.xs, reset, case.always, case.weights)
    pieces = []
    for begin, end in PIECES:
        xs = jax.tree.map(lambda a, b=begin, e=end: a[b:e], case.xs)
        carry = start if begin == 0 else case.initial
        pieces.append(run(compiled(layer), case.params, carry, xs)[1])
    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)
    assert_close("resets_separate_packed_sequences", layer, outcome.ys, whole)

    outside = ~np.isin(np.arange(LENGTH), np.arange(*PIECES[1]))
    weights = jax.tree.map(np.zeros_like, case.weights)
    for weight, inside in zip(jax.tree.leaves(weights.ys), jax.tree.leaves(case.weights.ys), strict=True):
        weight[~outside] = inside[~outside]
    _, gradients = run(unrolled(layer), case.params, case.carry, case.xs, reset, case.always, weights)
    for g in jax.tree.leaves(gradients.xs):
        assert_true("resets_separate_packed_sequences (gradient)", layer, not g[outside].any(), g)


def masked_steps_do_not_happen(layer: Layer, x: Any) -> None:
    """Rows with masked steps equal rows without these steps; outputs of masked steps are zero."""
    case = make_case(layer, x)
    outcome, _ = case.run(mask=case.mask)
    for some in (case.mask.any(0), ~case.mask.any(0)):  # rows with as many steps, and the row without any
        # The steps [t, row] that happen, of every row as many; the other rows are filled with theirs from the start.
        count = case.mask[:, some].sum(0).max(initial=0)
        kept = np.argsort(~case.mask, axis=0, kind="stable")[:count]

        def steps(tree: Any, kept: np.ndarray = kept) -> Any:
            return jax.tree.map(lambda a: a[kept, np.arange(kept.shape[1])], tree)

        expected = Outcome(*run(compiled(layer), case.params, case.carry, steps(case.xs)))
        found = Outcome(outcome.carry, steps(outcome.ys))

        def rows(result: Outcome, some: Any = some) -> Any:
            carry, ys = jax.tree.map(lambda c: c[some], result.carry), result.ys
            return carry, jax.tree.map(lambda y: y[:, some], ys)

        assert_close("masked_steps_do_not_happen", layer, rows(found), rows(expected))
    for y in jax.tree.leaves(outcome.ys):
        assert_true("masked_steps_do_not_happen (outputs)", layer, not y[~case.mask].any(), y)


def padding_poison_never_leaks(layer: Layer, x: Any) -> None:
    """NaN, infinity or huge numbers in masked steps change no value and no gradient."""
    case = make_case(layer, x)
    clean = case.run(reset=case.reset, mask=case.mask)
    for poison in (np.nan, np.inf, 1e30):

        def spoil(a: np.ndarray, poison: float = poison) -> np.ndarray:
            spoilt = a.copy()
            if np.issubdtype(spoilt.dtype, np.inexact):
                spoilt[~case.mask] = poison
            return spoilt

        xs = jax.tree.map(spoil, case.xs)
        found = case.run(xs=xs, reset=case.reset, mask=case.mask)
        assert_close(f"padding_poison_never_leaks ({poison})", layer, found, clean)


def nothing_before_a_reset_matters(layer: Layer, x: Any) -> None:
    """A NaN before a reset, in a step that is not masked, reaches no value and no input gradient after the reset."""
    case = make_case(layer, x)
    if not any(jnp.issubdtype(a.dtype, jnp.inexact) for a in jax.tree.leaves(case.xs)) or not layer.causal:
        return
    reset = case.never
    reset[7, 0] = True
    clean = case.run(reset=reset)
    xs = jax.tree.map(np.copy, case.xs)
    for a in jax.tree.leaves(xs):
        if jnp.issubdtype(a.dtype, jnp.inexact):
            a[3, 0] = np.nan
    found = case.run(xs=xs, reset=reset)

    def after(result: Any) -> Any:
        outcome, gradients = result
        return outcome.carry, [a[7:, 0] for a in jax.tree.leaves((outcome.ys, gradients.xs))]

    assert_close("nothing_before_a_reset_matters", layer, after(found), after(clean))


def streaming_equals_whole(layer: Layer, x: Any) -> None:
    """A sequence in three pieces, each from the carry of the piece before, equals the whole sequence."""
    if not layer.causal:
        return
    case = make_case(layer, x)
    whole, _ = case.run()
    carry, pieces = case.carry, []
    for begin, end in PIECES:
        piece = jax.tree.map(lambda a, b=begin, e=end: a[b:e], case.xs)
        carry, ys = run(compiled(layer), case.params, carry, piece)
        pieces.append(ys)
    ys = jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)
    assert_close("streaming_equals_whole", layer, (carry, ys), (whole.carry, whole.ys))


def empty_sequences_work(layer: Layer, x: Any) -> None:
    """T = 0 returns the carry and outputs ``[0, *B, ...]`` of the right dtype."""
    if not layer.causal:
        return
    case = make_case(layer, x)
    carry, ys = run(compiled(layer), case.params, case.carry, jax.tree.map(lambda a: a[:0], case.xs))
    assert_close("empty_sequences_work", layer, carry, case.carry)
    for none, some in zip(jax.tree.leaves(ys), jax.tree.leaves(case.weights.ys), strict=True):
        same = none.shape == (0, *some.shape[1:]) and none.dtype == some.dtype
        assert_true("empty_sequences_work (shapes)", layer, same, (none.shape, none.dtype))


def future_never_leaks(layer: Layer, x: Any) -> None:
    """Later inputs change no earlier output of a causal layer."""
    if not layer.causal:
        return
    case = make_case(layer, x)
    xs = jax.tree.map(lambda a, b: np.concatenate([a[:6], b[6:]]), case.xs, other_inputs(x))
    before, _ = case.run()
    after, _ = case.run(xs=xs)
    pick = functools.partial(jax.tree.map, lambda a: a[:6])
    assert_close("future_never_leaks", layer, pick(after.ys), pick(before.ys))


def batch_rows_are_independent(layer: Layer, x: Any) -> None:
    """Other rows change neither the values nor the gradients of a row."""
    case = make_case(layer, x)
    xs = jax.tree.map(lambda a, b: np.concatenate([a[:, :1], b[:, 1:]], 1), case.xs, other_inputs(x))
    before = case.run()
    after = case.run(xs=xs)

    def row(result: Any) -> Any:
        outcome, gradients = result
        over_time = [a[:, 0] for a in jax.tree.leaves((outcome.ys, gradients.xs))]
        return over_time, [a[0] for a in jax.tree.leaves((outcome.carry, gradients.carry))]

    assert_close("batch_rows_are_independent", layer, row(after), row(before))


def keys_belong_to_steps(layer: Layer, x: Any) -> None:
    """``unroll(key)`` equals the loop of ``step(fold_in(key, t))``: noise depends only on the key and the step."""
    if not layer.causal:
        return
    case = make_case(layer, x)
    if not _has_noise(layer, case):
        return  # `unroll_is_the_loop_of_step` compares the outputs
    ys, expected = run(keyed(layer), case.params, case.carry, case.xs, jax.random.key(7))
    assert_close("keys_belong_to_steps", layer, ys, expected)


def _has_noise(layer: Layer, case: Case) -> bool:
    """Return whether outputs may depend on the key, from a trace for two keys: `vmap` refuses outputs that differ."""
    both = functools.partial(keyed(layer), case.params, case.carry, case.xs)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(7)))
    try:
        jax.eval_shape(jax.vmap(both, out_axes=None), keys)
    except ValueError:
        return True
    return False


def compiles_once(layer: Layer, x: Any) -> None:
    """A jitted function is traced once for inputs of the same shapes."""
    case = make_case(layer, x)
    traces = []

    @jax.jit
    def unroll(params: Any, carry: Any, xs: Any) -> Any:
        traces.append(1)
        return layer.unroll(params, carry, xs)

    carry, _ = jax.eval_shape(unroll, case.params, case.carry, case.xs)
    jax.eval_shape(unroll, case.params, carry, case.xs)
    assert_true("compiles_once", layer, len(traces) == 1, f"{len(traces)} traces")


def low_precision_is_close(layer: Layer, x: Any) -> None:
    """In bfloat16, outputs are bfloat16 and differ from float64 by at most 40 eps times the largest output, T = 13."""
    case = make_case(layer, x)
    if not any(jnp.issubdtype(a.dtype, jnp.floating) for a in jax.tree.leaves(case.xs)):
        return
    exact = run(compiled(layer), case.params, case.carry, case.xs)[1]
    params = jax.tree.map(lambda p: p.astype(np.float32), case.params)
    xs = jax.tree.map(lambda a: a.astype(jnp.bfloat16), case.xs)
    carry = jax.eval_shape(layer.initial_carry, params, jax.tree.map(lambda a: a[0], xs))
    carry = jax.tree.map(lambda c, like: c.astype(like.dtype), case.carry, carry)
    ys = run(compiled(layer), params, carry, xs)[1]
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    for y, e in zip(jax.tree.leaves(ys), jax.tree.leaves(exact), strict=True):
        assert_true("low_precision_is_close (dtype)", layer, y.dtype == jnp.bfloat16, y.dtype)
        error = np.max(np.abs(y.astype(np.float64) - e))
        bound = 40 * eps * np.max(np.abs(e))
        assert_true("low_precision_is_close", layer, error <= bound, f"error {error:.3g}, bound {bound:.3g}")


def second_derivatives_work(layer: Layer, x: Any) -> None:
    """A Hessian-vector product, reverse over reverse, equals central differences of the gradient to 1e-5."""
    case = make_case(layer, x)
    if not jax.tree.leaves(case.params):
        return
    rest = (case.carry, case.xs, case.reset, case.mask, case.weights)

    def gradient(params: Any) -> Any:
        return run(unrolled(layer), params, *rest)[1].params

    direction = random_like(case.params, 5)

    def along(params: Any, *rest: Any) -> jax.Array:
        g = jax.grad(functools.partial(weighted_loss, layer.unroll))(params, *rest)
        pairs = zip(jax.tree.leaves(g), jax.tree.leaves(direction), strict=True)
        return jnp.sum(jnp.stack([jnp.vdot(a, b) for a, b in pairs]))

    found = run(jax.jit(jax.grad(along)), case.params, *rest)

    def difference(h: float) -> Any:
        plus, minus = (
            gradient(jax.tree.map(lambda p, d, s=s: p + s * h * d, case.params, direction)) for s in (1, -1)
        )
        return jax.tree.map(lambda a, b: (a - b) / (2 * h), plus, minus)

    # Richardson extrapolation removes the error h^2 times a fourth derivative, large where a norm divides by little.
    expected = jax.tree.map(lambda a, b: (4 * a - b) / 3, difference(5e-6), difference(1e-5))
    assert_close("second_derivatives_work", layer, found, expected, rtol=1e-5)


def gradients_per_example_add_up(layer: Layer, x: Any) -> None:
    """Gradients per example, by ``vmap``, add up to the gradient of the batch."""
    case = make_case(layer, x)
    if not jax.tree.leaves(case.params):
        return

    def of_one(params: Any, carry: Any, xs: Any, weights: Any) -> Any:
        def alone(tree: Any, axis: int) -> Any:
            return jax.tree.map(lambda a: jnp.expand_dims(a, axis), tree)

        weights = weights._replace(carry=alone(weights.carry, 0), ys=alone(weights.ys, 1))
        loss = functools.partial(weighted_loss, layer.unroll)
        return jax.grad(loss)(params, alone(carry, 0), alone(xs, 1), None, None, weights)

    over = (None, 0, 1, case.weights._replace(carry=0, ys=1))
    found = run(jax.jit(jax.vmap(of_one, over)), case.params, case.carry, case.xs, case.weights)
    _, whole = case.run()
    total = jax.tree.map(lambda g: np.sum(g, 0), found)
    assert_close("gradients_per_example_add_up", layer, total, whole.params)


def trees_keep_their_form(layer: Layer, x: Any) -> None:
    """Params have the same form from shapes and from arrays; the carry has the same form before and after."""
    case = make_case(layer, x)
    struct = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    from_shapes = jax.eval_shape(layer.init, jax.random.key(0), struct)
    from_arrays = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert_true("trees_keep_their_form (params)", layer, form(from_shapes) == form(from_arrays), from_shapes)
    after = jax.eval_shape(compiled(layer), case.params, case.carry, case.xs)[0]
    assert_true("trees_keep_their_form (carry)", layer, form(after) == form(case.carry), form(after))


def params_do_not_depend_on_method(method: Method, cell: Cell, x: Any) -> None:
    """The same key gives the same params under any method."""
    key, layer = jax.random.key(3), recurrent(cell, method)
    program, same = (jax.make_jaxpr(init)(key, x) for init in (layer.init, cell.init))
    if str(program) == str(same) and all(map(np.array_equal, program.consts, same.consts)):
        return  # equal programs give equal params
    found, expected = (run(jax.jit(init), key, x) for init in (layer.init, cell.init))
    assert_close("params_do_not_depend_on_method", layer, found, expected, rtol=0)


CHECKS: tuple[Callable[[Layer, Any], None], ...] = (
    unroll_is_the_loop_of_step,
    resets_separate_packed_sequences,
    masked_steps_do_not_happen,
    padding_poison_never_leaks,
    nothing_before_a_reset_matters,
    streaming_equals_whole,
    empty_sequences_work,
    future_never_leaks,
    batch_rows_are_independent,
    keys_belong_to_steps,
    compiles_once,
    low_precision_is_close,
    second_derivatives_work,
    gradients_per_example_add_up,
    trees_keep_their_form,
)
"""The checks of `check_layer`, in their order; each takes a layer and one time step."""
