"""Train an encoder and a decoder with attention, and decode with beam search.

The encoder reads the whole source, so it may be bidirectional. Its outputs are the memory of `with_memory`, and their
mean the context of `conditioned`. A source goes into the batch as `context`, with the batch axis first: values
`[B, S]` and a mask of the same shape. Decoding starts from a carry that `model.condition` made.

The task is to write a sequence of digits backward.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj
from seqjax.training import init_train_state, make_train_step

END, BEGIN, VOCABULARY, WIDTH = 0, 1, 12, 32


def make_batch(seed: int, batch_size: int = 64, longest: int = 6) -> sj.Batch:
    """Return sources of 3 to 6 digits and the same digits backward, with an end token."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, batch_size)
    digits = rng.integers(2, VOCABULARY, (batch_size, longest))
    targets = np.zeros((longest + 1, batch_size), int)
    for row, length in enumerate(lengths):
        digits[row, length:] = END
        targets[:length, row] = digits[row, :length][::-1]
    inputs = np.concatenate([np.full((1, batch_size), BEGIN), targets[:-1]])  # [T, B]
    source = sj.Source(digits, np.asarray(sj.lengths_to_mask(lengths, longest)).T)  # [B, S]
    return sj.Batch(inputs, targets, mask=sj.lengths_to_mask(lengths + 1, longest + 1), context=source)


def make_model() -> sj.Layer:
    """Return a GRU that attends to the outputs of a bidirectional GRU."""
    encoder = sj.serial(
        sj.pointwise(nn.Embed(VOCABULARY, WIDTH)), sj.bidirectional(sj.recurrent(sj.gru(WIDTH // 2)))
    )
    reader = sj.with_memory(
        sj.conditioned(sj.recurrent(sj.gru(WIDTH)), WIDTH), sj.additive_attention(WIDTH), memory_size=WIDTH
    )
    decoder = sj.serial(sj.pointwise(nn.Embed(VOCABULARY, WIDTH)), reader, sj.pointwise(nn.Dense(VOCABULARY)))
    return sj.encoder_decoder(encoder, decoder)


def main(steps: int = 400) -> float:
    """Train, decode, and return the share of sequences that are right."""
    model, optimizer = make_model(), optax.adam(1e-2)
    step = make_train_step(model, optax.softmax_cross_entropy_with_integer_labels, optimizer)
    state = init_train_state(model, optimizer, jax.random.key(0), make_batch(0).xs[0])
    for i in range(steps):
        state, metrics = step(state, make_batch(i))
        if i % 100 == 0:
            print(f"step {i:3}: loss {float(metrics.loss):.3f}")

    batch = make_batch(10**6)
    start = jnp.full((1, 64), BEGIN)  # the prompt, [P, B]
    carry = model.condition(state.params, model.initial_carry(state.params, start[0]), batch.context)
    beams = sj.beam_search(model, state.params, carry, start, beam_size=3, max_length=7, end_token=END)
    best, wanted = np.asarray(beams.tokens[:, :, 0]), np.asarray(batch.targets)  # [T, B]
    right = float(np.where(batch.mask, best == wanted, True).all(0).mean())
    print(f"{right:.0%} of the sequences are right; {batch.context.values[0]} -> {best[:, 0]}")
    return right


if __name__ == "__main__":
    main()
