"""A forecaster of time series: quantiles, or the params of a distribution, for one or many steps ahead."""

from typing import Any

import flax.linen as nn

from seqjax.base import Layer
from seqjax.blocks.branches import Norm
from seqjax.cells.lstm import lstm
from seqjax.checks import check_whole, check_whole_or_none
from seqjax.combinators import serial
from seqjax.layers.pointwise import pointwise
from seqjax.models.common import CellFactory, input_map, recurrent_layers
from seqjax.values import definition


@definition
def forecaster(
    num_outputs: int,
    cell: CellFactory = lstm,
    *,
    horizon: int | None = None,
    hidden_size: int = 64,
    num_layers: int | None = None,
    dropout: float = 0.0,
    norm: Norm | None = None,
    residual: bool = False,
) -> Layer:
    r"""A dense map of features, recurrent layers, and at every step the outputs for each step of the horizon.

    .. math::
        y_t = \mathrm{reshape}\big(\mathrm{layers}(x_{1..t} W_x + b_x)\, W + b\big), \qquad
        \hat x_{t+j,q} = y_{t,j,q}, \quad j = 1..F

    All steps of the horizon are forecast at once ("direct"), and every step can be an origin. The outputs are quantiles
    (`seqjax.training.quantile_loss`) or params of a distribution (`seqjax.training.gaussian_nll`, `student_t_nll`,
    `negative_binomial_nll`). Three uses:

    * targets ``[T, *B, F]``, the values after every step: ``partial(quantile_loss, quantiles=q, event_ndim=1)``.
    * targets ``[*B, F]`` after the last step of a window: ``last_step`` of that loss.
    * without a horizon: outputs ``[*B, Q]`` about one value per step. To forecast F steps whose calendar is known,
      append F steps with the calendar, and compare the last F outputs.

    Shapes: features x ``[*B, D]`` -> y ``[*B, F, Q]``, or ``[*B, Q]`` without a horizon; params and carry are tuples of
    three.

    Gradients: with targets after every step, most paths through time are short. With ``last_step`` all of them end at
    the last step, as in a classifier.

    Args:
        num_outputs: Q, the number of quantiles, or of params of a distribution.
        cell: a factory ``hidden_size -> Cell or Layer``, a name of the registry, or a tuple of these for the layers in
            turn.
        horizon: F, or None.
        hidden_size: the width of every layer.
        num_layers: the number of layers; by default one per entry of `cell`.
        dropout: the rate of dropout after every layer. It acts only with a key.
        norm: "rms" or "layer" normalizes the input of every layer; see `seqjax.stack`.
        residual: whether each layer's input is added to its output.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj
        >>> from functools import partial
        >>> from seqjax.training import init_train_state, last_step, make_train_step, quantile_loss
        >>> model, optimizer = sj.models.forecaster(3, sj.gru, horizon=4, hidden_size=16), optax.adam(1e-2)
        >>> loss = last_step(partial(quantile_loss, quantiles=(0.1, 0.5, 0.9), event_ndim=1))
        >>> past, future = jnp.ones((24, 5, 2)), jnp.ones((5, 4))                              # [T, B, D], [B, F]
        >>> state = init_train_state(model, optimizer, jax.random.key(0), past[0])
        >>> state, metrics = make_train_step(model, loss, optimizer)(state, sj.Batch(past, future))
        >>> forecast = sj.last(model.unroll(state.params, None, past)[1])
        >>> forecast.shape                                                                     # [B, F, Q]
        (5, 4, 3)

    References:
        Wen et al. 2017, "A multi-horizon quantile recurrent forecaster", arXiv:1711.11053, sections 2 and 3.3
        (quantiles of all steps at once; every step an origin).
        Salinas, Flunkert, Gasthaus 2020, "DeepAR: probabilistic forecasting with autoregressive recurrent networks",
        arXiv:1704.04110 (one model for many series; likelihoods).
    """
    who = "forecaster"
    check_whole(f"{who}(num_outputs)", num_outputs)
    check_whole_or_none(f"{who}(horizon)", horizon)
    features = num_outputs if horizon is None else (horizon, num_outputs)
    options: dict[str, Any] = {"dropout": dropout, "norm": norm, "residual": residual}
    return serial(
        input_map(who, None, hidden_size, None, 0.0),
        recurrent_layers(who, cell, hidden_size, num_layers, **options),
        pointwise(nn.DenseGeneral(features)),
    )
