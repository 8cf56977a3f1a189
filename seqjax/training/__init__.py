"""Training: one pure step of gradient descent, on one device or many; the loop around it; checkpoints."""

from seqjax.training.checkpoints import Checkpoints, DamagedCheckpointWarning
from seqjax.training.evaluation import evaluation
from seqjax.training.fit import EarlyStop, Fitted, fit
from seqjax.training.metrics import Metrics, gradient_norms, update_norms
from seqjax.training.metrics_log import MetricsLog
from seqjax.training.state import TrainState, init_train_state
from seqjax.training.step import TrainStep, make_train_step

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
    "gradient_norms",
    "init_train_state",
    "make_train_step",
    "update_norms",
]
