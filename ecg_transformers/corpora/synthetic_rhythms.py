"""When the synthetic heart beats: onsets of P waves and QRS complexes for each rhythm."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SINUS_RHYTHMS = ("sinus_rhythm", "sinus_bradycardia", "sinus_tachycardia")
RHYTHMS = (
    *SINUS_RHYTHMS,
    "atrial_fibrillation",
    "atrial_flutter",
    "second_degree_av_block",
    "complete_av_block",
    "ventricular_pacing",
)

# Ventricular rate (or atrial, where beats are dropped) in beats a minute. The gaps at 60 and 100 leave room for
# respiratory variation, so that the mean rate of every record satisfies its definition.
RATES = {
    "sinus_rhythm": (63, 95),
    "sinus_bradycardia": (40, 56),
    "sinus_tachycardia": (106, 150),
    "atrial_fibrillation": (65, 140),
    "atrial_flutter": (255, 330),
    "second_degree_av_block": (70, 95),
    "complete_av_block": (72, 100),
    "ventricular_pacing": (60, 80),
}

# Beats start before the recording and run on after it, so that its edges look like its middle.
MARGIN_SECONDS = 2.0


@dataclass
class Rhythm:
    """Onsets in seconds from the first sample; some lie outside the recording.

    Args:
        p_onsets (`np.ndarray`): onsets of P waves.
        qrs_onsets (`np.ndarray`): onsets of QRS complexes, in order of time.
        ectopic (`np.ndarray` of `bool`, shape of `qrs_onsets`): beats of ventricular origin.
        rr_seconds (`float`): the basic interval between QRS complexes, which sets QT.
        pr_seconds (`float`, *optional*): P onset to QRS onset, where it is constant.
        atrial_rate (`float`, *optional*): fibrillation or flutter waves a second (Hz).
    """

    p_onsets: np.ndarray
    qrs_onsets: np.ndarray
    ectopic: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    rr_seconds: float = 1.0
    pr_seconds: float | None = None
    atrial_rate: float | None = None

    def __post_init__(self):
        if len(self.ectopic) != len(self.qrs_onsets):
            self.ectopic = np.zeros(len(self.qrs_onsets), dtype=bool)


def _sinus_node(rng: np.random.Generator, rate: float, seconds: float, sinus_arrhythmia: float) -> np.ndarray:
    """Return P onsets at a mean rate, sped up by inspiration (0.15-0.35 Hz) and a little noise."""
    interval = 60 / rate
    count = int((seconds + 2 * MARGIN_SECONDS) / interval * 1.2) + 6
    breaths, phase = rng.uniform(0.15, 0.35), rng.uniform(0, 2 * np.pi)
    cycle = np.sin(2 * np.pi * breaths * interval * np.arange(count) + phase)
    intervals = interval * (1 + sinus_arrhythmia * cycle + 0.006 * rng.standard_normal(count).clip(-2.5, 2.5))
    return np.cumsum(intervals) - MARGIN_SECONDS - interval * (1 + rng.random())


def _sinus(rng: np.random.Generator, rate: float, seconds: float, sinus_arrhythmia: float, pr: float) -> Rhythm:
    p_onsets = _sinus_node(rng, rate, seconds, sinus_arrhythmia)
    return Rhythm(p_onsets, p_onsets + pr, rr_seconds=60 / rate, pr_seconds=pr)


def _fibrillation(rng: np.random.Generator, rate: float, seconds: float) -> Rhythm:
    """No P waves; each interval independent of the last, spread 17-26 % of the mean."""
    interval = 60 / rate
    count = int((seconds + 2 * MARGIN_SECONDS) / interval * 1.3) + 8
    deviation = rng.standard_normal(count).clip(-1.9, 2.4)
    # Standardised, so that no draw comes out nearly regular.
    deviation = (deviation - deviation.mean()) / deviation.std()
    intervals = np.maximum(interval * (1 + rng.uniform(0.17, 0.26) * deviation), 0.30)
    onsets = np.cumsum(intervals) - MARGIN_SECONDS - interval * (1 + rng.random())
    return Rhythm(np.zeros(0), onsets, rr_seconds=interval, atrial_rate=rng.uniform(5.0, 8.0))


def _flutter(rng: np.random.Generator, rate: float, seconds: float) -> Rhythm:
    cycle = 60 / rate
    ratio = int(rng.choice([2, 3, 4], p=[0.3, 0.2, 0.5]))
    count = int((seconds + 2 * MARGIN_SECONDS) / (cycle * ratio)) + 4
    onsets = np.arange(count) * cycle * ratio - MARGIN_SECONDS - cycle * ratio * rng.random()
    onsets = onsets + 0.004 * rng.standard_normal(count)
    return Rhythm(np.zeros(0), onsets, rr_seconds=cycle * ratio, atrial_rate=1 / cycle)


def _wenckebach(rng: np.random.Generator, rate: float, seconds: float, sinus_arrhythmia: float) -> Rhythm:
    """PR grows from beat to beat, by less each time, until one P wave is not conducted."""
    p_onsets = _sinus_node(rng, rate, seconds, 0.3 * sinus_arrhythmia)
    conducted = int(rng.integers(2, 5))
    growth = np.concatenate([[0.0], rng.uniform(0.07, 0.10) * 0.6 ** np.arange(conducted - 1)])
    pr = rng.uniform(0.17, 0.21) + np.cumsum(growth)
    place = (np.arange(len(p_onsets)) + rng.integers(conducted + 1)) % (conducted + 1)
    kept = place < conducted
    return Rhythm(p_onsets, p_onsets[kept] + pr[place[kept]], rr_seconds=60 / rate)


def _complete_block(rng: np.random.Generator, rate: float, seconds: float, sinus_arrhythmia: float) -> Rhythm:
    """Atria and ventricles each at their own pace."""
    p_onsets = _sinus_node(rng, rate, seconds, 0.3 * sinus_arrhythmia)
    escape = 60 / rng.uniform(30, 44)
    count = int((seconds + 2 * MARGIN_SECONDS) / escape) + 4
    onsets = np.arange(count) * escape - MARGIN_SECONDS - escape * rng.random() + 0.005 * rng.standard_normal(count)
    return Rhythm(p_onsets, onsets, rr_seconds=escape)


def _add_ventricular_beats(rng: np.random.Generator, rhythm: Rhythm, sinus: bool) -> Rhythm:
    """Replace some beats by early ventricular ones, at most 4 s apart.

    The sinus node keeps its pace, so the pause after the beat is fully compensatory; its P wave falls into the
    ectopic beat and is not conducted. In fibrillation there is no such pace; the next interval is long because the AV
    node is refractory.
    """
    interval = rhythm.rr_seconds
    every = int(rng.integers(2, max(3, int(4.0 / interval) + 1)))
    count = len(rhythm.qrs_onsets)
    chosen = np.arange(1 + int(rng.integers(every)), count - 1, every)
    onsets, p_onsets = rhythm.qrs_onsets.copy(), rhythm.p_onsets
    coupling = rng.uniform(0.55, 0.66) + 0.012 * rng.standard_normal(len(chosen)).clip(-2, 2)
    early = np.maximum(coupling * interval, 0.30)
    ectopic = np.zeros(count, dtype=bool)
    ectopic[chosen] = True
    if sinus:
        onsets[chosen] = onsets[chosen - 1] + early
        # A P wave just before the ectopic QRS would make it look conducted; the node's wave is then taken as
        # concealed.
        hidden = chosen[p_onsets[chosen] < onsets[chosen] + 0.03]
        p_onsets = np.delete(p_onsets, hidden)
    else:
        intervals = np.diff(onsets, prepend=onsets[0])
        intervals[chosen] = early
        intervals[chosen + 1] = np.maximum(intervals[chosen + 1], interval * rng.uniform(1.2, 1.4, len(chosen)))
        onsets = onsets[0] + np.cumsum(intervals)
    return Rhythm(p_onsets, onsets, ectopic, interval, rhythm.pr_seconds, rhythm.atrial_rate)


def draw_rhythm(
    rng: np.random.Generator,
    name: str,
    seconds: float,
    *,
    pr_seconds: float,
    sinus_arrhythmia: float,
    first_degree_block: float | None = None,
    ventricular_beats: bool = False,
) -> Rhythm:
    """Draw the times of all beats of a recording.

    Args:
        rng (`np.random.Generator`): source of chance.
        name (`str`): one of `RHYTHMS`.
        seconds (`float`): length of the recording.
        pr_seconds (`float`): the patient's PR interval at 60 beats a minute.
        sinus_arrhythmia (`float`): relative amplitude of the respiratory variation of sinus rhythm.
        first_degree_block (`float`, *optional*): where in the range of prolonged PR intervals the patient lies, 0 to
            1.
        ventricular_beats (`bool`, defaults to `False`): add premature ventricular beats.

    Returns:
        `Rhythm`
    """
    rate = rng.uniform(*RATES[name])
    # PR shortens by about 10 ms for 20 beats a minute more.
    pr = float(np.clip(pr_seconds - 0.0005 * (rate - 60), 0.125, 0.19))
    if name in (*SINUS_RHYTHMS, "ventricular_pacing"):
        if first_degree_block is not None:
            pr = 0.225 + first_degree_block * max(min(0.34, 0.45 * 60 / rate) - 0.225, 0.01)
        if name == "sinus_tachycardia":
            sinus_arrhythmia *= 0.3
        rhythm = _sinus(rng, rate, seconds, sinus_arrhythmia, pr)
    elif name == "atrial_fibrillation":
        rhythm = _fibrillation(rng, rate, seconds)
    elif name == "atrial_flutter":
        rhythm = _flutter(rng, rate, seconds)
    elif name == "second_degree_av_block":
        rhythm = _wenckebach(rng, rate, seconds, sinus_arrhythmia)
    else:
        rhythm = _complete_block(rng, rate, seconds, sinus_arrhythmia)
    if ventricular_beats:
        rhythm = _add_ventricular_beats(rng, rhythm, sinus=name in SINUS_RHYTHMS)
    return rhythm
