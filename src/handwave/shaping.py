"""What an elementwise function does to how alike two Gaussian points are: Hermite series."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor

from handwave.hermite import hermite
from handwave.quadrature import Elementwise

_TERMS = 48


@dataclass(frozen=True)
class Together:
    """Hold what a function f of a sum has of both of its parts.

    Args:
        beyond: Cov(f_a², f_b²)/E[f²]² over all pairs of points, but for squares of either
            Gaussian alone.
        slope: d log E[f²] / d log of the sum's second moment, as that wanders.
    """

    beyond: float
    slope: float


@dataclass(frozen=True)
class Shaping:
    """Hold what an elementwise function does to likeness, as two Hermite series.

    E[f(z_a)f(z_b)] = Σ v_k·ρᵏ and E[f(z_a)²f(z_b)²] = Σ s_k·ρᵏ, z Gaussian of correlation ρ.

    Args:
        values: v_k, shape (terms,).
        squares: s_k, shape (terms,).
        second: E[f²].
        slope: d log E[f²] / d log Var(z).
        growth: d log / d log Var(z) of what is left of Var(f²) beyond line and square.
        mean_share: of the second moment of z, what its mean contributes.
        mean, third: E[f] and E[f³].
        at: expands f anew for z of so many times the variance.
        together: of z that stands for a sum of two parts, what f has of both.
        low: v_0, v_1 and v_2 before they are squared, with their signs; by default of f(z) = z.
    """

    values: Tensor
    squares: Tensor
    second: float = 1.0
    slope: float = 1.0
    growth: float = 2.0
    mean_share: float = 0.0
    mean: float = 0.0
    third: float = 0.0
    at: "Callable[[float], Shaping] | None" = field(default=None, repr=False)
    together: Together | None = None
    low: Tensor = field(default_factory=lambda: torch.tensor([0.0, 1, 0], dtype=torch.float64))

    @classmethod
    def of(cls, fn: Elementwise, mean: float, std: float) -> "Shaping":
        """Expand f(mean + std·t), t standard normal."""
        t, weights, hermite = _grid()
        y = fn(mean + std * t)
        second = float(weights @ y**2)
        of_value = hermite @ (weights * y)
        values = of_value.square()
        coefficients = hermite @ (weights * y**2)
        squares = coefficients.square()
        # What the series leave out stands in their last terms, so that ρ = 1 is exact.
        values[-1] += max(second - float(values.sum()), 0.0)
        squares[-1] += max(float(weights @ y**4) - float(squares.sum()), 0.0)
        slope = float(coefficients[2]) / (math.sqrt(2) * second) if second else 0.0
        growth = _growth(y**2, coefficients)
        share = mean * mean / (mean * mean + std * std) if std else 0.0
        by_mean, third = float(weights @ y), float(weights @ y**3)

        @cache
        def at(long: float) -> Shaping:
            return cls.of(fn, mean, std * math.sqrt(long))

        return cls(
            values, squares, second, slope, growth, share, by_mean, third, at, low=of_value[:3]
        )

    def longer(self, long: float) -> "Shaping":
        """Return what f does to z of so many times the variance, or nearly: by a power of it."""
        return self.at(long) if self.at else self.times(long**self.slope)

    def times(self, by: float) -> "Shaping":
        """Return the series of f where f² is so many times as large."""
        return replace(
            self,
            values=by * self.values,
            squares=by * by * self.squares,
            second=by * self.second,
            low=math.sqrt(by) * self.low,
        )

    @property
    def odd(self) -> "Shaping":
        """Return the series of f² with their odd terms alone."""
        squares, at = self.squares.clone(), self.at
        squares[::2] = 0
        return replace(self, squares=squares, at=at and (lambda long: at(long).odd))

    @property
    def tilt(self) -> float:
        """Return the spread that a mean correlation of 1 makes: f² is no even function."""
        return float(self.squares[1]) / self.second_squared

    @property
    def fourth(self) -> float:
        """Return (d log E[f²]/d u)², u the relative variance of Var(z): E[f²·He₄]/8 is dE[f²]/du.

        Of the normalised He₄ = √24·h₄ the series hold the square.
        """
        fourth = float(self.squares[4]) if len(self.squares) > 4 else 0.0
        return fourth * 24 / 64 / self.second_squared

    @property
    def second_squared(self) -> float:
        """Return E[f²]², or 1 where it is nothing, or too little for float64."""
        return self.second**2 or 1.0

    def correlation(self, likeness: Tensor) -> Tensor:
        """Take the mean out of a likeness of the z."""
        return self.unbounded(likeness).clamp(-1, 1)

    def unbounded(self, likeness: Tensor) -> Tensor:
        """Return correlations times lengths: of points longer than others, beyond 1."""
        return (likeness - self.mean_share) / (1 - self.mean_share)

    def product(self, rho: float) -> float:
        """Return E[f(z_a)f(z_b)]."""
        return float(series(self.values, torch.tensor(rho, dtype=torch.float64)))

    def rising(self, rho: Tensor) -> float:
        """Return d E[f(z_a)f(z_b)] / dρ."""
        return float(series(_derivative(self.values), rho))

    def bent(self, old: Tensor) -> Tensor:
        """Return what E[f(z_a)f(z_b)] has beyond the square of ρ."""
        rest = self.values.clone()
        rest[:3] = 0
        return series(rest, self.correlation(old))

    def likeness(self, old: Tensor) -> Tensor:
        """Return the likeness of the f(z) from that of the z."""
        return self.along(self.correlation(old))

    def along(self, rho: Tensor) -> Tensor:
        """Return the likeness of the f(z) from the correlation of the z."""
        return series(self.values, rho) / (self.second or 1.0)

    def spread(self, old: Tensor, noise: float) -> Tensor:
        """Return Cov(f(z_a)², f(z_b)²)/E[f²]²; the likeness itself is off by the noise."""
        whole, rho = self.unbounded(old), self.correlation(old)
        bent = series(_derivative(_derivative(self.squares)), rho) / (1 - self.mean_share) ** 2
        longer = self.squares[1] * (whole - rho) + self.squares[2] * (whole**2 - rho**2)
        covariance = series(self.squares, rho) - self.squares[0] + bent * noise / 2 + longer
        return covariance / self.second_squared

    def beyond(self, old: Tensor, noise: float) -> Tensor:
        """Return what the series of the spread have beyond the square of ρ, noise included."""
        rest = self.squares.clone()
        rest[:3] = 0
        return replace(self, squares=rest).spread(old, noise)

    def steepness(self, old: Tensor) -> Tensor:
        """Return the factor on a small error of the likeness."""
        slope = series(_derivative(self.values), self.correlation(old))
        return slope / (self.second or 1.0) / (1 - self.mean_share)


# f(z) = z: the series end.
IDENTITY = Shaping(
    torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([1.0, 0, 2], dtype=torch.float64)
)


def squared_skewness(mean: float, second: float, third: float) -> float:
    """Return E[(y − E[y])³]²/Var(y)³ from raw moments; 0 of a constant."""
    var = second - mean * mean
    return (third - 3 * mean * second + 2 * mean**3) ** 2 / var**3 if var > 1e-9 * second else 0.0


def _growth(square: Tensor, coefficients: Tensor) -> float:
    """Return d log R / d log Var(z), R = E[g²] − Σ c_k² over k below 3, of g = f² on the grid.

    E[g·h] moves by ½·E[g·(t²h − h − t·h′)].
    """
    t, weights, hermite = _grid()
    rest = float(weights @ square**2)
    moved = float(weights @ (square**2 * (t * t - 1))) / 2
    for k, c in enumerate(coefficients[:3].tolist()):
        slope = t * math.sqrt(k) * hermite[k - 1] if k else 0.0
        by = weights * square * ((t * t - 1) * hermite[k] - slope)
        rest, moved = rest - c * c, moved - c * float(by.sum())
    return min(max(moved / rest, 0.0), 4.0) if rest > 1e-12 else 0.0


def series(terms: Tensor, rho: Tensor) -> Tensor:
    """Sum terms_k·ρᵏ by Horner's rule: (terms,) and any shape to that shape."""
    total = torch.zeros_like(rho)
    for term in terms.flip(0).tolist():
        total.mul_(rho).add_(term)
    return total


def _derivative(terms: Tensor) -> Tensor:
    return terms[1:] * torch.arange(1, len(terms), dtype=torch.float64)


@cache
def _grid() -> tuple[Tensor, Tensor, Tensor]:
    """Return nodes, Gaussian weights, and normalised Hermite polynomials (terms, nodes)."""
    edge, count = 10.0, 8001
    t = torch.linspace(-edge, edge, count, dtype=torch.float64)
    weights = torch.exp(-t * t / 2) * (2 * edge / (count - 1)) / math.sqrt(2 * math.pi)
    return t, weights, hermite(t, _TERMS)
