"""Robust local regression (lowess) of many evenly spaced series at once."""

import functools

import torch

# Points fitted by one matrix product: short blocks multiply few zeros, long ones make few calls.
_BLOCK = 96


@functools.lru_cache(maxsize=8)
def _neighbourhoods(num_points: int, num_neighbours: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return the weights by distance, as matrices from the points that a block of fits sees to the fits' moments.

    Returns the index of each block's points `(blocks, seen)`, the matrices `(blocks, seen, 3 * block)` of the moments
    of order 0, 1 and 2, and for each point the first neighbour and the one after the last that has a weight.
    """
    points = torch.arange(num_points, dtype=torch.float64)
    start = (torch.arange(num_points) - num_neighbours // 2).clamp(0, num_points - num_neighbours)
    radius = torch.maximum(points - start, start + num_neighbours - 1 - points)
    seen = min(num_points, _BLOCK + num_neighbours - 1)
    first = torch.arange(0, num_points, _BLOCK)
    index = start[first].clamp(max=num_points - seen)[:, None] + torch.arange(seen)
    fitted = (first[:, None] + torch.arange(_BLOCK)).clamp(max=num_points - 1)
    # In units of the neighbourhood's radius, from the fitted point: the fit's value is then its constant term.
    distance = (index[:, :, None] - fitted[:, None, :]) / radius[fitted][:, None, :]
    weight = (1 - distance.abs() ** 3).clamp(min=0) ** 3
    inside = (index[:, :, None] >= start[fitted][:, None, :]) & (
        index[:, :, None] < start[fitted][:, None, :] + num_neighbours
    )
    weight = torch.where(inside, weight, 0.0)
    matrices = torch.cat([weight, weight * distance, weight * distance**2], dim=-1)
    # A neighbour at the radius itself has weight 0.
    last = start + num_neighbours - 1
    low = torch.where(points - start == radius, start + 1, start)
    high = torch.where(last - points == radius, last, last + 1)
    return tuple(tensor.to(device) for tensor in (index, matrices, low, high))


def _median(rows: torch.Tensor) -> torch.Tensor:
    """Return the median of each row, for an even number of values the mean of the middle two: `(rows, 1)`."""
    lower = rows.median(dim=-1, keepdim=True).values
    if rows.shape[-1] % 2:
        return lower
    # torch gives the lower of the two; the upper is the next larger value unless the lower one is repeated.
    greater = rows > lower
    upper = torch.where(greater, rows, torch.inf).amin(-1, keepdim=True)
    repeated = greater.sum(-1, keepdim=True) < rows.shape[-1] // 2
    return (lower + torch.where(repeated, lower, upper)) / 2


def smooth_lowess(values: torch.Tensor, fraction: float, num_robust: int = 3) -> torch.Tensor:
    """Smooth evenly spaced series by robust, locally weighted linear regression.

    At each point a line is fitted to the `int(fraction * points)` nearest points with tricube weights; then, each
    time, points are weighted down by the bisquare of their residual in units of six median residuals (Cleveland,
    Journal of the American Statistical Association 74, 1979, 829–836). Equals `statsmodels`' `lowess(values, x,
    frac=fraction, it=num_robust)` for evenly spaced `x`, where a point with fewer than two weighted neighbours keeps
    its value.

    Args:
        values (`torch.Tensor` of shape `(..., points)`): finite values; computed in double precision.
        fraction (`float`): share of the points in a neighbourhood, in 0..1; at least two points are taken.
        num_robust (`int`, *optional*, defaults to 3): fits after the first one.

    Returns:
        `torch.Tensor` of the same shape, float64.

    Raises:
        ValueError: if the fraction lies outside 0..1 or there are fewer than three points.
    """
    num_points = values.shape[-1]
    if not 0 <= fraction <= 1 or num_points < 3:
        raise ValueError(f"lowess takes a fraction in 0..1 and 3 or more points; got {fraction} and {num_points}.")
    num_neighbours = min(max(int(fraction * num_points + 1e-10), 2), num_points)
    index, matrices, low, high = _neighbourhoods(num_points, num_neighbours, values.device)
    series = values.reshape(-1, num_points).to(torch.float64)
    weight = torch.ones_like(series)

    def moments(quantity: torch.Tensor, order: int) -> list[torch.Tensor]:
        blocks = quantity[:, index].transpose(0, 1)
        result = torch.bmm(blocks, matrices[:, :, : (order + 1) * _BLOCK])
        return [part.transpose(0, 1).flatten(1)[:, :num_points] for part in result.split(_BLOCK, dim=-1)]

    for remaining in range(num_robust, -1, -1):
        total, first, second = moments(weight, 2)
        sum_values, sum_products = moments(weight * series, 1)
        counted = torch.nn.functional.pad((weight > 1e-12).to(torch.float64).cumsum(-1), (1, 0))
        enough = (counted[:, high] - counted[:, low] > 1.5) & (total > 0)
        total = torch.where(enough, total, 1.0)
        centre, level = first / total, sum_values / total
        spread = (second / total - centre**2).clamp(min=1e-12)
        slope = (sum_products / total - centre * level) / spread
        fit = torch.where(enough, level - slope * centre, series)
        if remaining:
            residual = (series - fit).abs()
            median = _median(residual)
            scaled = torch.where(median > 0, residual / (6 * median), (residual > 0).to(torch.float64))
            weight = (1 - scaled.clamp(max=1) ** 2) ** 2
    return fit.reshape(values.shape)
