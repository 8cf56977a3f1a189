"""The models of `benchmarks.models` in eager PyTorch, with the weights of seqjax: ``tokens [T, B] -> logits``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.griffin_weights import Sizes, is_attention
from benchmarks.timing import Arm
from benchmarks.torch_layer import LEARNING_RATE, device, finish, set_up


def train_arm(model: nn.Module) -> Arm:
    """Return the arm of a step of Adam on the mean cross-entropy; each call continues from the last."""
    set_up()
    model.to(device())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], LEARNING_RATE)

    def run(inputs: tuple) -> Any:
        tokens, targets = inputs
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()  # which frees the gradients
        return finish(loss.detach())

    def prepare(inputs: Sequence[np.ndarray]) -> tuple:
        return finish(tuple(torch.from_numpy(a).long().to(device()) for a in inputs))

    return Arm("torch", run, prepare)


def peak_bytes(arm: Arm, inputs: Sequence[np.ndarray]) -> int:
    """Return the largest amount of memory that a step takes beyond what is allocated before it; the step trains."""
    prepared = arm.prepare(inputs)
    if device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        arm.run(prepared)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        arm.run(prepared)
    events = profile.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    return int(np.max(np.cumsum([nbytes for _, nbytes in sorted(changes)]), initial=0))


def tensor(array: Any) -> torch.Tensor:
    """Copy an array."""
    return torch.from_numpy(np.array(array))


class ByteLSTM(nn.Module):
    """Embedding, the layers that seqjax exported, and head; the second bias of each layer stays zero."""

    def __init__(self, layers: nn.LSTM, embedding: Any, head: Any) -> None:
        super().__init__()
        size, width = embedding["embedding"].shape
        self.embed, self.layers, self.head = nn.Embedding(size, width), layers, nn.Linear(width, size)
        for name, param in layers.named_parameters():
            param.requires_grad_(not name.startswith("bias_hh"))
        self.embed.load_state_dict({"weight": tensor(embedding["embedding"])})
        self.head.load_state_dict({"weight": tensor(head["kernel"].T), "bias": tensor(head["bias"])})

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embed(tokens))[0])


def griffin(sizes: Sizes, named: dict[str, Any]) -> nn.Module:
    """Return the model with weights by the names of `benchmarks.griffin_weights`."""

    def one(name: str, array: Any) -> tuple[str, torch.Tensor]:
        module, _, leaf = name.replace("/", ".").rpartition(".")
        if leaf == "kernel":
            array = array.T[:, None] if module.endswith("conv") else array.T
        leaf = "weight" if leaf in ("kernel", "scale", "embedding") else leaf
        return f"{module}.{leaf}", tensor(array)

    model = Griffin(sizes)
    model.load_state_dict(dict(one(name, array) for name, array in named.items()))
    return model


# ---------------------------------------------------------------- Griffin; x is [B, T, D]


def dense(inputs: int, outputs: int) -> nn.Linear:
    """Return a map without a bias."""
    return nn.Linear(inputs, outputs, bias=False)


def norm(width: int) -> nn.RMSNorm:
    """Return the RMSNorm of flax."""
    return nn.RMSNorm(width, eps=1e-6)


def gelu(x: torch.Tensor) -> torch.Tensor:
    """Return the approximation that JAX takes by default."""
    return F.gelu(x, approximate="tanh")


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Turn the pairs of ``[B, N, T, K]`` by their positions."""
    theta = 10000.0 ** (-torch.arange(0, x.shape[-1], 2, device=x.device) / x.shape[-1])
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * theta
    cos, sin, even, odd = torch.cos(angle), torch.sin(angle), x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


class Recurrent(nn.Module):
    """Norm, convolution and RG-LRU, with a gate."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, size = sizes.width, sizes.channels
        self.norm, self.conv = norm(width), nn.Conv1d(size, size, 4, padding=3, groups=size)
        self.add_module("in", dense(width, size))
        self.r, self.i, self.a_logit = (
            nn.Linear(size, size),
            nn.Linear(size, size),
            nn.Parameter(torch.ones(size)),
        )
        self.gate, self.out = dense(width, size), dense(size, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        u = self.get_submodule("in")(x)
        u = self.conv(u.mT)[..., : x.shape[1]].mT
        log_a = 8 * torch.sigmoid(self.r(u)) * F.logsigmoid(self.a_logit)
        a, b = torch.exp(log_a), torch.sqrt(-torch.expm1(2 * log_a)) * torch.sigmoid(self.i(u)) * u
        h, hs = torch.zeros_like(b[:, 0]), []
        for a_t, b_t in zip(a.unbind(1), b.unbind(1)):
            h = a_t * h + b_t
            hs.append(h)
        return self.out(torch.stack(hs, 1) * gelu(self.gate(x)))


class Attention(nn.Module):
    """Norm and local attention with one head of keys and values."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.size, self.window = sizes.width // sizes.num_heads, sizes.window
        self.norm, self.q, self.out = norm(sizes.width), *(dense(sizes.width, sizes.width) for _ in range(2))
        self.k, self.v = (dense(sizes.width, self.size) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        q, k, v = (m(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for m in (self.q, self.k, self.v))
        step = torch.arange(x.shape[1], device=x.device)
        distance = step[:, None] - step
        sees = (distance >= 0) & (distance < self.window)
        k, v = (a.expand(-1, q.shape[1], -1, -1) for a in (rotate(k), v))
        o = F.scaled_dot_product_attention(rotate(q), k, v, attn_mask=sees)
        return self.out(o.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """Norm and a gated hidden layer."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.norm, self.down = norm(width), dense(3 * width, width)
        self.up, self.gate = (dense(width, 3 * width) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return self.down(gelu(self.up(x)) * self.gate(x))


class Griffin(nn.Module):
    """Embedding, blocks, norm and head."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embed, self.head = (
            nn.Embedding(sizes.vocabulary, sizes.width),
            nn.Linear(sizes.width, sizes.vocabulary),
        )
        self.norm, self.branches = norm(sizes.width), []
        for i in range(sizes.depth):
            self.branches += [(Attention if is_attention(i) else Recurrent)(sizes), FeedForward(sizes)]
            self.add_module(f"mix_{i}", self.branches[-2])
            self.add_module(f"ff_{i}", self.branches[-1])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens.T)
        for branch in self.branches:
            x = x + branch(x)
        return self.head(self.norm(x)).transpose(0, 1)
