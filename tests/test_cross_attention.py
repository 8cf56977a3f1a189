"""Test cross-attention against NumPy and PyTorch; masked, empty and non-finite memories; errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.layers.cross_attention import AdditiveParams
from seqjax.ops.masked_softmax import masked_softmax
from seqjax.testing import strict_promotion

B, S, M, Q = 3, 5, 4, 6
KEY = jax.random.key(0)
MASK = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
ATTEND = {
    "additive": sj.additive_attention(7),
    "general": sj.multiplicative_attention(),
    "dot": sj.multiplicative_attention("dot"),
    "scaled dot": sj.scaled_dot_attention(2, key_size=3),
}
every = pytest.mark.parametrize("name", ATTEND)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def setting(name, dtype=np.float64):
    """Attention, random params, memory and query."""
    attend = ATTEND[name]
    memory, query = normal(0, B, S, M).astype(dtype), normal(1, B, M if name == "dot" else Q).astype(dtype)
    params = jax.eval_shape(attend.init, jax.random.key(0), memory, query)
    return attend, jax.tree.map(lambda p: jnp.asarray(normal(2, *p.shape)), params), memory, query


def softmax(scores):
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def by_hand(name, params, memory, query):
    """Context and weights of one row, ``memory [S, M]``, ``query [Q]``, in the papers' column vectors."""
    params = jax.tree.map(np.asarray, params)
    if name == "additive":  # Bahdanau et al. 2015, appendix A.1.2: v^T tanh(W s + U h_j)
        w, u, v = params.w_query.T, params.w_memory.T, params.v
        a = softmax(np.array([v @ np.tanh(w @ query + u @ h) for h in memory]))  # eq. 6
        return sum(a_j * h for a_j, h in zip(a, memory, strict=True)), a  # eq. 5
    if name in ("general", "dot"):  # Luong et al. 2015, eq. 7: h_t^T W h_s or h_t^T h_s
        w = params.w if name == "general" else np.eye(M)
        a = softmax(np.array([query @ w @ h for h in memory]))
        return sum(a_j * h for a_j, h in zip(a, memory, strict=True)), a
    contexts, weights = [], []
    for head in range(2):  # Vaswani et al. 2017, eq. 1
        columns = slice(3 * head, 3 * head + 3)
        w_q, w_k, w_v = (w[:, columns] for w in params[:3])
        weights.append(softmax(query @ w_q @ (memory @ w_k).T / np.sqrt(3)))
        contexts.append(weights[-1] @ (memory @ w_v))
    return np.concatenate(contexts) @ params.w_o, np.mean(weights, 0)


@every
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.fast_cases(2)
def test_context_and_weights_are_those_of_the_paper(name, masked):
    attend, params, memory, query = setting(name)
    with strict_promotion():
        context, weights = jax.jit(attend)(params, memory, MASK if masked else None, query)
    for row in range(B):
        kept = MASK[row] if masked else np.ones(S, bool)
        if not kept.any():
            np.testing.assert_array_equal(context[row], np.zeros(M))
            np.testing.assert_array_equal(weights[row], np.zeros(S))
            continue
        expected, a = by_hand(name, params, memory[row][kept], query[row])
        np.testing.assert_allclose(context[row], expected, rtol=0, atol=1e-13)
        np.testing.assert_allclose(weights[row][kept], a, rtol=0, atol=1e-14)
        assert not weights[row][~kept].any()


def gradients(attend, params, memory, mask, query):
    def loss(params, memory, query):
        context, weights = attend(params, memory, mask, query)
        return jnp.sum(normal(3, B, M) * context) + jnp.sum(normal(4, B, S) * weights**2)

    return jax.jit(jax.grad(loss, (0, 1, 2)))(params, memory, query)


@every
@pytest.mark.fast_cases(1)
def test_what_is_masked_reaches_no_gradient_and_gradients_are_right(name):
    attend, params, memory, query = setting(name)
    clean = gradients(attend, params, memory, MASK, query)
    assert not np.asarray(clean[1])[~MASK].any() and not np.asarray(clean[2])[~MASK.any(1)].any()
    for poison in (np.nan, np.inf, 1e300):
        spoilt = np.where(MASK[..., None], memory, poison)
        found = gradients(attend, params, spoilt, MASK, query)
        jax.tree.map(np.testing.assert_array_equal, found, clean)
    direction = [normal(5, *a.shape) for a in jax.tree.leaves((params, memory, query))]
    leaves, treedef = jax.tree.flatten((params, memory, query))

    def along(h):
        moved = treedef.unflatten([a + h * d for a, d in zip(leaves, direction, strict=True)])
        context, weights = attend(moved[0], moved[1], MASK, moved[2])
        return jnp.sum(normal(3, B, M) * context) + jnp.sum(normal(4, B, S) * weights**2)

    expected = (along(1e-5) - along(-1e-5)) / 2e-5
    got = sum((g * d).sum() for g, d in zip(jax.tree.leaves(clean), direction, strict=True))
    assert got == pytest.approx(float(expected), rel=1e-7)


