"""Log the metrics of training as lines of JSON, as TensorBoard events, and as curves at the end.

The log also holds the rows of instruments, in the columns of the gradient report.
"""

import importlib.util
import json
import logging
import math
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seqjax.files import why
from seqjax.install import missing
from seqjax.rows import Row, scalars, to_line
from seqjax.training.curves import draw_curves
from seqjax.training.json_lines import JsonLines

logger = logging.getLogger(__name__)

INSTRUMENTS = "instruments.jsonl"
"""The file of the rows of instruments in the folder of a run."""


class MetricsLog:
    r"""The log of one run in a folder: ``metrics.jsonl``, with one line per logged step, and ``curves.svg``.

    A line is ``{"step": 20, "loss": ...}`` with the metrics of a step, ``{"step": 20, "evaluation/loss": ...}``, or
    ``{"step": 21, "event": "skipped", "reason": ...}``. Each line is written at once. Numbers that are not finite are
    null. ``seconds`` counts from the start of training in this process. The rows of instruments are lines of
    ``instruments.jsonl``: `seqjax.rows` has their columns, and ``seqjax render`` draws them.

    Args:
        folder: the folder of the run; it is created if it does not exist.
        tensorboard: write TensorBoard events as well, to ``folder/tensorboard``; needs the package tensorboardX.
        plots: draw ``curves.svg`` at the end, if matplotlib is installed.

    Raises:
        ImportError: for tensorboard=True without the package tensorboardX.
        ValueError: when the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from seqjax.training import MetricsLog
        >>> log = MetricsLog(tempfile.mkdtemp(), plots=False)
        >>> log.begin(0)
        >>> log.write(1, {"loss": 0.5})
        >>> log.write(2, {"loss": float("nan")})
        >>> log.end()
        >>> print(log.path.read_text(), end="")
        {"step": 1, "loss": 0.5}
        {"step": 2, "loss": null}
    """

    def __init__(self, folder: str | os.PathLike, *, tensorboard: bool = False, plots: bool = True) -> None:
        if tensorboard and importlib.util.find_spec("tensorboardX") is None:
            raise missing("MetricsLog(tensorboard=True)", "tensorboardX", "tensorboard")
        self.folder = Path(folder).absolute()
        self.path = self.folder / "metrics.jsonl"
        self._plots = plots and importlib.util.find_spec("matplotlib") is not None
        self._tensorboard = tensorboard
        self._metrics = JsonLines(self.path, "step")
        self._rows = JsonLines(self.folder / INSTRUMENTS, "training_step")
        self._events: Any = None
        self._failing = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"MetricsLog: {self.folder} cannot be written ({why(error)}). Choose another folder."
            ) from None

    def begin(self, step: int, *, resumed: bool = False, again: Collection[str] = ()) -> None:
        """Open the log after a step, and remove lines of later steps, which an interrupted run has left.

        Args:
            step: the step at which training begins.
            resumed: whether a run continues; otherwise the folder must hold no log.
            again: instruments that measure the state of this step again; their rows of the step are removed.

        Raises:
            ValueError: when a run begins in a folder with the log of another run, or the file cannot be written.
        """

        def kept(line: Mapping[str, Any]) -> bool:
            at = line["training_step"]
            return at < step or (at == step and line.get("part") not in again)

        if self._rows.path.exists():
            self._rows.begin(kept, new=not resumed)
        self._metrics.begin(lambda line: line["step"] <= step, new=not resumed)
        if self._tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write one line. On a full disk the line is lost, one warning is logged, and training continues."""
        line = json.dumps({"step": step, **{name: _plain(value) for name, value in values.items()}})
        self._append(self._metrics, [line], step, values)

    def measured(self, step: int, name: str, rows: Iterable[Row]) -> None:
        """Write the rows of an instrument at a step; as TensorBoard events, the numbers without an axis."""
        rows = [{"part": name, "section": name, **each, "training_step": step} for each in rows]
        if not self._rows.is_open:
            self._rows.begin(lambda line: True)
        events = {f"{name}/{quantity}": value for quantity, value in scalars(rows).items()}
        self._append(self._rows, map(to_line, rows), step, events)

    def _append(self, file: JsonLines, lines: Iterable[str], step: int, events: Mapping[str, Any]) -> None:
        try:
            file.append(lines)
            if self._events is not None:
                for name, value in events.items():
                    if not isinstance(value, str) and np.ndim(value) == 0:
                        self._events.add_scalar(name, float(value), step)
            self._failing = False
        except OSError as error:
            if not self._failing:
                logger.warning("%s cannot be written (%s): metrics are lost.", file.path, why(error))
            self._failing = True

    def end(self) -> None:
        """Close the log and draw the curves."""
        self._metrics.end()
        self._rows.end()
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._plots:
            try:
                draw_curves(self.path, self.folder / "curves.svg")
            except OSError as error:
                logger.warning("%s cannot be written (%s).", self.folder / "curves.svg", why(error))


def flat(metrics: Any) -> dict[str, Any]:
    """Return the leaves of a step's metrics by path, such as ``probes/gradient_norms/w``.

    Example:
        >>> from seqjax.training.metrics_log import flat
        >>> flat({"loss": 1.0, "probes": {"norms": (2.0, 3.0)}})
        {'loss': 1.0, 'probes/norms/0': 2.0, 'probes/norms/1': 3.0}
    """
    leaves = jax.tree_util.tree_leaves_with_path(metrics)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it; numbers that are not finite become None."""
    if isinstance(value, str):
        return value
    value = np.asarray(value).tolist()

    def finite(value: Any) -> Any:
        if isinstance(value, list):
            return [finite(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return finite(value)
