"""Lead names and the arithmetic between leads.

Leads are found by name, in any spelling that the field uses, never by position. The limb leads III, aVR, aVL and aVF
follow from I and II (Einthoven's law and Goldberger's definitions), so they are derived where a file leaves them out.
"""

import numpy as np

STANDARD_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

# Other leads that occur in clinical exports: Frank's orthogonal leads, right-sided and posterior chest leads, and the
# modified leads of two-channel Holter recordings.
OTHER_LEADS = (
    *("VX", "VY", "VZ", "V3R", "V4R", "V5R", "V6R", "V7", "V8", "V9"),
    *("MLI", "MLII", "MLIII", "MV1", "MV2", "MV3", "MV4", "MV5", "MV6", "-aVR"),
)

# name -> (weight of I, weight of II). III = II - I; aVR = -(I + II)/2; aVL = I - II/2; aVF = II - I/2.
DERIVED_LEADS = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}

_SPELLINGS = {name.upper(): name for name in (*STANDARD_LEADS, *OTHER_LEADS)}
# "Derivation": how Portuguese and Spanish write them, as in the CODE data
_SPELLINGS |= {"DI": "I", "DII": "II", "DIII": "III"}
_PREFIXES = ("MDC_ECG_LEAD_", "LEAD ", "LEAD_", "LEAD", "ECG ", "ECG_", "ECG", "EKG ", "EKG_", "EKG")


def canonical_lead_name(name: str) -> str | None:
    """Return the canonical spelling of a lead name, or `None` if it is no lead that we know.

    Accepts any case (`AVR`, `avr`, `aVr`), surrounding blanks, prefixes such as `Lead `, `ECG ` and `MDC_ECG_LEAD_`,
    and `DI`, `DII`, `DIII` for the bipolar limb leads.
    """
    key = " ".join(str(name).strip().upper().split())
    for prefix in ("", *_PREFIXES):
        if key.startswith(prefix):
            found = _SPELLINGS.get(key[len(prefix) :].strip(" _-" if prefix else " "))
            if found is not None:
                return found
    return None


def arrange_leads(
    signal: np.ndarray, lead_names: tuple[str, ...] | list[str], target: tuple[str, ...] | list[str] = STANDARD_LEADS
) -> tuple[np.ndarray, np.ndarray]:
    """Bring the rows of a recording into a wanted order, deriving limb leads that are missing.

    Args:
        signal (`np.ndarray` of shape `(leads, samples)`): potentials; any unit, kept as it is.
        lead_names (sequence of `str`): the name of each row, in any spelling of `canonical_lead_name`.
        target (sequence of `str`, *optional*, defaults to the twelve standard leads): the wanted rows.

    Returns:
        `tuple`: the arranged signal of shape `(len(target), samples)` in the dtype of the input, and a boolean array
        of shape `(len(target),)` that is `False` for leads that are neither present nor derivable; those rows are
        zero.

    Raises:
        ValueError: if names and rows differ in number, a lead occurs twice, or a target name is unknown.
    """
    if signal.ndim != 2 or signal.shape[0] != len(lead_names):
        raise ValueError(
            f"Expected a signal of shape (leads, samples) with one name per row; got shape {tuple(signal.shape)} and "
            f"{len(lead_names)} lead names {list(lead_names)}."
        )
    rows: dict[str, int] = {}
    for row, name in enumerate(lead_names):
        canonical = canonical_lead_name(name)
        if canonical is None:
            continue
        if canonical in rows:
            raise ValueError(f"Lead {canonical} occurs twice in {list(lead_names)}; rename or drop one of the rows.")
        rows[canonical] = row

    arranged = np.zeros((len(target), signal.shape[1]), dtype=signal.dtype)
    present = np.zeros(len(target), dtype=bool)
    for position, wanted in enumerate(target):
        name = canonical_lead_name(wanted)
        if name is None:
            raise ValueError(f"Unknown target lead {wanted!r}; known leads: {', '.join(_SPELLINGS.values())}.")
        if name in rows:
            arranged[position] = signal[rows[name]]
            present[position] = True
        elif name in DERIVED_LEADS and "I" in rows and "II" in rows:
            of_lead_one, of_lead_two = DERIVED_LEADS[name]
            arranged[position] = of_lead_one * signal[rows["I"]] + of_lead_two * signal[rows["II"]]
            present[position] = True
    return arranged, present
