"""Test the attention cell: gradients in closed form, positions, the ring buffer of its carry, peers, and errors."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.base import Attention, AttentionCarry, AttentionInputs
from seqjax.cells import AttentionParams
from seqjax.ops.step import loop, step_of

T, B, D, H, N, K = 9, 3, 5, 6, 4, 8
full = functools.partial(sj.attention, H, num_heads=N, key_size=K, max_length=T)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def setting(cell, seed=0, steps=T):
    """Layer, random params in float64, empty carry, inputs."""
    layer = sj.recurrent(cell)
    xs = jnp.asarray(normal(seed, steps, B, D))
    params = jax.tree.map(np.asarray, jax.jit(layer.init)(jax.random.key(0), xs[0]))
    params = jax.tree.map(lambda p: jnp.asarray(p + 0.3 * normal(1, *p.shape)), params)
    return layer, params, layer.initial_carry(params, xs[0]), xs


def assert_equal(got, expected, rtol=1e-10):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1e-2, np.abs(b).max()))


# ---------------------------------------------------------------- gradients in closed form


def bare(recurrence, inputs, carry=None):
    """Heads' outputs and final carry of the recurrence alone, without maps; one example."""
    if carry is None:
        ring = (recurrence.capacity, *inputs.k.shape[1:])
        carry = AttentionCarry(jnp.zeros(ring), jnp.zeros(ring), jnp.zeros((), jnp.int32))
    carry, hs = loop(step_of(recurrence, None, inputs.q.dtype), carry, inputs)
    return hs, carry


def one_head(seed):
    return AttentionInputs(*(jnp.asarray(normal(seed + i, T, 1, K)) for i in range(3)))


def test_gradients_by_keys_and_values_are_single_softmax_weights():
    inputs, recurrence = one_head(0), Attention(max_length=T)
    q, k, v = (np.asarray(a[:, 0]) for a in inputs)
    scores = np.where(np.tri(T, dtype=bool), q @ k.T / math.sqrt(K), -np.inf)
    a = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    o = a @ v
    by = jax.jit(jax.jacrev(lambda inputs: bare(recurrence, inputs)[0][:, 0]))(inputs)
    assert_equal(by.v[:, :, :, 0], np.einsum("ts,vw->tvsw", a, np.eye(K)), 1e-13)
    expected = np.einsum("ts,tsv,tk->tvsk", a, v[None] - o[:, None], q) / math.sqrt(K)
    assert_equal(by.k[:, :, :, 0], expected, 1e-13)


@pytest.mark.parametrize("length", [4, 20])
@pytest.mark.fast_cases(1)
def test_a_slot_of_the_carry_passes_gradients_unchanged_until_it_is_overwritten(length):
    recurrence, start = Attention(window=length, rotary_base=100.0), 2
    carry = AttentionCarry(
        jnp.asarray(normal(5, length, 1, K)), jnp.asarray(normal(6, length, 1, K)), jnp.int32(start)
    )
    after = lambda k, v: bare(recurrence, one_head(0), AttentionCarry(k, v, carry.position))[1][:2]  # noqa: E731
    by = jax.jacrev(after, (0, 1))(carry.k, carry.v)
    kept = np.ones(length)
    kept[np.arange(start, start + T) % length] = 0
    assert kept.any() == (length > T)
    slots = np.einsum("ij,ab->iajb", np.diag(kept), np.eye(K))
    for i in range(2):
        np.testing.assert_array_equal(by[i][i][:, 0, :, :, 0], slots)
        np.testing.assert_array_equal(by[i][1 - i], np.zeros_like(by[i][1 - i]))


def test_nothing_beyond_the_window_has_a_gradient():
    layer, params, carry, xs = setting(sj.attention(H, num_heads=3, num_groups=1, window=4, qk_norm=True))
    by = jax.jit(jax.jacrev(lambda xs: layer.unroll(params, carry, xs)[1][-1, 0]))(xs)[:, :, 0]
    assert not by[:, : T - 4].any()
    assert (np.abs(by[:, T - 4 :]).max((0, 2)) > 1e-3).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.fast_cases(1)
