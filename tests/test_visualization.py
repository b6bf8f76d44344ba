import subprocess
import sys

import numpy as np
import pytest
from matplotlib import image

from ecg_transformers.corpora.synthetic_generator import generate_record
from ecg_transformers.feature_extraction.ecg_leads import STANDARD_LEADS
from ecg_transformers.record import ECGRecord
from ecg_transformers.visualization import plot_ecg

LAYOUTS = ("3x4+1", "3x4", "6x2+1", "6x2", "12x1+1", "12x1")


@pytest.fixture(scope="module")
def record():
    found = generate_record("sinus_rhythm", 4)
    found.metadata.update(record_id="A001", patient_id="P7", age=61.0, sex="female")
    return found


def lines(figure):
    """Lists of the drawn lines by gid."""
    found = {}
    for line in figure.axes[0].lines:
        found.setdefault(line.get_gid(), []).append(line)
    return found


def texts(figure, gid=None):
    return [text.get_text() for text in figure.axes[0].texts if gid is None or text.get_gid() == gid]


def flat(values, **options):
    return ECGRecord(values, options.pop("sampling_rate", 500), options.pop("lead_names", STANDARD_LEADS), options)


def test_the_picture_has_the_size_of_its_millimetres(record, tmp_path):
    path = tmp_path / "sheet.png"
    figure = plot_ecg(record, path, dpi=120)
    axes = figure.axes[0]
    width, height = axes.get_xlim()[1], axes.get_ylim()[1]
    assert axes.get_xlim()[0] == axes.get_ylim()[0] == 0
    np.testing.assert_allclose(figure.get_size_inches() * 25.4, [width, height])
    pixels = image.imread(path)
    assert abs(pixels.shape[1] - width / 25.4 * 120) <= 1 and abs(pixels.shape[0] - height / 25.4 * 120) <= 1
    # 10 s at 25 mm/s, a margin on either side and the calibration pulse.
    assert width == 250 + 20 + 10
    assert list(tmp_path.iterdir()) == [path]


def test_the_grid_has_lines_at_each_millimetre_and_bold_ones_at_five(record):
    axes = plot_ecg(record).axes[0]
    grids = {collection.get_gid(): collection for collection in axes.collections}
    width, height = int(axes.get_xlim()[1]), int(axes.get_ylim()[1])
    bold = {float(line[0][0]) for line in grids["grid-5mm"].get_segments() if line[0][0] == line[1][0]}
    fine = {float(line[0][0]) for line in grids["grid-1mm"].get_segments() if line[0][0] == line[1][0]}
    assert bold == set(range(0, width + 1, 5)) and bold | fine == set(range(width + 1)) and not bold & fine
    level = {float(line[0][1]) for line in grids["grid-5mm"].get_segments() if line[0][1] == line[1][1]}
    assert level == set(range(0, height + 1, 5))
    assert grids["grid-5mm"].get_linewidth()[0] > grids["grid-1mm"].get_linewidth()[0]


