"""Cholesky factors of covariances that are sums of float32 products."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trimformer.errors import NumericalError

ROUNDING = torch.finfo(torch.float32).eps
"""Of products, relative to their size."""
NOTHING = 1e-30
"""Scale of a matrix that is all zeros, as of a sublayer that adds nothing."""


def scale_of(matrix: Tensor) -> float:
    """Compute the mean of a matrix's diagonal, which ridges and damping are relative to; never 0.

    What is added to a matrix of zeros is next to nothing, but makes it definite.
    """
    return float(matrix.diagonal().mean()) or NOTHING


def factor_of(matrix: Tensor, site: str, remedy: str) -> Tensor:
    """Compute the lower Cholesky factor of a matrix that is positive definite but for its rounding.

    An entry of a covariance `G` that was added up from float32 products is off by about `ε √(G_ii G_jj)`. Where a few
    features vary a million times as much as the others and nearly alike, as in MPNet's upper layers, that is more than
    a ridge relative to the mean diagonal, and the matrix is no covariance any more. The whole error is at most
    `features · ε` times the diagonal; as little of that as is enough is added, in steps of ten.

    Args:
        matrix: `(features, features)`, symmetric, float64.
        site: name for the error.
        remedy: what helps, for the error.

    Raises:
        NumericalError: it is not positive definite, and not for its rounding.
    """
    powers = range(1 + math.ceil(math.log10(max(10, len(matrix)))))
    for share in (0.0, *(ROUNDING * 10**power for power in powers)):
        factor: Tensor
        factor, info = torch.linalg.cholesky_ex(matrix + torch.diag(share * matrix.diagonal()) if share else matrix)
        if not int(info):
            return factor
    raise not_definite(matrix, site, remedy)


def not_definite(matrix: Tensor, site: str, remedy: str) -> NumericalError:
    """Make the error of a matrix that is not positive definite."""
    condition = float(torch.linalg.cond(matrix))
    return NumericalError(f"singular system at site {site} (condition number {condition:.1e}): use {remedy}")
