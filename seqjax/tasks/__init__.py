"""Synthetic tasks with known baselines. `TASKS` maps a name to a factory that takes the length."""

from collections.abc import Callable

from seqjax.tasks.adding import adding
from seqjax.tasks.base import Task, cross_entropy, squared_error
from seqjax.tasks.copying import copying

TASKS: dict[str, Callable[[int], Task]] = {
    "adding": adding,
    "copying": copying,
}

__all__ = ["TASKS", "Task", "adding", "copying", "cross_entropy", "squared_error"]