@pytest.mark.parametrize(("speed", "gain"), [(25, 10), (50, 10), (25, 5), (12.5, 20)])
def test_traces_are_the_signal_in_millimetres(record, speed, gain):
    figure = plot_ecg(record, speed_mm_per_second=speed, gain_mm_per_mv=gain)
    drawn = lines(figure)
    (pulse, *_) = drawn["calibration"]
    left = pulse.get_xdata()[-1]
    assert np.ptp(pulse.get_ydata()) == pytest.approx(gain)
    assert pulse.get_xdata()[3] - pulse.get_xdata()[2] == pytest.approx(0.2 * speed)
    for position, name in enumerate(STANDARD_LEADS):
        (line,) = drawn[f"lead:{name}"]
        column = position // 3
        section = record.signal[position, column * 1250 : (column + 1) * 1250].astype(np.float64)
        expected = gain * (section - np.median(record.signal[position].astype(np.float64)))
        y = line.get_ydata()
        baseline = y[0] - expected[0]
        np.testing.assert_allclose(y, baseline + expected, atol=1e-6)
        # On bold lines of the grid.
        assert baseline % 5 == pytest.approx(0, abs=1e-6) or baseline % 5 == pytest.approx(5, abs=1e-6)
        assert left % 5 == 0
        np.testing.assert_allclose(line.get_xdata(), left + speed * (column * 2.5 + np.arange(1250) / 500), atol=1e-6)
    (strip,) = drawn["rhythm:II"]
    assert len(strip.get_xdata()) == 5000


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_show_all_leads(record, layout, tmp_path):
    figure = plot_ecg(record, tmp_path / "sheet.png", layout=layout, dpi=50)
    drawn = lines(figure)
    rows, columns = map(int, layout.removesuffix("+1").split("x"))
    seconds = 10 / columns
    for name in STANDARD_LEADS:
        (line,) = drawn[f"lead:{name}"]
        assert len(line.get_xdata()) == round(seconds * 500)
        assert name in texts(figure, f"name:{name}")
    assert ("rhythm:II" in drawn) == layout.endswith("+1")
    assert len(drawn["calibration"]) == rows + layout.endswith("+1")
    # Two short strokes at every border between columns.
    assert len(drawn.get("separator", ())) == 2 * rows * (columns - 1)


def test_rows_never_cross_and_the_sheet_grows_with_the_amplitude(record):
    tall = ECGRecord(4 * record.signal, 500, STANDARD_LEADS)
    sheets = [plot_ecg(found).axes[0] for found in (record, tall)]
    assert sheets[1].get_ylim()[1] > sheets[0].get_ylim()[1]
    for axes in sheets:
        drawn = {line.get_gid(): line.get_ydata() for line in axes.lines}
        for above, below in (("I", "II"), ("II", "III"), ("V1", "V2"), ("V2", "V3"), ("V4", "V5")):
            assert drawn[f"lead:{above}"].min() > drawn[f"lead:{below}"].max()
        for name, y in drawn.items():
            if name.startswith(("lead", "rhythm")):
                assert y.min() > 0 and y.max() < axes.get_ylim()[1]


def test_absurd_amplitudes_are_cut_and_marked(record):
    signal = record.signal.copy()
    signal[7, 3000:3050] = 33.0
    signal[1, 100:110] = -33.0
    figure = plot_ecg(ECGRecord(signal, 500, STANDARD_LEADS))
    drawn = lines(figure)
    assert len(drawn["cut"]) == 3
    assert max(line.get_ydata().max() for group in drawn.values() for line in group) < figure.axes[0].get_ylim()[1]
    assert any("beyond 45 mm cut" in text for text in texts(figure, "footer"))
    assert "cut" not in lines(plot_ecg(record))


def test_header_names_the_record_the_person_and_the_predictions(record):
    predictions = [("sinus rhythm", 0.97), ("atrial fibrillation", 0.31, 0.25), {"label": "LBBB", "score": 0.02}]
    figure = plot_ecg(record, predictions=predictions)
    header = " ".join(texts(figure, "header"))
    for expected in ("A001", "patient P7", "61 years", "female", "500 Hz", "10 s"):
        assert expected in header
    entries = texts(figure, "prediction")
    assert entries == ["sinus rhythm", "0.97", "atrial fibrillation", "0.31  (from 0.25)", "LBBB", "0.02"]
    weights = [text.get_fontweight() for text in figure.axes[0].texts if text.get_gid() == "prediction"]
    assert weights == ["bold"] * 4 + ["normal"] * 2
    assert "25 mm/s    10 mm/mV    500 Hz    unfiltered" in texts(figure, "footer")[0]
    assert "My title" in texts(plot_ecg(record, title="My title"), "header")
    many = texts(plot_ecg(record, predictions=[(f"label {n}", n / 20) for n in range(20)]), "prediction")
    assert many[0] == "label 19" and many[-2] == "and 13 more, 0.60 or less"


