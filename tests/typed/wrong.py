"""Mistakes that type checkers must find; each is on a line that ends in "wrong"."""

import jax

import seqjax as sj


def repeated(step: sj.StepFunction) -> None:
    """Take a step of any layer."""


def only_x(x: jax.Array) -> jax.Array:
    """Return the input, without a carry."""
    return x


layer: sj.Layer = sj.lstm(8)  # wrong
number: int = sj.recurrent(sj.lstm(8)).num_layers  # wrong
repeated(only_x)  # wrong
sj.lstm("8")  # wrong
sj.lstm(8, num_layers=2)  # wrong
sj.LSTM  # noqa: B018, wrong
sj.probes.prepare  # noqa: B018, wrong
