"""Test blocks and stacks: conformance as layers, transcriptions of their figures, values, errors."""

import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax import blocks
from seqjax.blocks.xlstm import MLSTMBlockParams
from seqjax.testing.layers import LAYERS, WIDE

D = 6
X = jnp.zeros((3, D))
recurrent_gate = sj.serial(sj.pointwise(nn.Dense(4)), sj.pointwise(jax.nn.sigmoid))


every = pytest.mark.parametrize(
    "layer", [pytest.param(e.make(sj.Auto()), id=name) for name, e in LAYERS.items() if e.x is WIDE]
)


@every
def test_blocks_are_values(layer):
    assert pickle.loads(pickle.dumps(layer)) == layer
    names = vars(blocks) | {name: getattr(sj, name) for name in sj.__all__} | {"Dense": nn.Dense, "jax": jax}
    assert eval(repr(layer), names) == layer  # it prints as it is made


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def run(layer, seed=0, steps=9):
    """Random params and inputs in float64, and the outputs."""
    xs = jnp.asarray(normal(seed, steps, 3, D))
    params = jax.tree.map(np.asarray, jax.jit(layer.init)(jax.random.key(0), xs[0]))
    params = jax.tree.map(lambda p: jnp.asarray(p + 0.2 * normal(1, *p.shape)), params)
    return params, xs, part(layer, params, xs)


def part(layer, params, xs):
    """The outputs of a block, or of a part of it, from the initial carry."""
    return jax.jit(lambda params, xs: layer.unroll(params, None, xs)[1])(params, xs)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def rms(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):  # the tanh form
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def swiglu_by_hand(params, x, phi=silu):
    (((first, _), second), _), last = params
    return (phi(x @ first["kernel"]) * (x @ second["kernel"])) @ last["kernel"]


# ---------------------------------------------------------------- values


def test_the_outputs_of_parallel_layers_as_a_tuple_are_those_of_its_layers():
    layers = (sj.recurrent(sj.gru(3)), sj.recurrent(sj.lru(2)))
    params, xs, ys = run(sj.parallel(*layers, merge="tuple"))
    for layer, p, y in zip(layers, params, ys, strict=True):
        assert_close(y, part(layer, p, xs))


def test_gated_is_the_product():
    layer = sj.recurrent(sj.lstm(4))
    params, xs, ys = run(blocks.gated(layer, recurrent_gate))
    (p, (gate, _)), _ = params
    z = np.asarray(xs) @ gate["kernel"] + gate["bias"]
    assert_close(ys, part(layer, p, xs) / (1 + np.exp(-z)))


@pytest.mark.parametrize(("activation", "phi"), [("swiglu", silu), ("geglu", gelu)])
def test_feed_forward_is_a_product_between_two_maps(activation, phi):
    params, xs, ys = run(sj.feed_forward(D, hidden_size=5, activation=activation))
    assert_close(ys, swiglu_by_hand(params, np.asarray(xs), phi))


