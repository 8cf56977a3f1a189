"""Cells with a diagonal linear recurrence."""

import numpy as np


def lru(params, carry, xs):
    """Orvieto et al. 2023, arXiv:2303.06349: the recurrence with its normalisation, eq. 7, and the output map, eq. 1.

    The output is real: the real part of C x_k, as in the code of appendix A; D is a full matrix, as in eq. 1.
    """
    s = carry
    lam = np.exp(-np.exp(params.nu_log) + 1j * np.exp(params.theta_log))  # section 3.3
    b_real, b_imaginary = np.split(params.w_b, 2, axis=1)
    c_real, minus_c_imaginary = np.split(params.w_c, 2, axis=0)
    ys = []
    for u in xs:
        s = lam * s + np.exp(params.gamma_log) * (u @ (b_real + 1j * b_imaginary))  # eq. 7
        ys.append((s @ (c_real - 1j * minus_c_imaginary)).real + u @ params.w_d)  # eq. 1
    return s, np.stack(ys)


REFERENCES = {
    "lru": lru,
}
