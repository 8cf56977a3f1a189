r"""Mixed precision: compute in a narrow dtype, with params, sums and the optimizer in float32.

In float16 gradients below 6e-8 vanish. The loss is therefore multiplied by a scale S before it is differentiated, and
the gradients are divided by S afterwards, in float32. S is halved when a gradient overflows, and doubled after many
steps without overflow. S is a power of two, so that scaling rounds nothing. bfloat16 has the range of float32 and needs
no scale.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqjax.base import Batch, Estimate, Layer
from seqjax.checks import check_at_least
from seqjax.gradients.objective import Leads, Loss, Losses, call_loss, leads_of, losses_of
from seqjax.inputs import first_step
from seqjax.ops.select import cast, wide
from seqjax.training.labels import parameter_labels
from seqjax.values import Value, definition

LARGEST_SCALE = 2.0**24


class LossScale(NamedTuple):
    """The scale S, a float32 scalar, and the number of good steps since S last changed, an int32 scalar."""

    scale: Any
    good_steps: Any


@dataclass(frozen=True, repr=False)
class Precision(Value):
    """The dtypes of a training step. `FLOAT32`, `BFLOAT16` and `FLOAT16` are the usual ones.

    Attributes:
        compute: the dtype that floating inputs and params are cast to inside the differentiated function; None casts
            nothing. Outputs, and with them the loss, are float32 again; gradients have the dtypes of the params. Params
            that set the decays of a recurrence (`parameter_labels`) are not cast: in bfloat16 a decay of 0.999 is 1.
        loss_scale: the first S, for the mean loss, 1 or more; None scales nothing.
        growth_interval: S is doubled after this many good steps, up to 2^24.

    Raises:
        ValueError: for a dtype that is not floating, or numbers below 1.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj
        >>> from seqjax.training import BFLOAT16, FLOAT16, init_train_state, make_train_step
        >>> model, optimizer = sj.recurrent(sj.lstm(2)), optax.sgd(0.1)
        >>> batch = sj.Batch(jnp.ones((5, 4, 3)), jnp.zeros((5, 4, 2)))
        >>> step = make_train_step(model, optax.l2_loss, optimizer, precision=BFLOAT16)
        >>> state = init_train_state(model, optimizer, jax.random.key(0), batch.xs[0], precision=BFLOAT16)
        >>> step(state, batch)[0].params.w_x.dtype
        dtype('float32')
        >>> FLOAT16
        Precision(compute='float16', loss_scale=32768.0)

    References:
        Micikevicius et al. 2018, "Mixed precision training", arXiv:1710.03740.
    """

    compute: Any = None
    loss_scale: float | None = None
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compute is not None:
            try:
                floating = jnp.issubdtype(jnp.dtype(self.compute), jnp.floating)
            except TypeError:
                floating = False
            if not floating:
                raise ValueError(
                    f"Precision(compute): expected a floating dtype such as 'bfloat16', or None, got {self.compute!r}."
                )
            object.__setattr__(self, "compute", jnp.dtype(self.compute).name)
        for name in ("loss_scale", "growth_interval"):
            number = getattr(self, name)
            if number is not None:
                check_at_least(f"Precision({name})", number, 1)
        if self.loss_scale is not None and math.frexp(self.loss_scale)[0] != 0.5:
            raise ValueError(
                f"Precision(loss_scale): expected a power of two, which rounds nothing, got {self.loss_scale!r}."
            )


FLOAT32 = Precision()
"""Everything in float32."""

BFLOAT16 = Precision("bfloat16")
"""Steps in bfloat16, params in float32."""

FLOAT16 = Precision("float16", loss_scale=2.0**15)
"""Steps in float16 with a loss scale, params in float32."""


@definition
def in_precision(layer: Layer, dtype: Any) -> Layer:
    """Return the layer computing in a dtype: params and floating inputs are cast to it, outputs to float32 at least.

    Params with the label "recurrence" are not cast; see `Precision`.
    """

    def lower(params: Any) -> Any:
        def lowered(leaf: Any, label: str) -> Any:
            return leaf if label == "recurrence" else cast(leaf, dtype)

        return jax.tree.map(lowered, params, parameter_labels(params))

    def widened(ys: Any) -> Any:
        return jax.tree.map(
            lambda y: y.astype(wide(y.dtype)) if jnp.issubdtype(y.dtype, jnp.inexact) else y, ys
        )

    def initial_carry(params: Any, x: Any) -> Any:
        return layer.initial_carry(lower(params), like(x))

    def like(x: Any) -> Any:
        """Return an example of one step, an array or a ShapeDtypeStruct, in the dtype."""

        def one(leaf: Any) -> Any:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                return leaf
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
            return leaf.astype(dtype)

        return jax.tree.map(one, x)

    def step(params: Any, carry: Any, x: Any, flags: Any) -> Any:
        carry, y = layer.step_fn(lower(params), carry, cast(x, dtype), flags)
        return carry, widened(y)

    def unroll(params: Any, carry: Any, xs: Any, flags: Any) -> Any:
        carry, ys = layer.unroll_fn(lower(params), carry, cast(xs, dtype), flags)
        return carry, widened(ys)

    def condition(params: Any, carry: Any, context: Any, *, key: Any = None) -> Any:
        assert layer.condition is not None
        return layer.condition(lower(params), carry, cast(context, dtype), key=key)

    return dataclasses.replace(
        layer,
        initial_carry=initial_carry,
        step_fn=step,
        unroll_fn=unroll,
        condition=None if layer.condition is None else condition,
    )


def computing(model: Layer, precision: Precision) -> Layer:
    """Return the model computing in a precision."""
    return model if precision.compute is None else in_precision(model, precision.compute)


def check_precision(who: str, precision: Any) -> None:
    """Raise a TypeError for anything but a `Precision`."""
    if not isinstance(precision, Precision):
        raise TypeError(
            f"{who}(precision): expected a Precision such as BFLOAT16, got {precision!r}. Import it from "
            "seqjax.training."
        )


# ---------------------------------------------------------------- the loss scale


def first_scale(precision: Precision) -> LossScale | None:
    """Return the loss scale before the first step."""
    if precision.loss_scale is None:
        return None
    return LossScale(jnp.float32(precision.loss_scale), jnp.zeros((), jnp.int32))


def loss_factor(
    state: LossScale | None, model: Layer, loss: Loss, params: Any, batch: Batch
) -> Float[Array, ""] | None:
    """Return the factor of each loss: S over the number of losses, rounded up to a power of two.

    The sum of losses is differentiated. With this factor S has the meaning that it has for a mean, for every batch size
    and for a loss per step, per sequence, or of the whole batch.
    """
    if state is None:
        return None

    def losses(params: Any, batch: Batch) -> jax.Array:
        carry = model.initial_carry(params, first_step(batch.xs))
        ys = model.unroll(params, carry, batch.xs, reset=batch.reset, mask=batch.mask)[1]
        return losses_of(loss, ys, batch.targets, batch.mask, leads_of(model, batch))

    number = jax.eval_shape(losses, params, batch).size
    return state.scale / 2.0 ** math.ceil(math.log2(max(number, 1)))


def scaled(loss: Loss, factor: Float[Array, ""] | None) -> Loss:
    """Return the loss times a factor, in float32 at least."""
    return loss if factor is None else _Scaled(loss, factor)


@dataclass(frozen=True)
class _Scaled(Losses):
    loss: Loss
    factor: jax.Array

    def __call__(self, ys: Any, targets: Any, mask: Any = None) -> jax.Array:
        losses = call_loss(self.loss, ys, targets, mask)
        return losses.astype(wide(losses.dtype)) * self.factor

    def of(self, ys: Any, targets: Any, mask: Any, leads: Leads) -> Float[Array, "..."]:
        return losses_of(self.loss, ys, targets, mask, leads) * self.factor


def without(factor: Float[Array, ""] | None, estimate: Estimate) -> Estimate:
    """Return the estimate of the losses, from the estimate of losses times a factor."""
    if factor is None:
        return estimate
    total, count, gradients = estimate
    return Estimate(total / factor, count, jax.tree.map(lambda g: (g / factor).astype(g.dtype), gradients))


def next_scale(
    state: LossScale, interval: int, finite: Bool[Array, ""], overflow: Bool[Array, ""]
) -> LossScale:
    """Return the loss scale after a step that was finite, or in which gradients overflowed, or neither."""
    good = jnp.where(finite, state.good_steps + 1, 0)
    grow = good >= interval
    grown = jnp.where(grow, jnp.minimum(2 * state.scale, LARGEST_SCALE), state.scale)
    return LossScale(jnp.where(overflow, state.scale / 2, grown), jnp.where(grow, 0, good))