@every
@pytest.mark.fast_cases(1)
def test_a_memory_of_no_places_is_empty(name):
    attend, params, memory, query = setting(name)
    context, weights = attend(params, memory[:, :0], None, query)
    np.testing.assert_array_equal(context, np.zeros((B, M)))
    assert weights.shape == (B, 0)


@every
@pytest.mark.fast_cases(1)
def test_results_have_the_dtype_of_the_query(name):
    attend, params, memory, query = setting(name)
    exact = attend(params, memory, MASK, query)
    with strict_promotion():
        found = attend(params, memory.astype(np.float32), MASK, jnp.asarray(query, jnp.bfloat16))
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == jnp.bfloat16
        assert np.abs(a.astype(np.float64) - b).max() < 0.1 * np.abs(b).max()


def test_any_batch_and_many_queries_at_once():
    attend, params, memory, query = setting("additive")
    queries = np.stack([query, 2 * query])
    contexts, _ = jax.vmap(attend, (None, None, None, 0))(params, memory, MASK, queries)
    np.testing.assert_allclose(contexts[1], attend(params, memory, MASK, 2 * query)[0], rtol=0, atol=1e-14)
    context, weights = attend(params, memory[0], MASK[0], query[0])  # no batch
    np.testing.assert_allclose(context, contexts[0, 0], rtol=0, atol=1e-14)
    assert weights.shape == (S,)


def test_scores_of_any_size_have_a_softmax_with_gradients():
    scores = jnp.asarray([[1e38, -1e38, 3e38], [-3e38, -3e38, 3e38]], jnp.float32)
    mask = jnp.asarray([[True, True, False], [True, True, False]])
    np.testing.assert_array_equal(masked_softmax(scores, mask), [[1, 0, 0], [0.5, 0.5, 0]])
    weighted = lambda s: jnp.sum(masked_softmax(s, mask) * jnp.arange(3.0))  # noqa: E731
    assert np.isfinite(jax.jit(jax.grad(weighted))(scores)).all()
    assert np.isfinite(jax.jit(jax.hessian(weighted))(scores)).all()


# ---------------------------------------------------------------- initial params


def test_params_start_as_in_the_papers():
    memory, query = jnp.full((2, 3, 300), jnp.nan), jnp.full((2, 200), jnp.nan)
    additive = sj.additive_attention(100).init(jax.random.key(0), memory, query)
    assert jax.tree.map(jnp.shape, additive) == AdditiveParams((200, 100), (300, 100), (100,))
    for w in additive[:2]:
        assert np.std(w) == pytest.approx(1e-3, rel=0.03) and abs(np.mean(w)) < 5e-5
    assert not additive.v.any()
    w = sj.multiplicative_attention().init(jax.random.key(0), memory, query).w
    assert w.shape == (200, 300) and 0.0999 < np.abs(w).max() <= 0.1
    assert np.std(w) == pytest.approx(0.1 / np.sqrt(3), rel=0.02)
    assert sj.multiplicative_attention("dot").init(jax.random.key(0), memory, query).w is None
    for w in sj.scaled_dot_attention(3).init(jax.random.key(0), memory, query):
        bound = np.sqrt(6 / sum(w.shape))
        assert 0.99 * bound < np.abs(w).max() <= bound


def test_they_are_values():
    assert sj.scaled_dot_attention(2) == sj.scaled_dot_attention(2) != sj.scaled_dot_attention(2, key_size=3)
    assert repr(sj.multiplicative_attention("dot")) == "multiplicative_attention(score='dot')"


# ---------------------------------------------------------------- peers


