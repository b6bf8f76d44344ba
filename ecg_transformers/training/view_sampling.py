"""Views of records for contrastive pretraining: crops at random starts, or starting at R peaks.

Two crops of a record that start at random differ in the phase of the heart beat above all. Crops that start at R peaks
differ in the beat and in what augmentation does to them. CREMA's alignment at R peaks is known from summaries of the
paper (arXiv 2407.07110), not from its abstract; how a peak is found and picked is ours.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import scipy.signal
from transformers.utils import logging

from ..record import ECGRecord
from .augmentations import random_starts
from .row_randomness import hashed_uniforms

logger = logging.get_logger(__name__)

ALIGNMENTS = ("random", "r_peak")

# At 250 Hz wfdb's detector is quick and does not take T waves for R peaks, as it does at 100 Hz.
_DETECTOR_HZ = 250
# The detector looks at 5-20 Hz.
_LEAST_HZ = 40.0
_LEAST_SECONDS = 1.0
# The detector marks the middle of a QRS complex; its largest deflection is looked for around that.
_REFINED_SECONDS = 0.08
# Leads with a clear R wave first
_PREFERRED_LEADS = ("II", "I", "V5", "V4", "V6", "V2", "MLII")
_LEADS_TRIED = 3


class RPeakFinder:
    """Find R peaks with wfdb's detector (XQRS), and remember them.

    Of several leads the first usable one of II, I, V5, V4, V6, V2 and then the others counts; where it shows no peak,
    up to two more are tried. A lead is usable if it is not constant and at most half of its samples are missing (they
    are bridged by lines). Records shorter than 1 s or below 40 Hz have no peaks.

    What is remembered goes by the samples of the record, so no identifier is needed. Workers of a `DataLoader` have a
    memory each, which lasts beyond an epoch with `--dataloader_persistent_workers`.

    Args:
        remembered (`int`, *optional*, defaults to 100000): records whose peaks are kept; then the longest unused go.

    Attributes:
        num_asked (`int`): records that were to be aligned so far, counted every time.
        num_without_peaks (`int`): those of them in which no peak was found.
        num_without_room (`int`): those whose peaks leave no room for a view.

    Example:
        >>> RPeakFinder().find(record) / record.sampling_rate  # seconds
    """

    def __init__(self, remembered: int = 100_000):
        self.remembered = remembered
        self.num_asked = 0
        self.num_without_peaks = 0
        self.num_without_room = 0
        self._peaks: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def find(self, record: ECGRecord) -> np.ndarray:
        """Return the samples at which R peaks lie, int64 in ascending order; empty if none is found."""
        leads = _usable_leads(record)
        content = hashlib.blake2b(f"{record.sampling_rate:g} {leads}".encode(), digest_size=16)
        for lead in leads:
            content.update(record.signal[lead].tobytes())
        key = content.digest()
        if key in self._peaks:
            self._peaks.move_to_end(key)
            return self._peaks[key]
        peaks = np.empty(0, dtype=np.int64)
        for lead in leads:
            peaks = find_r_peaks(record.signal[lead], record.sampling_rate)
            if len(peaks):
                break
        self._peaks[key] = peaks
        if len(self._peaks) > self.remembered:
            self._peaks.popitem(last=False)
        return peaks

    def starts(self, record: ECGRecord, length: int) -> np.ndarray:
        """Return the peaks at which a view of `length` samples can start; count, and say, where there is none."""
        peaks = self.find(record)
        starts = peaks[peaks + length <= record.num_samples]
        self.num_asked += 1
        if len(starts):
            return starts
        if len(peaks):
            self.num_without_room += 1
        else:
            self.num_without_peaks += 1
        failed = self.num_without_room + self.num_without_peaks
        # 1, 10, 100, ...: said early, and again where it goes on
        if str(failed).rstrip("0") == "1":
            logger.warning(
                f"{failed} of {self.num_asked} records could not be aligned at an R peak, so their views start "
                f"anywhere: {self.num_without_peaks} show no R peak, {self.num_without_room} have none that leaves "
                f"room for a view of {length / record.sampling_rate:g} s (shorter views leave more)."
            )
        return starts


def find_r_peaks(signal: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Find the R peaks of one lead.

    Args:
        signal (`np.ndarray` of shape `(samples,)`): mV; NaN where samples are missing.
        sampling_rate (`float`): Hz.

    Returns:
        `np.ndarray`: samples of the largest deflection of each QRS complex, up or down, int64 in ascending order.
        Empty for signals shorter than 1 s, below 40 Hz, constant, or more than half missing.
    """
    # Slow to import, and needed with R peaks only
    from wfdb import processing

    nothing = np.empty(0, dtype=np.int64)
    known = np.isfinite(signal)
    if len(signal) < _LEAST_SECONDS * sampling_rate or sampling_rate < _LEAST_HZ or known.mean() < 0.5:
        return nothing
    places = np.arange(len(signal))
    whole = np.interp(places, places[known], signal[known].astype(np.float64))
    whole -= np.median(whole)
    if not np.ptp(whole):
        return nothing
    ratio = Fraction(_DETECTOR_HZ / sampling_rate).limit_denominator(1000)
    # Extended along a line, so that ends at different heights do not ring like a QRS complex.
    resampled = scipy.signal.resample_poly(whole, ratio.numerator, ratio.denominator, padtype="line")
    found = np.asarray(processing.xqrs_detect(resampled, _DETECTOR_HZ, verbose=False), dtype=np.float64)
    reach = max(round(_REFINED_SECONDS * sampling_rate), 1)
    peaks = set()
    for place in np.round(found * sampling_rate / _DETECTOR_HZ).astype(int):
        start = max(place - reach, 0)
        around = whole[start : place + reach + 1]
        peaks.add(start + int(np.abs(around - np.median(around)).argmax()))
    return np.array(sorted(peaks), dtype=np.int64)


