"""Estimators of KL(pi || reference) from sampled tokens; every tensor is [tokens].

With d = log pi - log reference at a token sampled from pi (http://joschu.net/blog/kl-approx.html):
k1 = d, unbiased, of any sign; k2 = d^2 / 2, biased, low variance; k3 = exp(-d) - 1 + d, unbiased, never negative.
As a loss on policy, only k2 has the gradient of KL(pi || reference) in expectation; k1's is zero, and k3's is that of
KL(reference || pi). In the reward, where no gradient flows, k1 is the usual choice.
"""

from torch import Tensor

from mel_ray.records.step import KlEstimator


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: KlEstimator) -> Tensor:
    """Failure case: k3 overflows where the policy gave up a token the reference likes (d below about -88 in
    float32)."""
    difference = logprobs - reference
    match estimator:
        case "k1":
            return difference
        case "k2":
            return 0.5 * difference**2
        case "k3":
            return (-difference).exp() - 1.0 + difference
