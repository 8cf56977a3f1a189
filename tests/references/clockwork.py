"""The clockwork network: Koutnik et al. 2014, arXiv:1402.3511, eq. 1 and section 3."""

import numpy as np

PERIODS = (1, 2, 4)


def clockwork(params, carry, xs):
    """Module by module: at step t those with t mod T_i = 0 run, reading modules that are as slow or slower."""
    h, count = carry.h, carry.position
    sizes = [len(part) for part in np.array_split(np.zeros(h.shape[-1]), len(PERIODS))]
    ends = np.cumsum(sizes)
    modules = [slice(end - size, end) for end, size in zip(ends, sizes)]
    ys = []
    for x in xs:
        new = h.copy()
        for row in range(len(h)):
            for i, module in enumerate(modules):
                if count[row] % PERIODS[i] == 0:
                    z = x[row] @ params.w_x[:, module] + params.b[module]
                    for slower in modules[i:]:
                        z = z + h[row, slower] @ params.w_h[slower, module]
                    new[row, module] = np.tanh(z)
        h, count = new, (count + 1) % 4
        ys.append(h)
    return (h, count), np.stack(ys)


REFERENCES = {"clockwork": clockwork}
