"""Text files of base64, as DeepECG's inference code writes recordings after its pre-processing."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

import numpy as np

from ..feature_extraction.ecg_leads import STANDARD_LEADS
from .content import FileContent
from .errors import ECGReadError
from .registry import ReadRequest, register_reader

# An hour of twelve leads at 500 Hz
_MAX_BYTES = 128 * 2**20
_BYTES_PER_SAMPLE = 4 * len(STANDARD_LEADS)


@register_reader(
    "base64",
    extensions=(".base64", ".b64"),
    sniff=lambda path, head: re.fullmatch(rb"[A-Za-z0-9+/=\s]+", head) is not None,
)
def read_base64(path: Path, request: ReadRequest) -> FileContent:
    """Read base64 of float32 numbers, little-endian, sample after sample, each of the twelve standard leads.

    The format states neither rate nor unit. By its origin these are 250 Hz, and mV times the factor by which the batch
    was scaled; the caller's rate and unit go before.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ECGReadError(path, f"it has more than {_MAX_BYTES} bytes.", "Store one recording per file.")
    try:
        data = base64.b64decode(b"".join(path.read_bytes().split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ECGReadError(path, f"its text is no base64 ({error}).", "The file is damaged; write it again.") from None
    if not data or len(data) % _BYTES_PER_SAMPLE:
        raise ECGReadError(
            path,
            f"its {len(data)} bytes are no whole number of samples of twelve float32 values.",
            "The file is truncated, or holds another number of leads.",
        )
    signal = np.frombuffer(data, "<f4").reshape(-1, len(STANDARD_LEADS)).T
    return FileContent(
        signal,
        metadata={"layout": "(samples, leads), base64 of float32"},
        default_sampling_rate=250,
        default_lead_names=STANDARD_LEADS,
        default_units="mV",
    )
