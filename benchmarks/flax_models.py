"""The models of `benchmarks.models` in plain flax.linen, with the weights of seqjax: ``tokens [T, B] -> logits``."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from benchmarks.griffin_weights import Sizes, is_attention


def lstm(layers: nn.Module, variables: Any, embedding: Any, head: Any) -> tuple[Callable, Any]:
    """Return ``(params, tokens) -> logits`` and params, around the module that seqjax exported."""
    size, width = embedding["embedding"].shape
    embed, dense = nn.Embed(size, width), nn.Dense(size)

    def apply(params: Any, tokens: jax.Array) -> jax.Array:
        x = embed.apply({"params": params["embed"]}, tokens)
        return dense.apply({"params": params["head"]}, layers.apply({"params": params["layers"]}, x))

    return apply, {"embed": embedding, "layers": variables["params"], "head": head}


def griffin(sizes: Sizes, named: dict[str, jax.Array]) -> tuple[Callable, Any]:
    """Return ``(params, tokens) -> logits`` and params, from weights by the names of the modules below."""
    weights = {name: a[:, None] if name.endswith("conv/kernel") else a for name, a in named.items()}
    model = Griffin(sizes)

    def apply(params: Any, tokens: jax.Array) -> jax.Array:
        return jnp.swapaxes(model.apply({"params": params}, tokens.T), 0, 1)

    return apply, unflatten_dict(weights, sep="/")


# ---------------------------------------------------------------- Griffin; x is [B, T, D]


def scan(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return h_t = a_t h_{t-1} + b_t: in sequence on a CPU, where that is faster, and in parallel elsewhere."""
    if jax.default_backend() != "cpu":

        def join(early: Any, late: Any) -> Any:
            return early[0] * late[0], late[0] * early[1] + late[1]

        return jax.lax.associative_scan(join, (a, b), axis=1)[1]

    def step(h: jax.Array, ab: Any) -> Any:
        h = ab[0] * h + ab[1]
        return h, h

    over_time = jnp.swapaxes(a, 0, 1), jnp.swapaxes(b, 0, 1)
    return jnp.swapaxes(jax.lax.scan(step, jnp.zeros_like(b[:, 0]), over_time)[1], 0, 1)


def rotate(x: jax.Array) -> jax.Array:
    """Turn the pairs of ``[B, T, N, K]`` by their positions."""
    angle = jnp.arange(x.shape[1])[:, None] * 10000.0 ** (-jnp.arange(0, x.shape[-1], 2) / x.shape[-1])
    cos, sin = jnp.cos(angle)[:, None].astype(x.dtype), jnp.sin(angle)[:, None].astype(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


class Recurrent(nn.Module):
    """Norm, convolution and RG-LRU, with a gate."""

    sizes: Sizes

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, x = self.sizes.channels, nn.RMSNorm(name="norm")(x)
        u = nn.Dense(size, use_bias=False, name="in")(x)
        u = nn.Conv(size, (4,), padding=((3, 0),), feature_group_count=size, name="conv")(u)
        r, i = (nn.sigmoid(nn.Dense(size, name=name)(u)) for name in "ri")
        log_a = 8 * r * nn.log_sigmoid(self.param("a_logit", nn.initializers.ones, (size,)))
        h = scan(jnp.exp(log_a), jnp.sqrt(-jnp.expm1(2 * log_a)) * i * u)
        gate = nn.gelu(nn.Dense(size, use_bias=False, name="gate")(x))
        return nn.Dense(self.sizes.width, use_bias=False, name="out")(h * gate)


class Attention(nn.Module):
    """Norm and local attention with one head of keys and values."""

    sizes: Sizes

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, width, _, num_heads, window = self.sizes
        size, x = width // num_heads, nn.RMSNorm(name="norm")(x)
        widths = {"q": width, "k": size, "v": size}
        maps = (nn.Dense(number, use_bias=False, name=name)(x) for name, number in widths.items())
        q, k, v = (a.reshape(*x.shape[:2], -1, size) for a in maps)
        of_window = {"is_causal": True, "local_window_size": (window - 1, 0)}
        o = jax.nn.dot_product_attention(rotate(q), rotate(k), v, **of_window)
        return nn.Dense(width, use_bias=False, name="out")(o.reshape(x.shape))


class FeedForward(nn.Module):
    """Norm and a gated hidden layer."""

    sizes: Sizes

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.RMSNorm(name="norm")(x)
        u, gate = (nn.Dense(3 * self.sizes.width, use_bias=False, name=name)(x) for name in ("up", "gate"))
        return nn.Dense(self.sizes.width, use_bias=False, name="down")(nn.gelu(u) * gate)


class Griffin(nn.Module):
    """Embedding, blocks, norm and head."""

    sizes: Sizes

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(self.sizes.vocabulary, self.sizes.width, name="embed")(tokens)
        for i in range(self.sizes.depth):
            x = x + (Attention if is_attention(i) else Recurrent)(self.sizes, name=f"mix_{i}")(x)
            x = x + FeedForward(self.sizes, name=f"ff_{i}")(x)
        return nn.Dense(self.sizes.vocabulary, name="head")(nn.RMSNorm(name="norm")(x))
