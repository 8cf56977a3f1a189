"""The objective that estimators differentiate: the mean loss of a layer's outputs over all counted steps.

Training, evaluation, estimators and probes share one rule for losses. A loss ``(ys, targets) -> losses`` or
``(ys, targets, mask) -> losses`` returns

* losses per step ``[T, *B]``, of which the masked ones do not count;
* losses of the shape of ys ``[T, *B, ...]``, which are averaged over their own axes into losses per step;
* losses per sequence ``[*B]``;
* or one scalar.

Losses of any other shape are refused, because they would be averaged over something that the batch does not have. When
a batch has a mask, a loss per sequence or a scalar over outputs of all steps must take the mask as its third argument.
"""

import abc
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqjax.base import Batch, Carry, Layer, Params, Ys
from seqjax.layers.pooling import last
from seqjax.ops.select import keep, wide
from seqjax.values import origin

Loss = Callable[..., Any]
Leads = tuple[tuple[int, ...], ...]
"""The shapes ``(T, *B)`` that a batch may have; several where the number of batch axes is not known."""


class Losses(abc.ABC):
    """A loss made of another loss; `of` returns losses that follow the rule, as `losses_of` does."""

    @abc.abstractmethod
    def of(self, ys: Ys, targets: Any, mask: Any, leads: Leads) -> Float[Array, "..."]: ...


# ---------------------------------------------------------------- losses and their shapes


def losses_of(loss: Loss, ys: Ys, targets: Any, mask: Any, leads: Leads) -> Float[Array, "..."]:
    """Return the losses per step ``[T, *B]``, per sequence ``[*B]`` or as a scalar, in float32 at least.

    Args:
        loss: the loss; see the rule at the top of this file.
        ys: the outputs of the layer.
        targets: whatever the loss takes.
        mask: ``[T, *B]`` or None.
        leads: as `leads_of` returns them.

    Raises:
        TypeError: unless the losses are one real floating array.
        ValueError: for losses of another shape, or a loss that reduces over time without the mask.
    """
    if isinstance(loss, Losses):
        return loss.of(ys, targets, mask, leads)
    losses = call_loss(loss, ys, targets, mask)
    if not (hasattr(losses, "dtype") and jnp.issubdtype(losses.dtype, jnp.floating)):
        found = f"{losses.dtype}{list(losses.shape)}" if hasattr(losses, "dtype") else type(losses).__name__
        raise TypeError(f"loss: expected one array of real floating losses, got {found}.")
    leads = leads if mask is None else (jnp.shape(mask),)
    lead = next((lead for lead in leads if _kind(losses.shape, ys, lead)), None)
    kind = None if lead is None else _kind(losses.shape, ys, lead)
    if lead is None or kind is None or not _keeps_kind(loss, kind, losses.shape, ys, targets, mask, lead):
        raise ValueError(f"loss: expected {_expected(leads[0], ys)}, got {list(losses.shape)}.{_REMEDY}")
    if mask is not None and kind in ("sequence", "scalar") and _over_time(ys, lead) and not takes_mask(loss):
        raise ValueError(
            f"loss: expected with a mask {list(lead)} losses per step {list(lead)}, or a loss with the mask as its "
            f"third argument, got {list(losses.shape)} of loss(ys, targets), which counts masked steps. Write "
            "loss(ys, targets, mask), or return the loss of every step."
        )
    losses = losses.astype(wide(losses.dtype))
    return jnp.mean(losses, tuple(range(len(lead), losses.ndim))) if kind == "outputs" else losses


_REMEDY = (
    " Compare outputs and targets of one shape (an axis of 1 broadcasts), and reduce neither over the batch nor over a "
    "part of the axes."
)


def _kind(shape: tuple[int, ...], ys: Ys, lead: tuple[int, ...]) -> str | None:
    """Return what losses of a shape are: "step", "outputs", "sequence" or "scalar"; None for none of them."""
    if shape == lead:
        return "step"
    if any(shape == jnp.shape(y) and shape[: len(lead)] == lead for y in jax.tree.leaves(ys)):
        return "outputs"
    if shape == lead[1:]:
        return "sequence"
    return "scalar" if shape == () else None


def _expected(lead: tuple[int, ...], ys: Ys) -> str:
    outputs = [list(y.shape) for y in jax.tree.leaves(ys) if y.shape[: len(lead)] == lead != y.shape]
    per_output = f", of the shape of ys {outputs[0]}" if outputs else ""
    return f"losses per step {list(lead)}{per_output}, per sequence {list(lead[1:])} or a scalar"