def test_missing_leads_are_derived_or_left_blank(record):
    few = record.select_leads(("I", "II", "V2"))
    figure = plot_ecg(few)
    drawn = lines(figure)
    assert {"lead:III", "lead:aVR", "lead:aVL", "lead:aVF", "lead:V2"} <= set(drawn)
    assert "lead:V1" not in drawn and "V1  (not recorded)" in texts(figure)
    expected = lines(plot_ecg(record))["lead:aVF"][0].get_ydata()
    found = drawn["lead:aVF"][0].get_ydata()
    np.testing.assert_allclose(np.diff(found), np.diff(expected), atol=1e-4)


def test_few_leads_get_a_row_each(record):
    holter = ECGRecord(record.signal[:2], 500, ("MLII", "V5"))
    drawn = lines(plot_ecg(holter))
    assert {"lead:MLII", "lead:V5"} <= set(drawn) and not any(name.startswith("rhythm") for name in drawn)
    assert len(drawn["lead:V5"][0].get_xdata()) == 5000
    unknown = plot_ecg(ECGRecord(record.signal[:1], 500, ("channel 1",)))
    assert "lead:channel 1" in lines(unknown)


def test_more_than_twelve_leads_follow_in_rows_of_their_own(record):
    signal = np.concatenate([record.signal, record.signal[:3]])
    drawn = lines(plot_ecg(ECGRecord(signal, 500, (*STANDARD_LEADS, "VX", "VY", "VZ"))))
    assert {"lead:VX", "lead:VY", "lead:VZ", "rhythm:II"} <= set(drawn)
    heights = [np.median(drawn[name][0].get_ydata()) for name in ("lead:III", "lead:VX", "rhythm:II")]
    assert heights == sorted(heights, reverse=True)


def test_the_rhythm_lead_can_be_chosen_and_falls_back(record):
    assert "rhythm:V1" in lines(plot_ecg(record, rhythm_lead="v1"))
    chest = ECGRecord(record.signal[6:], 500, STANDARD_LEADS[6:])
    assert "rhythm:V1" in lines(plot_ecg(chest))


@pytest.mark.parametrize(
    ("rate", "seconds"), [(100, 10.0), (400, 7.3), (360, 12.0), (500, 2.6), (500, 1.0), (257, 9.9)]
)
def test_short_records_and_other_rates_leave_no_lead_empty(rate, seconds):
    short = generate_record("sinus_rhythm", 1, sampling_rate=rate, seconds=seconds)
    figure = plot_ecg(short)
    drawn = lines(figure)
    for name in STANDARD_LEADS:
        x = drawn[f"lead:{name}"][0].get_xdata()
        assert np.ptp(x) == pytest.approx(25 * min(2.5, seconds), abs=0.6)
    assert ("columns overlap in time" in texts(figure, "footer")[0]) == (seconds < 9.95)


def test_a_later_part_of_a_long_record():
    long = generate_record("sinus_rhythm", 1, sampling_rate=100, seconds=60.0)
    figure = plot_ecg(long, start_seconds=30)
    section = long.signal[1, 3000:4000].astype(np.float64)
    strip = lines(figure)["rhythm:II"][0].get_ydata()
    np.testing.assert_allclose(np.diff(strip), 10 * np.diff(section), atol=1e-5)
    assert "30-40 s of 60 s" in texts(figure, "footer")[0]


def test_gaps_stay_blank(record):
    signal = record.signal.copy()
    signal[1, 1000:1100] = np.nan
    signal[2, 50] = np.inf
    signal[6] = np.nan
    figure = plot_ecg(ECGRecord(signal, 500, STANDARD_LEADS))
    drawn = lines(figure)
    assert np.isnan(drawn["lead:II"][0].get_ydata()[1000:1100]).all()
    assert np.isfinite(drawn["lead:II"][0].get_ydata()[:1000]).all()
    assert np.isnan(drawn["lead:III"][0].get_ydata()[50])
    assert "lead:V1" not in drawn and "V1  (no signal)" in texts(figure)


