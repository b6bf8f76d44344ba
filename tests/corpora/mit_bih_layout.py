"""Writes small files in the layout of the MIT-BIH arrhythmia database, after its documentation on PhysioNet."""

from pathlib import Path

import numpy as np
import wfdb

RATE = 360


def write_record(
    folder: Path, name: str, beats, rhythms=((0, "N"),), seconds=60, comment="69 M 1085 1629 x1", other=()
):
    """Write `NAME.hea`, `.dat` (format 212, MLII and V1) and `.atr`.

    Args:
        folder: where to.
        name: of the record.
        beats: tuples of sample and symbol; each beat is a triangle of 1 mV, of -1 mV if it is ventricular (V).
        rhythms: tuples of sample and rhythm.
        seconds: length.
        comment: the header's first line on the patient.
        other: further annotations, tuples of sample and symbol.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digital = np.random.default_rng(int(name)).integers(-5, 6, size=(seconds * RATE, 2))
    for sample, symbol in beats:
        shape = (200 * (1 - np.abs(np.arange(-9, 10)) / 10)).astype(int) * (-1 if symbol == "V" else 1)
        inside = np.arange(sample - 9, sample + 10)
        kept = (inside >= 0) & (inside < len(digital))
        digital[inside[kept]] += shape[kept, None]
    wfdb.wrsamp(
        name,
        fs=RATE,
        units=["mV", "mV"],
        sig_name=["MLII", "V1"],
        d_signal=digital + 1024,
        fmt=["212", "212"],
        adc_gain=[200, 200],
        baseline=[1024, 1024],
        comments=[comment, "Aldomet, Inderal"],
        write_dir=str(folder),
    )
    marks = [(sample, 1, symbol, "") for sample, symbol in (*beats, *other)]
    marks = sorted([*marks, *((sample, 0, "+", f"({rhythm}") for sample, rhythm in rhythms)])
    wfdb.wrann(
        name,
        "atr",
        np.array([sample for sample, *_ in marks]),
        [symbol for _, _, symbol, _ in marks],
        aux_note=[text for *_, text in marks],
        write_dir=str(folder),
    )


def regular_beats(seconds=60, every=300, first=150, symbols="N"):
    """Return beats at equal distances, their symbols in turn."""
    return [
        (sample, symbols[number % len(symbols)]) for number, sample in enumerate(range(first, seconds * RATE, every))
    ]
