"""Sequential tests: when what was seen speaks so strongly against a release that going on watching cannot excuse it.

Each test is a likelihood ratio of two hypotheses, kept as its natural logarithm: 0 says nothing, and more speaks for
"intolerable". It is stopped at log(1 / alpha). Under the tolerable hypothesis the ratio is a non-negative
supermartingale that begins at 1, so it reaches 1 / alpha with a probability of alpha at most, *however often and
however long* somebody looks (J. Ville, Étude critique de la notion de collectif, 1939; A. Wald, Sequential Tests of
Statistical Hypotheses, Annals of Mathematical Statistics 16, 1945, whose upper bound (1 - beta) / alpha is lower, as it
stops below, too). There is no lower bound here: what looks good goes on being watched.
"""

from __future__ import annotations

import math
from typing import Final

from cloud.guard.evidence import Arm
from cloud.guard.policy import PER_MILLE

MILLION: Final = 1_000_000


def log_bound(false_stop_permille: int, tests: int = 1) -> float:
    """Return what a test is stopped at, when `tests` of them share the probability of a false stop (Bonferroni)."""
    return math.log(tests * PER_MILLE / false_stop_permille)


def rate_log_e(devices: int, bad: int, tolerable_permille: int, intolerable_permille: int) -> float:
    """Return the evidence that devices turn bad at the intolerable rate, rather than at the tolerable one (Wald 1945).

    `devices` are all that began, in an order that has nothing to do with how they end, and `bad` those of them that
    are known to be bad by now. One that is not bad *yet* counts as good: that can only lower the ratio, so bad news
    that travels faster than good news stops no good release.
    """
    p0, p1 = tolerable_permille / PER_MILLE, intolerable_permille / PER_MILLE
    return bad * math.log(p1 / p0) + (devices - bad) * math.log((1 - p1) / (1 - p0))


def bad_that_stop(devices: int, bound: float, tolerable_permille: int, intolerable_permille: int) -> int:
    """Return the least number of bad ones among `devices` at which the test of `rate_log_e` stops."""
    one = rate_log_e(1, 1, tolerable_permille, intolerable_permille)
    good = rate_log_e(1, 0, tolerable_permille, intolerable_permille)
    return max(1, math.ceil((bound - devices * good) / (one - good)))


def more_log_e(devices: int, bad: int, others: int, others_bad: int) -> float:
    """Return the evidence that devices are bad more often than others are, whatever the rate of those.

    The numerator bets on both rates before it sees them (Beta(1, 1), and Beta(0.4, 3.6) for the others, mostly
    good), the denominator is the largest likelihood that any common rate has: so the ratio is below a supermartingale
    that begins at 1, whatever that rate is (Wasserman, Ramdas and Balakrishnan, Universal inference, PNAS 117, 2020).
    """
    total, rate = devices + others, (bad + others_bad) / max(1, devices + others)
    if bad * others <= others_bad * devices:
        return 0.0
    common = _times_log(bad + others_bad, rate) + _times_log(total - bad - others_bad, 1 - rate)
    bet = _log_beta(bad + 1, devices - bad + 1) + _log_beta(others_bad + 0.4, others - others_bad + 3.6)
    return bet - _log_beta(0.4, 3.6) - common


def _times_log(count: int, rate: float) -> float:
    return count * math.log(rate) if count else 0.0


def _log_beta(one: float, other: float) -> float:
    return math.lgamma(one) + math.lgamma(other) - math.lgamma(one + other)


def silence_log_e(took: Arm, control: Arm, ratio_percent: int) -> float:
    """Return what one interval adds to the evidence that devices which took it go quiet more often than the others.

    Given that somebody goes quiet, it is one of those who took it with the odds theta * at risk there : at risk among
    the others, theta being the ratio of the hazards: 1 if the release changes nothing, `ratio_percent` / 100 if it is
    intolerable. The product of these ratios over all who go quiet is Cox's partial likelihood ratio (D. R. Cox,
    Partial likelihood, Biometrika 62, 1975), and as a sequential test the safe logrank test (J. ter Schure,
    M. F. Pérez-Ortiz, A. Ly, P. Grünwald, The safe logrank test, 2020). Whatever silences both sides alike, as a night
    or an outage of a network, says nothing. Several in one interval count as drawn with replacement; they are drawn
    without, for which the expectation of the (convex) product is no larger (W. Hoeffding, Probability inequalities for
    sums of bounded random variables, 1963, theorem 4).
    """
    if not took.at_risk or not control.at_risk:
        return 0.0
    theta = ratio_percent / 100
    even = took.at_risk / (took.at_risk + control.at_risk)
    worse = theta * took.at_risk / (theta * took.at_risk + control.at_risk)
    return took.went_quiet * math.log(worse / even) + control.went_quiet * math.log((1 - worse) / (1 - even))


def add_silence(log_a: float | None, looks: int, increment: float) -> float:
    """Return log A(t) after one more interval in which somebody went quiet, from log A(t - 1) (None: nothing yet).

    Nights and outages in which both sides go quiet alike speak strongly *for* a release, and would leave it a credit
    that later excuses many lost devices. So the evidence is a mixture over when the trouble began: with the
    probability w(s) = 1 / (s (s + 1)) at interval s, and not before. A(t) = e(t) (A(t - 1) + w(t)) is the part that
    has begun, and A(t) + 1 / (t + 1) a supermartingale that begins at 1, as a mixture of such.
    """
    begins = begins_at(looks)
    return increment + (begins if log_a is None else _log_sum(log_a, begins))


def begins_at(looks: int) -> float:
    """Return log w(t): the probability that the trouble begins in the interval after so many."""
    return -math.log((looks + 1) * (looks + 2))


def silence_evidence(log_a: float, looks: int) -> float:
    """Return the evidence after so many intervals: log(A(t) + 1 / (t + 1))."""
    return _log_sum(log_a, -math.log(looks + 1)) if looks else 0.0


def _log_sum(one: float, other: float) -> float:
    high, low = max(one, other), min(one, other)
    return high + math.log1p(math.exp(low - high))


def to_millionths(log_e: float) -> int:
    """Return evidence as it is remembered, rounded down."""
    return math.floor(log_e * MILLION)
