"""Every registered cell, method and combinator through the public conformance suite."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import seqjax as sj
from seqjax.cells import REGISTRY
from seqjax.combinators.boundary import BarrierCarry
from seqjax.testing import CHECKS, check_cell, methods_for, params_do_not_depend_on_method, strict
from seqjax.testing.cases import make_case, random_like, weighted_loss
from seqjax.testing.checks import (
    gradients_per_example_add_up,
    keys_belong_to_steps,
    masked_steps_do_not_happen,
    resets_separate_packed_sequences,
    second_derivatives_work,
    streaming_equals_whole,
)

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


def every_cell_and_method():
    """The fast tier: every cell under the default of Sequential, one cell per kind under every method."""
    for name, cell in CELLS.items():
        for method in methods_for(cell, EXAMPLES[name]):
            fast = method == sj.Sequential() or FIRST_OF_KIND[type(cell.recurrence)] == name
            yield pytest.param(name, method, id=f"{name}-{method}", marks=() if fast else pytest.mark.slow)


def every_cell_method_and_check():
    """The same with every check, but for `BY_METHOD` where the cell is not the first of its kind."""
    for param in every_cell_and_method():
        name, _ = param.values
        first = FIRST_OF_KIND[type(CELLS[name].recurrence)] == name
        for check in CHECKS:
            marks = param.marks if first or check not in BY_METHOD else pytest.mark.slow
            yield pytest.param(*param.values, check, id=f"{param.id}-{check.__name__}", marks=marks)


@pytest.mark.parametrize(("name", "method", "check"), list(every_cell_method_and_check()))
def test_cells(name, method, check):
    with strict():
        check(sj.recurrent(CELLS[name], method), EXAMPLES[name])


@pytest.mark.parametrize(("name", "method"), list(every_cell_and_method()))
def test_params_do_not_depend_on_method(name, method):
    params_do_not_depend_on_method(method, CELLS[name], EXAMPLES[name])


def forward_mode():
    """For every kind of recurrence the methods that support forward mode."""
    for kind, name in FIRST_OF_KIND.items():
        yield name, sj.Sequential(gradient="autodiff")
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


def tanh_twice(x):
    return jnp.tanh(2 * x)


def first_is_large(x):
    return x[..., 0] > 0.8


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


LAYERS = {
    "serial": sj.serial(sj.pointwise(nn.Dense(4)), sj.recurrent(sj.lstm(4)), sj.pointwise(tanh_twice)),
    "tokens": sj.serial(sj.pointwise(nn.Embed(2, 4)), sj.recurrent(sj.gru(3)), sj.pointwise(nn.Dense(2))),
    "residual": sj.residual(sj.serial(sj.pointwise(nn.LayerNorm()), sj.recurrent(sj.lru(4)))),
    "dropout": sj.serial(sj.dropout(0.5), sj.recurrent(sj.elman(3)), sj.dropout(0.2)),
    "flax dropout": sj.pointwise(nn.Dropout(0.5)),
    "bidirectional": sj.bidirectional(sj.recurrent(sj.gru(3))),
    "bidirectional sum": sj.bidirectional(sj.recurrent(sj.lru(3)), sj.recurrent(sj.lstm(3)), merge="sum"),
    "checkpointed": sj.checkpointed(
        sj.residual(sj.serial(sj.recurrent(sj.lstm(4)), sj.dropout(0.3))), every=4
    ),
    "short convolution": sj.short_convolution(4),
    "short convolution of one step": sj.short_convolution(1, bias=False),
    "token shift": sj.serial(sj.token_shift(num_outputs=2), sj.recurrent(sj.qrnn(3)), sj.token_shift()),
    "running normalisation": sj.running_normalisation(epsilon=0.1),
    "checkpointed nested": sj.checkpointed(sj.recurrent(sj.elman(3)), sj.Nested(3)),
    "checkpointed binomial": sj.checkpointed(
        sj.strided(sj.serial(sj.recurrent(sj.elman(3)), sj.dropout(0.3)), 2), sj.Binomial(2, every=2)
    ),
    "parallel": sj.parallel(sj.recurrent(sj.elman(3)), sj.pointwise(tanh_twice)),
    "parallel gate": sj.parallel(sj.recurrent(sj.elman(3)), sj.recurrent(sj.lru(3)), merge="gate"),
    "reverse": sj.reverse(sj.recurrent(sj.gru(3))),
    "repeat": sj.repeat(sj.serial(sj.recurrent(sj.elman(4)), sj.dropout(0.3)), 2, remat=True),
    "strided": sj.strided(sj.recurrent(sj.elman(3)), 2),
    "strided zero": sj.strided(sj.recurrent(sj.lru(3)), 3, between="zero"),
    "dilated": sj.dilated(sj.recurrent(sj.elman(3)), 2),
    "zoneout": sj.recurrent(sj.zoneout(sj.lstm(3), (0.3, 0.1))),
    "zoneout diagonal": sj.recurrent(sj.zoneout(sj.lru(3), 0.3)),
    "variational dropout": sj.variational_dropout(
        sj.recurrent(sj.variational_dropout(sj.elman(3), 0.3)), 0.3
    ),
    "normalised": sj.recurrent(sj.normalised(sj.lstm(3))),
    "frozen": sj.frozen(sj.recurrent(sj.elman(3))),
    "reset_on": sj.reset_on(sj.recurrent(sj.elman(3)), first_is_large),
    "running mean": sj.serial(sj.running_mean(), sj.recurrent(sj.elman(3)), sj.running_mean()),
}


CHECKS_OF_LAYERS = [
    pytest.param(check, id=check.__name__, marks=pytest.mark.slow if check in TWICE else ())
    for check in CHECKS
]


@pytest.mark.parametrize("check", CHECKS_OF_LAYERS)
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, check):
    check(LAYERS[name], jnp.zeros(3, int) if name == "tokens" else X)


# One check each does not apply. A reset leaves a context alone, so that documents after the first keep the context
# that the sequence entered with; the gradient that a barrier truncates is not the gradient of any function, so that it
# has no derivative to compare with. tests/test_combinators.py has what holds instead.
LAYERS_BUT_ONE_CHECK = {
    "conditioned": with_context(sj.conditioned(sj.recurrent(sj.elman(3)), 2)),
    "conditioned add": with_context(sj.conditioned(sj.recurrent(sj.elman(3)), 2, merge="add")),
    "with_memory": with_context(
        sj.with_memory(sj.recurrent(sj.elman(3)), sj.multiplicative_attention(), memory_size=2)
    ),
    "bptt_barrier": sj.bptt_barrier(sj.recurrent(sj.elman(3)), every=3),
}
DOES_NOT_APPLY = {BarrierCarry: "second_derivatives_work"}


@pytest.mark.parametrize("check", CHECKS_OF_LAYERS)
@pytest.mark.parametrize("name", LAYERS_BUT_ONE_CHECK)
def test_layers_but_one_check(name, check):
    layer = LAYERS_BUT_ONE_CHECK[name]
    kind = type(jax.eval_shape(layer.initial_carry, layer.init(jax.random.key(0), X), X))
    if check.__name__ != DOES_NOT_APPLY.get(kind, "resets_separate_packed_sequences"):
        check(layer, X)


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


def test_check_cell_runs_a_cell_of_ones_own():
    def leak(params, h, x):
        h = params * h + (1 - params) * x
        return h, h

    cell = sj.Cell(
        init=lambda key, x: jnp.full((1, x.shape[-1]), 0.5),
        initial_carry=lambda params, x: jnp.zeros_like(x),
        recurrence=sj.Step(leak),
    )
    check_cell(cell, X)
