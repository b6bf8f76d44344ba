"""Which augmentations a training run uses and how strong they are, and their use on batches and records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..record import ECGRecord
from .augmentations import (
    add_baseline_shift,
    add_baseline_wander,
    add_emg,
    add_powerline,
    carries_signal,
    mask_time,
    scale_amplitude,
)
from .lead_masking import mask_leads
from .row_randomness import hashed_uniforms

# In the order in which they act: the heart, then the electrodes, then what is hidden
AUGMENTATIONS = (
    "amplitude",
    "powerline",
    "emg",
    "baseline_wander",
    "baseline_shift",
    "time_mask",
    "lead_mask",
)
_ROWS_ON_CPU = 8


@dataclass(frozen=True)
class AugmentationSettings:
    """Which augmentations, how often, and how strong; all values have the meaning of `augmentations`.

    A strength is the largest: each row draws its own between nothing and it. Probabilities and strengths are ours.

    Args:
        augmentations (`tuple[str]`, *optional*, defaults to none): names out of `AUGMENTATIONS`.
        augmentation_probability (`float`, *optional*, defaults to 0.5): of each augmentation for each row.
        amplitude_factors (`tuple`, *optional*, defaults to `(0.8, 1.25)`): see `scale_amplitude`.
        powerline_mv (`float`, *optional*, defaults to 0.05), powerline_hz (`tuple`, *optional*, defaults to `(50,
            60)`), powerline_harmonics (`int`, *optional*, defaults to 3): see `add_powerline`.
        emg_mv (`float`, *optional*, defaults to 0.05), emg_hz (`tuple`, *optional*, defaults to `(20, 150)`): see
            `add_emg`.
        wander_mv (`float`, *optional*, defaults to 0.3), wander_hz (`tuple`, *optional*, defaults to `(0.05, 0.5)`):
            see `add_baseline_wander`.
        shift_mv (`float`, *optional*, defaults to 0.5), shift_seconds (`tuple`, *optional*, defaults to `(0.5, 5)`):
            see `add_baseline_shift`.
        time_mask_seconds (`float`, *optional*, defaults to 1): longest span, see `mask_time`.
        lead_loss_probability (`float`, *optional*, defaults to 0.5): of each lead of a row that loses leads; one lead
            always stays. See `mask_leads`.

    Raises:
        ValueError: for unknown names or values out of range.

    Example:
        >>> settings = AugmentationSettings(("powerline", "emg"), emg_mv=0.1)
        >>> AugmentationSettings.from_dict(settings.to_dict()) == settings
        True
    """

    augmentations: tuple[str, ...] = ()
    augmentation_probability: float = 0.5
    amplitude_factors: tuple[float, float] = (0.8, 1.25)
    powerline_mv: float = 0.05
    powerline_hz: tuple[float, ...] = (50.0, 60.0)
    powerline_harmonics: int = 3
    emg_mv: float = 0.05
    emg_hz: tuple[float, float] = (20.0, 150.0)
    wander_mv: float = 0.3
    wander_hz: tuple[float, float] = (0.05, 0.5)
    shift_mv: float = 0.5
    shift_seconds: tuple[float, float] = (0.5, 5.0)
    time_mask_seconds: float = 1.0
    lead_loss_probability: float = 0.5

    def __post_init__(self):
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, list):
                object.__setattr__(self, entry.name, tuple(value))
        unknown = [name for name in self.augmentations if name not in AUGMENTATIONS]
        if unknown:
            raise ValueError(f"--augmentations are {', '.join(AUGMENTATIONS)}; got {', '.join(map(str, unknown))}.")
        # The order in which they act, so that equal settings are equal
        ordered = tuple(name for name in AUGMENTATIONS if name in self.augmentations)
        object.__setattr__(self, "augmentations", ordered)
        for name in ("augmentation_probability", "lead_loss_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} is a probability in [0, 1]; got {getattr(self, name)}.")
        for name in ("powerline_mv", "emg_mv", "wander_mv", "shift_mv", "time_mask_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name} is the largest strength, at least 0; got {getattr(self, name)}.")
        for name in ("amplitude_factors", "emg_hz", "wander_hz", "shift_seconds"):
            limits = getattr(self, name)
            if len(limits) != 2 or not 0 <= limits[0] <= limits[1] < float("inf"):
                raise ValueError(f"--{name} takes the least and the largest value, both at least 0; got {limits}.")
        if not self.amplitude_factors[0] > 0:
            raise ValueError(f"--amplitude_factors must be positive; got {self.amplitude_factors}.")
        if not self.powerline_hz or not min(self.powerline_hz) > 0 or self.powerline_harmonics < 1:
            raise ValueError(
                "--powerline_hz takes frequencies above 0 and --powerline_harmonics at least 1; got "
                f"{self.powerline_hz} and {self.powerline_harmonics}."
            )

    @classmethod
    def from_arguments(cls, arguments: AugmentationArguments) -> AugmentationSettings:
        """Return the settings that the arguments of a script tell."""
        values = {entry.name: getattr(arguments, entry.name) for entry in dataclasses.fields(cls)}
        names = values.pop("augmentations")
        if "all" in names:
            names = AUGMENTATIONS
        elif "none" in names:
            names = ()
        return cls(augmentations=tuple(names), **values)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AugmentationSettings:
        """Return the settings that `to_dict` wrote."""
        return cls(**values)


@dataclass
class AugmentationArguments:
    """How records are disturbed in training."""

    augmentations: list[str] = field(
        default_factory=list,
        metadata={
            "choices": [*AUGMENTATIONS, "all", "none"],
            "help": "Disturbances of the training records, before the model's own preprocessing, as a recording can "
            "have them, so that the model learns what is the heart's: 'amplitude' (gain), 'powerline' (mains hum), "
            "'emg' (muscle), 'baseline_wander' (breathing), 'baseline_shift' (an electrode moves), 'time_mask' and "
            "'lead_mask' (hidden spans and leads); 'all' or 'none'. They act on electrodes, so limb leads still fit "
            "together. Strengths below are the largest; each record draws its own up to them. Validation records stay "
            "as they are. (Random windows of long records: --train_windows.)",
        },
    )
    augmentation_probability: float = field(
        default=AugmentationSettings.augmentation_probability,
        metadata={"help": "Probability of each augmentation for each record."},
    )
    amplitude_factors: list[float] = field(
        default_factory=lambda: list(AugmentationSettings.amplitude_factors),
        metadata={"help": "'amplitude': least and largest factor on all leads of a record."},
    )
    powerline_mv: float = field(
        default=AugmentationSettings.powerline_mv,
        metadata={"help": "'powerline': largest peak at an electrode, mV; a QRS complex has about 1."},
    )
    powerline_hz: list[float] = field(
        default_factory=lambda: list(AugmentationSettings.powerline_hz),
        metadata={"help": "'powerline': mains frequencies, of which a record gets one."},
    )
    powerline_harmonics: int = field(
        default=AugmentationSettings.powerline_harmonics,
        metadata={"help": "'powerline': components; 1 is the mains frequency alone, the k-th has 1/k of its height."},
    )
    emg_mv: float = field(
        default=AugmentationSettings.emg_mv,
        metadata={"help": "'emg': largest root mean square at an electrode, mV; a resting record has about 0.007."},
    )
    emg_hz: list[float] = field(
        default_factory=lambda: list(AugmentationSettings.emg_hz), metadata={"help": "'emg': edges of the band, Hz."}
    )
    wander_mv: float = field(
        default=AugmentationSettings.wander_mv,
        metadata={"help": "'baseline_wander': largest excursion of an electrode, mV."},
    )
    wander_hz: list[float] = field(
        default_factory=lambda: list(AugmentationSettings.wander_hz),
        metadata={"help": "'baseline_wander': lowest and highest frequency, Hz; breathing has about 0.25."},
    )
    shift_mv: float = field(
        default=AugmentationSettings.shift_mv,
        metadata={"help": "'baseline_shift': largest step of an electrode that moves, mV."},
    )
    shift_seconds: list[float] = field(
        default_factory=lambda: list(AugmentationSettings.shift_seconds),
        metadata={"help": "'baseline_shift': shortest and longest duration, s."},
    )
    time_mask_seconds: float = field(
        default=AugmentationSettings.time_mask_seconds,
        metadata={"help": "'time_mask': longest span that is hidden in all leads, s."},
    )
    lead_loss_probability: float = field(
        default=AugmentationSettings.lead_loss_probability,
        metadata={
            "help": "'lead_mask': probability of each lead to be zero, in records that lose leads; one always stays."
        },
    )

    def __post_init__(self):
        # A file of arguments may hold one name, or several in one line.
        names = self.augmentations
        self.augmentations = names.replace(",", " ").split() if isinstance(names, str) else list(names)
        AugmentationSettings.from_arguments(self)


def describe_augmentations(settings: AugmentationSettings) -> dict[str, Any]:
    """Return what a run's records tell of its augmentations: null where there are none."""
    return {"augmentations": settings.to_dict() if settings.augmentations else None}


