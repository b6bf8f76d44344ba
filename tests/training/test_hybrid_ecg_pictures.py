import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from ecg_transformers import HybridECGConfig, HybridECGForPreTraining
from ecg_transformers.feature_extraction.ecg_leads import STANDARD_LEADS
from ecg_transformers.training.callbacks import GracefulStopCallback
from ecg_transformers.training.reconstruction_pictures import (
    Reconstruction,
    ReconstructionPictures,
    plot_reconstruction,
    reconstruct_record,
    unit_of_recipe,
)

pytest.importorskip("matplotlib")
ROOT = Path(__file__).resolve().parents[2]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TINY |= {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
TINY |= {"decoder_intermediate_size": 32, "contrastive_loss_weight": 0, "mask_ratio": 0.5}


def make_model(**fields):
    torch.manual_seed(0)
    return HybridECGForPreTraining(HybridECGConfig(**{**TINY, **fields}))


def make_batch(records=1, samples=520):
    generator = torch.Generator().manual_seed(1)
    return {"input_values": torch.randn(records, 12, samples, generator=generator)}


@pytest.mark.parametrize("layout", ["all_leads", "per_lead"])
def test_a_record_is_rebuilt_where_it_was_hidden(layout):
    model = make_model(patch_layout=layout, num_leads=12)
    batch = make_batch(2)
    batch["attention_mask"] = torch.ones(2, 520, dtype=torch.int64)
    batch["attention_mask"][0, 410:] = 0
    state = torch.get_rng_state()
    shown = reconstruct_record(model.train(), batch)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    # The first record, without its padding
    assert shown.truth.shape == shown.rebuilt.shape == shown.hidden.shape == (12, 410)
    assert np.array_equal(shown.truth, batch["input_values"][0, :, :410].numpy())
    # 8 whole patches, half of them; the rest is too short for one
    assert shown.hidden.mean() == pytest.approx(0.5 * 400 / 410) and not shown.hidden[:, 400:].any()
    # Normalised patches come back with the mean of the truth where the model says nothing: its last layer is 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    flat = reconstruct_record(model, batch)
    patches = flat.truth[:, :400].reshape(12, 8, 50)
    means = patches.mean(-1) if layout == "per_lead" else np.broadcast_to(patches.mean((0, 2)), (12, 8))
    rebuilt = flat.rebuilt[:, :400].reshape(12, 8, 50)
    for lead, time in np.argwhere(flat.hidden[:, :400:50]):
        assert rebuilt[lead, time] == pytest.approx(means[lead, time], abs=1e-5)


def test_the_picture_shows_seen_rebuilt_and_truth():
    rng = np.random.default_rng(0)
    truth, rebuilt = rng.normal(size=(12, 500)), rng.normal(size=(12, 500))
    hidden = np.zeros((12, 500), dtype=bool)
    hidden[:, 100:200] = hidden[3, 300:350] = True
    truth[5] = 0
    figure = plot_reconstruction(
        Reconstruction(truth, rebuilt, hidden), 250, STANDARD_LEADS, "mV", "Record, step 7", "half hidden"
    )
    assert len(figure.axes) == 12 and [axes.get_ylabel() for axes in figure.axes] == list(STANDARD_LEADS)
    texts = [text.get_text() for text in figure.texts]
    assert {"mV", "Record, step 7", "half hidden"} <= set(texts)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["seen by the model", "hidden from it", "rebuilt", "truth"]
    for lead, axes in enumerate(figure.axes):
        true_line, rebuilt_line, seen_line = (line.get_ydata() for line in axes.get_lines())
        assert np.array_equal(np.isnan(seen_line), hidden[lead]) and np.array_equal(
            ~np.isnan(rebuilt_line), hidden[lead]
        )
        assert np.array_equal(seen_line[~hidden[lead]], truth[lead][~hidden[lead]])
        assert np.array_equal(rebuilt_line[hidden[lead]], rebuilt[lead][hidden[lead]])
        assert np.array_equal(true_line[hidden[lead]], truth[lead][hidden[lead]])
        shaded = sorted(edge for patch in axes.patches for edge in (patch.get_x(), patch.get_x() + patch.get_width()))
        assert shaded == pytest.approx([0.4, 0.8] + [1.2, 1.4] * (lead == 3))
        low, high = axes.get_ylim()
        assert low < truth[lead].min() and high > truth[lead].max()
    assert [text.get_text() for text in figure.axes[5].texts] == ["no signal"] and not figure.axes[4].texts


def test_units_are_named():
    from ecg_transformers import ECGFeatureExtractor

    assert unit_of_recipe(ECGFeatureExtractor.for_model_type("hybrid_ecg").recipe) == "z-score of the record"
    assert unit_of_recipe(ECGFeatureExtractor.for_model_type("dbeta").recipe) == "mV"
    assert unit_of_recipe(ECGFeatureExtractor.for_model_type("hubert_ecg").recipe) == "model input"


@pytest.fixture
def make_pictures(tmp_path):
    def make(every=2, stopper=None):
        return ReconstructionPictures(
            tmp_path,
            make_batch(),
            every,
            250,
            STANDARD_LEADS,
            "mV",
            "Record",
            stopper or GracefulStopCallback(),
        )

    return make


def train(pictures, model, steps, first=1):
    arguments = TrainingArguments(str(pictures.output_dir), use_cpu=True, load_best_model_at_end=False)
    for step in range(first, steps + 1):
        pictures.on_step_end(arguments, TrainerState(global_step=step), TrainerControl(), model=model)
    pictures.on_train_end(arguments, TrainerState(global_step=steps), TrainerControl(), model=model)


def test_pictures_are_drawn_every_so_many_steps_and_at_the_end(make_pictures, tmp_path):
    pictures = make_pictures()
    train(pictures, make_model(), 5)
    names = ["step-000002.png", "step-000004.png", "final.png"]
    assert pictures.drawn == [f"reconstructions/{name}" for name in names]
    assert {path.name for path in (tmp_path / "reconstructions").iterdir()} == set(names)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in pictures.drawn)
    # A run that goes on knows those before it
    resumed = make_pictures()
    train(resumed, make_model(), 6, first=5)
    assert resumed.drawn == [f"reconstructions/step-00000{step}.png" for step in (2, 4, 6)] + [pictures.drawn[-1]]


