"""Signal operations on batches of ECGs, in torch, on any device: plain functions over tensors whose last axis is time.

Filtering, resampling and decimation are linear, so they are products in the frequency domain: one batched FFT for all
records and leads instead of one pass per lead. The results equal SciPy's per-record functions (`filtfilt`, `resample`,
`decimate`) to the precision of the arithmetic. The steps of a recipe, in `signal_steps`, call these functions.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch

# Rows of one FFT call on a CPU: about this many samples, so that the work stays in the processor's cache.
_SAMPLES_PER_CHUNK = 1 << 19


def fast_fft_length(length: int) -> int:
    """Return the smallest number of the form 2^a 3^b 5^c that is at least `length`: such FFTs are fast."""
    best = 1 << max(0, length - 1).bit_length()
    power_of_five = 1
    while power_of_five < best:
        product = power_of_five
        while product < best:
            quotient = -(-length // product)
            best = min(best, product << max(0, quotient - 1).bit_length())
            product *= 3
        power_of_five *= 5
    return best


def _rows_per_chunk(rows: torch.Tensor) -> int:
    if rows.device.type != "cpu":
        return max(1, rows.shape[0])
    return max(1, min(rows.shape[0], _SAMPLES_PER_CHUNK // rows.shape[-1]))


def _by_chunks(function: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Apply a row-wise function to `(rows, samples)`, a cache-sized piece at a time on a CPU."""
    size = _rows_per_chunk(rows)
    if rows.shape[0] <= size:
        return function(rows)
    return torch.cat([function(piece) for piece in rows.split(size)])


def rows_with_nan(signal: torch.Tensor) -> torch.Tensor:
    """Return which rows of `(..., samples)` hold a NaN; `amin` passes NaN on and is far faster than `isnan` on all."""
    return signal.amin(-1).isnan()


