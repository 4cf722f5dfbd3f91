"""Random numbers without a state, on any device: words of SplitMix64, and the distributions made of them.

SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) passes BigCrush, and the n-th word of a key is a hash of the key and n. So
all words are computed at once, by exact integer arithmetic, with the same result on every device.
"""

import itertools
import math

import torch
from torch import Tensor

# The published constants as signed numbers; torch multiplies int64 modulo 2^64.
_STEP, _FIRST, _SECOND = (n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_FEW = 8  # rate from which the expansion of the Poisson quantile errs by less than a half
LARGEST_NORMAL = math.sqrt(66 * math.log(2))  # no normal number is beyond +-6.764


def mix(words: Tensor) -> Tensor:
    """SplitMix64's hash of int64 words, in place: a permutation of the 64-bit words."""
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        words.bitwise_xor_(_shifted(words, shift)).mul_(factor)
    return words.bitwise_xor_(_shifted(words, 31))


def words(keys: Tensor, count: int) -> Tensor:
    """The first `count` words of each key: (B,) -> (B, count), int64."""
    counters = torch.arange(1, count + 1, device=keys.device).mul_(_STEP)
    return mix(keys[:, None] + counters)


def _shifted(words: Tensor, shift: int) -> Tensor:
    return (words >> shift).bitwise_and_(2 ** (64 - shift) - 1)  # without the copies of the sign


def uniform(words: Tensor, out: Tensor) -> Tensor:
    """Uniform in [0, 1), the upper 24 bits of each half of the words (B, m), in out (B, at most 2 m) float32."""
    bits = words.view(torch.int32) >> 8
    return out.copy_(bits[:, : out.shape[1]]).mul_(2.0**-24).add_(0.5)


def integers(words: Tensor, count: int, out: Tensor) -> Tensor:
    """Integers in [0, count), floor(word * count / 2^64) of the words as unsigned numbers, in out; count < 2^31."""
    carry = (words & (2**32 - 1)).mul_(count).bitwise_right_shift_(32)
    return out.copy_(_shifted(words, 32).mul_(count).add_(carry).bitwise_right_shift_(32))


def normal(words: Tensor, out: Tensor) -> Tensor:
    """Standard normal numbers by Box and Muller (1958) of the words (B, m), in out (B, at most 2 m).

    The upper half of a word gives the radius, the lower one the angle, in float64.
    """
    radius = (words >> 32).double().add_(2**31 + 0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = (words << 32).double().mul_(math.tau * 2.0**-64)
    first, second = out.tensor_split([words.shape[1]], 1)
    first.copy_(angle.cos().mul_(radius))
    second.copy_(angle.sin_().mul_(radius)[:, : second.shape[1]])
    return out


def poisson_quantile(normal: Tensor, rate: Tensor, out: Tensor) -> Tensor:
    """The least k with P(X <= k) > Phi(normal) for X Poisson with mean `rate`, in out.

    normal, rate: float64, |normal| at most `LARGEST_NORMAL`. Rates below 8: a search from 0. Others: the expansion of
    Giles (ACM TOMS 42, 2016) in powers of 1 / sqrt(rate), with 2 + normal^2 taken out, and where that is too near a
    whole number to tell, the distribution function itself.
    """
    root, spread = rate.sqrt(), normal * normal + 2
    slope = normal / root
    real = rate * (slope + 1) + spread * (1 / 6 - slope / 72 + (3 * spread - 5) / (810 * rate)) - 1 / (45 * rate)
    whole = real.clamp_min_(0).round()
    unsure = (real - whole).abs_() < (spread / root).pow_(3).mul_(0.002)  # over twice the largest error
    few = rate < _FEW
    out.copy_(real.floor_())
    some = (unsure & ~few).nonzero(as_tuple=True)
    reached = torch.special.gammaincc(whole[some], rate[some]) <= torch.special.ndtr(normal[some])  # P(X < whole)
    out[some] = (whole[some] - 1 + reached).to(out)
    some = few.nonzero(as_tuple=True)
    out[some] = _searched(torch.special.ndtr(normal[some]), rate[some]).to(out)
    return out


def _searched(level: Tensor, rate: Tensor) -> Tensor:
    """The least k with P(X <= k) > level < 1; both sides are multiplied by exp(rate)."""
    goal = rate.exp().mul_(level)
    power, total, k = torch.ones_like(rate), torch.ones_like(rate), torch.zeros_like(rate)
    for i in itertools.count(1):
        below = total <= goal
        if not below.any():
            break
        k += below
        total.add_(power.mul_(rate), alpha=1 / math.factorial(i))
    return k