def test_an_interrupted_run_has_no_picture_of_its_end(make_pictures, tmp_path):
    stopper = GracefulStopCallback()
    stopper.received = 15
    train(make_pictures(every=3, stopper=stopper), make_model(), 3)
    assert [path.name for path in (tmp_path / "reconstructions").iterdir()] == ["step-000003.png"]


def test_a_picture_is_written_whole_or_not_at_all(make_pictures, tmp_path, monkeypatch):
    pictures = make_pictures(every=1)
    train(pictures, make_model(), 1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "reconstructions").iterdir()}

    def fail(self, file, **options):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        pictures.draw(make_model(), "final.png", "end")
    assert {path.name: path.read_bytes() for path in (tmp_path / "reconstructions").iterdir()} == before


def test_without_matplotlib_a_warning_says_so_once(tmp_path):
    code = f"""
import sys
sys.modules["matplotlib"] = None
sys.path.insert(0, {str(ROOT / "tests" / "training")!r})
from ecg_transformers.training.callbacks import GracefulStopCallback
from ecg_transformers.training.reconstruction_pictures import ReconstructionPictures
from transformers import TrainerState
pictures = ReconstructionPictures({str(tmp_path)!r}, {{}}, 1, 250, ["I"], "mV", "Record", GracefulStopCallback())
for step in range(1, 4):
    pictures.on_step_end(None, TrainerState(global_step=step), None, model=None)
pictures.on_train_end(None, TrainerState(global_step=3), None, model=None)
assert pictures.drawn == []
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("ecg-transformers[plot]") == 1
