"""Training: one pure step of gradient descent, on one device or many; the loop around it; checkpoints."""

from seqjax.training.checkpoints import Checkpoints, DamagedCheckpointWarning
from seqjax.training.evaluation import evaluation
from seqjax.training.fit import EarlyStop, Fitted, fit
from seqjax.training.metrics_log import MetricsLog
from seqjax.training.step import Metrics, TrainState, TrainStep, init_train_state, make_train_step

__all__ = [
    "Checkpoints",
    "DamagedCheckpointWarning",
    "EarlyStop",
    "Fitted",
    "Metrics",
    "MetricsLog",
    "TrainState",
    "TrainStep",
    "evaluation",
    "fit",
    "init_train_state",
    "make_train_step",
]
