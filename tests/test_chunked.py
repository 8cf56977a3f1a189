"""Compare chunks of matrix recurrences and blocks of attention with the step-by-step loop and with plain NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiers import slow

import seqjax as sj
from seqjax.base import (
    Attention,
    AttentionCarry,
    AttentionInputs,
    Matrix,
    MatrixCarry,
    MatrixInputs,
)
from seqjax.ops import attention, matrix
from seqjax.ops.step import loop, step_of
from seqjax.testing import strict_promotion

T, B, N, K, V = 45, 2, 3, 4, 5
SIZES = (1, 4, 16, 20, 45, 64)


def normal(seed, *shape, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def uniform(seed, low, high, *shape, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, size=shape), dtype)


def flags(seed=9, length=T):
    random = np.random.default_rng(seed)
    return jnp.asarray(random.random((length, B)) < 0.1), jnp.asarray(random.random((length, B)) < 0.8)


# ---------------------------------------------------------------- matrix


def erasing(decay, dtype=np.float64, length=T):
    """The gated delta rule with unit keys, beta up to 2 and decays of `decay` ([T, B, N] or [T, B, N, K])."""
    k = normal(1, length, B, N, K, dtype=dtype)
    k = k / jnp.linalg.norm(k, axis=-1, keepdims=True)
    beta = uniform(2, 0, 2, length, B, N, 1, dtype=dtype)
    q, v = normal(3, length, B, N, K, dtype=dtype), normal(4, length, B, N, V, dtype=dtype)
    shrink = jnp.exp(decay if decay.ndim == 4 else decay[..., None])
    return MatrixInputs(q, beta * k, v, decay, (-shrink * beta * k, k))


def decays(*trailing, dtype=np.float64, length=T):
    """Slow ones of 0 to -0.1 with some of -60 in between."""
    slow = uniform(5, -0.1, 0, length, B, N, *trailing, dtype=dtype)
    fast = uniform(6, 0, 1, length, B, N, *trailing) < 0.1
    return jnp.where(fast, jnp.asarray(-60, dtype), slow)


PLAIN = MatrixInputs(normal(0, T, B, N, K), normal(1, T, B, N, K), normal(2, T, B, N, V))
INPUTS = {
    "no decay": PLAIN,
    "per head": PLAIN._replace(log_decay=decays()),
    "per key": PLAIN._replace(log_decay=decays(K)),
    "erase": erasing(decays())._replace(log_decay=None),
    "erase per head": erasing(decays()),
    "erase per key": erasing(decays(K)),
    "log input": PLAIN._replace(log_decay=decays(), log_input=5 * normal(7, T, B, N)),
    "log input, no decay": PLAIN._replace(log_input=5 * normal(7, T, B, N)),
}


def carries(inputs):
    """A carry and an initial one."""
    pair = normal(10, B, N, K, V), normal(11, B, N, K, V)
    if inputs.log_input is None:
        return pair
    return tuple(MatrixCarry(s, normal(12 + i, B, N)) for i, s in enumerate(pair))


def sequential(inputs, carry, initial, reset, mask):
    return loop(step_of(Matrix(), (), None), carry, inputs, sj.Flags(initial=initial, reset=reset, mask=mask))


def value_and_gradients(run, inputs, carry, initial, reset, mask):
    """Results and the gradients of a nonlinear function of all of them (outputs of masked steps do not count)."""

    def loss(inputs, carry, initial):
        with strict_promotion():
            carry, outputs = run(inputs, carry, initial, reset, mask)
        if mask is not None:
            outputs = jax.tree.map(
                lambda a: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 2)), a, 0), outputs
            )
        leaves = jax.tree.leaves((carry, outputs))
        leaves = [a for a in leaves if jnp.issubdtype(a.dtype, jnp.inexact)]
        return sum(jnp.sum(jnp.sin(a)) for a in leaves), (carry, outputs)

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True, allow_int=True))(inputs, carry, initial)


def assert_close(found, expected, rtol):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if a.dtype == jax.dtypes.float0:
            continue
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1, np.abs(b).max(initial=0)))


@functools.cache
def expected_of(name, with_flags):
    inputs = INPUTS[name]
    return value_and_gradients(
        sequential, inputs, *carries(inputs), *(flags() if with_flags else (None, None))
    )


@pytest.mark.parametrize("with_flags", [True, *slow(False)])
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.fast_cases(2)
def test_chunks_equal_the_loop(name, with_flags):
    inputs = INPUTS[name]
    run = functools.partial(_chunked, size=4 if with_flags else 20)
    found = value_and_gradients(run, inputs, *carries(inputs), *(flags() if with_flags else (None, None)))
    assert_close(found, expected_of(name, with_flags), 1e-11)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.fast_cases(2)
def test_the_size_changes_no_result(size):
    inputs = INPUTS["erase per key"]
    carry, outputs = _chunked(inputs, *carries(inputs), *flags(), size=size)
    expected_carry, expected_outputs = expected_of("erase per key", True)[0][1]
    kept = flags()[1][..., None, None]
    assert_close(carry, expected_carry, 1e-12)
    assert_close(jnp.where(kept, outputs.o, 0), expected_outputs.o, 1e-12)


@pytest.mark.parametrize(("size", "loops"), [(20, False), (4, True)])
@pytest.mark.fast_cases(1)
def test_a_group_of_chunks_is_a_program_without_loops(size, loops):
    """Three chunks of 20 steps are one group; two chunks of 4 steps are a group, so 45 steps are a loop over groups."""
    inputs = erasing(decays())
    start = carries(inputs)[0]

    def loss(inputs):
        return jnp.sum(_chunked(inputs, start, start, *flags(), size=size)[1].o)

    assert ("stablehlo.while" in jax.jit(jax.grad(loss)).lower(inputs).as_text()) == loops


@pytest.mark.parametrize("size", [1, 4, 16, 20, 100, 128])
def test_groups_hold_the_sequence_and_little_more(size):
    for length in range(600):
        groups, count, steps = matrix._plan(length, size)
        assert steps <= size and count <= 16
        assert 0 <= groups * count * steps - length <= max(1, steps * groups)


@functools.partial(jax.jit, static_argnames="size")
def _chunked(inputs, carry, initial, reset, mask, size):
    return matrix.chunked(inputs, carry, sj.Flags(initial=initial, reset=reset, mask=mask), size=size)


@pytest.mark.parametrize("trailing", [(), (K,)], ids=["per head", "per key"])
@pytest.mark.fast_cases(1)
def test_float32_keeps_its_digits_beside_decays_of_e_to_the_minus_60(trailing):
    """Against the loop in float64; a difference of running sums would be wrong by 1e-4 after a decay of -60."""
    length = 200
    inputs = erasing(decays(*trailing, length=length), length=length)
    start = jnp.zeros((B, N, K, V))
    narrow = jax.tree.map(lambda a: a.astype(jnp.float32), (inputs, start))
    run = functools.partial(_chunked, size=64)
    (_, found), gradients = value_and_gradients(run, *narrow, narrow[1], None, None)
    (_, expected), exact = value_and_gradients(sequential, inputs, start, start, None, None)
    assert_close(found, expected, 1e-5)
    assert_close(gradients, exact, 1e-5)
    assert jax.tree.leaves(found)[0].dtype == jnp.float32


def test_linear_attention_is_a_product_with_a_triangular_matrix():
    """Without decay and erasure: o = tril(q k^T) v + q S_0, in NumPy."""
    start = carries(PLAIN)[0]
    carry, outputs = _chunked(PLAIN, start, start, None, None, 16)
    scores = np.einsum("tbnk,sbnk->bnts", PLAIN.q, PLAIN.k)
    o = np.einsum("bnts,sbnv->tbnv", np.tril(scores), PLAIN.v) + np.einsum("tbnk,bnkv->tbnv", PLAIN.q, start)
    assert_close(outputs.o, o, 1e-12)
    assert_close(carry, start + np.einsum("tbnk,tbnv->bnkv", PLAIN.k, PLAIN.v), 1e-12)


def test_a_log_input_gate_can_be_as_large_as_it_likes():
    """In float32 e^200 overflows; the scaled state and its readout do not."""
    inputs = jax.tree.map(
        lambda a: a.astype(jnp.float32),
        INPUTS["log input, no decay"]._replace(log_input=200 * normal(7, T, B, N)),
    )
    start = MatrixCarry(jnp.zeros((B, N, K, V), jnp.float32), jnp.zeros((B, N), jnp.float32))
    found = value_and_gradients(functools.partial(_chunked, size=16), inputs, start, start, None, None)
    expected = value_and_gradients(sequential, inputs, start, start, None, None)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(found))
    assert_close(found[0][1], expected[0][1], 1e-5)


@pytest.mark.parametrize("field", ["q", "k", "v", "log_decay"])
@pytest.mark.fast_cases(1)
def test_nan_reaches_what_the_loop_lets_it_reach(field):
    """Not earlier steps, although they share products with it; all later ones up to the reset (but for q: its own)."""
    inputs = erasing(decays())
    spoilt = inputs._replace(**{field: getattr(inputs, field).at[10, 0, 1].set(jnp.nan)})
    start = carries(inputs)[0]
    reset = jnp.zeros((T, B), bool).at[30, 0].set(True)
    for size in (8, 45):
        chunked = jax.jit(functools.partial(_chunked, size=size))
        carry, outputs = chunked(spoilt, start, start, reset, None)
        expected_carry, expected = jax.jit(sequential)(spoilt, start, start, reset, None)
        np.testing.assert_array_equal(np.isnan(outputs.o), np.isnan(expected.o))
        assert_close(np.nan_to_num(outputs.o), np.nan_to_num(expected.o), 1e-11)
        assert_close(carry, expected_carry, 1e-11)


def test_nan_before_a_reset_reaches_no_gradient_after_it():
    inputs = erasing(decays())
    start = carries(inputs)[0]
    reset = jnp.zeros((T, B), bool).at[30, 0].set(True)

    def loss(q, k, v):
        return jnp.sum(
            jnp.sin(_chunked(inputs._replace(q=q, k=k, v=v), start, start, reset, None, 45)[1].o[30:])
        )

    clean = jax.grad(loss, (0, 1, 2))(*inputs[:3])
    spoilt = [a.at[10, 0].set(jnp.nan) for a in inputs[:3]]
    for a, b in zip(jax.grad(loss, (0, 1, 2))(*spoilt), clean, strict=True):
        assert_close(a[30:], b[30:], 1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"erase": (PLAIN.k, PLAIN.k)}, "expected erase or log_input, got both"),
        ({"log_decay": decays(K)}, r"a log_decay per head \(. axes\) .* got log_decay \[.*2, 3, 4\]"),
    ],
)
def test_inputs_that_do_not_go_together_are_named(change, message):
    inputs = INPUTS["log input"]._replace(**change)
    with pytest.raises(ValueError, match=message):
        _chunked(inputs, *carries(inputs), None, None, 8)
    with pytest.raises(ValueError, match=message):
        sequential(inputs, *carries(inputs), None, None)


# ---------------------------------------------------------------- attention

HEADS, GROUPS, LENGTH = 4, 2, 23


def attention_inputs(length=LENGTH, dtype=np.float64):
    return AttentionInputs(
        normal(0, length, B, HEADS, K, dtype=dtype),
        normal(1, length, B, GROUPS, K, dtype=dtype),
        normal(2, length, B, GROUPS, V, dtype=dtype),
    )


def caches(capacity, count):
    """A cache that has seen `count` steps, and an empty one."""
    shapes = (B, capacity, GROUPS, K), (B, capacity, GROUPS, V)
    full = AttentionCarry(*(normal(5 + i, *s) for i, s in enumerate(shapes)), jnp.full(B, count, jnp.int32))
    empty = AttentionCarry(*(jnp.zeros(s) for s in shapes), jnp.zeros(B, jnp.int32))
    return full, empty


def in_numpy(kind, inputs, mask):
    """Softmax over the last `capacity` steps that happened, row by row, head by head, from an empty cache."""
    q, k, v = (np.asarray(a) for a in inputs)
    out = np.zeros((len(q), B, HEADS, V))
    for b in range(B):
        for n in range(HEADS):
            g = n // (HEADS // GROUPS)
            steps = []
            for t in range(len(q)):
                if not mask[t, b]:
                    continue
                steps = [*steps, t][-kind.capacity :]
                scores = k[steps, b, g] @ q[t, b, n] / np.sqrt(K)
                z = np.exp(scores - scores.max())
                out[t, b, n] = (z / z.sum()) @ v[steps, b, g]
    return out


def in_blocks(kind, inputs, carry, flags, size):
    return jax.jit(functools.partial(attention.blockwise, kind, size=size))(inputs, carry, flags)


@pytest.mark.parametrize("kind", [Attention(window=5), Attention(max_length=40)], ids=repr)
@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.fast_cases(1)
def test_blocks_equal_numpy(kind, with_mask):
    inputs, (_, empty) = attention_inputs(), caches(kind.capacity, 0)
    mask = flags(length=LENGTH)[1] if with_mask else None
    kept = np.ones((LENGTH, B), bool) if mask is None else np.asarray(mask)
    for size in (4, 64):
        _, hs = in_blocks(kind, inputs, empty, sj.Flags(initial=empty, mask=mask), size=size)
        assert_close(np.asarray(hs)[kept], in_numpy(kind, inputs, kept)[kept], 1e-12)


@pytest.mark.parametrize("count", [0, 3, 12])
@pytest.mark.parametrize("with_flags", [True, *slow(False)])
@pytest.mark.parametrize(
    "kind", [Attention(window=5, rotary_base=100.0), Attention(max_length=30)], ids=["window", "max_length"]
)
@pytest.mark.fast_cases(1)
def test_blocks_equal_the_loop(kind, with_flags, count):
    inputs, (cache, empty) = attention_inputs(), caches(kind.capacity, count)
    reset, mask = flags(length=LENGTH) if with_flags else (None, None)

    def looped(inputs, carry, initial, reset, mask):
        return loop(step_of(kind, (), None), carry, inputs, sj.Flags(initial=initial, reset=reset, mask=mask))

    def blocks(inputs, carry, initial, reset, mask):
        return attention.blockwise(
            kind, inputs, carry, sj.Flags(initial=initial, reset=reset, mask=mask), size=6
        )

    found = value_and_gradients(blocks, inputs, cache, empty, reset, mask)
    expected = value_and_gradients(looped, inputs, cache, empty, reset, mask)
    assert_close(found, expected, 1e-12)


def test_rotary_scores_depend_on_distances_alone():
    """From an empty cache at position 0 and at position 1000 the same outputs."""
    kind, inputs = Attention(window=8, rotary_base=10000.0), attention_inputs()
    _, empty = caches(8, 0)

    @jax.jit
    def run(position):
        carry = empty._replace(position=jnp.full(B, position, jnp.int32))
        return attention.blockwise(kind, inputs, carry, sj.Flags(initial=empty), size=8)[1]

    # From position 1000 the window would hold the zeros of the empty cache: look at where it is full.
    assert_close(np.asarray(run(1000))[8:], np.asarray(run(0))[8:], 1e-12)


@pytest.mark.parametrize("field", ["q", "k", "v"])
@pytest.mark.fast_cases(1)
def test_nan_in_attention_reaches_what_the_loop_lets_it_reach(field):
    kind, inputs = Attention(window=5), attention_inputs()
    cache, empty = caches(5, 7)
    spoilt = inputs._replace(**{field: getattr(inputs, field).at[6, 0, 1].set(jnp.nan)})
    reset = jnp.zeros((LENGTH, B), bool).at[9, 0].set(True)
    for flag in (None, reset):
        for size in (4, 64):
            carry, hs = in_blocks(kind, spoilt, cache, sj.Flags(initial=empty, reset=flag), size=size)
            hs = np.asarray(hs)
            expected_carry, expected = loop(
                step_of(kind, (), None), cache, spoilt, sj.Flags(initial=empty, reset=flag)
            )
            np.testing.assert_array_equal(np.isnan(hs).all((-1, -2)), np.isnan(expected).any((-1, -2)))
            fine = ~np.isnan(expected).any((-1, -2))
            assert_close(hs[fine], expected[fine], 1e-12)
            assert_close(carry, expected_carry, 1e-12)


def test_scores_too_large_for_exp_do_not_overflow():
    kind, inputs = Attention(window=8), attention_inputs(dtype=np.float32)
    inputs = inputs._replace(q=200 * inputs.q)
    empty = jax.tree.map(lambda a: a.astype(jnp.float32) if a.ndim > 1 else a, caches(8, 0)[1])
    hs = in_blocks(kind, inputs, empty, sj.Flags(initial=empty), size=4)[1]
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), inputs)
    expected = in_numpy(kind, wide, np.ones((LENGTH, B), bool))
    assert_close(hs, expected, 1e-4)


def test_attention_is_given_a_window_or_a_length():
    with pytest.raises(ValueError, match="either window or max_length"):
        Attention()
    with pytest.raises(ValueError, match="either window or max_length"):
        Attention(window=3, max_length=3)


# ---------------------------------------------------------------- the method


@pytest.mark.parametrize("size", [0, -1, 2.0, True, None])
def test_the_size_is_a_whole_number(size):
    with pytest.raises(ValueError, match=r"Chunked\(size\): expected a whole number of at least 1"):
        sj.Chunked(size)