def augmentation_report(settings: AugmentationSettings) -> list[str]:
    """Return what a run says of its augmentations when it starts: a line, or none."""
    if not settings.augmentations:
        return []
    names = ", ".join(settings.augmentations)
    return [
        f"Training records are disturbed, each way with probability {settings.augmentation_probability:g}: {names}."
    ]


def augment(
    signals: torch.Tensor,
    sampling_rate: float,
    lead_names: Sequence[str],
    settings: AugmentationSettings,
    seeds: Sequence[int],
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Disturb rows as the settings say; see `augmentations` for what holds of all disturbances.

    Args:
        signals (`torch.Tensor` of shape `(rows, leads, samples)`): mV, on any device.
        sampling_rate (`float`): Hz.
        lead_names (sequence of `str`): of the rows' leads.
        settings (`AugmentationSettings`): which, how often, how strong.
        seeds (sequence of `int`): one for each row; the row's result follows from it.
        mask (`torch.Tensor` of shape `(rows, samples)`, *optional*): zero where a sample is padding.

    Returns:
        `torch.Tensor` of the same shape: a disturbed copy, or `signals` if there is nothing to do.

    Raises:
        ValueError: for shapes that do not fit together.

    Example:
        >>> settings = AugmentationSettings(("powerline", "baseline_wander"))
        >>> noisy = augment(signals, 500, STANDARD_LEADS, settings, seeds=range(len(signals)))
    """
    if not settings.augmentations or not len(signals):
        return signals
    # On the CPU a few rows at a time, which its caches hold through all of it
    size = _ROWS_ON_CPU if signals.device.type == "cpu" else len(signals)
    starts = range(0, len(signals), size)
    parts = [
        _augment(
            signals[start : start + size],
            sampling_rate,
            lead_names,
            settings,
            seeds[start : start + size],
            None if mask is None else mask[start : start + size],
        )
        for start in starts
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _augment(
    signals: torch.Tensor,
    sampling_rate: float,
    lead_names: Sequence[str],
    settings: AugmentationSettings,
    seeds: Sequence[int],
    mask: torch.Tensor | None,
) -> torch.Tensor:
    s = settings
    rates = (sampling_rate, lead_names)
    functions: dict[str, Callable[..., torch.Tensor]] = {
        "amplitude": lambda x, seeds, mask: scale_amplitude(x, seeds, s.amplitude_factors, mask),
        "powerline": lambda x, seeds, mask: add_powerline(
            x, *rates, seeds, (0.0, s.powerline_mv), s.powerline_hz, s.powerline_harmonics, mask
        ),
        "emg": lambda x, seeds, mask: add_emg(x, *rates, seeds, (0.0, s.emg_mv), s.emg_hz, mask),
        "baseline_wander": lambda x, seeds, mask: add_baseline_wander(
            x, *rates, seeds, (0.0, s.wander_mv), s.wander_hz, mask=mask
        ),
        "baseline_shift": lambda x, seeds, mask: add_baseline_shift(
            x, *rates, seeds, (0.0, s.shift_mv), s.shift_seconds, mask=mask
        ),
        "time_mask": lambda x, seeds, mask: mask_time(x, sampling_rate, seeds, (0.0, s.time_mask_seconds), mask),
        "lead_mask": lambda x, seeds, mask: _lose_leads(x, lead_names, seeds, s.lead_loss_probability, mask),
    }
    chances = hashed_uniforms(seeds, [f"whether {name}" for name in s.augmentations], 1)[..., 0]
    for name, chance in zip(s.augmentations, chances.T, strict=True):
        rows = (chance < s.augmentation_probability).nonzero().flatten()
        if len(rows) == len(signals):
            signals = functions[name](signals, seeds, mask)
        elif len(rows):
            places = rows.to(signals.device)
            disturbed = functions[name](
                signals[places], [seeds[row] for row in rows.tolist()], None if mask is None else mask[places]
            )
            signals = signals.index_copy(0, places, disturbed)
    return signals


def augment_records(
    records: Sequence[ECGRecord], settings: AugmentationSettings, seeds: Sequence[int]
) -> list[ECGRecord]:
    """Disturb records of any rates, lengths and leads; see `augment`.

    Args:
        records (sequence of `ECGRecord`): not changed.
        settings (`AugmentationSettings`): which, how often, how strong.
        seeds (sequence of `int`): one for each record.

    Returns:
        `list[ECGRecord]`: new records with the same metadata, in the same order; the same ones where there is nothing
        to do.

    Raises:
        ValueError: unless each record has a seed.
    """
    if len(seeds) != len(records):
        raise ValueError(f"Each of the {len(records)} records needs a seed; got {len(seeds)} seeds.")
    if not settings.augmentations:
        return list(records)
    groups: dict[tuple, list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault((record.sampling_rate, record.lead_names, record.num_samples), []).append(index)
    disturbed = list(records)
    for (rate, names, _), rows in groups.items():
        signals = torch.from_numpy(np.stack([records[row].signal for row in rows]))
        result = augment(signals, rate, names, settings, [seeds[row] for row in rows]).numpy()
        for row, signal in zip(rows, result, strict=True):
            disturbed[row] = ECGRecord(signal, rate, names, dict(records[row].metadata))
    return disturbed


def _lose_leads(
    signals: torch.Tensor,
    lead_names: Sequence[str],
    seeds: Sequence[int],
    probability: float,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    uniforms = hashed_uniforms(seeds, [f"lead {name}" for name in lead_names], 1)[..., 0]
    # A lead without signal is not the one to keep.
    uniforms = uniforms.masked_fill(~carries_signal(signals, mask).cpu(), 0.0)
    masked = mask_leads(signals, probability, keep_one=True, uniforms=uniforms)
    return masked if mask is None else torch.where(mask[:, None] != 0, masked, signals)
