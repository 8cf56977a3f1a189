"""Train a character model on a stream with truncated backpropagation.

`streams` cuts a text into rows that go on from batch to batch. `truncated_bptt(window)` carries the state of the model
from one batch to the next and cuts the gradient at the border of each window, so memory does not grow with the text.
`restart` sends a share of the rows back to the initial carry: the model is evaluated from there, so it must have seen
it in training.

`fit` is the loop around the step, with evaluation and checkpoints. `generate` samples from the trained model.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import seqjax as sj
from seqjax.training import evaluation, fit, init_train_state, make_train_step


def main(steps: int = 200) -> float:
    """Train on Moby-Dick, print a sample, and return the held-out loss in nats per character."""
    train, held_out = sj.datasets.split(sj.datasets.moby_dick())
    batches = sj.datasets.streams(train, batch_size=16, length=64, restart=1 / 16)
    tests = sj.datasets.windows(held_out, batch_size=16, length=64)
    model = sj.serial(sj.pointwise(nn.Embed(256, 32)), sj.recurrent(sj.lstm(64)), sj.pointwise(nn.Dense(256)))
    loss = optax.softmax_cross_entropy_with_integer_labels
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    estimator = sj.truncated_bptt(32)
    step = make_train_step(model, loss, optimizer, estimator=estimator)
    state = init_train_state(model, optimizer, jax.random.key(0), batches(0).xs[0], estimator=estimator)
    evaluate = evaluation(model, loss, tests, num_batches=2)
    fitted = fit(step, state, batches, num_steps=steps, evaluate=evaluate, eval_every=max(1, steps // 4))

    params = fitted.state.params
    prompt = jnp.asarray(list(b"The whale "))[:, None]  # [P, B]
    sampler = sj.categorical(top_p=0.9)
    made = sj.generate(model, params, None, prompt, max_length=80, sampler=sampler, key=jax.random.key(1))
    print(f"held-out loss {fitted.best_value:.2f} nats per character")
    print(bytes(made.tokens[:, 0].tolist()).decode(errors="replace"))
    return fitted.best_value


if __name__ == "__main__":
    main()