def _usable_leads(record: ECGRecord) -> list[int]:
    preference = {name: place for place, name in enumerate(_PREFERRED_LEADS)}
    order = sorted(range(record.num_leads), key=lambda lead: preference.get(record.lead_names[lead], len(preference)))
    usable = []
    for lead in order:
        samples = record.signal[lead]
        known = np.isfinite(samples)
        if known.mean() >= 0.5 and np.ptp(samples[known]):
            usable.append(lead)
        if len(usable) == _LEADS_TRIED:
            break
    return usable


_SHARED_FINDER = RPeakFinder()


def sample_views(
    records: Sequence[ECGRecord],
    seconds: float,
    align: str = "random",
    *,
    seeds: Sequence[int],
    num_views: int = 2,
    finder: RPeakFinder | None = None,
) -> list[list[ECGRecord]]:
    """Cut several views out of each record.

    Args:
        records (sequence of `ECGRecord`): of any rates, lengths and leads.
        seconds (`float`): length of a view. A record that is not longer is its own view.
        align (`str`, *optional*, defaults to `"random"`): where views start: `"random"`, anywhere; `"r_peak"`, at an
            R peak that leaves room for the whole view, each view at one of its own choice. In a record in which no
            peak is found, or none with room, views start anywhere; a warning says in how many, the first time and
            whenever there are ten times as many.
        seeds (sequence of `int`): one for each record; its views follow from it.
        num_views (`int`, *optional*, defaults to 2): views of a record.
        finder (`RPeakFinder`, *optional*): finds R peaks and remembers them; by default one for the whole process.

    Returns:
        `list[list[ECGRecord]]`: for each view the records, in their order, with their metadata.

    Raises:
        ValueError: for another alignment, a length or a number that is not positive, or a wrong number of seeds.

    Example:
        >>> first, second = sample_views(records, 5.0, "r_peak", seeds=range(len(records)))
    """
    if align not in ALIGNMENTS:
        raise ValueError(f"Views are aligned {' or '.join(map(repr, ALIGNMENTS))}; got {align!r}.")
    if not seconds > 0 or num_views < 1:
        raise ValueError(f"Views need a length in seconds and a number; got {seconds} s and {num_views}.")
    if len(seeds) != len(records):
        raise ValueError(f"Each of the {len(records)} records needs a seed; got {len(seeds)} seeds.")
    lengths = [max(round(seconds * record.sampling_rate), 1) for record in records]
    wholes = [record.num_samples for record in records]
    starts = [random_starts(seeds, f"view {view}", wholes, lengths) for view in range(num_views)]
    if align == "r_peak":
        finder = _SHARED_FINDER if finder is None else finder
        choices = hashed_uniforms(seeds, [f"peak {view}" for view in range(num_views)], 1)[..., 0].tolist()
        for row, (record, length) in enumerate(zip(records, lengths, strict=True)):
            peaks = finder.starts(record, length)
            for view in range(num_views if len(peaks) else 0):
                starts[view][row] = int(peaks[int(choices[row][view] * len(peaks))])
    return [
        [
            ECGRecord(
                record.signal[:, start : start + length], record.sampling_rate, record.lead_names, {**record.metadata}
            )
            for record, start, length in zip(records, starts[view], lengths, strict=True)
        ]
        for view in range(num_views)
    ]
