"""Take the weights of a PyTorch model, measure its gradients, and give trained weights back.

A `state_dict`, or a safetensors file, is enough: PyTorch itself need not be installed. `prefix` chooses the recurrent
layer in a larger model; what stands around it, here a linear head, is two arrays. The imported layer is a layer like
any other: it runs under every method, trains, and has a gradient profile.

Imported layers are time-major, `[T, B, D]`, also where the PyTorch layer has ``batch_first=True``. A module in memory
is taken as it is: ``sj.interop.from_torch(module)``.
"""

import tempfile
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import save_file

import seqjax as sj
from seqjax.training import init_train_state, make_train_step

IN, HIDDEN, OUT = 3, 8, 2


def write_model(path: Path) -> dict[str, np.ndarray]:
    """Write the file of ``Model(rnn=nn.LSTM(3, 8), head=nn.Linear(8, 2))`` and return its arrays."""
    rng = np.random.default_rng(0)
    shapes = {
        "rnn.weight_ih_l0": (4 * HIDDEN, IN),
        "rnn.weight_hh_l0": (4 * HIDDEN, HIDDEN),
        "rnn.bias_ih_l0": (4 * HIDDEN,),
        "rnn.bias_hh_l0": (4 * HIDDEN,),
        "head.weight": (OUT, HIDDEN),
        "head.bias": (OUT,),
    }
    arrays = {name: rng.uniform(-0.3, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(arrays, path)
    return arrays


def pytorch(arrays: dict[str, np.ndarray], xs: np.ndarray) -> np.ndarray:
    """Compute what PyTorch does, as its documentation of `nn.LSTM` and `nn.Linear` says."""
    h = c = np.zeros((xs.shape[1], HIDDEN), np.float32)
    ys = []
    for x in xs:
        z = x @ arrays["rnn.weight_ih_l0"].T + arrays["rnn.bias_ih_l0"]
        z = z + h @ arrays["rnn.weight_hh_l0"].T + arrays["rnn.bias_hh_l0"]
        i, f, g, o = np.split(z, 4, axis=-1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        ys.append(h @ arrays["head.weight"].T + arrays["head.bias"])
    return np.stack(ys)


def main(length: int = 60, steps: int = 3) -> float:
    """Import, compare, measure, train and export; return by how much the outputs differ from those of PyTorch."""
    xs = np.random.default_rng(1).normal(size=(length, 4, IN)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        arrays = write_model(path)
        lstm, weights = sj.interop.from_torch(path, prefix="rnn")

    model = sj.serial(lstm, sj.pointwise(nn.Dense(OUT)))
    head = {"bias": jnp.asarray(arrays["head.bias"]), "kernel": jnp.asarray(arrays["head.weight"].T)}
    params = (weights, head)  # one entry per layer, as model.init returns them
    ys = model.unroll(params, None, xs)[1]
    difference = float(np.abs(ys - pytorch(arrays, xs)).max())
    print(f"the outputs differ from those of PyTorch by {difference:.0e}")

    batch = sj.Batch(xs, jnp.zeros((length, 4, OUT)))
    last = sj.gradients.last_step(optax.l2_loss)
    profile = sj.probes.gradient_profile(sj.probes.bind(model, params), last, batch)
    decay = sj.probes.fit_decay(profile.log_norm[0].c[::-1, 0])
    print(f"the gradient by c falls to 1/e in {float(decay.exponential_length):.1f} steps")

    optimizer = optax.adam(1e-2)
    state = init_train_state(model, optimizer, jax.random.key(0), xs[0], params=params)
    step = make_train_step(model, optax.l2_loss, optimizer)
    for _ in range(steps):
        state, metrics = step(state, batch)
    back = sj.interop.torch_state_dict(lstm, state.params[0])
    print(f"the loss is {float(metrics.loss):.4f}; {sorted(back)} go back into PyTorch")
    return difference


if __name__ == "__main__":
    main()