def test_scores_of_a_hundred_thousand_give_finite_values_and_gradients(dtype):
    layer, params, _, xs = setting(full())
    xs = (xs * 300).astype(dtype)

    def loss(params, xs):
        ys = layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1]
        return jnp.sum(jnp.square(ys.astype(jnp.float32)))

    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, xs)
    q = np.asarray(xs[:, 0], np.float64) @ params.w_q[:, :K]
    assert np.abs(q @ (np.asarray(xs[:, 0], np.float64) @ params.w_k[:, :K]).T).max() > 1e5
    assert all(
        np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves((value, gradients))
    )


# ---------------------------------------------------------------- positions and the ring


def test_outputs_depend_on_differences_of_positions_alone():
    window = 4
    layer, params, carry, xs = setting(sj.attention(H, num_heads=N, key_size=K, window=window))
    unroll = jax.jit(layer.unroll)
    ys = np.asarray(unroll(params, carry, xs)[1])
    longer = np.concatenate([normal(9, 7, B, D), xs])
    later = np.asarray(unroll(params, carry, longer)[1])
    assert_equal(later[-(T - window + 1) :], ys[window - 1 :], 1e-12)
    assert np.abs(later[7] - ys[0]).max() > 1e-2


def test_without_positions_the_order_of_earlier_steps_does_not_matter_and_with_them_it_does():
    order = np.array([4, 2, 0, 7, 1, 6, 5, 3, 8])
    for base, matters in ((None, False), (100.0, True)):
        layer, params, carry, xs = setting(full(rotary_base=base))
        unroll = jax.jit(layer.unroll)
        y, other = (np.asarray(unroll(params, carry, x)[1])[-1] for x in (xs, np.asarray(xs)[order]))
        assert (np.abs(y - other).max() > 1e-3) == matters
        assert matters or np.abs(y - other).max() < 1e-12


def test_steps_beyond_max_length_forget_the_oldest_as_a_window_does():
    length = 4
    cell = sj.attention(H, num_heads=N, key_size=K, max_length=length)
    layer, params, carry, xs = setting(cell)
    step, ys = jax.jit(layer.step), []
    for x in xs:
        carry, y = step(params, carry, x)
        ys.append(y)
    sliding, _, start, _ = setting(sj.attention(H, num_heads=N, key_size=K, window=length))
    assert_equal((carry, jnp.stack(ys)), sliding.unroll(params, start, xs), 1e-13)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_carry_is_empty_in_the_dtype_of_the_inputs(dtype):
    cell = sj.attention(H, num_heads=4, num_groups=2, key_size=3, window=7, rotary_base=None)
    carry = cell.initial_carry(None, jnp.full((2, B, D), jnp.nan, dtype))
    assert carry.k.shape == carry.v.shape == (2, B, 7, 2, 3) and carry.position.shape == (2, B)
    assert carry.k.dtype == carry.v.dtype == dtype and carry.position.dtype == jnp.int32
    assert not any(leaf.any() for leaf in carry)


def test_normalized_queries_and_keys_forget_the_scale_of_the_inputs():
    layer, params, carry, xs = setting(full(qk_norm=True))
    ys, scaled = (layer.unroll(params, carry, c * xs)[1] / c for c in (1.0, 1e3))
    assert_equal(scaled, ys, 1e-4)  # the constant under the root is 1e-6 of a mean square of about one
    plain = params._replace(scale_q=None, scale_k=None)
    other = layer.unroll(plain, carry, 1e3 * xs)[1] / 1e3 - layer.unroll(plain, carry, xs)[1]
    assert np.abs(other).max() > 0.1 * np.abs(ys).max()


# ---------------------------------------------------------------- initial params


def test_weights_start_uniform_and_the_rest_as_nothing():
    cell = sj.attention(40, num_heads=6, num_groups=2, key_size=10, window=3, use_bias=True, qk_norm=True)
    params = cell.init(jax.random.key(0), jnp.full((B, 30), jnp.nan))
    assert jax.tree.map(jnp.shape, params) == AttentionParams(
        (30, 60), (30, 20), (30, 20), (60, 40), (60,), (20,), (20,), (40,), (10,), (10,)
    )
    for w in params[:4]:
        bound = math.sqrt(6 / sum(w.shape))  # Glorot, Bengio 2010, eq. 16
        assert 0.97 * bound < np.abs(w).max() <= bound
        assert np.square(w).mean() == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / w.size))
    assert not any(b.any() for b in params[4:8]) and all((s == 1).all() for s in params[8:])
    assert full().init(jax.random.key(0), jnp.ones((B, D)))[4:] == (None,) * 6


