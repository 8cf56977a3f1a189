"""A layer's output plus its input."""

from seqjax.base import Carry, Flags, Layer, Params, Xs, Ys
from seqjax.combinators.common import View, check_layers, composed
from seqjax.ops.select import keep
from seqjax.values import definition


@definition
def residual(layer: Layer) -> Layer:
    """The layer's output plus its input: ``y = x + layer(x)``.

    Raises:
        ValueError: when output and input have different shapes.

    Example:
        >>> import seqjax as sj
        >>> sj.residual(sj.recurrent(sj.lstm(8)))
        residual(layer=recurrent(cell=lstm(hidden_size=8)))
    """
    check_layers("residual", (layer,))

    def apply(view: View, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        xs = keep(flags.mask, xs)
        carry, ys = view.run(layer, params, carry, xs, flags)
        if xs.shape != ys.shape:
            raise ValueError(
                f"residual({layer!r}): expected an output of the input's shape {list(xs.shape)}, got {list(ys.shape)}."
            )
        return carry, xs + ys.astype(xs.dtype)

    return composed(apply, parts=(layer,))