def test_feed_forward_without_a_gate():
    params, xs, ys = run(sj.feed_forward(4, activation="gelu"))
    first, _, last = params
    assert first["kernel"].shape == (D, 16)
    assert_close(ys, gelu(xs @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"])


def test_gated_feed_forward_has_as_many_params_as_the_plain_one():
    def count(layer):
        return sum(p.size for p in jax.tree.leaves(jax.eval_shape(layer.init, jax.random.key(0), X)))

    plain = count(sj.feed_forward(D, activation="gelu")) - 4 * D - D  # biases
    assert count(sj.feed_forward(D)) == count(sj.feed_forward(D, activation="geglu")) == plain


def test_a_transformer_block_is_two_residual_branches():
    options = {"num_heads": 3, "num_groups": 1, "window": 5}
    params, xs, ys = run(sj.transformer_block(D, **options))
    (norm_1, attention), (norm_2, mlp) = params
    z = xs + part(sj.recurrent(sj.attention(D, **options)), attention, jnp.asarray(rms(xs, norm_1["scale"])))
    assert_close(ys, z + swiglu_by_hand(mlp, rms(np.asarray(z), norm_2["scale"])))


def down(params, x):
    """A map without bias."""
    return x @ params["kernel"]


def test_a_griffin_block_is_figure_2():
    params, xs, ys = run(sj.griffin_block(D))
    (norm_1, ((((first, conv, lru), (second, _)), _), last)), (norm_2, mlp) = params
    x = jnp.asarray(rms(xs, norm_1["scale"]))
    branch = part(sj.causal_conv(4), conv, down(first, x))
    branch = part(sj.recurrent(sj.rg_lru(8, input_map=False)), lru, branch)
    z = xs + down(last, branch * gelu(down(second, x)))
    assert_close(ys, z + swiglu_by_hand(mlp, rms(np.asarray(z), norm_2["scale"]), gelu))


def test_a_mamba_block_is_figure_3():
    params, xs, ys = run(sj.mamba_block(D, state_size=3))
    norm, ((((first, conv, _, s6), (second, _)), _), last) = params
    x = jnp.asarray(rms(xs, norm["scale"]))
    branch = silu(part(sj.causal_conv(4), conv, down(first, x)))
    branch = part(sj.recurrent(sj.mamba(12, state_size=3, input_map=False)), s6, branch)
    assert_close(ys, xs + down(last, branch * silu(down(second, x))))


def layer_norm(x, params):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * params["scale"] + params["bias"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_an_mlstm_block_is_its_figure():
    heads, size, k_size = 2, 2 * D, D
    params, xs, ys = run(sj.mlstm_block(D, num_heads=heads))
    norm, ((((first, ((conv, _), _), cell), (second, _)), _), last) = params
    x = layer_norm(np.asarray(xs), norm)
    u = np.asarray(down(first, x))
    c = silu(np.asarray(part(sj.causal_conv(4), conv, jnp.asarray(u))))
    dense = lambda w: np.asarray(jax.scipy.linalg.block_diag(*w))  # noqa: E731
    q, k, v = c @ dense(cell.w_q), c @ dense(cell.w_k), u @ dense(cell.w_v)
    gates = np.concatenate([q, k, v], -1) @ cell.w_if + cell.b_if
    h = np.zeros_like(q)
    for row in range(3):  # Beck et al. 2024, eq. 19-27, without the stabilizer
        for head in range(heads):
            part_of = slice(head * k_size, (head + 1) * k_size)
            memory, normalizer = np.zeros((k_size, k_size)), np.zeros(k_size)
            for t in range(len(xs)):
                i, f = np.exp(gates[t, row, head]), sigmoid(gates[t, row, heads + head])
                key = k[t, row, part_of] / np.sqrt(k_size)
                memory = f * memory + i * np.outer(v[t, row, part_of], key)
                normalizer = f * normalizer + i * key
                query = q[t, row, part_of]
                out = memory @ query / max(abs(normalizer @ query), 1)
                out = out - out.mean()
                h[t, row, part_of] = out / np.sqrt((out**2).mean() + 1e-5)
    h = h * cell.scale + cell.skip * c
    assert_close(ys, xs + down(last, h * silu(down(second, x))))
    assert h.shape[-1] == size


def test_gradients_of_an_mlstm_block_are_finite_with_queries_of_zero_and_an_input_gate_of_e_to_the_60():
    """The least denominator is e^-60 then, and its square, by which the derivative divides, zero in float32."""
    layer, xs = sj.mlstm_block(D, num_heads=2), jnp.asarray(normal(0, 4, 1, D), jnp.float32)

    def spoil(node):
        if not isinstance(node, MLSTMBlockParams):
            return node.astype(jnp.float32)
        return node._replace(w_q=jnp.zeros_like(node.w_q), b_if=node.b_if + 60)

    params = layer.init(jax.random.key(0), xs[0])
    params = jax.tree.map(spoil, params, is_leaf=lambda node: isinstance(node, MLSTMBlockParams))
    loss = lambda params: jnp.sum(jnp.square(part(layer, params, xs)))  # noqa: E731
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))


def test_an_slstm_block_is_its_figure():
    params, xs, ys = run(sj.slstm_block(D, num_heads=2))
    (norm_1, (((conv, _), _), _, cell, heads)), (norm_2, mlp) = params
    x = layer_norm(np.asarray(xs), norm_1)
    c = silu(part(sj.causal_conv(4), conv, jnp.asarray(x)))
    h = part(sj.recurrent(sj.slstm(D, num_heads=2)), cell, jnp.concatenate([c, x], -1))
    h = np.asarray(h).reshape(-1, 3, 2, D // 2)
    h = layer_norm(h, {"scale": 1, "bias": 0}).reshape(-1, 3, D) * heads["scale"]
    z = np.asarray(xs) + h
    assert_close(ys, z + swiglu_by_hand(mlp, layer_norm(z, norm_2), gelu))


def test_a_gated_delta_block_is_figure_1():
    heads, k_size, v_size = 2, 2, 4
    params, xs, ys = run(sj.gated_delta_block(D, num_heads=heads))
    (norm_1, (((((*convolved, _), cell), (gate, _)), _), last)), (norm_2, mlp) = params
    x = rms(np.asarray(xs), norm_1["scale"])
    q, k, v = (
        silu(np.asarray(part(sj.causal_conv(4, bias=False), p[1], jnp.asarray(down(p[0], x)))))
        for p in convolved
    )
    alpha = np.exp(-np.exp(cell.a_log) * np.log1p(np.exp(x @ cell.w_dt + cell.b_dt)))
    beta = sigmoid(x @ cell.w_beta)
    h = np.zeros_like(v)
    for row in range(3):  # Yang et al. 2024, eq. 10
        for head in range(heads):
            at_k, at_v = slice(head * k_size, (head + 1) * k_size), slice(head * v_size, (head + 1) * v_size)
            memory = np.zeros((v_size, k_size))
            for t in range(len(xs)):
                key, query = (a[t, row, at_k] / np.linalg.norm(a[t, row, at_k]) for a in (k, q))
                a, b = alpha[t, row, head], beta[t, row, head]
                memory = memory @ (a * (np.eye(k_size) - b * np.outer(key, key)))
                memory = memory + b * np.outer(v[t, row, at_v], key)
                out = memory @ query
                h[t, row, at_v] = out / np.sqrt((out**2).mean() + 1e-5) * cell.scale
    z = np.asarray(xs) + down(last, h * silu(x @ gate["kernel"]))
    assert_close(ys, z + swiglu_by_hand(mlp, rms(z, norm_2["scale"])))


def test_stacks_have_the_blocks_of_their_papers_in_order():
    local = sj.transformer_block(
        D, num_heads=3, num_groups=1, window=4, hidden_size=3 * D, activation="geglu"
    )
    block, rms_norm = sj.griffin_block(D), sj.pointwise(nn.RMSNorm())
    form = lambda layer: jax.tree.structure(jax.eval_shape(layer.init, jax.random.key(0), X))  # noqa: E731
    assert form(sj.griffin(D, 4, num_heads=3, window=4)) == form(
        sj.serial(block, block, local, block, rms_norm)
    )
    matrix, exponential = sj.mlstm_block(D, num_heads=2), sj.slstm_block(D, num_heads=2)
    assert form(sj.xlstm(D, 4, ratio=(2, 1), num_heads=2)) == form(
        sj.serial(matrix, matrix, exponential, matrix, sj.pointwise(nn.LayerNorm()))
    )
    window = sj.transformer_block(D, num_heads=3, window=4)
    delta = sj.gated_delta_block(D, num_heads=3)
    assert form(sj.hybrid_delta(D, 3, num_heads=3, window=4)) == form(
        sj.serial(delta, window, delta, rms_norm)
    )
    mixing, mlp = sj.mamba_block(D), blocks.pre_norm(sj.feed_forward(D))
    assert form(sj.samba(D, 2, num_heads=3, window=4)) == form(
        sj.serial(mixing, mlp, window, mixing, mlp, window, rms_norm)
    )


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: sj.mlstm_block(D, num_heads=2, block_size=5),
            ValueError,
            r"mlstm_block\(block_size\): expected a divisor of the 12 channels, got 5\.",
        ),
        (
            lambda: sj.mlstm_block(D, num_heads=5),
            ValueError,
            r"mlstm_block: expected a hidden_size that is a multiple of num_heads",
        ),
        (
            lambda: sj.xlstm(D, 2, ratio=(0, 0)),
            ValueError,
            r"xlstm\(ratio\): expected two numbers of blocks, got \(0, 0\)\.",
        ),
        (
            lambda: sj.griffin(D, 0, num_heads=1),
            ValueError,
            r"griffin\(depth\): expected a whole number .* got 0\.",
        ),
        (
            lambda: sj.gated_delta_block(D, num_heads=4),
            ValueError,
            r"gated_delta_block: expected .* multiple of num_heads, got 6 and 4\.",
        ),
        (
            lambda: sj.feed_forward(4, activation="relu"),
            ValueError,
            r"feed_forward\(activation\): expected .* got 'relu'\.",
        ),
        (
            lambda: sj.transformer_block(4, num_heads=1, window=3, norm="batch"),
            ValueError,
            r"\(norm\): expected one of 'rms', 'layer', got 'batch'\.",
        ),
        (
            lambda: sj.feed_forward(4, hidden_size=0),
            ValueError,
            r"feed_forward\(hidden_size\): expected a whole number .* got 0\.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sizes_and_options_that_do_not_fit_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
