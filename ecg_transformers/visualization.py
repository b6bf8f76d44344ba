"""The 12-lead sheet: an electrocardiogram on millimetre paper, as clinics print it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .feature_extraction.ecg_leads import STANDARD_LEADS, arrange_leads, canonical_lead_name
from .files import written_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .record import ECGRecord


_PAPER, _FINE_GRID, _GRID, _INK, _FAINT = "#fffafa", "#f9d5d5", "#ee9c9c", "#101010", "#8a8a8a"
_FONT = "DejaVu Sans"
_MM_PER_INCH = 25.4
_POINTS_PER_MM = 72 / _MM_PER_INCH

# All in mm and multiples of 5, so that every baseline and every column start lies on a bold line of the grid.
_MARGIN = 10
_LINE_HEIGHT = 4.5
# Beyond this distance from its baseline a trace is cut and the cut is marked.
_MAX_EXCURSION = 45
# A record with fewer of the standard leads is drawn with one row for each of its own leads instead.
_MIN_STANDARD_LEADS = 6

_FORMATS = {".png": "png", ".pdf": "pdf", ".svg": "svg"}
# Without dates, the same record gives the same file.
_UNDATED = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


@dataclass
class _Section:
    """A piece of one lead on the sheet.

    Args:
        name (`str`): the lead.
        values (`np.ndarray` of shape `(samples,)`, *optional*): mV; `None` if the lead is not there.
        x (`float`): start, in mm from the start of the traces.
        width (`float`): mm.
        rhythm (`bool`): whether it is the rhythm strip.
    """

    name: str
    values: np.ndarray | None
    x: float
    width: float
    rhythm: bool = False


def plot_ecg(
    record: ECGRecord,
    path: str | os.PathLike | None = None,
    *,
    title: str | None = None,
    predictions: Sequence[Any] | None = None,
    layout: str = "3x4+1",
    speed_mm_per_second: float = 25,
    gain_mm_per_mv: float = 10,
    rhythm_lead: str = "II",
    seconds: float = 10.0,
    start_seconds: float = 0.0,
    dpi: int = 150,
) -> Figure:
    """Draw an electrocardiogram as a sheet in true millimetres and, if a path is given, write it.

    Each lead is drawn around its median, as a recorder with an input capacitor does; nothing is filtered. Missing
    limb leads are derived from I and II; leads that cannot be are left blank beside their name. A record with fewer
    than six of the twelve standard leads (a Holter recording, say) gets one row for each of its own leads, and leads
    beyond the twelve follow in rows of their own. Sections follow one another in time from column to column; where
    the record is too short for that, the later columns start earlier. Rows move apart for large amplitudes; what
    exceeds 45 mm is cut and marked.

    Args:
        record (`ECGRecord`): the recording, mV.
        path (`str` or path, *optional*): file to write; `.png`, `.pdf` or `.svg`.
        title (`str`, *optional*): headline; the record's name by default.
        predictions (sequence, *optional*): `(label, probability)` or `(label, probability, threshold)`, or mappings
            with `label`, `score` and, optionally, `threshold`. Those at or above their threshold (0.5 by default, NaN
            if there is none) are bold.
        layout (`str`, *optional*, defaults to `"3x4+1"`): rows x columns, and `+1` for a rhythm strip: `"3x4+1"`,
            `"6x2+1"`, `"12x1"`, each with or without `+1`.
        speed_mm_per_second (`float`, *optional*, defaults to 25): paper speed.
        gain_mm_per_mv (`float`, *optional*, defaults to 10): amplification.
        rhythm_lead (`str`, *optional*, defaults to `"II"`): lead of the rhythm strip; if the record lacks it, its
            first lead.
        seconds (`float`, *optional*, defaults to 10): time across the sheet.
        start_seconds (`float`, *optional*, defaults to 0): where in the record the sheet starts.
        dpi (`int`, *optional*, defaults to 150): resolution of the PNG.

    Returns:
        `matplotlib.figure.Figure`: the sheet; its one axes has millimetres as data coordinates.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: for an unknown layout, lead, file extension or prediction, or a number out of range.
        FileNotFoundError: if the folder of `path` does not exist.

    Example:
        ```python
        plot_ecg(read_ecg("JS00001.hea"), "sheet.png", predictions=[("atrial fibrillation", 0.97)])
        ```
    """
    if not hasattr(record, "lead_names"):
        kind = type(record).__name__
        raise ValueError(f"plot_ecg draws an ECGRecord(signal, sampling_rate, lead_names); got a {kind}.")
    rows, columns, with_strip = _parse_layout(layout)
    numbers = {
        "speed_mm_per_second": speed_mm_per_second,
        "gain_mm_per_mv": gain_mm_per_mv,
        "seconds": seconds,
        "dpi": dpi,
    }
    for name, value in numbers.items():
        if not np.isfinite(value) or value <= 0:
            raise ValueError(f"`{name}` is a positive number; got {value!r}.")
    if not 0 <= start_seconds < record.duration_seconds:
        raise ValueError(
            f"`start_seconds` lies in the record, from 0 to {record.duration_seconds:g} s; got {start_seconds!r}."
        )
    if canonical_lead_name(rhythm_lead) is None and rhythm_lead not in record.lead_names:
        raise ValueError(
            f"`rhythm_lead` names no lead: {rhythm_lead!r}; the record has {', '.join(record.lead_names)}."
        )
    target = None if path is None else _checked_path(path)
    forecast = [_prediction(entry) for entry in predictions or ()]
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Drawing ECGs needs matplotlib: pip install 'ecg-transformers[plot]'") from error

    shown = _shown(record, start_seconds, seconds)
    grid, overlapping = _sections(
        record, shown, rows, columns, with_strip, rhythm_lead, seconds * speed_mm_per_second, seconds
    )
    step = speed_mm_per_second / record.sampling_rate
    pulse_width = _up_to_5(0.2 * speed_mm_per_second + 5)
    left = _MARGIN + pulse_width
    width = left + _up_to_5(seconds * speed_mm_per_second) + _MARGIN
    baselines, top_room, bottom_room = _baselines(grid, gain_mm_per_mv)
    header, box = _header_lines(record, title), _box_lines(forecast)
    header_height = _up_to_5(max(len(header), len(box)) * _LINE_HEIGHT + 5)
    height = _MARGIN / 2 + header_height + top_room + baselines[-1] + bottom_room + _MARGIN
    height = _up_to_5(height)
    top = height - _MARGIN / 2 - header_height - top_room
    # On a bold grid line.
    top = 5 * np.floor(top / 5)

    figure = Figure(figsize=(width / _MM_PER_INCH, height / _MM_PER_INCH), dpi=dpi, facecolor=_PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    _draw_grid(axes, width, height)
    cut = False
    for sections, depth in zip(grid, baselines, strict=True):
        baseline = top - depth
        if any(section.values is not None for section in sections):
            _draw_pulse(axes, left, baseline, speed_mm_per_second, gain_mm_per_mv)
        for position, section in enumerate(sections):
            cut |= _draw_section(axes, section, left, baseline, step, gain_mm_per_mv, len(grid), first=position == 0)
    _draw_header(axes, header, box, width, height)
    footer = [
        f"{speed_mm_per_second:g} mm/s",
        f"{gain_mm_per_mv:g} mm/mV",
        f"{record.sampling_rate:g} Hz",
        "unfiltered",
    ]
    if record.duration_seconds > seconds + 0.5 / record.sampling_rate or start_seconds > 0:
        end = min(start_seconds + seconds, record.duration_seconds)
        footer.append(f"{start_seconds:g}-{end:g} s of {record.duration_seconds:g} s")
    if overlapping:
        footer.append("columns overlap in time")
    if cut:
        footer.append(f"excursions beyond {_MAX_EXCURSION} mm cut")
    _text(axes, left, _MARGIN / 2, "    ".join(footer), fontsize=7.5, color=_INK, gid="footer")
    if target is not None:
        _write(figure, target, dpi)
    return figure


def _parse_layout(layout: str) -> tuple[int, int, bool]:
    """Return rows, columns and whether there is a rhythm strip."""
    found = re.fullmatch(r"(3x4|6x2|12x1)(\+1)?", str(layout).strip().lower())
    if found is None:
        raise ValueError(f"Unknown layout {layout!r}; choose 3x4, 6x2 or 12x1, with +1 for a rhythm strip: '3x4+1'.")
    rows, columns = map(int, found[1].split("x"))
    return rows, columns, found[2] is not None


def _checked_path(path: str | os.PathLike) -> Path:
    target = Path(path)
    if target.suffix.lower() not in _FORMATS:
        raise ValueError(
            f"A sheet is written as {', '.join(_FORMATS)}; got {target.name!r}. Choose one of these extensions."
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"The folder {str(target.parent)!r} for {target.name!r} does not exist; create it first."
        )
    return target


def _prediction(entry: Any) -> tuple[str, float, float]:
    """Return label, probability and threshold of a prediction given as a tuple or a mapping."""
    if isinstance(entry, Mapping):
        entry = (entry.get("label"), entry.get("score", entry.get("probability")), entry.get("threshold"))
    try:
        label, probability, *rest = entry
        if isinstance(entry, str) or len(rest) > 1:
            raise ValueError
        threshold = 0.5 if not rest or rest[0] is None else float(rest[0])
        return str(label), float(probability), threshold
    except (TypeError, ValueError):
        raise ValueError(
            f"A prediction is (label, probability) or (label, probability, threshold); got {entry!r}."
        ) from None


def _shown(record: ECGRecord, start_seconds: float, seconds: float) -> np.ndarray:
    """Return the signal of the sheet's time, in mV around each lead's median; what is not finite is NaN."""
    first = round(start_seconds * record.sampling_rate)
    count = max(1, round(seconds * record.sampling_rate))
    values = record.signal[:, first : first + count].astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _centered(values: np.ndarray) -> np.ndarray:
    """Subtract the median of what is there."""
    finite = values[np.isfinite(values)]
    return values - np.median(finite) if len(finite) else values


def _sections(
    record: ECGRecord,
    shown: np.ndarray,
    rows: int,
    columns: int,
    with_strip: bool,
    rhythm_lead: str,
    width: float,
    seconds: float,
) -> tuple[list[list[_Section]], bool]:
    """Lay the leads out; return the sections of each row and whether columns overlap in time."""
    standard, present = arrange_leads(shown, record.lead_names)
    leads = {name: _centered(values) for name, values in zip(record.lead_names, shown, strict=True)}
    if present.sum() < _MIN_STANDARD_LEADS:
        return [[_Section(name, values, 0.0, width)] for name, values in leads.items()], False
    leads.update(
        {
            name: _centered(standard[row])
            for row, name in enumerate(STANDARD_LEADS)
            if present[row] and name not in leads
        }
    )
    names = [[STANDARD_LEADS[column * rows + row] for column in range(columns)] for row in range(rows)]
    others = [name for name in record.lead_names if name not in STANDARD_LEADS]
    names += [others[start : start + columns] for start in range(0, len(others), columns)]

    available = shown.shape[1]
    # In samples; a boundary belongs to the section on its right.
    borders = [round(column * seconds / columns * record.sampling_rate) for column in range(columns + 1)]
    overlapping = columns > 1 and available < borders[-1] - 1
    grid = []
    for row in names:
        sections = []
        for column, name in enumerate(row):
            length = borders[column + 1] - borders[column]
            start = max(0, min(borders[column], available - length))
            values = leads[name][start : start + length] if name in leads else None
            sections.append(_Section(name, values, column * width / columns, width / columns))
        grid.append(sections)
    if with_strip:
        wanted = canonical_lead_name(rhythm_lead) or rhythm_lead
        name = wanted if wanted in leads else record.lead_names[0]
        grid.append([_Section(name, leads[name], 0.0, width, rhythm=True)])
    return grid, overlapping


def _up_to_5(value: float) -> int:
    """Round up to a multiple of 5."""
    return int(5 * np.ceil(round(value / 5, 6)))


def _extent(sections: Sequence[_Section], gain: float, x: float, width: float) -> tuple[float, float]:
    """Return how far the sections of a row that touch a span of the sheet reach up and down, in mm."""
    up = down = 0.0
    for section in sections:
        if section.values is None or section.x >= x + width - 1e-6 or x >= section.x + section.width - 1e-6:
            continue
        finite = section.values[np.isfinite(section.values)]
        if len(finite):
            up, down = max(up, gain * float(finite.max())), max(down, -gain * float(finite.min()))
    return min(up, _MAX_EXCURSION), min(down, _MAX_EXCURSION)


def _baselines(grid: Sequence[Sequence[_Section]], gain: float) -> tuple[list[int], int, int]:
    """Return the depth (mm) of each baseline below the first one, and the room above the first and below the last."""
    usual = _usual_spacing(len(grid))
    depths = [0]
    for above, below in zip(grid[:-1], grid[1:], strict=True):
        # Neighbours meet only where they stand above each other.
        spans = {(section.x, section.width) for section in (*above, *below)}
        needed = max(_extent(above, gain, *span)[1] + _extent(below, gain, *span)[0] for span in spans)
        depths.append(depths[-1] + max(usual, _up_to_5(needed + 2)))
    everywhere = (0.0, float("inf"))
    top = max(usual // 2 + 5, _up_to_5(_extent(grid[0], gain, *everywhere)[0] + 2))
    bottom = max(usual // 2, _up_to_5(_extent(grid[-1], gain, *everywhere)[1] + 2))
    return depths, _up_to_5(top), _up_to_5(bottom)


def _usual_spacing(rows: int) -> int:
    """Return the distance of baselines (mm) for ordinary amplitudes."""
    return 30 if rows <= 5 else 20 if rows <= 8 else 15


def _draw_grid(axes: Any, width: float, height: float) -> None:
    from matplotlib.collections import LineCollection

    for spacing, color, thickness in ((1, _FINE_GRID, 0.10), (5, _GRID, 0.18)):
        upright = [[(x, 0), (x, height)] for x in range(0, int(width) + 1, spacing) if spacing == 5 or x % 5]
        level = [[(0, y), (width, y)] for y in range(0, int(height) + 1, spacing) if spacing == 5 or y % 5]
        lines = LineCollection(upright + level, colors=color, linewidths=thickness * _POINTS_PER_MM, zorder=1)
        lines.set_gid(f"grid-{spacing}mm")
        axes.add_collection(lines, autolim=False)


def _text(axes: Any, x: float, y: float, text: str, **options: Any) -> None:
    """Write text as it is: a name with two dollar signs is no formula."""
    axes.text(x, y, text, family=_FONT, va="center", parse_math=False, **options)


def _draw_trace(axes: Any, x: np.ndarray, y: np.ndarray, gid: str) -> None:
    axes.plot(
        x,
        y,
        color=_INK,
        linewidth=0.28 * _POINTS_PER_MM,
        linestyle="-",
        marker="",
        solid_joinstyle="round",
        solid_capstyle="round",
        antialiased=True,
        zorder=3,
        gid=gid,
    )


def _draw_pulse(axes: Any, left: float, baseline: float, speed: float, gain: float) -> None:
    """Draw 1 mV for 200 ms, ending where the traces begin."""
    end, start = left - 1.5, left - 1.5 - 0.2 * speed
    x = np.array([start - 1.5, start, start, end, end, left])
    y = baseline + gain * np.array([0, 0, 1, 1, 0, 0], dtype=np.float64)
    _draw_trace(axes, x, y, "calibration")


def _draw_section(
    axes: Any, section: _Section, left: float, baseline: float, step: float, gain: float, rows: int, first: bool
) -> bool:
    """Draw one section with its name; return whether anything of it was cut."""
    x = left + section.x
    label_height = baseline + (8.5 if _usual_spacing(rows) >= 20 else 5.5)
    there = section.values is not None and np.isfinite(section.values).any()
    name = _shortened(section.name, 24)
    label = name if there else f"{name}  ({'not recorded' if section.values is None else 'no signal'})"
    _text(
        axes,
        x + 1,
        label_height,
        label,
        fontsize=8.5,
        fontweight="bold" if there else "normal",
        color=_INK if there else _FAINT,
        zorder=2.5,  # under the trace: a name never hides a wave
        bbox={"facecolor": _PAPER, "edgecolor": "none", "alpha": 0.7, "pad": 0.8},
        gid=f"name:{name}",
    )
    if not first:
        # Off the baseline, so that it is not taken for a deflection.
        for low, high in ((-7, -4), (4, 7)):
            axes.plot(
                [x, x],
                [baseline + low, baseline + high],
                color=_INK,
                linestyle="-",
                linewidth=0.8,
                marker="",
                zorder=2,
                gid="separator",
            )
    if not there:
        return False
    height = gain * section.values
    time = x + step * np.arange(len(height))
    kind = "rhythm" if section.rhythm else "lead"
    _draw_trace(axes, time, baseline + height.clip(-_MAX_EXCURSION, _MAX_EXCURSION), f"{kind}:{name}")
    cut = False
    for sign, marker in ((1, "^"), (-1, "v")):
        beyond = np.flatnonzero(sign * height > _MAX_EXCURSION)
        if len(beyond):
            cut = True
            # One mark for each stretch.
            starts = beyond[np.flatnonzero(np.diff(beyond, prepend=-2) > 1)]
            marks = np.full(len(starts), baseline + sign * (_MAX_EXCURSION - 1))
            axes.plot(
                time[starts], marks, linestyle="", marker=marker, markersize=4, color="#c00000", zorder=5, gid="cut"
            )
    return cut


def _header_lines(record: ECGRecord, title: str | None) -> list[str]:
    """Return what is known of the record: the headline, then the person, then the recording."""
    facts = record.metadata
    name = facts.get("record_id")
    headline = title if title is not None else (str(name) if name else "ECG")
    person = []
    if facts.get("patient_id"):
        person.append(f"patient {facts['patient_id']}")
    age = facts.get("age")
    if isinstance(age, (int, float)) and np.isfinite(age):
        person.append(f"{age:.0f} years")
    if facts.get("sex"):
        person.append(str(facts["sex"]))
    recording = [f"{record.num_leads} lead{'s' if record.num_leads > 1 else ''}"]
    recording += [f"{record.duration_seconds:.4g} s", f"{record.sampling_rate:g} Hz"]
    if facts.get("recorded_at"):
        recording.append(str(facts["recorded_at"]))
    lines = [headline]
    if title is not None and name and str(name) not in title:
        recording.insert(0, str(name))
    if person:
        lines.append(_shortened("   ".join(person), 70))
    lines.append(_shortened("   ".join(recording), 70))
    labels = facts.get("labels")
    if labels and not isinstance(labels, str):
        lines.append(_shortened("labels: " + ", ".join(map(str, labels)), 78))
    return lines


def _shortened(text: str, length: int) -> str:
    """Return text on one line, at most `length` characters."""
    if not text.isprintable():
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _box_lines(predictions: Sequence[tuple[str, float, float]]) -> list[tuple[str, str, bool]]:
    """Return label, figure and whether it is a finding, most probable first; at most seven."""
    ordered = sorted(predictions, key=lambda entry: -entry[1])
    lines = []
    for label, probability, threshold in ordered[:7]:
        mark = "" if threshold == 0.5 else f"  (from {threshold:.2f})"
        if math.isnan(threshold):
            mark = "  (no threshold)"
        lines.append((_shortened(label, 44), f"{probability:.2f}{mark}", probability >= threshold))
    if len(ordered) > 7:
        lines.append((f"and {len(ordered) - 7} more, {ordered[7][1]:.2f} or less", "", False))
    return lines


def _draw_header(
    axes: Any, header: Sequence[str], box: Sequence[tuple[str, str, bool]], width: float, height: float
) -> None:
    from matplotlib.patches import Rectangle

    first = height - _MARGIN / 2 - _LINE_HEIGHT / 2
    tidy = {"facecolor": _PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
    for number, line in enumerate(header):
        bold = number == 0
        _text(
            axes,
            _MARGIN,
            first - number * _LINE_HEIGHT,
            _shortened(line, 60) if bold else line,
            fontsize=11 if bold else 8,
            fontweight="bold" if bold else "normal",
            color=_INK,
            zorder=4,
            bbox=tidy,
            gid="header",
        )
    if not box:
        return
    box_width = min(110.0, 0.45 * width)
    x, depth = width - _MARGIN - box_width, len(box) * _LINE_HEIGHT + 2
    axes.add_patch(
        Rectangle(
            (x, height - _MARGIN / 2 + 1 - depth),
            box_width,
            depth,
            facecolor="white",
            edgecolor=_INK,
            linewidth=0.6,
            zorder=4,
            gid="predictions",
        )
    )
    for number, (label, figure, finding) in enumerate(box):
        style = {
            "fontsize": 8,
            "fontweight": "bold" if finding else "normal",
            "color": _INK if finding else "#555555",
            "zorder": 5,
        }
        y = first - number * _LINE_HEIGHT
        _text(axes, x + 2, y, label, gid="prediction", **style)
        _text(axes, x + box_width - 2, y, figure, ha="right", gid="prediction", **style)


def _write(figure: Figure, target: Path, dpi: int) -> None:
    """Write beside the target, then put it in place: a reader never sees half a file."""
    from matplotlib.transforms import Bbox

    kind = _FORMATS[target.suffix.lower()]
    # The whole sheet, whatever `savefig.bbox` in the user's settings says.
    whole = Bbox.from_bounds(0, 0, *figure.get_size_inches())
    with written_atomically(target, "wb") as file:
        figure.savefig(file, format=kind, dpi=dpi, facecolor=_PAPER, metadata=_UNDATED[kind], bbox_inches=whole)