# ---------------------------------------------------------------- peers


def weighted(ys):
    return normal(50, *ys.shape)


def gradients(layer, params, carry, xs):
    """Outputs, and gradients of a weighted sum of them by params and inputs."""

    def loss(params, xs):
        ys = layer.unroll(params, carry, xs)[1]
        return jnp.sum(weighted(ys) * ys), ys

    by, ys = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, xs)
    return ys, by


@pytest.mark.parametrize("use_bias", [False, True])
def test_flax_agrees(use_bias):
    layer, params, carry, xs = setting(full(rotary_base=None, use_bias=use_bias))
    module = nn.MultiHeadDotProductAttention(
        num_heads=N, qkv_features=N * K, out_features=H, use_bias=use_bias, param_dtype=jnp.float64
    )

    def theirs(params):
        parts = {"query": ("q", (-1, N, K)), "key": ("k", (-1, N, K)), "value": ("v", (-1, N, K))}
        parts["out"] = ("o", (N, K, H))
        tree = {name: {"kernel": getattr(params, f"w_{x}").reshape(s)} for name, (x, s) in parts.items()}
        for name, (x, shape) in parts.items():
            if use_bias:
                tree[name]["bias"] = getattr(params, f"b_{x}").reshape(shape[1:] if name != "out" else H)
        return tree

    def unroll(params, carry, xs, flags):
        batch_major = jnp.swapaxes(xs, 0, 1)
        mask = nn.make_causal_mask(batch_major[..., 0])
        ys = module.apply({"params": theirs(params)}, batch_major, mask=mask)
        return carry, jnp.swapaxes(ys, 0, 1)

    other = sj.Layer(init=None, initial_carry=layer.initial_carry, step_fn=None, unroll_fn=unroll)
    assert_equal(gradients(layer, params, carry, xs), gradients(other, params, carry, xs))


def test_the_norm_of_queries_and_keys_is_flax_rms_norm():
    cell = full(qk_norm=True, rotary_base=None)
    _, params, _, xs = setting(cell)
    module = nn.RMSNorm(epsilon=1e-6, param_dtype=jnp.float64)
    plain = cell.project(params._replace(scale_q=None, scale_k=None), xs)
    expected = [
        module.apply({"params": {"scale": s}}, a)
        for s, a in ((params.scale_q, plain.q), (params.scale_k, plain.k))
    ]
    assert_equal(cell.project(params, xs)[:2], expected, 1e-12)