@pytest.mark.peers
def test_torch_agrees():
    torch = pytest.importorskip("torch")
    attend, params, memory, query = setting("scaled dot")
    mask = MASK.copy()
    mask[2, 1] = True  # torch gives NaN where there is nothing
    leaves = [torch.tensor(np.asarray(a), requires_grad=True) for a in (*params, memory, query)]
    w_q, w_k, w_v, w_o, m, q = leaves
    heads = lambda x: x.reshape(B, -1, 2, 3).transpose(1, 2)  # noqa: E731
    out = torch.nn.functional.scaled_dot_product_attention(
        heads((q @ w_q)[:, None]), heads(m @ w_k), heads(m @ w_v), attn_mask=torch.tensor(mask)[:, None, None]
    )
    context = out.transpose(1, 2).reshape(B, 6) @ w_o
    expected = torch.autograd.grad((context * torch.tensor(normal(3, B, M))).sum(), leaves)

    def loss(params, memory, query):
        context = attend(params, memory, mask, query)[0]
        return jnp.sum(normal(3, B, M) * context), context

    found, ours = jax.grad(loss, (0, 1, 2), has_aux=True)(params, memory, query)
    np.testing.assert_allclose(ours, context.detach().numpy(), rtol=0, atol=1e-13)
    for a, b in zip(jax.tree.leaves(found), expected, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=1e-12)


@pytest.mark.peers
def test_torch_multihead_attention_agrees_on_the_weights():
    torch = pytest.importorskip("torch")
    attend, memory, query = sj.scaled_dot_attention(2), normal(0, B, S, M), normal(1, B, M)
    params = jax.tree.map(
        lambda p: jnp.asarray(normal(2, *p.shape)), attend.init(jax.random.key(0), memory, query)
    )
    module = torch.nn.MultiheadAttention(M, 2, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.tensor(np.concatenate([np.asarray(w).T for w in params[:3]])))
        module.out_proj.weight.copy_(torch.tensor(np.asarray(params.w_o).T))
    m, hidden = torch.tensor(memory), torch.tensor(~MASK)
    hidden[2, 0] = False  # torch gives NaN where there is nothing
    context, weights = module(torch.tensor(query)[:, None], m, m, key_padding_mask=hidden)
    found = attend(params, memory, ~hidden.numpy(), query)
    np.testing.assert_allclose(found[0], context[:, 0].detach().numpy(), rtol=0, atol=1e-13)
    np.testing.assert_allclose(found[1], weights[:, 0].detach().numpy(), rtol=0, atol=1e-13)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda attend, params, memory, query: attend(params, memory, None, query[:2]),
            r"^multiplicative_attention\(\): expected floating memory \[\*B, S, M\] and query \[\*B, Q\], "
            r"got float64 \[3, 5, 4\] and float64 \[2, 6\]\.",
        ),
        (
            lambda attend, params, memory, query: attend(params, memory.astype(int), None, query),
            r"got int64 \[3, 5, 4\] and float64",
        ),
        (
            lambda attend, params, memory, query: attend(params, memory, MASK.astype(float), query),
            r"expected memory_mask of dtype bool \[3, 5\], as memory \[3, 5, 4\], got float64 \[3, 5\]",
        ),
        (
            lambda attend, params, memory, query: attend(params, memory, MASK.T, query),
            r"expected memory_mask of dtype bool \[3, 5\], .* got bool \[5, 3\]",
        ),
        (
            lambda attend, params, memory, query: sj.scaled_dot_attention(3).init(KEY, memory, query),
            r"scaled_dot_attention\(num_heads\): expected a divisor of the memory's width 4, got 3\.",
        ),
    ],
    ids=["batch", "integers", "mask dtype", "mask shape", "heads"],
)
def test_inputs_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(*setting("general"))


def test_a_query_of_another_width_is_refused_by_the_dot_score():
    _, _, memory, query = setting("general")
    dot = sj.multiplicative_attention("dot")
    message = r"expected a query as wide as the memory \[3, 5, 4\], got \[3, 6\]\. Use score='general'\."
    with pytest.raises(ValueError, match=message):
        dot(dot.init(KEY, memory, query), memory, None, query)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sj.multiplicative_attention("concat"),
            r"multiplicative_attention\(score\): .* got 'concat'\.",
        ),
        (
            lambda: sj.additive_attention(0),
            r"additive_attention\(size\): expected a whole number .* got 0\.",
        ),
        (
            lambda: sj.scaled_dot_attention(-1),
            r"scaled_dot_attention\(num_heads\): expected a whole number .* got -1\.",
        ),
        (
            lambda: sj.scaled_dot_attention(1, key_size=0),
            r"scaled_dot_attention\(key_size\): expected a whole number .* got 0\.",
        ),
    ],
    ids=["score", "size", "num_heads", "key_size"],
)
def test_options_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
