"""Tokens outside of the vocabulary are named; batches are a function of the step."""

import logging

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import seqjax as sj
from seqjax.training import evaluation, fit, init_train_state, make_train_step

MODEL = sj.serial(sj.pointwise(nn.Embed(5, 4)), sj.recurrent(sj.elman(4)), sj.pointwise(nn.Dense(5)))
LOSS, SGD = optax.softmax_cross_entropy_with_integer_labels, optax.sgd(0.1)
TOKENS = np.arange(24).reshape(6, 4) % 5


def started():
    return make_train_step(MODEL, LOSS, SGD), init_train_state(MODEL, SGD, jax.random.key(0), TOKENS[0])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("which", "what"), [("xs", "embedding has 5 rows"), ("targets", "outputs have 5 classes")]
)
@pytest.mark.fast_cases(2)
def test_tokens_outside_of_the_vocabulary_are_named(which, what, masked, caplog):
    wrong = TOKENS.copy()
    wrong[2, 1] = 300
    mask = np.ones((6, 4), bool)
    if masked:
        mask[2, 1] = False  # then the token does not happen
    batch = sj.Batch(TOKENS, TOKENS, mask=mask)._replace(**{which: wrong})
    step, state = started()
    if masked:
        fit(step, state, lambda at: batch, num_steps=2, progress=False)
        assert "holds token" not in caplog.text
        return
    with pytest.raises(
        FloatingPointError, match=rf"batch\.{which} holds token 300, the {what}\. Make the vocab"
    ):
        with caplog.at_level(logging.WARNING):
            fit(step, state, lambda at: batch, num_steps=9, max_skipped=2, progress=False)
    assert caplog.text.count(f"; batch.{which} holds token 300, the {what}") == 2


class Rows:
    def __getitem__(self, index):
        return index


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (iter([1]), r"got list_iterator\. .*loader of seqjax\.datasets"),
        ((n for n in range(3)), r"got generator"),
        ([1, 2], r"got list\. .* batches\[step % len\(batches\)\]"),
        (Rows(), r"got Rows\. .*picks its rows by the step"),
        ({1, 2}, "got set"),
        (Rows, "got Rows"),
    ],
)
def test_batches_that_are_no_function_of_the_step_are_refused(batches, message):
    step, state = started()
    with pytest.raises(TypeError, match=r"fit\(batches\): expected a function step -> Batch, " + message):
        fit(step, state, batches, num_steps=2, progress=False)
    with pytest.raises(TypeError, match=r"evaluation\(batches\): expected a function"):
        evaluation(MODEL, LOSS, batches)
