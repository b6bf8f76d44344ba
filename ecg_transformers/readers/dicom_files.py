"""DICOM waveforms: 12-lead, general and ambulatory ECG (PS3.3 A.34, C.10.9)."""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .content import FileContent, millivolts_per, parse_sex, unpacked_limit
from .errors import ECGReadError
from .export_facts import age_at, age_in_years, iso_time, joined_words, statement_facts
from .lead_codes import lead_of_code, lead_of_words
from .lead_groups import LeadPiece, join_leads
from .registry import ReadRequest, register_reader

# Waveform storage: 12-lead ECG, general ECG, ambulatory ECG, general 32-bit ECG.
_ECG_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.9.1.{number}" for number in (1, 2, 3, 4)) + (
    "1.2.840.10008.5.1.4.1.1.9.2.1",
)
_WAVEFORM_CLASSES = b"1.2.840.10008.5.1.4.1.1.9."
_DEFLATED = "1.2.840.10008.1.2.1.99"

MAX_DICOM_BYTES = 2**30
MAX_CHANNELS = 256

_EXPORT_AGAIN = "The file is truncated or damaged; export it again."

# Labels of groups with averaged beats, for files that do not say that these are derived.
_MEDIAN_LABELS = ("MEDIAN", "REPRESENTATIVE", "AVERAGE", "TEMPLATE")


def _sniff(path: Path, head: bytes) -> bool:
    return head[128:132] == b"DICM"


def _is_record(path: Path, head: bytes) -> bool:
    """Tell waveforms from images by the class in the meta information, which lies in the first bytes."""
    return _sniff(path, head) and _WAVEFORM_CLASSES in head


@register_reader("dicom", extensions=(".dcm", ".dicom"), sniff=_sniff, is_record=_is_record, any_name=True)
def read_dicom(path: Path, request: ReadRequest) -> FileContent:
    """Read a DICOM ECG waveform (needs the extra `formats`).

    All original multiplex groups are read and placed in time; derived ones (median beats) are not. Leads are found by
    their codes (MDC, SCP-ECG), else by words. Samples equal to the padding value are NaN if that value lies outside
    of all other samples of the channel: some writers state 0, which is a sample as good as any.
    """
    with _quiet():
        return _read(path, request)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library from logging each oddity of a file, with its content."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _read(path: Path, request: ReadRequest) -> FileContent:
    dataset = _open(path)
    groups = list(dataset.get("WaveformSequence") or ())
    if not groups:
        kind = getattr(dataset.get("SOPClassUID"), "name", None) or "an unknown kind of object"
        raise ECGReadError(path, f"it holds no waveforms; it is {kind}.", "Export the ECG as a DICOM waveform.")
    chosen = [group for group in groups if not _is_derived(group)] or groups
    pieces: list[LeadPiece] = []
    others: list[str] = []
    for number, group in enumerate(chosen, start=1):
        found, skipped = _read_group(group, number, dataset.original_encoding[1] is not False, request, path)
        pieces += found
        others += skipped
    if not pieces:
        raise ECGReadError(
            path, f"no channel is a voltage: {', '.join(others)[:200]}.", "There is no ECG in this file."
        )
    units = {_channel_unit(one) or request.units for group in chosen for one in group.ChannelDefinitionSequence}
    units = {unit for unit in units if unit and millivolts_per(unit) is not None}
    names, signal, rate, facts = join_leads(pieces, request, path)
    label = getattr(dataset.get("SOPClassUID"), "name", None) or "waveform"
    facts["layout"] = f"DICOM {label}, {len(chosen)} of {len(groups)} multiplex groups, {len(pieces)} channels"
    if others:
        facts["other_signals"] = others
    stored = units.pop() if len(units) == 1 else None
    return FileContent(signal, rate, names, "mV", _facts(dataset) | facts, stored_units=stored, names_agreed=True)


