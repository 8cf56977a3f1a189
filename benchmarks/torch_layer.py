"""The same layers in eager PyTorch: on all cores, or on the GPU where JAX uses one."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Arm

LEARNING_RATE = 1e-3


def to_native(params: Any) -> dict[str, jax.Array]:
    """Return params of seqjax under PyTorch's names: gates have the same order, matrices are transposed."""
    native = {"weight_ih_l0": params.w_x.T, "weight_hh_l0": params.w_h.T, "bias_ih_l0": params.b}
    return native | ({"bias_hh_l0": params.b_h} if hasattr(params, "b_h") else {})


def torch_layer(native: dict[str, jax.Array]) -> Any:
    """Return an ``nn.LSTM`` or ``nn.GRU``, by the number of gates.

    The second bias of PyTorch's LSTM is redundant: it is set to zero and not trained.
    """
    import torch

    set_up()
    rows, input_size = native["weight_ih_l0"].shape
    hidden_size = native["weight_hh_l0"].shape[1]
    module = (torch.nn.LSTM if rows == 4 * hidden_size else torch.nn.GRU)(input_size, hidden_size)
    values = {name: torch.from_numpy(np.array(value)) for name, value in native.items()}
    if "bias_hh_l0" not in values:
        values["bias_hh_l0"] = torch.zeros(rows)
        module.bias_hh_l0.requires_grad_(False)
    module.load_state_dict(values)
    return module.to(device())


def set_up() -> None:
    """Use all cores, and multiply in full float32 as all arms do."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def device() -> str:
    """Return PyTorch's name of the device that JAX uses."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def finish(value: Any) -> Any:
    """Return the value after the GPU, whose calls are asynchronous, has computed it."""
    import torch

    if device() == "cuda":
        torch.cuda.synchronize()
    return value


def _trained(module: Any) -> dict[str, Any]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _loss(module: Any, xs: Any, weights: Any) -> Any:
    return (weights * module(xs)[0].square()).mean()


def _inputs(inputs: Sequence[np.ndarray]) -> tuple:
    import torch

    return finish(tuple(torch.from_numpy(a).to(device()) for a in inputs))


def gradient_arm(native: dict[str, jax.Array]) -> tuple[Arm, Callable[[Any], Any]]:
    """Return the arm of value and gradient with respect to params and inputs, and a function that reads its result."""
    import torch

    module = torch_layer(native)
    params = _trained(module)

    def run(inputs: tuple) -> Any:
        xs, weights = inputs
        loss = _loss(module, xs, weights)
        *grads, d_xs = torch.autograd.grad(loss, [*params.values(), xs])
        return finish((loss, dict(zip(params, grads)), d_xs))

    def prepare(inputs: Sequence[np.ndarray]) -> tuple:
        xs, weights = _inputs(inputs)
        return xs.requires_grad_(), weights

    return Arm("torch", run, prepare), as_jax


def train_arm(native: dict[str, jax.Array]) -> tuple[Arm, Callable[[Any], Any]]:
    """Return the arm of a step of Adam, and a function that reads ``(loss, gradients, params after)`` from its result.

    Gradients are computed from Adam's first moments.
    """
    import torch

    module = torch_layer(native)
    params = _trained(module)
    optimizer = torch.optim.Adam(params.values(), LEARNING_RATE)

    def run(inputs: tuple) -> Any:
        optimizer.zero_grad()
        loss = _loss(module, *inputs)
        loss.backward()
        optimizer.step()
        return finish(loss)

    def read(loss: Any) -> Any:
        moments = {name: optimizer.state[p]["exp_avg"] / (1 - 0.9) for name, p in params.items()}
        return as_jax((loss, moments, params))

    return Arm("torch", run, _inputs), read


def as_jax(tree: Any) -> Any:
    """Copy a tree of tensors to JAX arrays."""
    return jax.tree.map(lambda a: jnp.array(a.detach().cpu().numpy(), copy=True), tree)
