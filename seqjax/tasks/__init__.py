"""Synthetic tasks with known baselines. `TASKS` maps a name to a factory with the argument length."""

from collections.abc import Callable

from seqjax.tasks.adding import adding
from seqjax.tasks.base import NOT_SCORED, Score, Success, Task, cross_entropy, squared_error
from seqjax.tasks.copying import copying, noisy_copying, selective_copying
from seqjax.tasks.dynamics import linear_system, lorenz, mackey_glass, narma10
from seqjax.tasks.formal import dyck, modular_arithmetic, parity
from seqjax.tasks.groups import state_tracking
from seqjax.tasks.images import sequential_images
from seqjax.tasks.listops import listops
from seqjax.tasks.pathfinder import pathfinder
from seqjax.tasks.recall import delayed_recall, induction_heads, multi_query_recall

TASKS: dict[str, Callable[[int], Task]] = {
    "adding": adding,
    "copying": copying,
    "noisy_copying": noisy_copying,
    "selective_copying": selective_copying,
    "delayed_recall": delayed_recall,
    "induction_heads": induction_heads,
    "multi_query_recall": multi_query_recall,
    "parity": parity,
    "modular_arithmetic": modular_arithmetic,
    "dyck": dyck,
    "state_tracking": state_tracking,
    "listops": listops,
    "pathfinder": pathfinder,
    "lorenz": lorenz,
    "mackey_glass": mackey_glass,
    "narma10": narma10,
    "linear_system": linear_system,
}
"""Every task by its name, as a factory ``length -> Task``."""

__all__ = [
    "NOT_SCORED", "Score", "Success", "TASKS", "Task", "adding", "copying", "cross_entropy",
    "delayed_recall", "dyck", "induction_heads", "linear_system", "listops", "lorenz", "mackey_glass",
    "modular_arithmetic", "multi_query_recall", "narma10", "noisy_copying", "parity", "pathfinder",
    "selective_copying", "sequential_images", "squared_error", "state_tracking",
]  # fmt: skip