def _over_time(ys: Ys, lead: tuple[int, ...]) -> bool:
    return any(jnp.shape(y)[: len(lead)] == lead for y in jax.tree.leaves(ys))


def _keeps_kind(loss: Loss, kind: str, shape: tuple, ys: Ys, targets: Any, mask: Any, lead: tuple) -> bool:
    """Return whether losses that happen to have a shape, since some sizes are equal, are what they look like.

    ``[T]`` looks like ``[*B]`` when T = B, and a mean over the batch ``[T, H]`` like losses per step when H = B. Sizes
    that differ from all others show which it is.
    """
    own = [n for y in jax.tree.leaves(ys) for n in jnp.shape(y)[len(lead) :]]
    taken = {*lead, *own}
    if kind == "scalar" or (len(set(lead)) == len(lead) and not set(lead) & set(own)):
        return True
    free = (n for n in itertools.count(2) if n not in taken)
    other = tuple(next(free) for _ in lead)

    def resized(a: Any) -> jax.ShapeDtypeStruct:
        found = jnp.shape(a)
        if found[: len(lead)] == lead:
            found = (*other, *found[len(lead) :])
        elif len(lead) > 1 and found[: len(lead) - 1] == lead[1:]:
            found = (*other[1:], *found[len(lead) - 1 :])
        return jax.ShapeDtypeStruct(found, jnp.result_type(a))

    resized_ys, resized_targets, resized_mask = jax.tree.map(resized, (ys, targets, mask))
    try:
        again = jax.eval_shape(partial(call_loss, loss), resized_ys, resized_targets, resized_mask).shape
    except Exception:  # a loss that closes over arrays of the batch's own sizes
        return True
    return _kind(again, resized_ys, other) == kind


def takes_mask(loss: Loss) -> bool:
    """Return whether a loss takes the mask as its third argument.

    The argument has the name "mask", or the loss cannot be called without it.

    Example:
        >>> import optax
        >>> takes_mask(lambda ys, targets, mask: ys), takes_mask(optax.softmax_cross_entropy_with_integer_labels)
        (True, False)
    """
    return _mask_argument(loss) is not None


def _mask_argument(loss: Loss) -> str | None:
    """Return how a loss takes the mask: "name", "place", or None."""
    if isinstance(loss, partial) and "mask" in loss.keywords:
        return None
    try:
        parameters = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return None
    if any(p.name == "mask" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters):
        return "name"
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)]
    return "place" if len([p for p in positional if p.default is p.empty]) == 3 else None


def call_loss(loss: Loss, ys: Ys, targets: Any, mask: Any) -> Any:
    """Return what a loss returns, with the mask where it takes one."""
    how = _mask_argument(loss)
    if how == "name":
        return loss(ys, targets, mask=mask)
    return loss(ys, targets) if how is None else loss(ys, targets, mask)


# ---------------------------------------------------------------- the batch axes


def leads_of(layer: Layer, batch: Batch) -> Leads:
    """Return the shapes ``(T, *B)`` that a batch may have: one where flags or the layer say how many axes B has.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> leads_of(sj.recurrent(sj.lstm(8)), sj.Batch(jnp.ones((10, 4, 3)), None))
        ((10, 4),)
    """
    flag = batch.reset if batch.mask is None else batch.mask
    if flag is not None:
        return (jnp.shape(flag),)
    xs = jax.tree.leaves(batch.xs)[0]
    shape = jnp.shape(xs)
    own = _event_ndim(layer, jnp.issubdtype(jnp.result_type(xs), jnp.inexact))
    if own is not None:
        return (shape[: max(1, len(shape) - own)],)
    return tuple(shape[:n] for n in range(len(shape), 0, -1))


def _event_ndim(layer: Any, floating: bool) -> int | None:
    """Return how many axes of an example the first layer of a model reads; None where that is not known."""
    if layer.event_ndim is not None:
        return layer.event_ndim
    found = origin(layer)
    if found is None:
        return None
    arguments = found[1]
    if arguments.get("event_ndim") is not None:
        return arguments["event_ndim"]
    parts = [
        part for value in arguments.values() for part in (value if isinstance(value, tuple) else (value,))
    ]
    inside = [part for part in parts if isinstance(part, Layer)]
    # Layers without layers inside take vectors, or tokens.
    return _event_ndim(inside[0], floating) if inside else int(floating)


# ---------------------------------------------------------------- sums


