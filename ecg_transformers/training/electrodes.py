"""From disturbances of electrodes to those of leads, so that disturbed leads still fit together.

A lead is a difference of electrode potentials. What one electrode picks up appears in every lead that the electrode
takes part in, with the lead's own sign and weight. Einthoven's law (III = II - I) and Goldberger's definitions (aVR,
aVL, aVF) then hold for the disturbance as they hold for the heart, and limb electrodes reach the chest leads through
Wilson's central terminal, the mean of the three.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..feature_extraction.ecg_leads import canonical_lead_name

# Weights of the electrodes right arm, left arm, left leg; the right leg is the recorder's reference and cancels.
_LIMB_LEADS = {
    "I": {"LA": 1.0, "RA": -1.0},
    "II": {"LL": 1.0, "RA": -1.0},
    "III": {"LL": 1.0, "LA": -1.0},
    "aVR": {"RA": 1.0, "LA": -0.5, "LL": -0.5},
    "-aVR": {"RA": -1.0, "LA": 0.5, "LL": 0.5},
    "aVL": {"LA": 1.0, "RA": -0.5, "LL": -0.5},
    "aVF": {"LL": 1.0, "RA": -0.5, "LA": -0.5},
}
_CHEST_LEADS = ("V1", "V2", "V3", "V4", "V5", "V6", "V3R", "V4R", "V5R", "V6R", "V7", "V8", "V9")
_CENTRAL_TERMINAL = {"RA": -1 / 3, "LA": -1 / 3, "LL": -1 / 3}


def electrodes_of(lead_name: str) -> dict[str, float]:
    """Return the electrodes of a lead with their weights.

    Args:
        lead_name (`str`): in any spelling of `canonical_lead_name`. Leads whose electrodes are not those of the
            12-lead system (Frank's, Holter recorders', unknown ones) count as one electrode of their own.
    """
    name = canonical_lead_name(lead_name) or lead_name
    if name in _LIMB_LEADS:
        return _LIMB_LEADS[name]
    return {name: 1.0, **_CENTRAL_TERMINAL} if name in _CHEST_LEADS else {name: 1.0}


def lead_matrix(lead_names: Sequence[str]) -> tuple[list[str], torch.Tensor]:
    """Return the electrodes that leads are made of, and the matrix from electrodes to leads.

    Args:
        lead_names (sequence of `str`): any leads in any order.

    Returns:
        `tuple`: names of the electrodes, and a float32 `torch.Tensor` of shape `(leads, electrodes)`.

    Example:
        >>> electrodes, matrix = lead_matrix(["II", "I"])
        >>> electrodes, matrix.tolist()
        (['LL', 'RA', 'LA'], [[1.0, -1.0, 0.0], [0.0, -1.0, 1.0]])
    """
    weights = [electrodes_of(name) for name in lead_names]
    electrodes = list(dict.fromkeys(name for row in weights for name in row))
    return electrodes, torch.tensor([[row.get(name, 0.0) for name in electrodes] for row in weights])
