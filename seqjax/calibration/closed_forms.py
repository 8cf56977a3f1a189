"""The closed forms behind the checks, and the document that lists them."""

from collections.abc import Iterable
from typing import NamedTuple

from seqjax.calibration.base import Check


class ClosedForm(NamedTuple):
    """One entry of the list of closed forms.

    Attributes:
        id: C1, C2, ...; the ids C15, C16, C18 to C20, C22 and C27 are not in use.
        title: the model or quantity.
        formula: the exact value, as Markdown with LaTeX.
        probes: the names of the functions that the checks compare with the formula.
        source: the publication of the formula or of its values; "elementary" for a derivation of a few lines.
    """

    id: str
    title: str
    formula: str
    probes: tuple[str, ...]
    source: str = "elementary"


CLOSED_FORMS = (
    ClosedForm(
        "C1",
        r"Scaled orthogonal network, $h_t = g\,Q h_{t-1}$",
        r"All Lyapunov exponents are $\ln g$. All singular values of T steps are $g^T$; the condition number is 1.",
        ("lyapunov_spectrum", "singular_values"),
    ),
    ClosedForm(
        "C2",
        "Linear network, $h_t = W h_{t-1}$",
        r"The Lyapunov exponents are $\ln |\lambda_i(W)|$. The singular values are those of the power $W^T$.",
        ("lyapunov_spectrum", "singular_values"),
    ),
    ClosedForm(
        "C3",
        r"tanh network at its fixed point, $h_t = \tanh(W h_{t-1})$ at $h = 0$",
        "The slopes are 1, so the singular values are those of C2.",
        ("singular_values",),
    ),
    ClosedForm(
        "C4",
        r"Jordan block of size 2 with eigenvalue $\lambda$",
        r"$\sigma_1(J^T) = \lambda^T \left(r + \sqrt{1 + r^2}\right)$ with $r = T / 2\lambda$.",
        ("singular_values",),
    ),
    ClosedForm(
        "C5",
        "Products of independent Gaussian matrices of size N, entries of variance 1/N",
        r"$\lambda_k = \frac12 \left[\ln \frac2N + \psi\left(\frac{N - k + 1}{2}\right)\right]$, "
        r"with $\psi$ the digamma function.",
        ("lyapunov_spectrum",),
        "Newman 1986, Communications in Mathematical Physics 103",
    ),
    ClosedForm(
        "C6",
        "Volumes",
        r"The sum of the exponents is the mean of $\ln |\det J_t|$. tanh network: "
        r"$\ln |\det W| + \sum_i \ln(1 - h_i^2)$. DeltaNet with V value columns: $V\,E \ln |1 - \beta_t|$.",
        ("lyapunov_spectrum",),
        "elementary (Liouville)",
    ),
    ClosedForm(
        "C7",
        "Frozen gates",
        r"LSTM: $\partial c_T / \partial c_t = \prod f$. GRU: $\partial h_T / \partial h_t = \prod z$. "
        r"GLA: the exponents are the means of $\ln \alpha_t$. SSD: the exponents are the means of $A\,\Delta_t$.",
        ("gradient_profile", "lyapunov_spectrum"),
    ),
    ClosedForm(
        "C8",
        "Forget bias b",
        r"The e-folding length is $-1 / \ln \sigma(b)$ steps. Chrono initialization: its mean for a time constant "
        r"uniform from 1 to $T_{\max} - 1$.",
        ("gradient_profile", "fit_decay", "gate_statistics"),
        "Tallec and Ollivier 2018, arXiv:1804.11188",
    ),
    ClosedForm(
        "C9",
        "LRU with eigenvalues uniform on a ring",
        r"$E |\lambda|^{2T} = \frac{r_{\max}^{2T+2} - r_{\min}^{2T+2}}{(T + 1)(r_{\max}^2 - r_{\min}^2)}$.",
        ("terminal_influence",),
        "Orvieto et al. 2023, arXiv:2303.06349 (the ring)",
    ),
    ClosedForm(
        "C10",
        r"Curse of memory, $h_t = \lambda h_{t-1} + x_t$ with inputs of autocorrelation $\rho^{\mathrm{lag}}$",
        r"$E (dh / d\lambda)^2 = \frac{(1 + \lambda^2)(1 - \lambda^2 \rho^2) + 2 (1 - \lambda^2) \lambda \rho}"
        r"{(1 - \lambda^2)^3 (1 - \lambda \rho)^2}$.",
        ("memory_sensitivity",),
        "Zucchet and Orvieto 2024, arXiv:2405.21064",
    ),
    ClosedForm(
        "C11",
        r"Stationary linear model, $h_t = \lambda h_{t-1} + x_t$ with the loss $h_T^2 / 2$",
        r"The relative bias of truncation after K steps is $\lambda^{2K}$. The signal to noise ratio is "
        r"$\lambda^2 / (1 + 2 \lambda^2)$.",
        ("truncation_bias", "truncated_bptt", "per_example_gradients", "signal_to_noise"),
    ),
    ClosedForm(
        "C12",
        "Influence balancing, 23 units",
        r"$dh_1 / d\theta = \sum_{j < K} (A^j s)_1$: -6 in full, with the wrong sign for every window up to K = 40.",
        ("truncated_bptt", "truncation_bias"),
        "Tallec and Ollivier 2017, arXiv:1705.08209",
    ),
    ClosedForm(
        "C13",
        "Henon map, a = 1.4, b = .3",
        r"The exponents are .41922 and -1.62319; their sum is $\ln .3$.",
        ("lyapunov_spectrum",),
        "published values; the sum is elementary",
    ),
    ClosedForm(
        "C14",
        r"Lorenz system, $\sigma = 10$, $\rho = 28$, $\beta = 8/3$",
        "The exponents are .9056, 0 and -14.5723; their sum is the divergence of the field, $-41/3$.",
        ("lyapunov_spectrum",),
        "published values; the sum is elementary",
    ),
    ClosedForm(
        "C17",
        "Logistic map, r = 4; tent map of slope 1.7",
        r"The exponents are $\ln 2$ and $\ln 1.7$.",
        ("lyapunov_spectrum",),
    ),
    ClosedForm(
        "C21",
        r"Mean field of wide random tanh networks, weights of variance $\sigma_w^2 / N$",
        r"The squared gradient grows by $\chi = \sigma_w^2\,E[\tanh'(\sqrt q z)^2]$ per step, with "
        r"$q = \sigma_w^2\,E[\tanh^2(\sqrt q z)]$ and z standard normal.",
        ("terminal_influence",),
        "Poole et al. 2016, arXiv:1606.05340",
    ),
    ClosedForm(
        "C23",
        "Copying task with a delay of T steps, loss of the memoryless baseline",
        r"$10 \ln 8 / (T + 20)$.",
        ("copying",),
        "Arjovsky et al. 2016, arXiv:1511.06464",
    ),
    ClosedForm(
        "C24",
        "Adding task, loss of the memoryless baseline",
        "$1/6$, the variance of the sum of two uniform numbers.",
        ("adding",),
    ),
    ClosedForm(
        "C25",
        "Revolve: forward steps of an optimal checkpoint schedule for T steps and s slots",
        r"$r T - \binom{s + r}{s + 1}$ with the smallest r such that $\binom{s + r}{s} \ge T$.",
        ("ops.revolve.schedule",),
        "Griewank and Walther 2000, ACM TOMS 26",
    ),
    ClosedForm(
        "C26",
        "Number formats with p digits of precision",
        r"The longest time constant is $-1 / \ln(1 - 2^{-p})$. A decay of .9 leaves the normal range of float32 at lag "
        r"829; its log norm at lag n is $n \ln .9$.",
        ("longest_time_constant", "unrepresentable_share", "gradient_profile"),
    ),
    ClosedForm(
        "C28",
        "Identities between two computations",
        r"$\langle J v, w \rangle = \langle v, J^\top w \rangle$; parallel methods equal the loop; "
        "Newton's method takes 1 iteration on a linear cell and at most T on any cell; "
        "forward and backward exponents agree; RTRL equals backpropagation; "
        r"$\lVert J \rVert_F^2 = E \lVert J v \rVert^2$.",
        ("methods", "parallelizability", "lyapunov_spectrum", "rtrl", "terminal_influence"),
    ),
)

