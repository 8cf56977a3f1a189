"""The conformance suite: what every layer and cell promises, as checks for one's own as well.

`check_layer(layer, x)` and `check_cell(cell, x)` raise an AssertionError that names check, layer and numbers. They
compute in float64 and need ``jax.config.update("jax_enable_x64", True)``. Each check is a function with a sentence for
a name; `CHECKS` lists them, for a test runner to run one by one.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Cell, Layer, Method
from seqjax.layers import recurrent
from seqjax.methods import METHODS, Sequential

LENGTH = 13
RTOL = 1e-10


class Case(NamedTuple):
    """A layer with float64 params and random inputs: carry not zero, resets and masks inside, one row all masked."""

    layer: Layer
    params: Any
    initial: Any
    carry: Any
    xs: Any
    weights: Any
    reset: np.ndarray
    mask: np.ndarray


def check_layer(layer: Layer, x: Any) -> None:
    """Run every check on a layer.

    Args:
        layer: any layer, up to a whole model.
        x: one time step ``[B, ...]`` as an example, B of at least 2.

    Raises:
        AssertionError: for the first check that fails.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> from seqjax.testing import check_layer
        >>> with jax.enable_x64(True):
        ...     check_layer(sj.dropout(0.5), jnp.ones((2, 3)))
    """
    for check in CHECKS:
        check(layer, x)


def check_cell(cell: Cell, x: Any) -> None:
    """Run every check on a cell under every method that runs its recurrence, in strict dtype and rank promotion."""
    for method in methods_for(cell):
        check_method(method, cell, x)


def check_method(method: Method, cell: Cell, x: Any) -> None:
    """Run every check on one cell under one method, in strict dtype and rank promotion."""
    params_do_not_depend_on_method(method, cell, x)
    with strict():
        check_layer(recurrent(cell, method), x)


def methods_for(cell: Cell) -> list[Method]:
    """All methods that run a cell, and `Sequential` in each of its modes."""
    modes: list[Any] = [method() for method in METHODS]
    modes += [Sequential(chunk=4), Sequential(gradient="autodiff"), Sequential(chunk=5, gradient="autodiff")]
    return [method for method in modes if isinstance(cell.recurrence, method.kinds)]


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Neither dtypes nor ranks are promoted silently."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


# ---------------------------------------------------------------- the checks


def unroll_is_the_loop_of_step(layer: Layer, x: Any) -> None:
    """Values, and gradients by params, carry and inputs, with and without resets and masks."""
    if not layer.causal:
        return
    case = make_case(layer, x)
    never, always = np.zeros_like(case.reset), np.ones_like(case.mask)
    for reset, mask in ((never, always), (case.reset, always), (never, case.mask), (case.reset, case.mask)):
        found = _unrolled(layer)(case.params, case.carry, case.xs, reset, mask, case.weights)
        expected = _looped(layer)(case.params, case.carry, case.xs, reset, mask, case.weights)
        _assert_close("unroll_is_the_loop_of_step", layer, found, expected)
    found = jax.jit(functools.partial(_run, layer, layer.unroll))(case.params, case.carry, case.xs)
    expected = _run(layer, _loop_by_hand, case.params, case.carry, case.xs)
    _assert_close("unroll_is_the_loop_of_step (without flags)", layer, found, expected)


def resets_separate_packed_sequences(layer: Layer, x: Any) -> None:
    """Packed sequences give what separate ones give, and no gradient crosses a reset."""
    case = make_case(layer, x)
    reset = np.zeros_like(case.reset)
    reset[[5, 9]] = True
    everywhere = np.ones_like(case.mask)
    # Backward in time the last piece would be the one to start from a carry.
    start = case.carry if layer.causal else case.initial
    outcome, _ = _unrolled(layer)(case.params, start, case.xs, reset, everywhere, case.weights)
    pieces = []
    for begin, end in ((0, 5), (5, 9), (9, LENGTH)):
        xs = jax.tree.map(lambda a, b=begin, e=end: a[b:e], case.xs)
        carry = start if begin == 0 else case.initial
        pieces.append(layer.unroll(case.params, carry, xs)[1])
    whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), *pieces)
    _assert_close("resets_separate_packed_sequences", layer, outcome.ys, whole)

    only_middle = jax.tree.map(lambda w: w.at[:5].set(0).at[9:].set(0), case.weights.ys)
    weights = case.weights._replace(ys=only_middle, carry=jax.tree.map(jnp.zeros_like, case.weights.carry))
    _, gradients = _unrolled(layer)(case.params, case.carry, case.xs, reset, everywhere, weights)
    for g in jax.tree.leaves(gradients.xs):
        _assert("resets_separate_packed_sequences (gradient)", layer, not g[:5].any() and not g[9:].any(), g)


def masked_steps_do_not_happen(layer: Layer, x: Any) -> None:
    """Rows with masked steps give what the rows without these steps give; outputs there are zero."""
    case = make_case(layer, x)
    never = np.zeros_like(case.reset)
    outcome, _ = _unrolled(layer)(case.params, case.carry, case.xs, never, case.mask, case.weights)
    for row in range(case.mask.shape[1]):
        kept = np.flatnonzero(case.mask[:, row])
        one = slice(row, row + 1)
        carry = jax.tree.map(lambda c, one=one: c[one], case.carry)
        xs = jax.tree.map(lambda a, kept=kept, one=one: a[kept][:, one], case.xs)
        after, ys = layer.unroll(case.params, carry, xs)
        found = (
            jax.tree.map(lambda a, one=one: a[one], outcome.carry),
            jax.tree.map(lambda a, kept=kept, one=one: a[kept][:, one], outcome.ys),
        )
        _assert_close("masked_steps_do_not_happen", layer, found, (after, ys))
    for y in jax.tree.leaves(outcome.ys):
        _assert("masked_steps_do_not_happen (outputs)", layer, not np.asarray(y)[~case.mask].any(), y)


def padding_poison_never_leaks(layer: Layer, x: Any) -> None:
    """NaN, infinity or huge numbers in masked steps change no value and no gradient anywhere."""
    case = make_case(layer, x)
    clean = _unrolled(layer)(case.params, case.carry, case.xs, case.reset, case.mask, case.weights)
    for poison in (np.nan, np.inf, 1e30):

        def spoil(a: jax.Array, poison: float = poison) -> jax.Array:
            spoilt = np.array(a)
            if np.issubdtype(spoilt.dtype, np.inexact):
                spoilt[~case.mask] = poison
            return jnp.asarray(spoilt)

        xs = jax.tree.map(spoil, case.xs)
        found = _unrolled(layer)(case.params, case.carry, xs, case.reset, case.mask, case.weights)
        _assert_close(f"padding_poison_never_leaks ({poison})", layer, found, clean)


def nothing_before_a_reset_matters(layer: Layer, x: Any) -> None:
    """A NaN before a reset, in a step that does happen, reaches no value and no input gradient after it."""
    case = make_case(layer, x)
    if not any(jnp.issubdtype(a.dtype, jnp.inexact) for a in jax.tree.leaves(case.xs)) or not layer.causal:
        return
    reset = np.zeros_like(case.reset)
    reset[7, 0] = True
    everywhere = np.ones_like(case.mask)
    clean = _unrolled(layer)(case.params, case.carry, case.xs, reset, everywhere, case.weights)
    xs = jax.tree.map(lambda a: a.at[3, 0].set(jnp.nan), case.xs)
    found = _unrolled(layer)(case.params, case.carry, xs, reset, everywhere, case.weights)

    def after(result: Any) -> Any:
        outcome, gradients = result
        return outcome.carry, [a[7:, 0] for a in jax.tree.leaves((outcome.ys, gradients.xs))]

    _assert_close("nothing_before_a_reset_matters", layer, after(found), after(clean))


def streaming_equals_whole(layer: Layer, x: Any) -> None:
    """A sequence in two pieces, the carry handed on, gives what the whole gives."""
    if not layer.causal:
        return
    case = make_case(layer, x)
    never, always = np.zeros_like(case.reset), np.ones_like(case.mask)
    whole, _ = _unrolled(layer)(case.params, case.carry, case.xs, never, always, case.weights)
    carry, first = layer.unroll(case.params, case.carry, jax.tree.map(lambda a: a[:5], case.xs))
    carry, second = layer.unroll(case.params, carry, jax.tree.map(lambda a: a[5:], case.xs))
    ys = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    _assert_close("streaming_equals_whole", layer, (carry, ys), (whole.carry, whole.ys))


def empty_sequences_work(layer: Layer, x: Any) -> None:
    """T = 0 returns the carry and outputs ``[0, *B, ...]`` of the right dtype."""
    if not layer.causal:
        return
    case = make_case(layer, x)
    carry, ys = layer.unroll(case.params, case.carry, jax.tree.map(lambda a: a[:0], case.xs))
    _assert_close("empty_sequences_work", layer, carry, case.carry)
    one = layer.unroll(case.params, case.carry, jax.tree.map(lambda a: a[:1], case.xs))[1]
    for none, some in zip(jax.tree.leaves(ys), jax.tree.leaves(one), strict=True):
        same = none.shape == (0, *some.shape[1:]) and none.dtype == some.dtype
        _assert("empty_sequences_work (shapes)", layer, same, (none.shape, none.dtype))


def future_never_leaks(layer: Layer, x: Any) -> None:
    """Later inputs change no earlier output of a causal layer."""
    if not layer.causal:
        return
    case = make_case(layer, x)
    other = make_case(layer, x, seed=1)
    xs = jax.tree.map(lambda a, b: jnp.concatenate([a[:6], b[6:]]), case.xs, other.xs)
    never, always = np.zeros_like(case.reset), np.ones_like(case.mask)
    before, _ = _unrolled(layer)(case.params, case.carry, case.xs, never, always, case.weights)
    after, _ = _unrolled(layer)(case.params, case.carry, xs, never, always, case.weights)
    pick = functools.partial(jax.tree.map, lambda a: a[:6])
    _assert_close("future_never_leaks", layer, pick(after.ys), pick(before.ys))


def batch_rows_are_independent(layer: Layer, x: Any) -> None:
    """Another row changes neither values nor gradients of a row."""
    case = make_case(layer, x)
    other = make_case(layer, x, seed=1)
    xs = jax.tree.map(lambda a, b: a.at[:, 1:].set(b[:, 1:]), case.xs, other.xs)
    never, always = np.zeros_like(case.reset), np.ones_like(case.mask)
    before = _unrolled(layer)(case.params, case.carry, case.xs, never, always, case.weights)
    after = _unrolled(layer)(case.params, case.carry, xs, never, always, case.weights)

    def row(result: Any) -> Any:
        outcome, gradients = result
        over_time = [a[:, 0] for a in jax.tree.leaves((outcome.ys, gradients.xs))]
        return over_time, [a[0] for a in jax.tree.leaves((outcome.carry, gradients.carry))]

    _assert_close("batch_rows_are_independent", layer, row(after), row(before))


def keys_belong_to_steps(layer: Layer, x: Any) -> None:
    """``unroll(key)`` equals the loop of ``step(fold_in(key, t))``: noise does not depend on how time is cut."""
    if not layer.causal:
        return
    case = make_case(layer, x)
    key = jax.random.key(7)
    ys = layer.unroll(case.params, case.carry, case.xs, key=key)[1]
    carry, expected = case.carry, []
    for t in range(3):
        x_t = jax.tree.map(lambda a, t=t: a[t], case.xs)
        carry, y = layer.step(case.params, carry, x_t, key=jax.random.fold_in(key, t))
        expected.append(y)
    _assert_close(
        "keys_belong_to_steps",
        layer,
        jax.tree.map(lambda a: a[:3], ys),
        jax.tree.map(lambda *a: jnp.stack(a), *expected),
    )


def compiles_once(layer: Layer, x: Any) -> None:
    """A jitted function is traced once for inputs of the same shapes."""
    case = make_case(layer, x)
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def unroll(layer: Layer, params: Any, carry: Any, xs: Any) -> Any:
        traces.append(1)
        return layer.unroll(params, carry, xs)

    carry, _ = unroll(layer, case.params, case.carry, case.xs)
    unroll(layer, case.params, carry, case.xs)
    _assert("compiles_once", layer, len(traces) == 1, f"{len(traces)} traces")


def low_precision_is_close(layer: Layer, x: Any) -> None:
    """In bfloat16 outputs are bfloat16, within 40 roundings of float64 relative to the largest output at T = 13."""
    case = make_case(layer, x)
    if not any(jnp.issubdtype(a.dtype, jnp.floating) for a in jax.tree.leaves(case.xs)):
        return
    exact = layer.unroll(case.params, case.carry, case.xs)[1]
    params = jax.tree.map(lambda p: p.astype(jnp.float32), case.params)
    xs = jax.tree.map(lambda a: a.astype(jnp.bfloat16), case.xs)
    carry = layer.initial_carry(params, jax.tree.map(lambda a: a[0], xs))
    carry = jax.tree.map(lambda c, like: c.astype(like.dtype), case.carry, carry)
    ys = layer.unroll(params, carry, xs)[1]
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    for y, e in zip(jax.tree.leaves(ys), jax.tree.leaves(exact), strict=True):
        _assert("low_precision_is_close (dtype)", layer, y.dtype == jnp.bfloat16, y.dtype)
        error = np.max(np.abs(np.asarray(y, np.float64) - np.asarray(e)))
        bound = 40 * eps * np.max(np.abs(e))
        _assert("low_precision_is_close", layer, error <= bound, f"error {error:.3g}, bound {bound:.3g}")


def second_derivatives_work(layer: Layer, x: Any) -> None:
    """The Hessian times a vector, reverse over reverse, equals central differences of the gradient to 1e-5."""
    case = make_case(layer, x)
    if not jax.tree.leaves(case.params):
        return
    flags = (jnp.asarray(case.reset), jnp.asarray(case.mask))

    def gradient(params: Any) -> Any:
        return _unrolled(layer)(params, case.carry, case.xs, *flags, case.weights)[1].params

    direction = _random_like(case.params, jax.random.key(5))

    def along(params: Any) -> jax.Array:
        loss = functools.partial(_loss, layer, layer.unroll)
        g = jax.grad(loss)(params, case.carry, case.xs, *flags, case.weights)
        pairs = zip(jax.tree.leaves(g), jax.tree.leaves(direction), strict=True)
        return jnp.sum(jnp.stack([jnp.vdot(a, b) for a, b in pairs]))

    found = jax.jit(jax.grad(along))(case.params)
    h = 1e-5
    plus, minus = (
        gradient(jax.tree.map(lambda p, d, s=s: p + s * h * d, case.params, direction)) for s in (1, -1)
    )
    expected = jax.tree.map(lambda a, b: (a - b) / (2 * h), plus, minus)
    _assert_close("second_derivatives_work", layer, found, expected, rtol=1e-5)


def trees_keep_their_form(layer: Layer, x: Any) -> None:
    """Params come out alike from shapes and from arrays; the carry leaves as it entered, leaf by leaf."""
    case = make_case(layer, x)
    struct = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    from_shapes = jax.eval_shape(layer.init, jax.random.key(0), struct)
    from_arrays = jax.eval_shape(layer.init, jax.random.key(0), x)
    _assert("trees_keep_their_form (params)", layer, _form(from_shapes) == _form(from_arrays), from_shapes)
    after = jax.eval_shape(layer.unroll, case.params, case.carry, case.xs)[0]
    _assert("trees_keep_their_form (carry)", layer, _form(after) == _form(case.carry), _form(after))


def params_do_not_depend_on_method(method: Method, cell: Cell, x: Any) -> None:
    """The same key gives the same params under any method."""
    key = jax.random.key(3)
    found, expected = recurrent(cell, method).init(key, x), cell.init(key, x)
    _assert_close("params_do_not_depend_on_method", recurrent(cell, method), found, expected, rtol=0)


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
    trees_keep_their_form,
)


# ---------------------------------------------------------------- cases, and the programs that the checks share


class Outcome(NamedTuple):
    """Final carry and outputs."""

    carry: Any
    ys: Any


class Gradients(NamedTuple):
    """Of the weighted sum of an `Outcome`."""

    params: Any
    carry: Any
    xs: Any


@functools.lru_cache(maxsize=32)
def _cached_case(layer: Layer, treedef: Any, leaves: tuple, seed: int) -> Case:
    x = jax.tree.unflatten(treedef, [jnp.zeros(shape, dtype) for shape, dtype in leaves])
    keys = jax.random.split(jax.random.key(seed), 6)
    batch = leaves[0][0][0]

    def inputs(shape: tuple[int, ...], dtype: Any) -> jax.Array:
        if jnp.issubdtype(dtype, jnp.integer):
            return jax.random.randint(keys[0], (LENGTH, *shape), 0, 2, dtype)
        return jax.random.normal(keys[0], (LENGTH, *shape), jnp.float64)

    xs = jax.tree.unflatten(treedef, [inputs(*leaf) for leaf in leaves])
    first = jax.tree.map(lambda a: a[0], xs)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), layer.init(jax.random.key(3), x))
    # Params away from their initial values, where biases are zero and symmetries hide errors.
    params = jax.tree.map(lambda p, d: p + 0.1 * d, params, _random_like(params, keys[1]))
    initial = layer.initial_carry(params, first)
    # Counts and normalisers in a carry are positive.
    carry = jax.tree.map(
        lambda c, d: c + (d if jnp.iscomplexobj(d) else 0.5 * jnp.abs(d)),
        initial,
        _random_like(initial, keys[2]),
    )
    after, ys = jax.eval_shape(layer.unroll, params, carry, xs)
    weights = Outcome(_random_like(after, keys[3]), _random_like(ys, keys[4]))
    random = np.random.default_rng(seed)
    reset, mask = random.random((LENGTH, batch)) < 0.2, random.random((LENGTH, batch)) < 0.7
    mask[:, -1] = False
    mask[-4:, 0] = False
    return Case(layer, params, initial, carry, xs, weights, reset, mask)


def make_case(layer: Layer, x: Any, seed: int = 0) -> Case:
    """The inputs that the checks of a layer share."""
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ValueError(
            'seqjax.testing: expected float64; call jax.config.update("jax_enable_x64", True) first.'
        )
    leaves, treedef = jax.tree.flatten(x)
    return _cached_case(layer, treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves), seed)


@functools.lru_cache(maxsize=32)
def _unrolled(layer: Layer) -> Callable:
    return jax.jit(functools.partial(_outcome_and_gradients, layer, layer.unroll))


@functools.lru_cache(maxsize=32)
def _looped(layer: Layer) -> Callable:
    def unroll(params: Any, carry: Any, xs: Any, *, reset: Any, mask: Any) -> Any:
        def body(carry: Any, inputs: Any) -> Any:
            x, reset, mask = inputs
            return layer.step(params, carry, x, reset=reset, mask=mask)

        return jax.lax.scan(body, carry, (xs, reset, mask))

    return jax.jit(functools.partial(_outcome_and_gradients, layer, unroll))


def _loop_by_hand(params: Any, carry: Any, xs: Any, *, layer: Layer) -> Any:
    step, ys = jax.jit(layer.step), []
    for t in range(LENGTH):
        carry, y = step(params, carry, jax.tree.map(lambda a, t=t: a[t], xs))
        ys.append(y)
    return carry, jax.tree.map(lambda *a: jnp.stack(a), *ys)


def _run(layer: Layer, unroll: Callable, params: Any, carry: Any, xs: Any) -> Any:
    return unroll(params, carry, xs, layer=layer) if unroll is _loop_by_hand else unroll(params, carry, xs)


def _outcome_and_gradients(
    layer: Layer, unroll: Callable, params: Any, carry: Any, xs: Any, reset: Any, mask: Any, weights: Outcome
) -> tuple[Outcome, Gradients]:
    floating = [i for i, a in enumerate(jax.tree.leaves(xs)) if jnp.issubdtype(a.dtype, jnp.inexact)]
    leaves, treedef = jax.tree.flatten(xs)

    def loss(params: Any, carry: Any, some: Any) -> tuple[jax.Array, Outcome]:
        merged = list(leaves)
        for i, leaf in zip(floating, some, strict=True):
            merged[i] = leaf
        outcome = Outcome(*unroll(params, carry, jax.tree.unflatten(treedef, merged), reset=reset, mask=mask))
        return _weighted(outcome, weights), outcome

    grad = jax.grad(loss, (0, 1, 2), has_aux=True, allow_int=True)
    gradients, outcome = grad(params, carry, [leaves[i] for i in floating])
    return outcome, Gradients(*gradients)


def _loss(
    layer: Layer, unroll: Callable, params: Any, carry: Any, xs: Any, reset: Any, mask: Any, weights: Any
) -> jax.Array:
    return _weighted(Outcome(*unroll(params, carry, xs, reset=reset, mask=mask)), weights)


def _weighted(outcome: Outcome, weights: Outcome) -> jax.Array:
    """A loss that is not linear in the outputs, so that second derivatives by them count as well."""
    terms = [
        jnp.sum(jnp.real(w * a) + 0.5 * jnp.abs(w) * jnp.real(a * jnp.conj(a)))
        for w, a in zip(jax.tree.leaves(weights), jax.tree.leaves(outcome), strict=True)
    ]
    return sum(terms[1:], terms[0])


def _random_like(tree: Any, key: jax.Array) -> Any:
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(1, len(leaves)))
    return jax.tree.unflatten(treedef, 
        [jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=False)]
    )


def _form(tree: Any) -> list:
    return [(jax.tree_util.keystr(p), a.shape, a.dtype) for p, a in jax.tree_util.tree_leaves_with_path(tree)]


def _assert(check: str, layer: Layer, holds: Any, found: Any) -> None:
    if not holds:
        raise AssertionError(f"{check}: {layer!r}: {found}")


def _assert_close(check: str, layer: Layer, found: Any, expected: Any, rtol: float = RTOL) -> None:
    """Leaf by leaf: within rtol of the expected leaf's largest entry, and finite where it is."""
    paths = jax.tree_util.tree_leaves_with_path(found)
    for (path, a), b in zip(paths, jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype.names or a.dtype == jax.dtypes.float0:
            continue
        scale = max(1.0, float(np.max(np.abs(b), initial=0)))
        error = float(np.max(np.abs(a - b), initial=0)) if a.shape == b.shape else np.inf
        if not error <= rtol * scale:
            raise AssertionError(
                f"{check}: {layer!r}: result{jax.tree_util.keystr(path)} differs by {error:.3g}, "
                f"allowed {rtol * scale:.3g}."
            )