@pytest.mark.peers
@pytest.mark.parametrize(("groups", "window"), [(4, None), (2, None), (1, None), (2, 3)])
@pytest.mark.fast_cases(2)
def test_torch_scaled_dot_product_attention_agrees(groups, window):
    torch = pytest.importorskip("torch")
    limit = {"max_length": T} if window is None else {"window": window}
    cell = sj.attention(H, num_heads=N, num_groups=groups, key_size=K, rotary_base=None, **limit)
    layer, params, carry, xs = setting(cell)
    w_q, w_k, w_v, w_o, x = leaves = [
        torch.tensor(np.asarray(a), requires_grad=True) for a in (*params[:4], xs)
    ]

    def heads(w, count):  # [T, B, D] -> [B, count, T, K], each head of keys repeated for its group
        split = (x @ w).reshape(T, B, count, K).permute(1, 2, 0, 3)
        return split.repeat_interleave(N // count, dim=1)

    lag = torch.arange(T)[:, None] - torch.arange(T)
    visible = (lag >= 0) & (lag < (window or T))
    out = torch.nn.functional.scaled_dot_product_attention(
        heads(w_q, N), heads(w_k, groups), heads(w_v, groups), attn_mask=visible
    )
    ys = out.permute(2, 0, 1, 3).reshape(T, B, N * K) @ w_o
    by = torch.autograd.grad((ys * torch.tensor(weighted(ys))).sum(), leaves)
    found, found_by = gradients(layer, params, carry, xs)
    assert_equal((found, *found_by[0][:4], found_by[1]), [t.detach().numpy() for t in (ys, *by)])


@pytest.mark.peers
def test_torch_multihead_attention_agrees():
    torch = pytest.importorskip("torch")
    layer, params, carry, xs = setting(
        sj.attention(D + 1, num_heads=2, max_length=T, rotary_base=None, use_bias=True)
    )
    xs = jnp.concatenate([xs, xs[..., :1]], -1)  # its inputs are as wide as its outputs
    params = params._replace(**{f"w_{x}": jnp.asarray(normal(i, D + 1, D + 1)) for i, x in enumerate("qkvo")})
    module = torch.nn.MultiheadAttention(D + 1, 2, dtype=torch.float64)
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.tensor(np.concatenate([np.asarray(w).T for w in params[:3]])))
        module.in_proj_bias.copy_(torch.tensor(np.concatenate([np.asarray(b) for b in params[4:7]])))
        module.out_proj.weight.copy_(torch.tensor(np.asarray(params.w_o).T))
        module.out_proj.bias.copy_(torch.tensor(np.asarray(params.b_o)))
    x = torch.tensor(np.asarray(xs), requires_grad=True)
    hidden = torch.ones(T, T, dtype=torch.bool).triu(1)
    ys, _ = module(x, x, x, attn_mask=hidden)
    weights = [module.in_proj_weight, module.in_proj_bias, module.out_proj.weight, module.out_proj.bias, x]
    by = torch.autograd.grad((ys * torch.tensor(weighted(ys))).sum(), weights)
    found, (d, d_xs) = gradients(layer, params, carry, xs)
    ours = (np.concatenate(d[:3], 1).T, np.concatenate(d[4:7]), d.w_o.T, d.b_o, d_xs)
    # The bias of the keys adds the same to all scores of a query: its gradient is zero but for rounding.
    assert_equal((found, *ours), [t.detach().numpy() for t in (ys, *by)])
    assert np.abs(d.b_k).max() < 1e-12 * np.abs(d.b_v).max()


# ---------------------------------------------------------------- errors


def test_unroll_refuses_more_steps_than_max_length():
    layer, params, carry, xs = setting(full(), steps=T + 1)
    with pytest.raises(
        ValueError,
        match=r"^attention\(hidden_size=6, .*\)\.unroll: expected at most max_length=9 steps, got xs \[10, 3, 5\]\. "
        r"Use a larger max_length, or a window\.",
    ):
        jax.eval_shape(layer.unroll, params, carry, xs)
    assert jax.eval_shape(layer.unroll, params, carry, xs[:T])[1].shape == (T, B, H)


@pytest.mark.slow  # as decoding does not
def test_steps_in_several_calls_do_not_exceed_max_length():
    layer, params, carry, xs = setting(full(), steps=T + 3)
    xs = np.asarray(xs)
    carry = jax.jit(layer.unroll)(params, carry, xs[: T - 1])[0]
    message = r"expected at most max_length=9 steps since a reset, got 10, of which {} came before this call"
    with pytest.raises(ValueError, match=message.format(8)):
        layer.unroll(params, carry, xs[:2])
    carry = jax.jit(layer.step)(params, carry, xs[0])[0]
    with pytest.raises(ValueError, match=message.format(9)):
        layer.step(params, carry, xs[0])
    with pytest.raises(ValueError, match=message.format(9)):  # one row without padding suffices
        layer.step(params, carry, xs[0], mask=np.arange(B) == 1)
    # Masked steps have no position, and a reset starts again; so does a window, which has no limit.
    layer.step(params, carry, xs[0], mask=np.zeros(B, bool))
    layer.step(params, carry, xs[0], reset=np.ones(B, bool))
    reset = np.zeros((T, B), bool)
    reset[0] = True
    layer.unroll(params, carry, xs[:T], reset=reset)
    layer, params, carry, xs = setting(sj.attention(H, num_heads=N, key_size=K, window=3))
    for _ in range(2):
        carry = layer.unroll(params, carry, xs)[0]


