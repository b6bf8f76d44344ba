"""The findings that a synthetic recording can have, and which of them go together."""

from __future__ import annotations

from collections.abc import Sequence

from .synthetic_rhythms import RHYTHMS, SINUS_RHYTHMS

# Criteria: Surawicz et al. 2009 (conduction), Wagner et al. 2009 (ST), Hancock et al. 2009 (hypertrophy), all
# AHA/ACCF/HRS recommendations for the standardization and interpretation of the electrocardiogram.
SYNTHETIC_LABELS = {
    "sinus_rhythm": "a P wave before every QRS, 60-100 beats a minute",
    "sinus_bradycardia": "a P wave before every QRS, fewer than 60 beats a minute",
    "sinus_tachycardia": "a P wave before every QRS, more than 100 beats a minute",
    "atrial_fibrillation": "no P waves, irregularly irregular QRS, fibrillatory waves of 5-8 Hz",
    "premature_ventricular_beats": "early wide QRS without P wave, discordant T, compensatory pause",
    "left_bundle_branch_block": "QRS >= 120 ms, broad notched R in I, aVL, V5, V6, no q; rS or QS in V1; discordant T",
    "right_bundle_branch_block": "QRS >= 120 ms, rSR' in V1, broad S in I and V6, T inverted in V1",
    "first_degree_av_block": "PR interval > 200 ms, constant, every P wave conducted",
    "anterior_st_elevation": "ST elevation >= 0.2 mV in V1-V4, reciprocal depression in III and aVF",
    "inferior_st_elevation": "ST elevation >= 0.1 mV in II, III and aVF, reciprocal depression in aVL",
    "left_ventricular_hypertrophy": "S in V1 plus R in V5 or V6 > 3.5 mV, strain pattern in the lateral leads",
    "low_voltage": "QRS below 0.5 mV peak to peak in every limb lead and below 1 mV in every chest lead",
    "atrial_flutter": "saw-tooth waves of 250-350 a minute in II, III and aVF, QRS at a fixed ratio",
    "second_degree_av_block": "PR grows until a P wave is not conducted (Wenckebach)",
    "complete_av_block": "P waves and a slow escape rhythm, each regular, unrelated to each other",
    "ventricular_pacing": "a stimulus before each wide QRS that points up and to the left",
}

BUNDLE_BRANCH_BLOCKS = ("left_bundle_branch_block", "right_bundle_branch_block")
ST_ELEVATIONS = ("anterior_st_elevation", "inferior_st_elevation")

# At most one of each group: their criteria exclude or hide one another.
_EXCLUSIVE = (
    RHYTHMS,
    BUNDLE_BRANCH_BLOCKS,
    ST_ELEVATIONS,
    ("left_bundle_branch_block", "left_ventricular_hypertrophy", "ventricular_pacing", *ST_ELEVATIONS, "low_voltage"),
    ("right_bundle_branch_block", "left_ventricular_hypertrophy", "ventricular_pacing"),
    *(("first_degree_av_block", rhythm) for rhythm in RHYTHMS if rhythm not in SINUS_RHYTHMS),
    *(
        ("premature_ventricular_beats", rhythm)
        for rhythm in RHYTHMS
        if rhythm not in (*SINUS_RHYTHMS, "atrial_fibrillation")
    ),
)


def _clash(labels: Sequence[str]) -> list[str]:
    """Return labels of one group of mutually exclusive ones; none if all go together."""
    for group in _EXCLUSIVE:
        together = [label for label in SYNTHETIC_LABELS if label in labels and label in group]
        if len(together) > 1:
            return together
    return []


def go_together(labels: Sequence[str]) -> bool:
    """Return whether one recording can have all these labels."""
    return not _clash(labels)


def check_labels(labels: str | Sequence[str]) -> tuple[str, ...]:
    """Return labels in the order of `SYNTHETIC_LABELS`, with `sinus_rhythm` added if no rhythm is named.

    Raises:
        ValueError: for an unknown label, or labels that cannot occur together.
    """
    given = [labels] if isinstance(labels, str) else list(labels)
    unknown = [label for label in given if label not in SYNTHETIC_LABELS]
    if unknown:
        raise ValueError(
            f"Unknown label {', '.join(map(repr, unknown))}; known labels: {', '.join(SYNTHETIC_LABELS)}."
        )
    if not set(given) & set(RHYTHMS):
        given.append("sinus_rhythm")
    together = _clash(given)
    if together:
        raise ValueError(
            f"The labels {', '.join(together)} cannot occur in one synthetic recording: their criteria exclude "
            "or hide one another. Keep one of them."
        )
    return tuple(label for label in SYNTHETIC_LABELS if label in given)
