import json
import math
import shutil
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ecg_transformers import STANDARD_LEADS, ECGFeatureExtractor, load_corpus
from ecg_transformers.record import ECGRecord
from ecg_transformers.training import (
    AugmentationArguments,
    AugmentationSettings,
    augment,
    augment_records,
    pretrain_dbeta,
    pretrain_deepecg_ssl,
)
from ecg_transformers.training.augmentation_settings import AUGMENTATIONS
from ecg_transformers.training.augmentations import scale_amplitude
from ecg_transformers.training.row_randomness import _draw_in_torch, hashed_uniforms
from ecg_transformers.training.run_arguments import parse_arguments
from ecg_transformers.training.segment_pairs import SegmentPairCollator, SegmentPairs

LEADS = list(STANDARD_LEADS)
ALWAYS = AugmentationSettings(AUGMENTATIONS, augmentation_probability=1.0)


@pytest.fixture(scope="module")
def dataset():
    return load_corpus("synthetic", num_patients=15, records_per_patient=1, seed=2)["train"]


@pytest.fixture(scope="module")
def records(dataset):
    return [dataset[index]["ecg"] for index in range(6)]


# Numbers


INCREMENT = 0x9E3779B97F4A7C15


def splitmix64(state, count):
    """The generator as published, with Python's integers."""
    numbers = []
    for _ in range(count):
        state = (state + INCREMENT) % 2**64
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % 2**64
        numbers.append(mixed ^ (mixed >> 31))
    return numbers


def test_numbers_are_those_of_splitmix64():
    # The published generator's first output for the seed 1234567, https://rosettacode.org/wiki/Pseudo-random_numbers
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]
    drawn = (hashed_uniforms([5], ["x"], 4000)[0, 0].double() * 2**24).long()
    # One step of the generator turns seed and purpose into its starting point
    mixed = [splitmix64((number - INCREMENT) % 2**64, 1)[0] for number in (5 * INCREMENT, zlib.crc32(b"x") + 1)]
    start = splitmix64((sum(mixed) - INCREMENT) % 2**64, 1)[0]
    numbers = splitmix64(start, 2000)
    assert drawn.tolist() == [number >> shift & 0xFFFFFF for number in numbers for shift in (40, 16)]
    assert torch.equal(hashed_uniforms([5], ["x"], 77)[0, 0], hashed_uniforms([5], ["x"], 4000)[0, 0, :77])


def test_numbers_drawn_in_torch_are_the_same():
    starts = np.array([[0, 1, 2**63, 2**64 - 1], splitmix64(3, 4)], dtype=np.uint64)
    drawn = (_draw_in_torch(starts, 1001, "cpu").double() * 2**24).long()
    for start, row in zip(starts.flatten().tolist(), drawn.reshape(8, 1001).tolist(), strict=True):
        numbers = splitmix64(start, 501)
        assert row == [number >> shift & 0xFFFFFF for number in numbers for shift in (40, 16)][:1001]


def test_numbers_are_even_and_unrelated():
    drawn = hashed_uniforms(range(300), ["a", "b"], 400)
    assert drawn.shape == (300, 2, 400) and drawn.dtype == torch.float32
    assert 0 <= drawn.min() and drawn.max() < 1
    counts = torch.histc(drawn.flatten(), 100, 0, 1)
    expected = drawn.numel() / 100
    # Chi-squared with 99 degrees of freedom
    assert 50 < ((counts - expected) ** 2 / expected).sum() < 160
    centred = drawn.double() - 0.5
    limit = 5 / 12
    for other, numbers in (
        (centred[1:], centred[:-1]),  # neighbouring seeds
        (centred[:, 1], centred[:, 0]),  # purposes
        (centred[..., 1:], centred[..., :-1]),  # neighbouring numbers
    ):
        assert abs((other * numbers).sum()) < limit * math.sqrt(other.numel())


def test_numbers_belong_to_seed_and_purpose():
    drawn = hashed_uniforms([3, 4, 2**63 + 9], ["a", "b"], 50)
    assert torch.equal(hashed_uniforms([4], ["b"], 20)[0, 0], drawn[1, 1, :20])
    assert torch.equal(hashed_uniforms([2**63 + 9], ["a"], 50)[0, 0], drawn[2, 0])
    assert len(torch.unique(drawn[..., 0])) == 6
    assert hashed_uniforms([], ["a"], 3).shape == (0, 1, 3)


# Settings