def test_constant_and_empty_signals_make_a_sheet():
    assert "lead:I" in lines(plot_ecg(flat(np.zeros((12, 5000)))))
    assert "lead:I" not in lines(plot_ecg(flat(np.full((12, 5000), np.nan))))
    offset = flat(np.full((12, 5000), 7.5))
    assert "cut" not in lines(plot_ecg(offset))


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("a.svg", b"<?xml")])
def test_files_are_of_the_kind_their_name_tells(record, tmp_path, name, start):
    path = tmp_path / name
    path.write_bytes(b"old")
    plot_ecg(record, path, dpi=50)
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(record, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot_ecg(record, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "a.docx"}, r"written as \.png, \.pdf, \.svg; got 'a\.docx'"),
        ({"path": "sheet"}, "extensions"),
        ({"layout": "4x3"}, "Unknown layout '4x3'; choose 3x4, 6x2 or 12x1"),
        ({"speed_mm_per_second": 0}, "`speed_mm_per_second` is a positive number"),
        ({"gain_mm_per_mv": float("nan")}, "`gain_mm_per_mv` is a positive number"),
        ({"seconds": -1}, "`seconds` is a positive number"),
        ({"start_seconds": 10.0}, "`start_seconds` lies in the record"),
        ({"rhythm_lead": "W9"}, "`rhythm_lead` names no lead: 'W9'"),
        ({"predictions": ["AF"]}, r"A prediction is \(label, probability\)"),
        ({"predictions": [("AF", "high")]}, r"A prediction is \(label, probability\)"),
    ],
)
def test_bad_arguments_say_what_is_expected(record, options, message):
    with pytest.raises(ValueError, match=message):
        plot_ecg(record, **options)


def test_a_missing_folder_is_named(record, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; create it first"):
        plot_ecg(record, tmp_path / "nowhere" / "a.png")


def test_the_user_s_matplotlib_settings_stay_out_of_it(record, tmp_path):
    import matplotlib

    plot_ecg(record, tmp_path / "a.png", dpi=50)
    with matplotlib.rc_context(
        {"lines.linestyle": "--", "lines.marker": "o", "axes.grid": True, "savefig.bbox": "tight"}
    ):
        plot_ecg(record, tmp_path / "b.png", dpi=50)
    np.testing.assert_array_equal(image.imread(tmp_path / "a.png"), image.imread(tmp_path / "b.png"))


def test_without_matplotlib_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import numpy as np\n"
        "from ecg_transformers.record import ECGRecord\n"
        "from ecg_transformers.visualization import plot_ecg\n"
        "try:\n    plot_ecg(ECGRecord(np.zeros((1, 10)), 100, ('I',)))\n"
        "except ImportError as error:\n    print(error)\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'ecg-transformers[plot]'" in printed


def test_drawing_does_not_touch_the_global_state(record):
    code = (
        "import sys\n"
        "from ecg_transformers.corpora.synthetic_generator import generate_record\n"
        "from ecg_transformers.visualization import plot_ecg\n"
        "plot_ecg(generate_record('sinus_rhythm', 1))\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"


def test_odd_text_is_written_as_it_is(record, tmp_path):
    odd = ECGRecord(record.signal, 500, STANDARD_LEADS, {"record_id": "a$b$\n\x00c", "labels": ["x^2", "$\\frac{1}$"]})
    figure = plot_ecg(odd, tmp_path / "a.png", dpi=50, predictions=[("$\\bad$", 0.7)])
    header = texts(figure, "header")
    assert header[0] == "a$b$ c" and "$\\frac{1}$" in header[-1]