INTRODUCTION = """\
# Closed forms

`seqjax check` compares probes, estimators and algorithms with quantities that are known exactly. Each closed form has
an id; the checks of the command, of `seqjax.calibration` and of the report carry that id. The exact value is computed
by NumPy in float64 from the formula, the measured value by the function under test in the dtype of the calibration.

`make docs` generates this page from `seqjax/calibration/closed_forms.py` and the checks beside it. The ids C15, C16,
C18 to C20, C22 and C27 are not in use.
"""


def page(checks: Iterable[Check]) -> str:
    """Return the document that lists all closed forms with their checks and tolerances, as Markdown."""
    checks = tuple(checks)
    return INTRODUCTION + "".join(
        _section(form, [c for c in checks if c.id == form.id]) for form in CLOSED_FORMS
    )


def _section(form: ClosedForm, checks: list[Check]) -> str:
    lines = [f"\n## {form.id}: {form.title}\n", form.formula, ""]
    lines += [f"Compared with {', '.join(f'`{probe}`' for probe in form.probes)}. Source: {form.source}.", ""]
    lines += ["| check | tolerance in float64 | in float32 | error |", "| --- | --- | --- | --- |"]
    for check in checks:
        kind = "relative" if check.relative else "absolute"
        quantity = check.quantity.replace("|", "\\|")
        lines.append(f"| {quantity} | {check.float64:.2g} | {check.float32:.2g} | {kind} |")
    return "\n".join(lines) + "\n"
