"""Reads what ``seqjax compare`` is given: ``lstm,method=Sequential(chunk=64),dtype=bfloat16,device=cpu:0``."""

import ast
from typing import Any

import jax

from seqjax.cells import REGISTRY
from seqjax.cli.common import UsageError, one_of
from seqjax.layers import recurrent
from seqjax.methods import METHODS, Auto
from seqjax.report.compare.implementation import CONTRACT, DTYPES, Implementation
from seqjax.report.own import find_function

FORM = "CELL[,method=METHOD][,dtype=DTYPE][,device=DEVICE] or FILE.py:FUNCTION[,dtype=DTYPE][,device=DEVICE]"


def implementation(text: str, hidden_size: int) -> Implementation:
    """One side of a comparison.

    A cell is a name of the registry, alone or as a call, ``lstm(hidden_size=8)``; a method is a class of
    `seqjax.methods`, alone or as a call.
    """
    subject, *options = split(text)
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
            raise UsageError(f"{text}: a method goes with a cell, not with a function of one's own.")
        try:
            return Implementation(find_function(subject, CONTRACT), dtype, device, subject)
        except ValueError as error:
            raise UsageError(str(error)) from error
    name, args, keywords = call(text, subject)
    one_of(f"{text}: cell", name, REGISTRY)
    make = REGISTRY[name].make
    try:
        cell = make(*args, **keywords) if args or "hidden_size" in keywords else make(hidden_size, **keywords)
        method: Any = Auto()
        if "method" in settings:
            method_name, args, keywords = call(text, settings["method"])
            classes = {each.__name__: each for each in METHODS}
            one_of(f"{text}: method", method_name, classes)
            method = classes[method_name](*args, **keywords)
        return Implementation(recurrent(cell, method), dtype, device)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{text}: {error}") from None


def split(text: str) -> list[str]:
    """The parts between commas that no bracket and no quotation holds."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        depth += (not quote) * ((letter in "([{") - (letter in ")]}"))
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def call(text: str, expression: str) -> tuple[str, list[Any], dict[str, Any]]:
    """The name, arguments and keyword arguments of ``name`` or ``name(1, key=2)``; all of them literals."""
    try:
        node = ast.parse(expression, mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and all(k.arg for k in node.keywords)
        ):
            keywords = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
            return node.func.id, [ast.literal_eval(each) for each in node.args], keywords
    except (SyntaxError, ValueError):
        pass
    raise UsageError(
        f"{text}: expected a name, or a call with plain values such as lstm(8), got {expression!r}."
    )


def device_of(text: str, name: str) -> jax.Device:
    """The device ``cpu``, ``cpu:0``, ``gpu:1``."""
    platform, _, number = name.partition(":")
    try:
        devices = jax.devices(platform)
        return devices[int(number or 0)]
    except (RuntimeError, ValueError, IndexError):
        found = ", ".join(f"{d.platform}:{d.id}" for d in jax.devices())
        raise UsageError(
            f"{text}: expected a device such as cpu:0, got {name!r}. There are {found}."
        ) from None