def resample_fourier(signal: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Resample along the last axis in the frequency domain, like `scipy.signal.resample`.

    Args:
        signal (`torch.Tensor` of shape `(..., samples)`): real signal.
        num_samples (`int`): samples wanted.

    Returns:
        `torch.Tensor` of shape `(..., num_samples)`. A row with a NaN becomes NaN throughout, also when the length
        stays.
    """
    length = signal.shape[-1]
    if length == num_samples:
        nan = rows_with_nan(signal)
        return torch.where(nan[..., None], torch.nan, signal) if bool(nan.any()) else signal

    def resample(rows: torch.Tensor) -> torch.Tensor:
        # As in the filter: a constant passes as a constant, and single precision is spent on the waves.
        offset = rows.mean(-1, keepdim=True)
        spectrum = torch.fft.rfft(rows - offset)
        common = min(length, num_samples)
        wanted = spectrum.new_zeros(rows.shape[0], num_samples // 2 + 1)
        wanted[:, : common // 2 + 1] = spectrum[:, : common // 2 + 1]
        if common % 2 == 0:
            # The bin at the lower Nyquist frequency stands for two when bins are cut off, for half a one when added.
            wanted[:, common // 2] *= 2.0 if num_samples < length else 0.5
        return torch.fft.irfft(wanted, n=num_samples) * (num_samples / length) + offset

    return _by_chunks(resample, signal.reshape(-1, length)).reshape(*signal.shape[:-1], num_samples)


@functools.lru_cache(maxsize=64)
def bandpass_fir_taps(low: float, high: float, sampling_rate: float, seconds: float) -> np.ndarray:
    """Design a linear-phase band-pass by the window method (Hamming), scaled to gain 1 at the middle of its band.

    Args:
        low (`float`): lower edge in Hz.
        high (`float`): upper edge in Hz.
        sampling_rate (`float`): Hz.
        seconds (`float`): length of the impulse response; `int(seconds * sampling_rate)` taps, plus one if even.

    Returns:
        `np.ndarray` of shape `(taps,)`, float64.

    Raises:
        ValueError: if the edges do not fit under half the sampling rate.
    """
    if not 0 < low < high < sampling_rate / 2:
        raise ValueError(
            f"A band of {low}–{high} Hz needs 0 < low < high < half the sampling rate; half of {sampling_rate} Hz is "
            f"{sampling_rate / 2} Hz. Records below {2 * high} Hz must be resampled to a higher rate first."
        )
    num_taps = int(seconds * sampling_rate)
    num_taps += num_taps % 2 == 0
    offsets = np.arange(num_taps) - (num_taps - 1) / 2
    left, right = 2 * low / sampling_rate, 2 * high / sampling_rate
    taps = right * np.sinc(right * offsets) - left * np.sinc(left * offsets)
    taps *= np.hamming(num_taps)
    return taps / np.sum(taps * np.cos(np.pi * offsets * (left + right) / 2))


@functools.lru_cache(maxsize=64)
def _fir_power(taps: bytes, length: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    response = np.fft.rfft(np.frombuffer(taps), n=length)
    return torch.as_tensor(np.abs(response) ** 2, dtype=dtype, device=device)


def _odd_extension(signal: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `size` samples before and after each row when it is mirrored through its end points."""
    before = 2 * signal[..., :1] - signal[..., 1 : size + 1].flip(-1)
    after = 2 * signal[..., -1:] - signal[..., -size - 1 : -1].flip(-1)
    return before, after


def filter_fir_zero_phase(signal: torch.Tensor, taps: np.ndarray) -> torch.Tensor:
    """Apply a FIR filter forward and backward, as `scipy.signal.filtfilt(taps, 1, signal)` does.

    The signal is extended oddly at both ends. `filtfilt` extends by three times the taps; a result sample only sees
    `taps - 1` samples to either side, so that much is enough. NaN stays local: it spreads over the samples that see
        it.

    Args:
        signal (`torch.Tensor` of shape `(..., samples)`): real signal.
        taps (`np.ndarray` of shape `(taps,)`): impulse response.

    Returns:
        `torch.Tensor` of the same shape.

    Raises:
        ValueError: if the signal is not longer than three times the taps.
    """
    length, reach = signal.shape[-1], len(taps) - 1
    if length <= 3 * len(taps):
        raise ValueError(
            f"A filter of {len(taps)} taps, applied forward and backward, needs more than {3 * len(taps)} samples; "
            f"the signal has {length}."
        )
    nan = signal.isnan() if bool(rows_with_nan(signal).any()) else None
    padded_length = fast_fft_length(length + 2 * reach)
    power = _fir_power(
        np.ascontiguousarray(taps, dtype=np.float64).tobytes(), padded_length, signal.dtype, signal.device
    )

    rows = (signal if nan is None else torch.where(nan, 0.0, signal)).reshape(-1, length)
    result = torch.empty_like(rows)
    buffer = rows.new_zeros(_rows_per_chunk(rows), padded_length)
    for piece, filtered in zip(rows.split(len(buffer)), result.split(len(buffer)), strict=True):
        # A constant passes as a constant. Without it single precision is spent on the waves, not on the offset.
        offset = piece.mean(-1, keepdim=True)
        before, after = _odd_extension(piece, reach)
        # Circular layout: what precedes sample 0 lies at the end of the buffer; between the extensions stay zeros.
        extended = buffer[: len(piece)]
        torch.sub(piece, offset, out=extended[:, :length])
        torch.sub(after, offset, out=extended[:, length : length + reach])
        torch.sub(before, offset, out=extended[:, padded_length - reach :])
        spectrum = torch.fft.rfft(extended).mul_(power)
        torch.add(torch.fft.irfft(spectrum, n=padded_length)[:, :length], offset * power[0], out=filtered)
    result = result.reshape(signal.shape)
    if nan is not None:
        spread = torch.nn.functional.max_pool1d(
            nan.reshape(-1, 1, length).to(torch.float32), kernel_size=2 * reach + 1, stride=1, padding=reach
        )
        result = torch.where(spread.reshape(signal.shape) > 0, torch.nan, result)
    return result


@functools.lru_cache(maxsize=16)
def _chebyshev_lowpass(order: int, ripple_db: float, cutoff: float) -> tuple[np.ndarray, float]:
    """Design a digital Chebyshev low-pass of type I; zeros at -1, `cutoff` relative to the Nyquist frequency.

    Returns the poles and the gain, by the textbook route: poles of the analogue prototype on an ellipse, frequency
    warping, bilinear transform (Oppenheim and Schafer, Discrete-Time Signal Processing, chapter 7).
    """
    epsilon = math.sqrt(10 ** (ripple_db / 10) - 1)
    width = math.asinh(1 / epsilon) / order
    angles = np.pi * np.arange(1 - order, order, 2) / (2 * order)
    prototype = -np.sinh(width + 1j * angles)
    poles = 4 * math.tan(math.pi * cutoff / 2) * prototype
    digital = (4 + poles) / (4 - poles)
    at_zero = 1.0 if order % 2 else 1 / math.sqrt(1 + epsilon**2)
    gain = at_zero * np.prod(1 - digital).real / 2**order
    return digital, float(gain)


@functools.lru_cache(maxsize=64)
def _decimation_response(factor: int, length: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    poles, gain = _chebyshev_lowpass(8, 0.05, 0.8 / factor)
    delay = np.exp(-2j * np.pi * np.arange(length // 2 + 1) / length)
    response = gain * (1 + delay) ** len(poles)
    for pole in poles:
        response = response / (1 - pole * delay)
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    return torch.as_tensor(response, device=device).to(complex_dtype)


def _fold_spectrum(spectrum: torch.Tensor, length: int, factor: int) -> torch.Tensor:
    """Return the half spectrum of every `factor`-th sample from the half spectrum of all `length` samples."""
    kept = length // factor
    size = kept // 2 + 1
    folded = spectrum[:, :size].clone()
    mirrored = torch.zeros_like(folded)
    for image in range(1, factor):
        if 2 * image < factor:
            folded += spectrum[:, image * kept : image * kept + size]
        else:
            # Beyond the Nyquist frequency a real signal's spectrum is the mirrored conjugate.
            start = length - image * kept
            mirrored += spectrum[:, start - size + 1 : start + 1]
    return folded.add_(mirrored.flip(-1).conj_physical_()).div_(factor)


def decimate_zero_phase(signal: torch.Tensor, factor: int) -> torch.Tensor:
    """Low-pass and keep every `factor`-th sample, as `scipy.signal.decimate(signal, factor)` does.

    The filter is a Chebyshev type I of order 8 (0.05 dB ripple, cut-off at 0.8 / factor of the Nyquist frequency),
    applied forward and backward with odd extension by 27 samples and settled initial states, as SciPy's `sosfiltfilt`.
    It filters at a factor of 1 too, as SciPy does.

    Args:
        signal (`torch.Tensor` of shape `(..., samples)`): real signal without NaN (a NaN voids its row).
        factor (`int`): samples to go forward per sample kept.

    Returns:
        `torch.Tensor` of shape `(..., ceil(samples / factor))`.

    Raises:
        ValueError: if the signal has at most 27 samples or the factor is below 1.
    """
    if factor < 1 or int(factor) != factor:
        raise ValueError(f"The decimation factor must be a positive whole number; got {factor!r}.")
    length, edge = signal.shape[-1], 27
    if length <= edge:
        raise ValueError(f"Decimation needs more than {edge} samples; the signal has {length}.")
    # The impulse response falls by the largest pole radius per sample: after `decay` samples nothing is left of it.
    radius = float(np.abs(_chebyshev_lowpass(8, 0.05, 0.8 / factor)[0]).max())
    decay = math.ceil(math.log(torch.finfo(signal.dtype).eps / 16) / math.log(radius))
    padded_length = fast_fft_length(-(-(length + 2 * edge + 2 * decay) // factor)) * factor
    response = _decimation_response(factor, padded_length, signal.dtype, signal.device)
    power = (response.real**2 + response.imag**2).to(signal.dtype)

    # The state of the backward pass settles on the last forward sample, which stands for a constant from there on. The
    # product of spectra instead lets the forward pass settle beyond the end, so the last `decay` samples are done in
    # two passes, on a short piece that begins early enough for its own start not to matter.
    tail_length = min(length, 2 * decay)
    tail_padded = fast_fft_length(tail_length + 2 * edge + 2 * decay)
    tail_response = _decimation_response(factor, tail_padded, signal.dtype, signal.device)

    def run(rows: torch.Tensor) -> torch.Tensor:
        offset = rows.mean(-1, keepdim=True)
        rows = rows - offset
        before, after = _odd_extension(rows, edge)
        gap = padded_length - length - 2 * edge
        right = after[:, -1:].expand(-1, gap // 2)
        left = before[:, :1].expand(-1, gap - gap // 2)
        spectrum = torch.fft.rfft(torch.cat([rows, after, right, left, before], dim=-1))
        # Keeping every `factor`-th sample folds the spectrum; the inverse transform is then `factor` times shorter.
        kept = torch.fft.irfft(_fold_spectrum(spectrum.mul_(power), padded_length, factor), n=padded_length // factor)
        kept = kept[:, : -(-length // factor)]

        if tail_length == length:
            piece = torch.cat([before, rows, after], dim=-1)
        else:
            piece = torch.cat([rows[:, -tail_length:], after], dim=-1)
        start = piece[:, :1].expand(-1, tail_padded - piece.shape[1])
        forward = torch.fft.irfft(torch.fft.rfft(torch.cat([piece, start], dim=-1)).mul_(tail_response), n=tail_padded)
        forward = forward[:, : piece.shape[1]]
        end = forward[:, -1:].expand(-1, tail_padded - piece.shape[1])
        both = torch.fft.rfft(torch.cat([forward, end], dim=-1)).mul_(tail_response.conj())
        both = torch.fft.irfft(both, n=tail_padded)[:, : piece.shape[1] - edge]
        num_corrected = min(length, decay)
        first = -(-(length - num_corrected) // factor) * factor
        kept[:, first // factor :] = both[:, both.shape[1] - (length - first) :: factor]
        return kept.add_(offset * power[0])

    rows = signal.reshape(-1, length)
    return _by_chunks(run, rows).reshape(*signal.shape[:-1], -1)


@functools.lru_cache(maxsize=16)
def _butterworth(order: int, cutoff: float, kind: str) -> tuple[np.ndarray, float]:
    """Design a digital Butterworth low-pass (zeros at -1) or high-pass (zeros at 1).

    Returns the poles and the gain; `cutoff` is relative to the Nyquist frequency. By the textbook route: poles of the
    analogue prototype on a circle, frequency warping, bilinear transform (Oppenheim and Schafer, Discrete-Time Signal
    Processing, chapter 7).
    """
    angles = np.pi * np.arange(1 - order, order, 2) / (2 * order)
    prototype = -np.exp(1j * angles)
    warped = 4 * math.tan(math.pi * cutoff / 2)
    poles = warped * prototype if kind == "lowpass" else warped / prototype
    digital = (4 + poles) / (4 - poles)
    # Gain 1 at 0 Hz, or at the Nyquist frequency
    reference = 1 - digital if kind == "lowpass" else 1 + digital
    return digital, float(np.prod(reference).real / 2**order)


@functools.lru_cache(maxsize=64)
def _butterworth_response(
    order: int, cutoff: float, kind: str, length: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    poles, gain = _butterworth(order, cutoff, kind)
    delay = np.exp(-2j * np.pi * np.arange(length // 2 + 1) / length)
    response = np.full(len(delay), gain, dtype=complex)
    zero = -1 if kind == "lowpass" else 1
    # Factor by factor: near its zeros the filter's powers are too small to be divided by each other
    for pole in poles:
        response = response * ((1 - zero * delay) / (1 - pole * delay))
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    return torch.as_tensor(response, device=device).to(complex_dtype)


def filter_butterworth_zero_phase(
    signal: torch.Tensor, cutoff: float, sampling_rate: float, order: int, kind: str
) -> torch.Tensor:
    """Apply a Butterworth filter forward and backward, as `scipy.signal.sosfiltfilt` does.

    Rows are extended oddly by `3 * (order + 1)` samples, SciPy's default, and each pass begins in the state in which
    the filter has settled on its first sample.

    Args:
        signal (`torch.Tensor` of shape `(..., samples)`): real signal without NaN (a NaN voids its row).
        cutoff (`float`): Hz, where one pass has the gain sqrt(1/2).
        sampling_rate (`float`): Hz.
        order (`int`): of one pass.
        kind (`str`): `"lowpass"` or `"highpass"`.

    Returns:
        `torch.Tensor` of the same shape.

    Raises:
        ValueError: if the cut-off does not fit under half the sampling rate, the order is no positive whole number,
            the kind is unknown, or the signal is too short to be extended.
    """
    if kind not in ("lowpass", "highpass"):
        raise ValueError(f"A Butterworth filter is a 'lowpass' or a 'highpass'; got {kind!r}.")
    if order < 1 or int(order) != order:
        raise ValueError(f"The order of a filter must be a positive whole number; got {order!r}.")
    if not 0 < cutoff < sampling_rate / 2:
        raise ValueError(
            f"A cut-off of {cutoff} Hz must lie between 0 and half the sampling rate, {sampling_rate / 2} Hz. "
            "Resample to a higher rate first."
        )
    length, edge = signal.shape[-1], 3 * (order + 1)
    if length <= edge:
        raise ValueError(
            f"A Butterworth filter of order {order} needs more than {edge} samples; the signal has {length}."
        )
    relative = 2 * cutoff / sampling_rate
    # The impulse response falls by the largest pole radius per sample: after `decay` samples nothing is left of it.
    radius = float(np.abs(_butterworth(order, relative, kind)[0]).max())
    decay = math.ceil(math.log(torch.finfo(signal.dtype).eps / 16) / math.log(radius))
    padded_length = fast_fft_length(length + 2 * edge + decay)
    response = _butterworth_response(order, relative, kind, padded_length, signal.dtype, signal.device)
    settled = 1.0 if kind == "lowpass" else 0.0

    def one_pass(rows: torch.Tensor) -> torch.Tensor:
        # From a first sample of 0 a filter at rest goes on as one that has settled on a constant does
        first = rows[:, :1]
        spectrum = torch.fft.rfft(rows - first, n=padded_length).mul_(response)
        return torch.fft.irfft(spectrum, n=padded_length)[:, : rows.shape[1]] + settled * first

    def run(rows: torch.Tensor) -> torch.Tensor:
        offset = rows.mean(-1, keepdim=True)
        rows = rows - offset
        before, after = _odd_extension(rows, edge)
        both = one_pass(one_pass(torch.cat([before, rows, after], dim=-1)).flip(-1)).flip(-1)
        return both[:, edge : edge + length] + settled * offset

    return _by_chunks(run, signal.reshape(-1, length)).reshape(signal.shape)


def scale_minmax(signal: torch.Tensor, epsilon: float = 1e-8) -> torch.Tensor:
    """Scale each row of `(..., samples)` to [-1, 1] by its extremes; a flat row becomes -1, one with NaN NaN."""
    low, high = signal.amin(-1, keepdim=True), signal.amax(-1, keepdim=True)
    return (signal - low).mul_(2 / (high - low + epsilon)).sub_(1)


# A lead whose range is a smaller share of the largest range in its recording carries no signal: what is left of an
# offset after filters (ours)
_CONSTANT_SHARE = 1e-5


def scale_zscore(signal: torch.Tensor, per_lead: bool = False) -> torch.Tensor:
    """Subtract the mean and divide by the standard deviation, over a recording or each of its leads.

    Args:
        signal (`torch.Tensor` of shape `(..., leads, samples)`): NaN in a lead makes what it is scaled with NaN.
        per_lead (`bool`): scale each lead by itself rather than all of them together.

    Returns:
        `torch.Tensor` of the same shape. Leads without signal, whose range is below 1e-5 of the largest in the
        recording, do not count, and are 0.
    """
    spread = signal.amax(-1, keepdim=True) - signal.amin(-1, keepdim=True)
    silent = spread <= _CONSTANT_SHARE * spread.amax(-2, keepdim=True)
    dims = (-1,) if per_lead else (-2, -1)
    count = (~silent).expand_as(signal).sum(dims, keepdim=True).clamp(min=1)
    mean = signal.masked_fill(silent, 0.0).sum(dims, keepdim=True) / count
    centred = (signal - mean).masked_fill(silent, 0.0)
    variance = centred.square().sum(dims, keepdim=True) / count
    return centred / torch.where(variance > 0, variance.sqrt(), 1.0)
