import numpy as np
import pytest

from ecg_transformers import ECGFeatureExtractor, ECGRecord, plot_recipe, trace_recipe
from ecg_transformers.cli import main
from ecg_transformers.corpora.synthetic_generator import generate_record
from ecg_transformers.feature_extraction.ecg_recipes import RECIPES

# Of the gap in V1
pytestmark = pytest.mark.filterwarnings(
    "ignore::ecg_transformers.feature_extraction.feature_extraction_ecg.ECGSignalWarning"
)


@pytest.fixture(scope="module")
def record():
    """12 s at 400 Hz whose V1 is missing for 0.1 s, under another order and spelling of the leads."""
    found = generate_record("sinus_rhythm", 4, sampling_rate=400, seconds=12)
    order = [3, 4, 5, 0, 1, 2, *range(6, 12)]
    signal = found.signal[order].copy()
    signal[6, 900:940] = np.nan
    return ECGRecord(signal, 400, [found.lead_names[lead].upper() for lead in order])


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_last_stage_is_the_input_of_the_model(record, name):
    extractor = ECGFeatureExtractor(**RECIPES[name])
    if "slice_stride" in str(extractor.recipe):
        record = ECGRecord(record.signal[:, :2500], 250, record.lead_names)
    stages = trace_recipe(record, extractor)
    expected = extractor(record, return_tensors="np")
    np.testing.assert_array_equal(stages[-1].signal, expected["input_values"][0])
    np.testing.assert_array_equal(stages[-1].valid, expected["attention_mask"][0])
    assert stages[-1].sampling_rate == extractor.sampling_rate
    assert [stage.step for stage in stages[1:]] == extractor.recipe and stages[0].step is None
    assert (stages[0].sampling_rate, stages[0].unit) == (record.sampling_rate, "mV")
    # The first stage has the model's leads in the model's order
    np.testing.assert_array_equal(stages[0].signal[1], record.signal[record.lead_names.index("II")])


def test_units_follow_the_steps(record):
    units = {
        name: trace_recipe(record, ECGFeatureExtractor(**RECIPES[name]))[-1].unit for name in ("dbeta", "deepecg_sl")
    }
    assert units == {"dbeta": "mV", "deepecg_sl": "counts"}


def test_a_short_record_is_padded(record):
    stages = trace_recipe(
        ECGRecord(record.signal[:, :800], 400, record.lead_names), ECGFeatureExtractor.for_model_type("dbeta")
    )
    assert stages[-1].valid.sum() == 1000 and stages[-1].signal.shape == (12, 5000)


def test_every_step_has_two_panels(record, tmp_path):
    extractor = ECGFeatureExtractor.for_model_type("hubert_ecg")
    figure = plot_recipe(record, extractor, tmp_path / "steps.png", lead="V2")
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert [title.split(":")[0].split(". ")[1].split()[0] for title in titles] == [
        entry["step"] for entry in extractor.recipe
    ]
    assert titles[1].endswith("bandpass_fir: low 0.05, high 47, seconds 0.3")
    close = [axes.get_title(loc="right") for axes in figure.axes if axes.get_title(loc="right")]
    assert close[0] == "12 × 6000, 500 Hz, mV" and close[-1] == "6000, 100 Hz, −1 to 1"
    # After the first step the lead has what the stage has, before it what the record has
    after, before = trace_recipe(record, extractor)[1], record.signal[list(record.lead_names).index("V2")]
    lines = {len(line.get_ydata()): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_array_equal(lines[4800], before)
    np.testing.assert_array_equal(lines[6000], after.signal[7])
    assert (tmp_path / "steps.png").read_bytes()[:4] == b"\x89PNG"


def test_what_cannot_be_drawn(record, tmp_path):
    extractor = ECGFeatureExtractor.for_model_type("dbeta")
    with pytest.raises(ValueError, match="one of I, II.*'X'"):
        plot_recipe(record, extractor, lead="X")
    with pytest.raises(ValueError, match="steps.gif"):
        plot_recipe(record, extractor, tmp_path / "steps.gif")
    assert list(tmp_path.iterdir()) == []


def test_the_command(record, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record.save("record.npz")
    ECGFeatureExtractor.for_model_type("dbeta").save_pretrained("model")
    assert main(["plot", "record.npz", "--recipe", "model", "-o", "of_folder.svg", "--lead", "I"]) == 0
    assert (tmp_path / "of_folder.svg").read_text().startswith("<?xml")
    assert main(["plot", "record.npz", "--recipe", "dbeta", "--gain", "20", "--layout", "6x2"]) == 1
    assert main(["plot", "record.npz", "--lead", "I"]) == 1
    told = capsys.readouterr().err
    assert "--layout, --gain is for the sheet" in told and "--lead is for --recipe" in told
    assert main(["plot", "record.npz", "--recipe", "dbeta"]) == 0
    assert (tmp_path / "record.png").is_file()
    capsys.readouterr()
    assert main(["plot", "record.npz", "--recipe", "no_recipe"]) == 1
    assert "neither a recipe (dbeta, " in capsys.readouterr().err
    assert main(["plot", "record.npz", "--recipe", "dbeta", "--model", "model"]) == 1
