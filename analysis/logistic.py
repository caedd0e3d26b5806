"""Multinomial logistic regression with a certificate: how far, at most, the objective is above its minimum.

The objective is scikit-learn's, divided by C n: F(W, b) = mean log-loss + |W|^2 / (2 C n), the intercepts b free of penalty. Minimised over b it is
1 / (C n)-strongly convex in W, so at the best b for a W, F - min F <= C n / 2 |dF/dW|^2. Features are centred and L-BFGS works on W L, where L L^T is
the Hessian at W = 0 (up to the classes' mixing): both change nothing but the path, which takes a tenth of the steps.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn.functional import one_hot

# Pairs that L-BFGS remembers, Newton steps for the intercepts, iterations between two looks at the certificate, and how many rows for each feature
# the Hessian is of.
MEMORY = 20
NEWTON_STEPS = 20
LOOK_EVERY = 5
ROWS = 2


@dataclass(frozen=True)
class Probe:
    """A fitted classifier: logits are (x - mean) W^T + b, with x - mean divided by `scale` where features were standardised.

    `fitted_accuracy` is that on the features it was fitted on. `gap` bounds how far the objective is above its minimum; `certified`, that this is no more than was asked for.
    """

    weight_kd: Tensor
    bias_k: Tensor
    mean_d: Tensor
    scale_d: Tensor | None
    fitted_accuracy: float
    objective: float
    gap: float
    iterations: int
    certified: bool

    def logits(self, features_nd: Tensor) -> Tensor:
        """Logits (N, K) of features (N, D), float32."""
        scaled = features_nd - self.mean_d
        return torch.addmm(self.bias_k, scaled if self.scale_d is None else scaled / self.scale_d, self.weight_kd.T)

    def accuracy(self, features_nd: Tensor, labels_n: Tensor) -> float:
        """The fraction of features that are classified as their labels say."""
        return (self.logits(features_nd).argmax(1) == labels_n).double().mean().item()


class Objective:
    """The objective on centred features (N, D) float32, as a function of (W L, b) in one vector; sums over images are float64."""

    def __init__(self, features_nd: Tensor, labels_n: Tensor, classes: int, penalty: float):
        self.x_nd, self.labels_n, self.penalty = features_nd, labels_n, penalty
        self.n, self.d, self.k = len(features_nd), features_nd.shape[1], classes
        self.targets_nk = one_hot(labels_n, classes).float()
        self.shares_k = self.targets_nk.mean(0, dtype=torch.float64)
        self.scores_nk = features_nd.new_zeros(self.n, classes)
        self.gradient_kd: NDArray[np.float64] = np.zeros((classes, self.d))
        self.value = np.inf
        self.factor_dd = self.factorise()

    def factorise(self) -> Tensor:
        """L (D, D), lower triangular: the Cholesky factor of the features' second moments / K + penalty, of some of the rows where there are many."""
        rows = self.x_nd[:: max(1, self.n // (ROWS * self.d))]
        moments = (rows.T @ rows).double() / (len(rows) * self.k)
        moments.diagonal().add_(self.penalty + 1e-7 * moments.diagonal().mean())
        return torch.linalg.cholesky(moments).float()

    def split(self, point: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """W (K, D) and b (K,) of a vector."""
        weight = torch.linalg.solve_triangular(
            self.factor_dd.T, self.tensor(point[: self.k * self.d].reshape(self.k, self.d)).T, upper=True
        ).T
        return weight.double().cpu().numpy(), point[self.k * self.d :]

    def __call__(self, point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Value and gradient."""
        weight, bias = self.split(point)
        torch.mm(self.x_nd, self.tensor(weight).T, out=self.scores_nk)
        log_nk = torch.log_softmax(self.scores_nk + self.tensor(bias), 1)
        self.value = self.loss(log_nk) + self.penalty / 2 * float((weight**2).sum())
        rest_nk = log_nk.exp_().sub_(self.targets_nk).div_(self.n)
        self.gradient_kd = (rest_nk.T @ self.x_nd).double().cpu().numpy() + self.penalty * weight
        slope = torch.linalg.solve_triangular(self.factor_dd, self.tensor(self.gradient_kd).T, upper=False).T.double().cpu().numpy()
        return self.value, np.concatenate([slope.ravel(), rest_nk.sum(0, dtype=torch.float64).cpu().numpy()])

    def tensor(self, values: NDArray[np.float64]) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=self.x_nd.device)

    def loss(self, log_nk: Tensor) -> float:
        return -log_nk.gather(1, self.labels_n[:, None]).mean(dtype=torch.float64).item()

    def certify(self, point: NDArray[np.float64]) -> tuple[float, float, NDArray[np.float64]]:
        """The value with the best intercepts for a point's W, a bound on how far it is above the minimum, and those intercepts.

        Intercepts by Newton's method, in float64.
        """
        weight, bias = self.split(point)
        scores = (self.x_nd @ self.tensor(weight).T).double()
        b = torch.as_tensor(bias, dtype=torch.float64, device=scores.device).clone()
        for _ in range(NEWTON_STEPS):
            p_nk = torch.softmax(scores + b, 1)
            rest_k = p_nk.mean(0) - self.shares_k
            if rest_k.abs().max() < 1e-13:
                break
            b -= torch.linalg.pinv(torch.diag(p_nk.mean(0)) - p_nk.T @ p_nk / self.n, hermitian=True) @ rest_k
        log_nk = torch.log_softmax(scores + b, 1)
        rest_nk = ((log_nk.exp() - self.targets_nk) / self.n).to(self.x_nd.dtype)
        gradient = (rest_nk.T @ self.x_nd).double().cpu().numpy() + self.penalty * weight
        value = self.loss(log_nk) + self.penalty / 2 * float((weight**2).sum())
        return value, float((gradient**2).sum()) / (2 * self.penalty), b.cpu().numpy()


class _Certified(Exception):
    """The certificate is good enough."""


def fit(
    features_nd: Tensor, labels_n: Tensor, classes: int, C: float = 1.0, *, standardise: bool = False, tolerance: float = 0.01,
    max_iterations: int = 2000,
) -> Probe:  # fmt: skip
    """Fits a probe to features (N, D) float32, which are changed (centred, and divided by their deviations where `standardise`), and labels (N,) in 0..classes-1.

    It ends when the objective is certified to be at most a share `tolerance` of itself above its minimum, or after so many iterations (then `certified`
    is false, and `gap` still bounds the distance). L-BFGS (Byrd et al. 1995) in float64 with products in float32. ValueError where there are no rows.
    """
    if not len(features_nd):
        raise ValueError("a probe needs at least one row")
    mean_d = features_nd.mean(0, dtype=torch.float64).float()
    features_nd.sub_(mean_d)
    scale_d = features_nd.square().mean(0, dtype=torch.float64).sqrt().float() if standardise else None
    if scale_d is not None:
        scale_d = torch.where(scale_d > 0, scale_d, 1.0)
        features_nd.div_(scale_d)
    objective = Objective(features_nd, labels_n, classes, 1 / (C * len(features_nd)))
    start = np.zeros(classes * (objective.d + 1))
    best: dict[str, object] = {"iterations": 0, "gap": np.inf}
    iteration = 0

    def look(point: NDArray[np.float64]) -> bool:
        value, gap, bias = objective.certify(point)
        if gap < best["gap"]:  # type: ignore[operator]
            best.update(point=point.copy(), value=value, gap=gap, bias=bias, iterations=iteration)
        return gap <= tolerance * value

    def callback(point: NDArray[np.float64]) -> None:
        nonlocal iteration
        iteration += 1
        # The gradient at the last point that was tried is nearly the one here: worth a look once that is small, too.
        bound = float((objective.gradient_kd**2).sum()) / (2 * objective.penalty)
        if iteration % LOOK_EVERY == 0 and bound <= 2 * tolerance * objective.value and look(point):
            raise _Certified

    try:
        options = {"maxcor": MEMORY, "maxiter": max_iterations, "maxfun": 2 * max_iterations, "ftol": 0.0, "gtol": 0.0}
        # The vectors are short: threads of scipy's own would only wait for each other.
        with threadpool_limits(1, user_api="blas"):
            found = minimize(objective, start, jac=True, method="L-BFGS-B", callback=callback, options=options)
        certified = look(found.x)
    except _Certified:
        certified = True
    weight_kd, bias_k = objective.tensor(objective.split(np.asarray(best["point"]))[0]), objective.tensor(np.asarray(best["bias"]))
    hits = torch.addmm(bias_k, features_nd, weight_kd.T).argmax(1) == labels_n
    return Probe(
        weight_kd, bias_k, mean_d, scale_d, hits.double().mean().item(),
        float(best["value"]), float(best["gap"]), int(best["iterations"]), certified,  # type: ignore[arg-type, call-overload]
    )  # fmt: skip