def test_settings_come_from_the_command_line_or_a_file_and_survive_json(tmp_path):
    (arguments,) = parse_arguments(
        (AugmentationArguments,), ["--augmentations", "emg", "amplitude", "--emg_mv", "0.1"]
    )
    settings = AugmentationSettings.from_arguments(arguments)
    assert settings == AugmentationSettings(("amplitude", "emg"), emg_mv=0.1)
    assert AugmentationSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    (tmp_path / "run.yaml").write_text("augmentations: emg, amplitude\nemg_mv: 0.1\nemg_hz: [20, 150]\n")
    (arguments,) = parse_arguments((AugmentationArguments,), [str(tmp_path / "run.yaml")])
    assert AugmentationSettings.from_arguments(arguments) == settings
    (arguments,) = parse_arguments((AugmentationArguments,), [])
    assert AugmentationSettings.from_arguments(arguments) == AugmentationSettings()
    assert AugmentationSettings.from_arguments(AugmentationArguments(["all"])).augmentations == AUGMENTATIONS
    assert AugmentationSettings.from_arguments(AugmentationArguments(["none"])).augmentations == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"augmentations": ["flip"]}, "flip"),
        ({"augmentation_probability": 1.5}, "--augmentation_probability"),
        ({"lead_loss_probability": -0.5}, "--lead_loss_probability"),
        ({"emg_mv": -1.0}, "--emg_mv"),
        ({"wander_hz": [0.5]}, "--wander_hz"),
        ({"shift_seconds": [5, 1]}, "--shift_seconds"),
        ({"amplitude_factors": [0, 1]}, "--amplitude_factors"),
        ({"powerline_hz": []}, "--powerline_hz"),
        ({"powerline_harmonics": 0}, "--powerline_harmonics"),
    ],
)
def test_settings_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        AugmentationArguments(**values)


# On batches


def test_share_of_rows_that_are_disturbed():
    signals = torch.randn(400, 2, 100, generator=torch.Generator().manual_seed(0))
    settings = AugmentationSettings(("amplitude",), augmentation_probability=0.3)
    changed = augment(signals, 500, ["I", "II"], settings, range(400))
    rows = (changed != signals).any((1, 2))
    assert rows.float().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 400))
    chosen = rows.nonzero().flatten()
    assert torch.equal(changed[chosen], scale_amplitude(signals[chosen], chosen.tolist()))
    assert augment(signals, 500, ["I", "II"], AugmentationSettings(), range(400)) is signals


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_name_does_something_of_its_own(name):
    signals = torch.randn(8, 12, 1000, generator=torch.Generator().manual_seed(0))
    settings = AugmentationSettings((name,), augmentation_probability=1.0)
    changed = augment(signals, 500, LEADS, settings, range(8))
    # Chance leaves a row alone where no electrode moves or a span is empty
    assert (changed != signals).any((1, 2)).sum() >= 6
    others = AugmentationSettings(tuple(other for other in AUGMENTATIONS if other != name), 1.0)
    assert not torch.allclose(changed, augment(signals, 500, LEADS, others, range(8)))


def test_limb_leads_fit_together_after_all_of_them():
    from ecg_transformers.training.electrodes import lead_matrix

    electrodes, matrix = lead_matrix(LEADS)
    signals = matrix @ torch.randn(20, len(electrodes), 800, generator=torch.Generator().manual_seed(0))
    settings = AugmentationSettings(AUGMENTATIONS[:-1], 1.0)
    one, two, three, avr, avl, avf = augment(signals, 500, LEADS, settings, range(20))[:, :6].unbind(1)
    for derived, expected in ((three, two - one), (avr, -(one + two) / 2), (avl, one - two / 2), (avf, two - one / 2)):
        assert torch.allclose(derived, expected, atol=1e-5)


