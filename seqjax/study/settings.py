"""The settings of a study, checked before anything runs, and saved with the results."""

from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import datasets
from seqjax.base import Layer
from seqjax.cells import REGISTRY, vector
from seqjax.checks import LARGEST
from seqjax.fields import SettingError, above_zero, at_least_one, at_most, check_fields, one_of, setting
from seqjax.methods import NAMED, check_name, named_method
from seqjax.sizes import check_size
from seqjax.study.models import one_step, recurrent_layer
from seqjax.tasks import TASKS, Task
from seqjax.tasks.text import text_task
from seqjax.user_model import is_own

DTYPES = ("float32", "float64", "bfloat16")


def _cell(field: str, name: str) -> None:
    if not is_own(name):
        one_of(each for each, entry in REGISTRY.items() if entry.example is vector)(field, name)


@dataclass(frozen=True)
class Settings:
    """The settings of a study.

    ``preset`` names an entry of `seqjax.study.presets.SIZES`, which holds the sizes of single sections (steps of a
    Lyapunov spectrum, lengths of the memory scaling). ``cells`` are names of the registry, or the user's own models
    as ``file.py:function``. An empty ``sections`` means all sections.
    """

    preset: str = setting("cpu", "Preset of all settings")
    cells: tuple[str, ...] = setting(
        ("elman", "lstm", "gru", "lru"), "Cells to compare, separated by commas (see 'seqjax list')", _cell
    )
    lengths: tuple[int, ...] = setting((64, 512), "Sequence lengths T, separated by commas", at_least_one)
    hidden_size: int = setting(32, "Hidden size of the recurrent layer", at_least_one)
    batch_size: int = setting(8, "Sequences in a batch, in training and in measurements", at_least_one)
    seeds: int = setting(8, "Number of seeds, from 0", at_least_one, at_most(10_000))
    training_steps: int = setting(64, "Training steps per run", at_least_one)
    learning_rate: float = setting(5e-3, "Learning rate of Adam", above_zero)
    dtype: str = setting("float32", f"One of {', '.join(DTYPES)}", one_of(DTYPES))
    method: str = setting("auto", f"One of {', '.join(NAMED)}", check_name)
    task: str = setting("text", f"One of text, {', '.join(TASKS)}", one_of(("text", *TASKS)))
    data: str | None = setting(None, "Any file, text or binary, instead of Moby-Dick")
    sections: tuple[str, ...] = setting((), "Sections of the report, separated by commas; all by default")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values: lists, not tuples."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def snapshots(self) -> list[int]:
        """Return the training steps at which profiles are measured: 0, the powers of two, and the last."""
        steps = {0, self.training_steps} | {2**k for k in range(self.training_steps.bit_length())}
        return sorted(step for step in steps if step <= self.training_steps)


def load_data(settings: Settings) -> np.ndarray | None:
    """Read the bytes of the text of a study; None for a synthetic task."""
    if settings.task != "text":
        return None
    return datasets.moby_dick() if settings.data is None else datasets.read_text(settings.data)


def check(settings: Settings) -> None:
    """Raise a ValueError or TypeError about the first setting that cannot be used, before anything is computed."""
    check_fields(settings)
    if max(settings.lengths) * settings.batch_size > LARGEST:
        raise SettingError(
            "{lengths} times {batch_size}: expected less than 2^31 time steps. Choose smaller sizes."
        )
    if settings.data is not None and settings.task != "text":
        raise SettingError("{data} goes with {task} text, not with {task} {other}.", other=settings.task)
    longest = [_task(settings, length) for length in settings.lengths][-1]
    for cell in settings.cells:
        layer = recurrent_layer(cell, settings.hidden_size, named_method(settings.method), longest)
        x = one_step(cell, settings.hidden_size, 1, jnp.float32)
        try:
            _check_length(layer, max(settings.lengths), x)
        except (TypeError, ValueError) as error:
            if not is_own(cell):
                raise
            hint = "" if x.dtype == jnp.int32 else " A model of tokens is made by build(vocabulary_size)."
            raise ValueError(
                f"{cell}: its layer cannot run on x {x.dtype}{list(x.shape)}: {' '.join(str(error).split())}{hint}"
            ) from None


def _task(settings: Settings, length: int) -> Task:
    """Return the task of a study; that of a text without its text."""
    if settings.task != "text":
        return TASKS[settings.task](length)
    nothing = np.zeros(2, np.uint8)
    return text_task(nothing, nothing, length)


def _check_length(layer: Layer, length: int, x: jax.ShapeDtypeStruct) -> None:
    """Raise the ValueError of a layer that cannot run `length` steps (attention with a smaller cache)."""
    xs = jax.ShapeDtypeStruct((length, *x.shape), x.dtype)
    check_size("gradients", layer, x)

    def run(key: jax.Array, xs: jax.Array) -> Any:
        params = layer.init(key, xs[0])
        return layer.unroll(params, layer.initial_carry(params, xs[0]), xs)

    jax.eval_shape(run, jax.random.key(0), xs)


def check_text(data: np.ndarray | None, length: int) -> None:
    """Raise a ValueError when a text is too short for windows of this length in both of its parts."""
    if data is not None and len(data) < 2 or data is not None and len(datasets.split(data)[1]) < length + 1:
        raise SettingError(
            "{data}: expected at least {least} bytes for {lengths} {length} (a tenth is held out), got {got}. "
            "Use a longer file or shorter lengths.",
            least=10 * (length + 1),
            length=length,
            got=len(data),
        )
