"""Train an encoder and decoder and print the digest of the state: ``python conditioned_run.py FOLDER STEP``.

The process kills itself by SIGKILL when it is asked for the batch of STEP; -1 for never.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax

import seqjax as sj
from seqjax.training import Checkpoints, fit, init_train_state, make_train_step

T, B, S, V, H = 4, 4, 3, 5, 8


def batches(step):
    if step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    random = np.random.default_rng(step)
    tokens, source = random.integers(0, V, (T + 1, B)), random.integers(0, V, (B, S))
    mask = np.arange(S) < random.integers(1, S + 1, (B, 1))
    return sj.Batch(tokens[:-1], tokens[1:], context=sj.Source(source, mask))


def main():
    encoder = sj.serial(sj.pointwise(nn.Embed(V, H)), sj.recurrent(sj.gru(H)), sj.dropout(0.3))
    reader = sj.with_memory(sj.recurrent(sj.gru(H)), sj.additive_attention(H), memory_size=H, feed=True)
    decoder = sj.serial(sj.pointwise(nn.Embed(V, H)), reader, sj.pointwise(nn.Dense(V)))
    model, optimizer = sj.encoder_decoder(encoder, decoder), optax.adam(1e-2)
    step = make_train_step(model, optax.softmax_cross_entropy_with_integer_labels, optimizer)
    state = init_train_state(model, optimizer, jax.random.key(0), jax.ShapeDtypeStruct((B,), "int32"))
    with Checkpoints(Path(sys.argv[1])) as checkpoints:
        state = fit(step, state, batches, num_steps=30, checkpoints=checkpoints, checkpoint_every=4).state
    leaves = jax.tree.leaves(jax.device_get(state._replace(key=None)))
    print(
        hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest(), int(state.step)
    )


main()
