"""A study that takes no time: two parts per seed, whose rows are known, and whose weights are stored and read."""

from unittest import mock

import numpy as np

from seqjax.report import page
from seqjax.study import runner, sections
from seqjax.study.measurement import Measurement
from seqjax.study.record import Record
from seqjax.study.rows import Part, row
from seqjax.study.settings import Settings
from seqjax.study.store import Store

SEEDS = 5
SETTINGS = Settings(
    cells=("elman", "lstm"), lengths=(4,), seeds=SEEDS, training_steps=1, sections=("training", "losses")
)
RECORD = Record(SETTINGS.to_json(), {"text": 64 * "a"}, {"jax": "1.0", "device": "cpu"})


def parts(settings):
    return [Part("training", cell, 4, seed) for cell in settings.cells for seed in range(settings.seeds)]


def measure(experiment, part):
    """The weights are trained once per part, and the rows are read from them."""
    store = experiment._store
    leaves = store.load_weights(part.name)
    if leaves is None:
        rng = np.random.default_rng([len(part.cell), part.seed])
        leaves = [rng.normal(size=4), rng.normal(size=(2, 3))]
        store.save_weights(part.name, leaves)
    yield row("held_out_loss", leaves[0][0], training_step=1)
    for t, value in enumerate(leaves[0]):
        yield row("train_loss", value, training_step=t)


def run(folder, *, resume=False, record=RECORD, measure=measure, settings=SETTINGS, warn=None, **options):
    """Measure in a folder, draw the page, and return whether the study is complete."""
    toy = Measurement("training", parts, lambda settings, part: 1.0, measure)
    with (
        mock.patch.object(sections, "MEASUREMENTS", (toy,)),
        mock.patch.object(runner, "_baselines", lambda experiment: {"unigram_entropy": 3.0}),
        Store(folder, warn) as store,
    ):
        store.open(record, resume=resume, overwrite=options.pop("overwrite", False), **options)
        complete = runner.run(
            settings, None, store, advance=lambda work: None, describe=lambda what: None, workers=2
        )
    page.render(folder)
    return complete


def run_until(folder, last, **options):
    """Measure as `run` does, with Ctrl-C after some parts; the parts, weights and page stay in the folder."""
    begun = []

    def interrupted(experiment, part):
        begun.append(part)
        if len(begun) > last:
            raise KeyboardInterrupt
        return measure(experiment, part)

    assert not run(folder, measure=interrupted, **options)