def test_rows_are_disturbed_alike_in_any_company():
    signals = torch.randn(5, 12, 900, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(5, 900)
    mask[3, 400:] = 0
    settings = AugmentationSettings(AUGMENTATIONS, 0.7)
    seeds = [9, 3, 7, 5, 1]
    together = augment(signals, 500, LEADS, settings, seeds, mask)
    order = [3, 1, 4]
    some = augment(signals[order], 500, LEADS, settings, [seeds[row] for row in order], mask[order])
    assert torch.allclose(some, together[order], atol=1e-5)
    assert torch.equal(together[3, :, 400:], signals[3, :, 400:])
    alone = augment(signals[3:4, :, :400], 500, LEADS, settings, seeds[3:4])
    assert torch.allclose(alone[0], together[3, :, :400], atol=1e-5)


def test_lost_leads():
    signals = torch.randn(300, 12, 20, generator=torch.Generator().manual_seed(0))
    signals[:, 7] = 0
    settings = AugmentationSettings(("lead_mask",), 1.0, lead_loss_probability=0.9)
    lost = (augment(signals, 500, LEADS, settings, range(300)) == 0).all(-1)
    assert lost[:, 7].all()
    others = lost[:, [lead for lead in range(12) if lead != 7]]
    # The lead that stays is one that was there
    assert not others.all(1).any() and 0.8 < others.float().mean() < 0.95
    fewer = augment(signals[:, [3, 0]], 500, [LEADS[3], LEADS[0]], settings, range(300))
    several = (~lost[:, [3, 0]]).any(1) & ((~others).sum(1) > 1)
    assert several.sum() > 30
    assert torch.equal((fewer == 0).all(-1)[several], lost[several][:, [3, 0]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_does_not_matter():
    signals = torch.randn(6, 12, 1000)
    mask = torch.ones(6, 1000)
    mask[2, 500:] = 0
    on_gpu = augment(signals.cuda(), 500, LEADS, ALWAYS, range(6), mask.cuda())
    assert torch.allclose(on_gpu.cpu(), augment(signals, 500, LEADS, ALWAYS, range(6), mask), atol=1e-5)


# On records


def test_records_of_all_kinds(records):
    mixed = [
        records[0],
        ECGRecord(records[1].signal[:, :3000], 500, LEADS),
        ECGRecord(records[2].signal[[1, 7]], 250, ["II", "V2"], {"record_id": "two"}),
        records[3],
    ]
    before = [record.signal.copy() for record in mixed]
    disturbed = augment_records(mixed, ALWAYS, [4, 5, 6, 7])
    for record, changed, signal in zip(mixed, disturbed, before, strict=True):
        assert np.array_equal(record.signal, signal)
        assert changed.signal.shape == signal.shape and changed.metadata == record.metadata
        assert (changed.sampling_rate, changed.lead_names) == (record.sampling_rate, record.lead_names)
        assert np.isfinite(changed.signal).all() and not np.array_equal(changed.signal, signal)
    for index in range(4):
        alone = augment_records(mixed[index : index + 1], ALWAYS, [4 + index])[0]
        assert np.allclose(alone.signal, disturbed[index].signal, atol=1e-5)
    assert augment_records(mixed, AugmentationSettings(), range(4)) == mixed
    assert augment_records([], ALWAYS, []) == []
    with pytest.raises(ValueError, match="got 1 seeds"):
        augment_records(mixed, ALWAYS, [1])


# In pretraining


def test_pairs_of_segments_are_disturbed_before_preprocessing(dataset, records):
    extractor = ECGFeatureExtractor.for_model_type("deepecg_ssl")
    settings = AugmentationSettings(("baseline_wander", "emg"), 1.0)
    rows = SegmentPairs(dataset, seed=1).__getitems__([0, 1, 2])
    batch = SegmentPairCollator(extractor, lead_mask_probability=0.0, augmentations=settings)(rows)
    plain = SegmentPairCollator(extractor, lead_mask_probability=0.0)(rows)
    seeds = [2 * row["window_seed"] for row in rows]
    by_hand = [
        {**row, "ecgs": [ecg]}
        for row, ecg in zip(rows, augment_records([row["ecgs"][0] for row in rows], settings, seeds), strict=True)
    ]
    expected = SegmentPairCollator(extractor, lead_mask_probability=0.0)(by_hand)
    assert torch.equal(batch["input_values"], expected["input_values"])
    assert not torch.allclose(batch["input_values"], plain["input_values"], atol=1e-3)
    # Two recordings of a patient are disturbed apart
    pair = {"ecgs": [records[0], records[0]], "patient": 0, "window_seed": 3}
    first, second = SegmentPairCollator(extractor, lead_mask_probability=0.0, augmentations=settings)([pair])[
        "input_values"
    ]
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("model", ["deepecg_ssl", "dbeta"])
def test_a_run_with_augmentations(model, make_ssl_arguments, make_pretraining_arguments, tmp_path):
    pretrain, make = {
        "deepecg_ssl": (pretrain_deepecg_ssl, make_ssl_arguments),
        "dbeta": (pretrain_dbeta, make_pretraining_arguments),
    }[model]
    options = ["--max_steps", 2, "--save_strategy", "steps", "--save_steps", 1, "--eval_strategy", "no"]
    disturb = ["--augmentations", "baseline_wander", "emg"]
    plain = pretrain(*make(*options, output="plain"))
    disturbed = pretrain(*make(*options, "--wander_mv", 0.4, *disturb, output="disturbed"))
    losses = [result.learning_curve[-1]["training_loss"] for result in (plain, disturbed)]
    assert losses[0] != losses[1]
    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("plain", "disturbed")]
    assert runs[0]["training"]["augmentations"] is None
    settings = AugmentationSettings(("emg", "baseline_wander"), wander_mv=0.4)
    assert AugmentationSettings.from_dict(runs[1]["training"]["augmentations"]) == settings
    assert "baseline_wander" in (tmp_path / "disturbed" / "README.md").read_text()
    # A resumed run goes on as if it had not been interrupted, and has to disturb in the same way
    resume = [*options, "--resume_from_checkpoint", "last"]
    straight = load_file(tmp_path / "disturbed" / "model.safetensors")
    shutil.rmtree(tmp_path / "disturbed" / "checkpoint-2")
    pretrain(*make(*resume, "--wander_mv", 0.4, *disturb, output="disturbed"))
    resumed = load_file(tmp_path / "disturbed" / "model.safetensors")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    with pytest.raises(ValueError, match="augmentations was"):
        pretrain(*make(*resume, "--wander_mv", 0.1, *disturb, output="disturbed"))
    with pytest.raises(ValueError, match="augmentations was"):
        pretrain(*make(*resume, output="disturbed"))
