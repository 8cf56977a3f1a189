"""Begin training with the params of another run, part by part."""

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.training.checkpoint_contents import leaves_by_path
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.sharding import put

PARAMS = "params."
"""Where the params are in a `TrainState`."""


class WarmStart(NamedTuple):
    """The report of `warm_start`: which params were taken. Params are named by their paths in the new model.

    Attributes:
        source: the folder of the checkpoint.
        step: the step of the checkpoint.
        taken: the params that were taken.
        differ: the params of another shape in the checkpoint, as ``(path, shape, shape in the checkpoint)``. They keep
            their new values.
        missing: the params that the checkpoint does not have. They keep their new values.
        unused: the params of the checkpoint that the model does not have, by their paths in the checkpoint.
        sha256: a digest of all params in the checkpoint.
    """

    source: str
    step: int
    taken: tuple[str, ...]
    differ: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    sha256: str

    @property
    def whole(self) -> bool:
        """Return whether every param of the model was taken, and every param of the checkpoint was used."""
        return not (self.differ or self.missing or self.unused)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON holds it."""
        return json.loads(json.dumps(self._asdict()))

    def __str__(self) -> str:
        lines = [f"Warm start from step {self.step} of {self.source}: {len(self.taken)} arrays were taken."]
        lines += [
            f"  not taken, another shape: {path} {list(new)}, in the checkpoint {list(there)}"
            for path, new, there in self.differ
        ]
        lines += [f"  not taken, not in the checkpoint: {path}" for path in self.missing]
        lines += [f"  not used, not in the model: {path}" for path in self.unused]
        return "\n".join(lines)


def warm_start(
    params: Any,
    folder: str | PathLike[str],
    *,
    best: bool = True,
    rename: Mapping[str, str | None] | None = None,
    strict: bool = False,
) -> tuple[Any, WarmStart]:
    """Replace params by those of a checkpoint that have the same path and shape.

    The model may be larger than that of the checkpoint, or have another head: what does not fit keeps its value, and
    the report lists it. Params are converted to the dtypes of the new ones. Nothing but the checkpoint is read, so no
    code of the folder runs. Optimizer state, step and streams are not taken.

    Args:
        params: the params of the new model, such as those of `init_train_state`.
        folder: the folder of a run, of `fit` or ``seqjax train``, or of `Checkpoints` of states with ``params``.
        best: take the params of the best evaluation if the run has saved them; otherwise those of the newest
            checkpoint.
        rename: where a part of the checkpoint is in the new model, such as ``{"4": "5"}`` for the head of a `serial`
            that has one more layer. None leaves a part out. The longest matching path counts.
        strict: raise an error unless every param is taken and used.

    Returns:
        ``(params, report)``; print the report.

    Raises:
        ValueError: when the folder has no checkpoint of a state with params, when every checkpoint is damaged, when no
            param fits, with ``strict`` when some do not, and when `rename` gives two params one path.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp, seqjax as sj, flax.linen as nn
        >>> from seqjax.training import Checkpoints, warm_start
        >>> def model(outputs):
        ...     return sj.serial(sj.recurrent(sj.lru(4)), sj.pointwise(nn.Dense(outputs)))
        >>> folder = tempfile.mkdtemp()
        >>> with Checkpoints(folder) as checkpoints:
        ...     checkpoints.save(7, {"params": model(2).init(jax.random.key(0), jnp.ones((1, 3)))})
        >>> params, report = warm_start(model(5).init(jax.random.key(1), jnp.ones((1, 3))), folder)
        >>> print(str(report).replace(folder, "FOLDER"))
        Warm start from step 7 of FOLDER: 6 arrays were taken.
          not taken, another shape: 1.bias [5], in the checkpoint [2]
          not taken, another shape: 1.kernel [4, 5], in the checkpoint [4, 2]
    """
    place = Path(folder)
    if best and (place / "best" / "steps").is_dir():
        place = place / "best"
    step, there = _saved_params(place)
    names = _renamed(there, rename or {})
    new = leaves_by_path(params)
    found = {path: there[name] for path, name in names.items()}
    fits = [path for path in new if path in found and found[path].shape == new[path].shape]
    report = WarmStart(
        source=str(place),
        step=step,
        taken=tuple(fits),
        differ=tuple(
            (path, tuple(leaf.shape), found[path].shape)
            for path, leaf in new.items()
            if path in found and path not in fits
        ),
        missing=tuple(path for path in new if path not in found),
        unused=tuple(name for name in there if name not in {names[path] for path in new if path in names}),
        sha256=_digest(there),
    )
    if not fits or (strict and not report.whole):
        wanted = "params that all fit" if fits else "params that fit"
        found_instead = "; ".join(line.strip() for line in str(report).splitlines())
        raise ValueError(f"warm_start: expected {wanted}, got: {found_instead}")
    taken = {path: _like(path, found[path], leaf) if path in fits else leaf for path, leaf in new.items()}
    return jax.tree.unflatten(jax.tree.structure(params), taken.values()), report


def _saved_params(place: Path) -> tuple[int, dict[str, np.ndarray]]:
    """Return the step and the params of the newest valid checkpoint, by their paths."""
    try:
        with Checkpoints(place) as checkpoints:
            step, leaves = checkpoints.restore(None)
    except FileNotFoundError:
        raise ValueError(
            f"warm_start: expected a checkpoint in {place}, got none. Pass the folder of a run."
        ) from None
    found = {name.removeprefix(PARAMS): leaf for name, leaf in leaves.items() if name.startswith(PARAMS)}
    if not found:
        raise ValueError(
            f"warm_start: expected a checkpoint of a state with params in {place}, got {', '.join(leaves)}."
        )
    return step, found


def _renamed(there: Mapping[str, Any], rename: Mapping[str, str | None]) -> dict[str, str]:
    """Return the path in the checkpoint of each path in the model."""
    names: dict[str, str] = {}
    for name in there:
        parts = [part for part in rename if name == part or name.startswith(part + ".")]
        part = max(parts, key=len, default="")
        new = rename[part] if part else ""
        if new is None:
            continue
        path = new + name.removeprefix(part) if part else name
        if path in names:
            raise ValueError(
                f"warm_start(rename): expected a path for each param, got {path} for {names[path]} and {name}."
            )
        names[path] = name
    return names


def _like(path: str, array: np.ndarray, leaf: Any) -> Any:
    """Return an array of the checkpoint with the dtype and the sharding of a leaf of the new params."""
    if jnp.iscomplexobj(array) and not jnp.iscomplexobj(leaf):
        raise ValueError(
            f"warm_start: expected {path} of {leaf.dtype}, got complex numbers in the checkpoint. Leave it out by "
            f"rename={{{path!r}: None}}."
        )
    array = np.asarray(array).astype(leaf.dtype)
    return put(array, leaf.sharding) if isinstance(leaf, jax.Array) else array


def _digest(leaves: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(leaves):
        leaf = leaves[name]
        found.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()
