"""The probability mass outside the top-k, at every temperature from 1 to 4.

With l_j the teacher's logprobs at T = 1 and β = 1/T, the tail weighs

    f(β) = log Σ_{j ∉ top-k} exp(β · l_j)

against exp(β · l_i) for the tokens of the top-k. f is smooth in β, so it is stored at a few nodes
and interpolated by the polynomial through them. The nodes crowd at the ends like Chebyshev's,
which keeps the polynomial from overshooting there (Berrut and Trefethen 2004, "Barycentric
Lagrange Interpolation", section 6). At them the mass is exact to 1/2048 nat; between them a tail of
one scale is within a few thousandths of a nat, and one of two scales, some tokens far above all
others, within some hundredths. What it is for a cache's rows its fidelity says. The nodes are
multiples of 1/20, so that one exponential a token and a few products give all of them.
"""

import torch

NODES = (0.25, 0.3, 0.4, 0.55, 0.7, 0.85, 0.95, 1.0)
"""Values of β = 1/T at which the log mass is stored; T from 4 down to 1."""

# A log mass is stored as a 16-bit fixed-point number: 0 for an empty tail, else
# LOWEST_NATS + (code - 1) · STEP_NATS. The lowest stands for a mass of 4e-18 and below.
LOWEST_NATS = -40.0
STEP_NATS = 1 / 1024


def tail_powers(
    shifted_logits: torch.Tensor, topk_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ exp(β · s) over the tokens outside the top-k at every node, and exp(s) of each of them.

    One exponential a token: exp(s/20), of which the nodes are the powers 5, 6, 8, 11, 14, 17, 19
    and 20.

    Args:
        shifted_logits: (N, V) fp32, s = logits minus their maximum.
        topk_ids: (N, K) int64.

    Returns: (N, M) fp32 sums for the M nodes; (N, V) fp32 exp(s), 0 at the top-k.
    """
    power = (shifted_logits * 0.05).exp_()
    power.scatter_(-1, topk_ids, 0.0)
    square = power * power
    cube = square * power
    current = square * cube
    sums = [current.sum(-1)]
    for factor in (power, square, cube, cube, cube, square, power):
        current.mul_(factor)
        sums.append(current.sum(-1))
    return torch.stack(sums, -1), current


def encode_log_mass(log_mass: torch.Tensor) -> torch.Tensor:
    """Log masses in nats to 16-bit codes (held in int32), rounded to 1/1024 nat."""
    codes = ((log_mass - LOWEST_NATS) / STEP_NATS).round().add_(1).clamp_(1, 65535)
    return torch.where(log_mass == -torch.inf, 0, codes).to(torch.int32)


def decode_log_mass(codes: torch.Tensor) -> torch.Tensor:
    """16-bit codes (any integer dtype) to log masses in nats, fp32; -inf for an empty tail."""
    log_mass = LOWEST_NATS + (codes.to(torch.float32) - 1) * STEP_NATS
    return torch.where(codes == 0, -torch.inf, log_mass)


def interpolate_log_mass(node_log_masses: torch.Tensor, temperature: float) -> torch.Tensor:
    """f(1/T) of each row, in nats.

    Args:
        node_log_masses: (N, M) log masses at the nodes.
        temperature: in [1, 4]; outside, the polynomial is not to be trusted.

    Returns: (N,); -inf for rows with an empty tail.
    """
    weights = torch.tensor(
        _lagrange_weights(1 / temperature),
        dtype=node_log_masses.dtype,
        device=node_log_masses.device,
    )
    empty = torch.isneginf(node_log_masses[:, -1])
    interpolated = node_log_masses.masked_fill(empty.unsqueeze(-1), 0.0) @ weights
    return interpolated.masked_fill(empty, -torch.inf)


def _lagrange_weights(beta: float) -> list[float]:
    weights = []
    for i, node in enumerate(NODES):
        weight = 1.0
        for j, other in enumerate(NODES):
            if i != j:
                weight *= (beta - other) / (node - other)
        weights.append(weight)
    return weights
