"""Training: one pure step of gradient descent, on one device or with the batch split over many."""

from seqjax.training.step import Metrics, TrainState, TrainStep, init_train_state, make_train_step

__all__ = ["Metrics", "TrainState", "TrainStep", "init_train_state", "make_train_step"]
