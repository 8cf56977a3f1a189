"""Attention of one step over an encoder's memory: additive, multiplicative and scaled dot-product attention.

Each factory returns a value ``attend`` with ``attend.init(key, memory, query) -> params`` and
``attend(params, memory, memory_mask, query) -> (context, weights)``. A memory ``[*B, S, M]`` has its entries S after
the batch axes: for the step that reads the memory they are a set, not a time axis.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from seqjax.base import Key, Params
from seqjax.checks import check_divisor, check_one_of, check_whole
from seqjax.ops.masked_softmax import masked_softmax
from seqjax.ops.select import cast, keep
from seqjax.values import Definition, definition


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CrossAttention(Definition):
    """Attention of a query over a memory.

    Called as ``(params, memory [*B, S, M], memory_mask [*B, S] or None, query [*B, Q])``, it returns
    ``(context [*B, M], weights [*B, S])``. Entries of the memory with a mask of False are ignored, whatever their
    values; a row without entries has context and weights of zero. The softmax is computed in float32 at least. For
    queries of many steps at once, ``[T, *B, Q]``: ``jax.vmap(attend, (None, None, None, 0))``.

    Attributes:
        init: ``(key, memory, query) -> params``; arrays or ShapeDtypeStructs.
        score: ``(params, memory, query) -> [*B, N, S]``, for each of N heads.
        read: ``(params, memory, weights [*B, N, S]) -> context [*B, M]``.
    """

    init: Callable
    score: Callable
    read: Callable

    def __call__(
        self,
        params: Params,
        memory: Float[Array | np.ndarray, "*B S M"],
        memory_mask: Bool[Array | np.ndarray, "*B S"] | None,
        query: Float[Array | np.ndarray, "*B Q"],
    ) -> tuple[Float[Array, "*B M"], Float[Array, "*B S"]]:
        """Return ``(context [*B, M], weights [*B, S])``."""
        memory, query = jnp.asarray(memory), jnp.asarray(query)
        memory_mask = None if memory_mask is None else jnp.asarray(memory_mask)
        _check(repr(self), memory, memory_mask, query)
        # Masked entries must be finite: zero times NaN is NaN, in a product and in its gradient.
        memory = keep(memory_mask, memory).astype(query.dtype)
        params = cast(params, query.dtype)
        scores = self.score(params, memory, query)
        mask = None if memory_mask is None else jnp.broadcast_to(memory_mask[..., None, :], scores.shape)
        weights = masked_softmax(scores, mask)
        context = self.read(params, memory, weights.astype(query.dtype))
        return context, jnp.mean(weights, -2).astype(query.dtype)


class AdditiveParams(NamedTuple):
    """w_query ``[Q, A]``, w_memory ``[M, A]``, v ``[A]``."""

    w_query: jax.Array
    w_memory: jax.Array
    v: jax.Array


@definition
def additive_attention(size: int, *, param_dtype: Any = jnp.float32) -> CrossAttention:
    r"""Additive attention: a small network scores each entry of the memory.

    .. math::
        e_s &= v^\top \tanh(W_q^\top q + W_m^\top m_s) \\
        \alpha_s &= \mathrm{softmax}_s(e_s), \qquad c = \textstyle\sum_s \alpha_s m_s

    Shapes: memory ``[*B, S, M]``, query ``[*B, Q]`` -> context c ``[*B, M]``, weights ``[*B, S]``;
    params ``AdditiveParams(w_query [Q, A], w_memory [M, A], v [A])``.

    Gradients: directly by the memory, :math:`\partial c / \partial m_s \ni \alpha_s`; through the scores they pass tanh
    and vanish where it saturates. As v starts at zero, the weights start uniform and only v changes in the first
    update.

    Args:
        size: A, the hidden size of the network.
        param_dtype: of the params.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> attend = sj.additive_attention(16)
        >>> memory, query = jnp.ones((2, 5, 3)), jnp.ones((2, 4))
        >>> params = attend.init(jax.random.key(0), memory, query)
        >>> context, weights = attend(params, memory, None, query)
        >>> context.shape, weights[0]
        ((2, 3), Array([0.2, 0.2, 0.2, 0.2, 0.2], dtype=float32))

    References:
        Bahdanau, Cho, Bengio 2015, "Neural machine translation by jointly learning to align and translate",
        arXiv:1409.0473: eq. 5, 6, appendix A.1.2 (the network), B.1 (matrices normal with standard deviation 0.001, v
        zero).
    """
    check_whole("additive_attention(size)", size)

    def init(key: Key, memory: Any, query: Any) -> AdditiveParams:
        key_q, key_m = jax.random.split(key)
        w_q = 0.001 * jax.random.normal(key_q, (query.shape[-1], size), param_dtype)
        w_m = 0.001 * jax.random.normal(key_m, (memory.shape[-1], size), param_dtype)
        return AdditiveParams(w_q, w_m, jnp.zeros(size, param_dtype))

    def score(
        params: AdditiveParams, memory: Float[Array, "*B S M"], query: Float[Array, "*B Q"]
    ) -> Float[Array, "*B N S"]:
        hidden = jnp.tanh((query @ params.w_query)[..., None, :] + memory @ params.w_memory)
        return (hidden @ params.v)[..., None, :]

    return CrossAttention(init=init, score=score, read=_weighted_mean)


class MultiplicativeParams(NamedTuple):
    """w ``[Q, M]``, or None."""

    w: jax.Array | None


@definition
def multiplicative_attention(
    score: Literal["general", "dot"] = "general", *, param_dtype: Any = jnp.float32
) -> CrossAttention:
    r"""Multiplicative attention: a product with the query scores each entry of the memory.

    .. math::
        e_s = q^\top m_s \;\text{(dot)} \quad\text{or}\quad q^\top W m_s \;\text{(general)}, \qquad
        \alpha_s = \mathrm{softmax}_s(e_s), \qquad c = \textstyle\sum_s \alpha_s m_s

    Shapes: memory ``[*B, S, M]``, query ``[*B, Q]`` -> context c ``[*B, M]``, weights ``[*B, S]``;
    params ``MultiplicativeParams(w [Q, M])``, None for "dot", which needs Q = M.

    Gradients: directly by the memory, :math:`\alpha_s`, and through the scores. The scores are not scaled: for a memory
    of unit variance they grow as :math:`\sqrt M`, so that the softmax saturates and the gradients through it vanish.

    Args:
        score: "general" or "dot".
        param_dtype: of the params.

    Raises:
        ValueError: for another score; with "dot", at the call, for a query whose width is not that of the memory.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> attend = sj.multiplicative_attention("dot")
        >>> memory, query = jnp.asarray([[[1.0, 0.0], [0.0, 1.0]]]), jnp.asarray([[jnp.log(3.0), 0.0]])
        >>> context, weights = attend(attend.init(jax.random.key(0), memory, query), memory, None, query)
        >>> weights.round(2)
        Array([[0.75, 0.25]], dtype=float32)

    References:
        Luong, Pham, Manning 2015, "Effective approaches to attention-based neural machine translation",
        arXiv:1508.04025: eq. 7 and the scores under it ("concat" is `additive_attention`); section 4.1 (w uniform in
        [-0.1, 0.1]).
    """
    check_one_of("multiplicative_attention(score)", score, ("general", "dot"))
    general = score == "general"

    def init(key: Key, memory: Any, query: Any) -> MultiplicativeParams:
        shape = (query.shape[-1], memory.shape[-1])
        w = jax.random.uniform(key, shape, param_dtype, -0.1, 0.1) if general else None
        return MultiplicativeParams(w)

    def product(
        params: MultiplicativeParams, memory: Float[Array, "*B S M"], query: Float[Array, "*B Q"]
    ) -> jax.Array:
        if params.w is not None:
            query = query @ params.w
        if query.shape[-1] != memory.shape[-1]:
            raise ValueError(
                f"multiplicative_attention(score='dot'): expected a query as wide as the memory "
                f"{list(memory.shape)}, got {list(query.shape)}. Use score='general'."
            )
        return jnp.einsum("...m,...sm->...s", query, memory)[..., None, :]

    return CrossAttention(init=init, score=product, read=_weighted_mean)


class ScaledDotParams(NamedTuple):
    """w_q ``[Q, N*K]``, w_k, w_v ``[M, N*K]``, w_o ``[N*K, M]``."""

    w_q: jax.Array
    w_k: jax.Array
    w_v: jax.Array
    w_o: jax.Array


@definition
def scaled_dot_attention(
    num_heads: int, *, key_size: int | None = None, param_dtype: Any = jnp.float32
) -> CrossAttention:
    r"""Scaled dot-product attention with several heads, as in a transformer's decoder.

    .. math::
        \alpha_s = \mathrm{softmax}_s\big((q W_q) \cdot (m_s W_k) / \sqrt K\big) \;\text{per head}, \qquad
        c = [\textstyle\sum_s \alpha_s\, m_s W_v]_{\text{heads}}\, W_o

    Shapes: memory ``[*B, S, M]``, query ``[*B, Q]`` -> context c ``[*B, M]``, weights ``[*B, S]``, their mean over the
    heads; params `ScaledDotParams`.

    Gradients: by the values, :math:`\alpha_s` per head; and through the scores, which have unit variance at
    initialization, so that the softmax does not start saturated.

    Args:
        num_heads: N.
        key_size: K, of keys and values; by default M / N.
        param_dtype: of the params.

    Raises:
        ValueError: from init, without a key_size, where N does not divide M.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> attend = sj.scaled_dot_attention(2)
        >>> memory, query = jnp.ones((3, 5, 8)), jnp.ones((3, 4))
        >>> params = attend.init(jax.random.key(0), memory, query)
        >>> attend(params, memory, None, query)[0].shape
        (3, 8)

    References:
        Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762: eq. 1, section 3.2.2, and 3.2.3 for queries
        from a decoder. The paper does not state the initial weights; here they are uniform by Glorot and Bengio (2010).
    """
    check_whole("scaled_dot_attention(num_heads)", num_heads)
    if key_size is not None:
        check_whole("scaled_dot_attention(key_size)", key_size)

    def init(key: Key, memory: Any, query: Any) -> ScaledDotParams:
        width = memory.shape[-1]
        if key_size is None:
            what, hint = "scaled_dot_attention(num_heads)", "Or pass a key_size."
            check_divisor(what, num_heads, f"the memory's width {width}", width, hint=hint)
        inner = num_heads * (key_size or width // num_heads)
        shapes = ((query.shape[-1], inner), (width, inner), (width, inner), (inner, width))
        uniform = jax.nn.initializers.glorot_uniform()
        keys = jax.random.split(key, 4)
        return ScaledDotParams(*(uniform(k, s, param_dtype) for k, s in zip(keys, shapes, strict=True)))

    def heads(x: jax.Array, w: jax.Array) -> jax.Array:
        return (x @ w).reshape(*x.shape[:-1], num_heads, w.shape[-1] // num_heads)

    def score(
        params: ScaledDotParams, memory: Float[Array, "*B S M"], query: Float[Array, "*B Q"]
    ) -> Float[Array, "*B N S"]:
        q, k = heads(query, params.w_q), heads(memory, params.w_k)
        return jnp.einsum("...nk,...snk->...ns", q, k) / math.sqrt(k.shape[-1])

    def read(
        params: ScaledDotParams, memory: Float[Array, "*B S M"], weights: Float[Array, "*B N S"]
    ) -> Float[Array, "*B M"]:
        values = jnp.einsum("...ns,...snk->...nk", weights, heads(memory, params.w_v))
        return values.reshape(*values.shape[:-2], len(params.w_o)) @ params.w_o

    return CrossAttention(init=init, score=score, read=read)


def _weighted_mean(
    params: Params, memory: Float[Array, "*B S M"], weights: Float[Array, "*B N S"]
) -> Float[Array, "*B M"]:
    """Return the mean of a memory ``[*B, S, M]`` with the weights ``[*B, 1, S]`` of one head."""
    return jnp.einsum("...s,...sm->...m", weights[..., 0, :], memory)


def _check(who: str, memory: Any, memory_mask: Any, query: Any) -> None:
    """Raise a ValueError for shapes or dtypes that do not fit together."""
    floating = all(jnp.issubdtype(a.dtype, jnp.floating) for a in (memory, query))
    if (
        not floating
        or query.ndim < 1
        or memory.ndim != query.ndim + 1
        or memory.shape[:-2] != query.shape[:-1]
    ):
        raise ValueError(
            f"{who}: expected floating memory [*B, S, M] and query [*B, Q], got {memory.dtype} {list(memory.shape)} "
            f"and {query.dtype} {list(query.shape)}."
        )
    if memory_mask is not None and (memory_mask.dtype != jnp.bool_ or memory_mask.shape != memory.shape[:-1]):
        raise ValueError(
            f"{who}: expected memory_mask of dtype bool {list(memory.shape[:-1])}, as memory {list(memory.shape)}, "
            f"got {memory_mask.dtype} {list(memory_mask.shape)}."
        )
