"""Recurrent networks on real data: ``python -m benchmarks applications [NAME ...]``.

Each application is a module here, named in `APPLICATIONS`, with

* ``VARIANTS``, a mapping of names to settings,
* ``train(variant, *, seed, toy=False) -> Trained``,
* ``baselines(toy=False) -> {name: {metric: number}}``, on the test part,
* ``BARS``, a tuple of `Bar`, and ``TUNING``, a sentence: how many settings of models and baselines were compared on the
  validation part.

`runner.run` trains every variant with every seed and writes ``benchmarks/results/applications/NAME.json``, from which
`table.page` makes ``docs/applications.md``; `table.section` is the table that a notebook shows. `training.fit_best`
trains a model and keeps the best params.
"""

from benchmarks.applications.application import APPLICATIONS, Bar, Trained, load, missing_data
from benchmarks.applications.training import fit_best

__all__ = ["APPLICATIONS", "Bar", "Trained", "fit_best", "load", "missing_data"]