def _open(path: Path) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise ImportError("Reading DICOM ECGs needs pydicom: pip install 'ecg-transformers[formats]'") from error

    size = path.stat().st_size
    if size > MAX_DICOM_BYTES:
        raise ECGReadError(path, f"a DICOM file of {size} bytes (at most {MAX_DICOM_BYTES} are read).", "Split it.")
    # From memory: a length in a damaged file is then never allocated beyond what there is.
    data = path.read_bytes()
    try:
        meta = pydicom.filereader.read_file_meta_info(path)
        if str(meta.get("TransferSyntaxUID", "")) == _DEFLATED:
            _check_deflated(data, meta, path)
        return pydicom.dcmread(io.BytesIO(data), force=False)
    except ECGReadError:
        raise
    except Exception as error:
        raise ECGReadError(
            path, f"its DICOM structure is damaged ({type(error).__name__}: {str(error)[:200]}).", _EXPORT_AGAIN
        ) from error


def _check_deflated(data: bytes, meta: Any, path: Path) -> None:
    """Refuse a deflated data set that unpacks to more than an honest one; the library unpacks without a limit."""
    begin = 144 + int(meta.get("FileMetaInformationGroupLength", 0))
    unpacker, limit = zlib.decompressobj(-zlib.MAX_WBITS), unpacked_limit(len(data))
    if len(unpacker.decompress(data[begin:], limit + 1)) > limit:
        raise ECGReadError(path, f"its deflated content unpacks to more than {limit} bytes.", "Store it unpacked.")


def _is_derived(group: Any) -> bool:
    label = str(group.get("MultiplexGroupLabel") or "").upper()
    return group.get("WaveformOriginality") == "DERIVED" or any(word in label for word in _MEDIAN_LABELS)


def _read_group(
    group: Any, number: int, little_endian: bool, request: ReadRequest, path: Path
) -> tuple[list[LeadPiece], list[str]]:
    """Return the leads of a multiplex group, and the channels that are no voltage."""
    from pydicom.waveforms.numpy_handler import WAVEFORM_DTYPES

    channels = list(group.get("ChannelDefinitionSequence") or ())
    rate = float(group.get("SamplingFrequency") or 0)
    stated = int(group.get("NumberOfWaveformChannels") or 0)
    samples = int(group.get("NumberOfWaveformSamples") or 0)
    bits, kind = int(group.get("WaveformBitsAllocated") or 0), str(group.get("WaveformSampleInterpretation") or "")
    dtype = WAVEFORM_DTYPES.get((bits, kind))
    if dtype is None or kind in ("MB", "AB"):
        raise ECGReadError(path, f"group {number} has samples of {bits} bits, kind {kind!r}.", "Export it as 16-bit.")
    data = group.get("WaveformData") or b""
    needed = samples * stated * bits // 8
    if not 0 < rate or samples < 1 or not 0 < stated <= MAX_CHANNELS or len(channels) != stated:
        raise ECGReadError(
            path,
            f"group {number} states {stated} channels ({len(channels)} defined), {samples} samples and {rate:g} Hz.",
            _EXPORT_AGAIN,
        )
    # An odd number of bytes is padded to an even one.
    if not needed <= len(data) <= needed + 1:
        raise ECGReadError(
            path,
            f"group {number} states {stated} channels of {samples} samples, {needed} bytes; it holds {len(data)}.",
            _EXPORT_AGAIN,
        )
    stored = np.dtype(dtype).newbyteorder("<" if little_endian else ">")
    counts = np.frombuffer(data[:needed], stored).reshape(samples, stated).T
    padding = _padding(group, stored)
    start = float(group.get("MultiplexGroupTimeOffset") or 0) / 1000
    pieces, others = [], []
    for row, channel in enumerate(channels):
        name, unit = _channel_name(channel), _channel_unit(channel)
        if millivolts_per(unit or "mV") is None:
            others.append(f"{name or row + 1} ({unit})")
            continue
        if name is None:
            if request.lead_names is None or len(request.lead_names) != stated:
                raise ECGReadError(
                    path,
                    f"channel {row + 1} of group {number} does not say which lead it is.",
                    f"Pass lead_names= with {stated} names.",
                )
            name = request.lead_names[row]
        factor = _factor(channel, unit, request, name, path)
        baseline = float(channel.get("ChannelBaseline") or 0)
        with np.errstate(all="ignore"):
            values = (counts[row] * float(factor[0]) + baseline) * factor[1]
        if padding is not None and (rest := counts[row][counts[row] != padding]).size:
            if padding < rest.min() or padding > rest.max():
                values[counts[row] == padding] = np.nan
        skew = float(channel.get("ChannelTimeSkew") or 0)
        skew += float(channel.get("ChannelSampleSkew") or 0) / rate
        # Skews of a multiplexer are parts of a sample, which are not moved.
        pieces.append(LeadPiece(name, values, rate, start + int(skew * rate) / rate))
    return pieces, others


