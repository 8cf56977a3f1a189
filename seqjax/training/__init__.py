"""Training: one pure step of gradient descent, on one device or with the batch split over many."""

from seqjax.training.checkpoints import Checkpoints, DamagedCheckpointWarning
from seqjax.training.step import Metrics, TrainState, TrainStep, init_train_state, make_train_step

__all__ = [
    "Checkpoints",
    "DamagedCheckpointWarning",
    "Metrics",
    "TrainState",
    "TrainStep",
    "init_train_state",
    "make_train_step",
]
