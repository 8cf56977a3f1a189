"""Training: one pure step of gradient descent, on one device or with the batch split over many."""

from seqjax.training.checkpoints import Checkpoints, DamagedCheckpointWarning
from seqjax.training.metrics import Metrics, gradient_norms, update_norms
from seqjax.training.state import TrainState, init_train_state
from seqjax.training.step import TrainStep, make_train_step

__all__ = [
    "Checkpoints",
    "DamagedCheckpointWarning",
    "Metrics",
    "TrainState",
    "TrainStep",
    "gradient_norms",
    "init_train_state",
    "make_train_step",
    "update_norms",
]
