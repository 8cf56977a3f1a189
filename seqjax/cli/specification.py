"""Read an argument of ``seqjax compare``: ``lstm,method=scan(chunk=64),dtype=bfloat16,device=cpu:0``."""

from typing import Any

import jax

from seqjax.cells import REGISTRY
from seqjax.cli.common import UsageError, one_line, one_of, usage_errors
from seqjax.compare.implementation import CONTRACT, DTYPES, Implementation
from seqjax.layers.recurrent import recurrent
from seqjax.methods import Auto, named_method
from seqjax.names import parse_call, split
from seqjax.user_model import find_function

FORM = "CELL[,method=METHOD][,dtype=DTYPE][,device=DEVICE] or FILE.py:FUNCTION[,dtype=DTYPE][,device=DEVICE]"


def implementation(text: str, hidden_size: int) -> Implementation:
    """Return one side of a comparison.

    Args:
        text: a cell of the registry, alone or as a call such as ``lstm(hidden_size=8)``, with a method (see
            `seqjax.methods.named_method`), a dtype and a device; or a function of the user.
        hidden_size: the hidden size of a cell that is given by its name alone.

    Raises:
        UsageError: for any other text.
    """
    subject, *options = split(text)
    text = one_line(text, 100)  # as the errors show it
    settings: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        one_of(f"{text}: option", name, ("method", "dtype", "device"))
        if not equals or not value or name in settings:
            raise UsageError(f"{text}: expected {FORM}.")
        settings[name] = value
    dtype = settings.get("dtype")
    if dtype is not None:
        one_of(f"{text}: dtype", dtype, DTYPES)
    device = device_of(text, settings["device"]) if "device" in settings else None
    if ":" in subject:
        if "method" in settings:
            raise UsageError(
                f"{text}: a method goes with a cell, not with your own function. Leave out method=."
            )
        with usage_errors():
            return Implementation(find_function(subject, CONTRACT), dtype, device, subject)
    with usage_errors(f"{text}: "):
        name, args, keywords = parse_call(subject)
    one_of(f"{text}: cell", name, REGISTRY)
    make = REGISTRY[name].make
    with usage_errors(f"{text}: "):
        cell = make(*args, **keywords) if args or "hidden_size" in keywords else make(hidden_size, **keywords)
        method: Any = Auto()
        if "method" in settings:
            with usage_errors(f"{text}: method: "):
                method = named_method(settings["method"])
        return Implementation(recurrent(cell, method), dtype, device)


def device_of(text: str, name: str) -> jax.Device:
    """Return the device of a name such as ``cpu``, ``cpu:0`` or ``gpu:1``."""
    platform, _, number = name.partition(":")
    try:
        devices = jax.devices(platform)
        return devices[int(number or 0)]
    except (RuntimeError, ValueError, IndexError):
        found = ", ".join(f"{d.platform}:{d.id}" for d in jax.devices())
        raise UsageError(
            f"{text}: expected a device such as cpu:0, got {name!r}. There are {found}."
        ) from None