def test_decoding_does_not_exceed_max_length():
    def model(wrap=lambda layer: layer, **limit):
        attention = sj.recurrent(sj.attention(8, num_heads=2, key_size=4, **limit))
        return sj.serial(
            sj.pointwise(nn.Embed(7, 8)), wrap(sj.residual(attention)), sj.pointwise(nn.Dense(7))
        )

    prompt = np.array([[1, 2], [3, 4], [5, 6], [0, 1]])
    searches = (sj.generate, functools.partial(sj.beam_search, beam_size=2, end_token=None))
    message = (
        r"expected at most max_length=8 steps of attention, got a prompt of 4{} and max_length={} new tokens"
    )
    for wrap in (
        lambda layer: layer,
        lambda layer: sj.repeat(layer, 2),
        sj.frozen,
        functools.partial(sj.checkpointed, every=4),
    ):
        layer = model(wrap, max_length=8)
        params = jax.eval_shape(layer.init, jax.random.key(0), prompt[0])
        for search in searches:
            with pytest.raises(ValueError, match=message.format("", 6)):
                search(layer, params, None, prompt, max_length=6)
    layer = model(max_length=8)
    params = jax.jit(layer.init)(jax.random.key(0), prompt[0])
    start = layer.initial_carry(params, prompt[0])
    made = sj.generate(layer, params, start, prompt, max_length=5)
    wide = model(max_length=16)
    more = sj.generate(wide, params, wide.initial_carry(params, prompt[0]), prompt, max_length=5)
    np.testing.assert_array_equal(made.tokens, more.tokens)
    after = layer.unroll(params, start, prompt)[0]
    with pytest.raises(ValueError, match=message.format(" after 4 earlier ones", 2)):
        sj.generate(layer, params, after, prompt, max_length=2)
    mask = np.array([[True, False]] * 2 + [[True, True], [False, True]])
    sj.generate(layer, params, start, prompt, mask=mask, max_length=6)
    sliding = model(window=8)
    sj.generate(sliding, params, sliding.initial_carry(params, prompt[0]), prompt, max_length=6)
    assert model(lambda layer: sj.strided(layer, 3), max_length=8).max_length == 24


@pytest.mark.parametrize("limits", [{}, {"window": 3, "max_length": 4}])
def test_either_window_or_max_length(limits):
    found = f"window={limits.get('window')}, max_length={limits.get('max_length')}"
    with pytest.raises(
        ValueError, match=rf"^attention: expected either window or max_length, got {found}\.$"
    ):
        sj.attention(8, num_heads=2, **limits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_heads": 3},
            r"attention\(num_heads\): expected a divisor of hidden_size=8, got 3\. Or pass `key_size=`",
        ),
        (
            {"num_heads": 4, "num_groups": 3},
            r"attention\(num_groups\): expected a divisor of num_heads=4, got 3\.",
        ),
        ({"num_heads": 0}, r"attention\(num_heads\): expected a whole number of at least 1, got 0\."),
        ({"num_heads": 2, "num_groups": 0}, r"attention\(num_groups\): expected a whole number .* got 0\."),
        ({"num_heads": 2, "key_size": -1}, r"attention\(key_size\): expected a whole number .* got -1\."),
        (
            {"num_heads": 2, "window": 0},
            r"attention\(window\): expected a whole number of at least 1, got 0\.",
        ),
        (
            {"num_heads": 2, "max_length": 2.5},
            r"attention\(max_length\): expected a whole number .* got 2\.5\.",
        ),
        (
            {"num_heads": 8},
            r"attention: expected a rotary_base above 0 and an even key_size, got rotary_base=10000\.0, key_size=1\. "
            r"Pass `rotary_base=None` to disable positions\.",
        ),
        (
            {"num_heads": 2, "rotary_base": 0.0},
            r"attention: expected a rotary_base above 0 .* rotary_base=0\.0",
        ),
    ],
)
def test_sizes_that_make_no_sense_are_refused(options, message):
    limits = {} if {"window", "max_length"} & set(options) else {"window": 3}
    with pytest.raises(ValueError, match=f"^{message}"):
        sj.attention(8, **options, **limits)


def test_inputs_of_another_width_are_refused():
    layer, params, carry, xs = setting(full())
    with pytest.raises(
        ValueError,
        match=r"expected floating xs \[\.\.\., 5\] \(the input weights are \[5, 32\]\), got float64",
    ):
        layer.unroll(params, carry, xs[..., :3])
