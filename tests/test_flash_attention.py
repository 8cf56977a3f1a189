"""Compare attention by one kernel with blocks of attention, with XLA's form of the kernel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.base import Attention, AttentionCarry, AttentionInputs
from seqjax.ops import attention, flash_attention

T, B, HEADS, GROUPS, K = 13, 2, 4, 2, 4


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


INPUTS = AttentionInputs(normal(0, T, B, HEADS, K), normal(1, T, B, GROUPS, K), normal(2, T, B, GROUPS, K))


def cache(capacity, count):
    shape = (B, capacity, GROUPS, K)
    return AttentionCarry(normal(3, *shape), normal(4, *shape), jnp.full(B, count, jnp.int32))


def outcome(kind, inputs, carry, mask):
    """The carry, the outputs and the gradient of a function of them (of outputs of steps that happen)."""
    initial = jax.tree.map(jnp.zeros_like, carry)
    kept = jnp.ones((T, B), bool) if mask is None else mask

    def loss(inputs):
        after, hs = attention.blockwise(kind, inputs, carry, sj.Flags(initial=initial, mask=mask), size=6)
        hs = jnp.where(kept[..., None, None], hs, 0)
        return jnp.sum(jnp.sin(hs)), (after, hs)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(inputs)


@pytest.fixture
def kernel(monkeypatch):
    """Run the branch for GPUs with XLA's form of the kernel; the fixture counts how often the form is traced."""
    calls = []

    def flash(*args, **options):
        calls.append(options)
        return flash_attention.flash(*args, **options, implementation="xla")

    monkeypatch.setattr(attention, "flash", flash)
    monkeypatch.setattr(attention, "kernel_exists", lambda *_: True)
    monkeypatch.setattr(attention, "on_gpu", lambda kernel, plain: kernel())
    return calls


MASKS = {
    "every step": None,
    "padding": jnp.arange(T)[:, None] < jnp.asarray([T, 9]),
    "a masked step inside": jnp.ones((T, B), bool).at[4, 1].set(False),
}


@pytest.mark.parametrize("kind", [Attention(window=5, rotary_base=100.0), Attention(max_length=20)], ids=repr)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.fast_cases(2)
def test_the_kernel_equals_the_blocks(kind, mask, count, request):
    carry = cache(kind.capacity, count)
    expected = outcome(kind, INPUTS, carry, MASKS[mask])
    calls = request.getfixturevalue("kernel")
    found = outcome(kind, INPUTS, carry, MASKS[mask])
    assert calls == [{"window": kind.capacity}]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [5, T])
@pytest.mark.parametrize("field", ["q", "k", "v"])
@pytest.mark.fast_cases(1)
def test_nan_reaches_the_steps_that_attend_to_it(field, window, kernel):
    spoilt = INPUTS._replace(**{field: getattr(INPUTS, field).at[6, 0, 1].set(jnp.nan)})
    kind = Attention(window=window)
    (_, (_, hs)), _ = outcome(kind, spoilt, cache(window, 0), None)
    (_, (_, clean)), _ = outcome(kind, INPUTS, cache(window, 0), None)
    reached = np.zeros((T, B), bool)
    reached[6 : 7 if field == "q" else 6 + window, 0] = True
    np.testing.assert_array_equal(np.isnan(hs).all((-1, -2)), reached)
    np.testing.assert_allclose(hs[~reached], clean[~reached], rtol=1e-12)


def test_second_derivatives_are_those_of_the_function(kernel):
    """Along a line, the second derivative by JAX equals a difference of first derivatives."""
    kind, carry = Attention(window=5), cache(5, 0)
    direction = AttentionInputs(*(normal(7 + i, *a.shape) for i, a in enumerate(INPUTS)))

    @jax.jit
    def slope(t):
        def value(t):
            inputs = jax.tree.map(lambda a, d: a + t * d, INPUTS, direction)
            hs = attention.blockwise(kind, inputs, carry, sj.Flags(initial=carry), size=6)[1]
            return jnp.sum(jnp.sin(hs))

        return jax.grad(value)(t)

    found = jax.jit(jax.grad(slope))(0.0)
    np.testing.assert_allclose(found, (slope(1e-3) - slope(-1e-3)) / 2e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "length", "size"), [("float32", 256, 64), ("bfloat16", 32, 64), ("bfloat16", 256, 12)]
)
def test_kernels_take_long_sequences_in_half_precision(dtype, length, size, monkeypatch):
    """The sizes of heads are cuDNN's business, which JAX states by an error; here it is one of a missing cuDNN."""
    called = []

    def fails(*args):
        called.append(args)
        raise NotImplementedError("head dim")

    monkeypatch.setattr(flash_attention, "_attention", fails)
    q = jax.ShapeDtypeStruct((length, 2, 4, size), dtype)
    assert not flash_attention.kernel_exists(q, q, q)
    assert bool(called) == (dtype == "bfloat16" and length > 64)


def test_a_program_for_cpus_holds_no_kernel(monkeypatch):
    """With a kernel at hand, the branch for GPUs is traced, and left out of the compiled program."""
    xla = functools.partial(flash_attention.flash, implementation="xla")
    monkeypatch.setattr(attention, "flash", xla)
    monkeypatch.setattr(attention, "kernel_exists", lambda *_: True)
    kind, carry = Attention(window=5), cache(5, 0)
    run = functools.partial(attention.blockwise, kind, size=6)
    program = jax.jit(run).lower(INPUTS, carry, sj.Flags(initial=carry)).compile().as_text()
    assert "while(" in program and "conditional(" not in program