def loss_sum(
    losses: Float[Array, "..."], mask: Bool[Array, "T *B"] | None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return total and count of losses, in float32 at least.

    Args:
        losses: one per step ``[T, *B]``, where masked steps do not count; one per sequence ``[*B]``, where sequences
            without any step do not count; or one scalar.
        mask: ``[T, *B]`` or None.

    Raises:
        TypeError: unless losses are one real floating array.
        ValueError: with a mask, for losses of any other shape.
    """
    losses = losses.astype(wide(losses.dtype))
    if mask is not None and losses.ndim:
        if losses.shape not in (mask.shape, mask.shape[1:]):
            raise ValueError(f"loss: expected {_expected(mask.shape, ())}, got {list(losses.shape)}.")
        counts = mask if losses.shape == mask.shape else jnp.any(mask, 0)
        return jnp.sum(keep(counts, losses)), jnp.sum(counts).astype(losses.dtype)
    return jnp.sum(losses), jnp.asarray(losses.size, losses.dtype)


def sum_of(
    loss: Loss, ys: Ys, targets: Any, mask: Any, leads: Leads
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return total and count of `losses_of`."""
    mask = None if mask is None else jnp.asarray(mask)
    return loss_sum(losses_of(loss, ys, targets, mask, leads), mask)


def loss_and_gradient(
    loss: Loss, ys: Ys, targets: Any, mask: Any, lead: tuple[int, ...]
) -> tuple[Float[Array, ""], Any]:
    """Return the mean loss over all counted steps and its gradient by the outputs (float0 for integers)."""

    def mean(ys: Ys) -> jax.Array:
        total, count = sum_of(loss, ys, targets, mask, (lead,))
        return total / jnp.maximum(count, 1)

    return jax.value_and_grad(mean, allow_int=True)(ys)


@dataclass(frozen=True)
class _LastStep(Losses):
    loss: Loss

    def __call__(self, ys: Ys, targets: Any, mask: Any = None) -> jax.Array:
        return last(call_loss(self.loss, ys, targets, mask), mask)

    def of(self, ys: Ys, targets: Any, mask: Any, leads: Leads) -> Float[Array, "*B"]:
        losses = losses_of(self.loss, ys, targets, mask, leads)
        if losses.shape not in leads:
            raise ValueError(
                f"last_step(loss): expected losses per step {list(leads[0])}, got {list(losses.shape)}."
            )
        return last(losses, mask)


def last_step(loss: Loss) -> Loss:
    """Turn a loss per step ``[T, *B]`` into the loss per sequence ``[*B]`` of the last step that happened.

    Example:
        >>> import jax.numpy as jnp
        >>> last_step(lambda ys, targets: ys - targets)(jnp.ones((5, 2)), jnp.zeros((5, 2)))
        Array([1., 1.], dtype=float32)
    """
    return _LastStep(loss)


def objective(layer: Layer, loss: Loss) -> Callable[..., tuple[jax.Array, tuple[jax.Array, Any]]]:
    """Return ``(params, carry, batch, *, key=None, tap=None) -> (total, (count, carry))``; total / count is the mean.

    Args:
        layer: the model.
        loss: ``(ys, targets) -> losses`` or ``(ys, targets, mask) -> losses``, such as
            ``optax.softmax_cross_entropy_with_integer_labels``: one loss per step ``[T, *B]``, losses of the shape of
            ys (averaged over their own axes), one loss per sequence ``[*B]``, or a scalar. When a batch has a mask, a
            loss that reduces over time must take it.

    Raises:
        TypeError: unless the losses are one real floating array; raised by the returned function.
        ValueError: for losses of another shape, or a loss that reduces over time without the mask.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj
        >>> model = sj.recurrent(sj.lstm(8))
        >>> batch = sj.Batch(xs=jnp.ones((10, 4, 3)), targets=jnp.zeros((10, 4), int))
        >>> params = model.init(jax.random.key(0), batch.xs[0])
        >>> carry = model.initial_carry(params, batch.xs[0])
        >>> evaluate = objective(model, optax.softmax_cross_entropy_with_integer_labels)
        >>> total, (count, carry) = evaluate(params, carry, batch)
        >>> count
        Array(40., dtype=float32)
    """

    def evaluate(params: Params, carry: Carry, batch: Batch, *, key: Any = None, tap: Any = None) -> Any:
        flags = {"reset": batch.reset, "mask": batch.mask, "key": key, "tap": tap}
        carry, ys = layer.unroll(params, carry, batch.xs, **flags)
        total, count = sum_of(loss, ys, batch.targets, batch.mask, leads_of(layer, batch))
        return total, (count, carry)

    return evaluate