def _factor(channel: Any, unit: str | None, request: ReadRequest, name: str, path: Path) -> tuple[float, float]:
    """Return the factor from counts to the channel's unit, and from the unit to mV."""
    sensitivity = channel.get("ChannelSensitivity")
    if sensitivity is None and unit is not None:
        sensitivity = 1
    if unit is None:
        # Without a sensitivity the counts are in a unit that only the caller can know.
        if request.units is None or millivolts_per(request.units) is None:
            raise ECGReadError(path, f"lead {name} has no channel sensitivity unit.", 'Pass units="uV".')
        return float(1 if sensitivity is None else sensitivity), millivolts_per(request.units)
    factor = float(sensitivity) * float(channel.get("ChannelSensitivityCorrectionFactor") or 1)
    if not np.isfinite(factor) or factor == 0:
        raise ECGReadError(path, f"lead {name} has a channel sensitivity of {sensitivity}.", _EXPORT_AGAIN)
    return factor, millivolts_per(unit)


def _code_of(sequence: Any) -> Any:
    return sequence[0] if sequence else {}


def _channel_name(channel: Any) -> str | None:
    source = _code_of(channel.get("ChannelSourceSequence"))
    return (
        lead_of_code(source.get("CodingSchemeDesignator"), source.get("CodeValue"))
        or lead_of_words(source.get("CodeMeaning"))
        or lead_of_words(channel.get("ChannelLabel"))
        or str(channel.get("ChannelLabel") or source.get("CodeMeaning") or "").strip()
        or None
    )


def _channel_unit(channel: Any) -> str | None:
    unit = _code_of(channel.get("ChannelSensitivityUnitsSequence"))
    for text in (unit.get("CodeValue"), unit.get("CodeMeaning")):
        if text and millivolts_per(str(text)) is not None:
            return str(text)
    return str(unit.get("CodeValue")) if unit.get("CodeValue") else None


def _padding(group: Any, dtype: np.dtype) -> int | None:
    value = group.get("WaveformPaddingValue")
    if isinstance(value, bytes) and len(value) >= dtype.itemsize:
        return int(np.frombuffer(value[: dtype.itemsize], dtype)[0])
    return int(value) if isinstance(value, int) else None


def _facts(dataset: Any) -> dict[str, Any]:
    def text(keyword: str) -> str | None:
        value = dataset.get(keyword)
        return str(value).strip() or None if value is not None else None

    recorded_at = iso_time(text("AcquisitionDateTime")) or iso_time(
        (text("AcquisitionDate") or text("ContentDate") or text("StudyDate") or "")
        + (text("AcquisitionTime") or text("ContentTime") or text("StudyTime") or "")
    )
    # An age string is three digits and one of D, W, M, Y.
    age = age_in_years((text("PatientAge") or "")[:-1], (text("PatientAge") or " ")[-1])
    annotations = [
        str(item.get("UnformattedTextValue")).strip()
        for item in dataset.get("WaveformAnnotationSequence") or ()
        if item.get("UnformattedTextValue")
    ]
    return {
        "patient_id": text("PatientID"),
        "age": age if age is not None else age_at(iso_time(text("PatientBirthDate")), recorded_at),
        "sex": parse_sex(text("PatientSex")),
        "recorded_at": recorded_at,
        "device": joined_words(
            None if (text("Manufacturer") or "").lower() == "unknown" else text("Manufacturer"),
            text("ManufacturerModelName"),
            text("SoftwareVersions"),
        ),
        **statement_facts(annotations),
    }
