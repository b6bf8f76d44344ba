import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

import ecg_transformers
from ecg_transformers import (
    STANDARD_LEADS,
    DBetaConfig,
    DeepECGSLConfig,
    DeepECGSSLConfig,
    ECGFeatureExtractor,
    ECGRecord,
    HubertECGConfig,
    HybridECGConfig,
)
from ecg_transformers.cli import main
from ecg_transformers.corpora.synthetic_generator import generate_record
from ecg_transformers.exporting import (
    ExportError,
    describe_export,
    export_onnx,
    export_program,
    onnx_export,
    read_export_metadata,
)
from ecg_transformers.exporting.checking import check_export
from ecg_transformers.exporting.loading import load_source
from ecg_transformers.exporting.measuring import measure_difference
from ecg_transformers.exporting.source import ExportableModel
from ecg_transformers.registration import MODELS

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "deploying.md"
MODEL_TYPES = [entry.model_type for entry in MODELS]
LABELS = ["AF", "LBBB", "sinus rhythm"]
_WAV2VEC = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def small_config(model_type, **options):
    """A configuration of one layer for the input of the published models."""
    return {
        "hubert_ecg": lambda: HubertECGConfig(**_WAV2VEC, conv_dim=[8] * 5, **options),
        "dbeta": lambda: DBetaConfig(
            hidden_size=12, ecg_config={**_WAV2VEC, "conv_dim": [8] * 4}, ecg_only=True, **options
        ),
        "deepecg_ssl": lambda: DeepECGSSLConfig(**_WAV2VEC, conv_dim=[8] * 4, **options),
        "deepecg_sl": lambda: DeepECGSLConfig(
            stem_channels=8,
            hidden_size=16,
            stage_blocks=["fused", "depthwise"],
            stage_depths=[1, 1],
            stage_channels=[8, 16],
            stage_kernels=[3, 3],
            stage_strides=[2, 2],
            stage_expansions=[1, 2],
            stage_squeeze_ratios=[0, 4],
            **options,
        ),
        "hybrid_ecg": lambda: HybridECGConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **options
        ),
    }[model_type]()


def save_model(model_type, folder, **options):
    torch.manual_seed(0)
    config = small_config(
        model_type,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
        **{"problem_type": "multi_label_classification", **options},
    )
    config.thresholds = {"AF": 0.3, "LBBB": 0.6, "sinus rhythm": 0.5}
    config.label_groups = {"rhythm": ["AF", "sinus rhythm"]}
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        # Untrained models give nearly the same for all records
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
    model.save_pretrained(folder)
    ECGFeatureExtractor.for_model_type(model_type).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def get(model_type):
        if model_type not in made:
            made[model_type] = save_model(model_type, tmp_path_factory.mktemp(model_type))
        return made[model_type]

    return get


@pytest.fixture(scope="module")
def documented(folders, tmp_path_factory):
    """A folder in which the commands of the document have run on a HuBERT-ECG, and what each of them printed."""
    pytest.importorskip("onnxruntime")
    place = tmp_path_factory.mktemp("documented")
    (place / "folder").symlink_to(folders("hubert_ecg"))
    generate_record("sinus_rhythm", 3).save(place / "record.npz")
    commands = re.findall(r"^ecg-transformers .*(?:--onnx|--program|\.onnx).*$", DOCUMENT.read_text(), flags=re.M)
    assert len(commands) == 6
    printed, before = {}, os.getcwd()
    os.chdir(place)
    try:
        for command in commands:
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                assert main(shlex.split(command)[1:]) == 0, command
            printed[command] = output.getvalue()
    finally:
        os.chdir(before)
    return place, printed


@pytest.fixture(scope="module")
def onnx_files(documented, folders, tmp_path_factory):
    """ONNX files of the models, each made once."""
    made = {
        ("hubert_ecg", False): documented[0] / "model.onnx",
        ("hubert_ecg", True): documented[0] / "features.onnx",
    }

    def get(model_type, features=False):
        if (model_type, features) not in made:
            path = tmp_path_factory.mktemp("onnx") / "model.onnx"
            export_onnx(folders(model_type), path, features=features)
            made[model_type, features] = path
        return made[model_type, features]

    return get


def recordings(count):
    """Recordings that the check of an export does not use; every third is short and lacks the chest leads."""
    made = []
    for number in range(count):
        record = generate_record("sinus_rhythm", 500 + number, sampling_rate=400, seconds=11)
        if number % 3 == 1:
            record = ECGRecord(record.signal[:6, :1500], 400, STANDARD_LEADS[:6])
        made.append(record)
    return made


def session_of(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run_onnx(path, inputs):
    session = session_of(path)
    names = [output.name for output in session.get_outputs()]
    taken = {entry.name: np.asarray(inputs[entry.name]) for entry in session.get_inputs()}
    return dict(zip(names, session.run(None, taken), strict=True))


def taken_by(model, inputs):
    return {name: inputs[name] for name in ExportableModel(model, False).input_names}


@pytest.mark.filterwarnings("ignore::ecg_transformers.feature_extraction.feature_extraction_ecg.ECGSignalWarning")
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_classifier_as_onnx(model_type, folders, onnx_files):
    path = onnx_files(model_type)
    metadata = session_of(path).get_modelmeta().custom_metadata_map
    assert metadata["model_type"] == model_type and json.loads(metadata["labels"]) == LABELS
    assert json.loads(metadata["thresholds"]) == {"AF": 0.3, "LBBB": 0.6, "sinus rhythm": 0.5}
    assert json.loads(metadata["label_groups"]) == {"rhythm": ["AF", "sinus rhythm"]}

    # The recipe in the file makes the input of the model
    extractor = ECGFeatureExtractor.from_dict(json.loads(metadata["preprocessor_config"]))
    model = AutoModelForSequenceClassification.from_pretrained(folders(model_type))
    for count in (1, 2, 5):
        inputs = extractor(recordings(count), return_tensors="pt")
        original = ECGFeatureExtractor.from_pretrained(folders(model_type))(recordings(count), return_tensors="pt")
        assert torch.equal(inputs["input_values"], original["input_values"])
        found = run_onnx(path, inputs)
        with torch.no_grad():
            logits = model(**taken_by(model, inputs)).logits
        assert found["logits"].shape == (count, 3)
        assert np.abs(found["logits"] - logits.numpy()).max() <= 1e-4 * max(1, logits.abs().max())
        assert np.abs(found["probabilities"] - logits.sigmoid().numpy()).max() <= 1e-4
    # Not a constant
    assert logits.std(dim=0).max() > 0.01


@pytest.mark.filterwarnings("ignore::ecg_transformers.feature_extraction.feature_extraction_ecg.ECGSignalWarning")
@pytest.mark.parametrize(
    "model_type",
    [name if name == "hubert_ecg" else pytest.param(name, marks=pytest.mark.slow) for name in MODEL_TYPES],
)
def test_features_as_onnx(model_type, folders, onnx_files):
    path = onnx_files(model_type, features=True)
    assert "labels" not in read_export_metadata(path)
    model = AutoModel.from_pretrained(folders(model_type))
    inputs = ECGFeatureExtractor.from_pretrained(folders(model_type))(recordings(4), return_tensors="pt")
    with torch.no_grad():
        expected = model.get_ecg_features(**taken_by(model, inputs)).numpy()
    found = run_onnx(path, inputs)["features"]
    assert found.shape == expected.shape == (4, expected.shape[1])
    assert np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


def test_an_absent_lead_is_absent_in_onnx_too(onnx_files):
    inputs = ECGFeatureExtractor.for_model_type("hybrid_ecg")(recordings(1), return_tensors="np")
    path = onnx_files("hybrid_ecg")
    whole = run_onnx(path, inputs)["logits"]
    inputs["lead_mask"][0, 6:] = 0
    masked = run_onnx(path, inputs)["logits"]
    inputs["input_values"][0, 6:] = 1e3
    assert np.abs(masked - whole).max() > 1e-4
    assert np.array_equal(run_onnx(path, inputs)["logits"], masked)


def test_the_files_tell_nothing_of_the_machine(documented):
    places = {Path(module.__file__).parent for module in (ecg_transformers, torch)}
    for path in (documented[0] / "model.onnx", documented[0] / "model.pt2"):
        content = path.read_bytes()
        # The paths in stack traces begin with one or two folders above the file's
        for place in places:
            assert f"{place.parent.name}/{place.name}".encode() not in content, path
        assert b"stack_trace" not in content


def test_of_dbeta_the_ecg_branch_is_exported(dbeta_folder, tmp_path):
    report = export_program(dbeta_folder, tmp_path / "features.pt2", features=True)
    model = AutoModel.from_pretrained(dbeta_folder)
    inputs = ECGFeatureExtractor.for_model_type("dbeta")(recordings(1) * 3, return_tensors="pt")
    program = torch.export.load(report.path)
    assert not any("text" in name or "fusion" in name for name in program.state_dict)
    with torch.no_grad():
        found = program.module()(input_values=inputs["input_values"], attention_mask=inputs["attention_mask"])
        expected = model.get_ecg_features(inputs["input_values"], inputs["attention_mask"])
    torch.testing.assert_close(found["features"], expected, atol=1e-4, rtol=0)


def test_a_program_opens_without_the_package(folders, documented, tmp_path):
    inputs = ECGFeatureExtractor.from_pretrained(folders("hubert_ecg"))(recordings(1) * 3, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(folders("hubert_ecg"))
    with torch.no_grad():
        expected = model(inputs["input_values"], inputs["attention_mask"]).logits
    torch.save({name: inputs[name] for name in ("input_values", "attention_mask")}, tmp_path / "inputs.pt")
    script = (
        "import sys; sys.modules['ecg_transformers'] = sys.modules['transformers'] = None\n"
        "import json, torch\n"
        "extra = {'metadata.json': ''}\n"
        f"program = torch.export.load({str(documented[0] / 'model.pt2')!r}, extra_files=extra).module()\n"
        f"output = program(**torch.load({str(tmp_path / 'inputs.pt')!r}))\n"
        "labels = json.loads(json.loads(extra['metadata.json'])['labels'])\n"
        "print(json.dumps([labels, output['logits'].tolist(), output['probabilities'].tolist()]))\n"
    )
    process = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    labels, logits, probabilities = json.loads(process.stdout)
    assert labels == LABELS
    torch.testing.assert_close(torch.tensor(logits), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.tensor(probabilities), expected.sigmoid(), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"features": True}, {"dynamic_length": True}], ids=str)
def test_programs_of_every_model(model_type, options, folders, tmp_path):
    if model_type == "deepecg_sl" and "dynamic_length" in options:
        # torch allows only the lengths that it can prove to fit the mask
        with pytest.raises(ExportError, match="does not run for input_values of shape"):
            export_program(folders(model_type), tmp_path / "model.pt2", **options)
        assert not list(tmp_path.iterdir())
        return
    report = export_program(folders(model_type), tmp_path / "model.pt2", **options)
    exact = options.get("dtype") != "bfloat16"
    assert max(report.largest.values()) <= (1e-4 if exact else 2**-6)
    assert exact or 0 < report.difference.mean < report.difference.largest < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_any_length_as_onnx(model_type, folders, tmp_path):
    path = tmp_path / "model.onnx"
    report = export_onnx(folders(model_type), path, dynamic_length=True)
    assert json.loads(report.metadata["inputs"])["input_values"]["shape"][-1] == "samples"
    model = AutoModelForSequenceClassification.from_pretrained(folders(model_type))
    inputs = ECGFeatureExtractor.from_pretrained(folders(model_type))(recordings(1) * 2, return_tensors="pt")
    for samples in (1111, 2345):
        cut = {
            name: value if name == "lead_mask" else value[..., :samples].contiguous()
            for name, value in taken_by(model, inputs).items()
        }
        with torch.no_grad():
            expected = model(**cut).logits.numpy()
        assert np.abs(run_onnx(path, cut)["logits"] - expected).max() <= 1e-4


@pytest.mark.slow
def test_a_recipe_without_windows_gives_records_of_any_length(tmp_path):
    folder = save_model("hubert_ecg", tmp_path / "model")
    recipe = [step for step in ECGFeatureExtractor.for_model_type("hubert_ecg").recipe if step["step"] != "crop"]
    ECGFeatureExtractor(recipe).save_pretrained(folder)
    report = export_onnx(folder, tmp_path / "model.onnx")
    assert json.loads(report.metadata["inputs"])["attention_mask"]["shape"] == ["batch", "samples"]
    with pytest.raises(ValueError, match="cuts no windows"):
        export_onnx(folder, tmp_path / "fixed.onnx", dynamic_length=False)


@pytest.mark.slow
def test_hubert_ecg_in_its_published_size(tmp_path):
    torch.manual_seed(0)
    config = HubertECGConfig.from_size("small", num_labels=9, problem_type="multi_label_classification")
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "model")
    ECGFeatureExtractor.for_model_type("hubert_ecg").save_pretrained(tmp_path / "model")
    report = export_onnx(tmp_path / "model", tmp_path / "model.onnx")
    assert report.size > 100e6 and max(report.largest.values()) <= 1e-4
    small = export_onnx(tmp_path / "model", tmp_path / "int8.onnx", int8=True)
    assert small.size < 0.45 * report.size and 0 < small.difference.largest < 0.05


def test_int8_tells_what_it_changes(documented):
    place, printed = documented
    record = generate_record("sinus_rhythm", 3)
    inputs = ECGFeatureExtractor.for_model_type("hubert_ecg")(record, windows="all", return_tensors="np")
    exact = run_onnx(place / "model.onnx", inputs)["probabilities"]
    changed = run_onnx(place / "model-int8.onnx", inputs)["probabilities"]
    difference = np.abs(changed - exact)
    assert len(exact) == 2 and 0 < difference.max() < 0.1
    thresholds = np.array([0.3, 0.6, 0.5])
    decisions = ((changed > thresholds) != (exact > thresholds)).sum()
    (told,) = [output for command, output in printed.items() if "--int8" in command]
    assert (
        f"int8     against float32 on record.npz: probabilities of 2 windows differ by {difference.max():.2g} at most "
        f"and {difference.mean():.2g} on average; {decisions} of 6 decisions change"
    ) in told
    metadata = read_export_metadata(place / "model-int8.onnx")
    assert metadata["dtype"] == "int8" and json.loads(metadata["labels"]) == LABELS
    assert metadata["difference_to_float32"].startswith("probabilities of 2 windows differ by")
    assert (place / "model-int8.onnx").stat().st_size < (place / "model.onnx").stat().st_size


def test_bfloat16_tells_what_it_changes(documented):
    (told,) = [output for command, output in documented[1].items() if "bfloat16" in command]
    found = re.search(r"bfloat16 against float32 on 32 synthetic records: .* differ by (\S+) at most", told)
    assert 0 < float(found[1]) < 0.1


def test_the_python_of_the_document_runs(documented, monkeypatch, capsys):
    monkeypatch.chdir(documented[0])
    blocks = [
        block
        for block in re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), flags=re.M | re.S)
        if "onnxruntime" in block or "torch.export" in block
    ]
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["probabilities"].shape == (2, 3) and "hubert_ecg tensor" in capsys.readouterr().out
    np.testing.assert_allclose(names["outputs"]["probabilities"].numpy(), names["probabilities"], atol=1e-4)


def shifted(source, amounts):
    """A runner that adds an amount to each label's probability."""

    def run(inputs):
        with torch.no_grad():
            found = {name: value.numpy() for name, value in source.reference(**inputs).items()}
        return found | {"probabilities": found["probabilities"] + np.array(amounts, dtype=np.float32)}

    return run


@pytest.fixture(scope="module")
def source(folders):
    return load_source(folders("dbeta"), features=False)


@pytest.fixture(scope="module")
def batch(source):
    inputs = source.extractor(recordings(1) * 2, return_tensors="pt")
    return {name: inputs[name] for name in source.reference.input_names}


def test_the_difference_is_counted(source, batch):
    with torch.no_grad():
        probabilities = source.reference(**batch)["probabilities"].numpy()
    # Brings the second label over its threshold of 0.6, or under it, in both rows; the others stay on their side
    crossing = 0.3 if (probabilities[:, 1] < 0.6).all() else -0.3
    assert (probabilities[:, 1] + crossing > 0.6).all() == (crossing > 0)
    found = measure_difference(source, shifted(source, [0.0, crossing, 0.0]), [batch, batch])
    assert (found.num_windows, found.num_decisions, found.num_changed) == (4, 12, 4)
    assert found.largest == pytest.approx(0.3, abs=1e-6) and found.mean == pytest.approx(0.1, abs=1e-6)
    assert "4 of 12 decisions change (33 %)" in str(found)
    with pytest.raises(ExportError, match="not finite"):
        measure_difference(source, shifted(source, [0.0, np.nan, 0.0]), [batch])
    with pytest.raises(ExportError, match="no recording"):
        measure_difference(source, shifted(source, [0.0] * 3), [])


def test_a_wrong_export_is_found(source, batch):
    assert check_export(source.reference, shifted(source, [5e-5, 0, 0]), [batch], "It", 1e-4)["logits"] == 0
    for amounts in ([0, 2e-4, 0], [0, 0, np.nan]):
        with pytest.raises(ExportError, match=r"It differs from torch by .* in probabilities"):
            check_export(source.reference, shifted(source, amounts), [batch], "It", 1e-4)
    with pytest.raises(ExportError, match="does not run for input_values of shape"):
        check_export(source.reference, lambda inputs: 1 / 0, [batch], "It", 1e-4)
    with pytest.raises(ExportError, match=r"gives logits of shape \(1, 3\)"):
        check_export(
            source.reference,
            lambda inputs: {name: value[:1] for name, value in shifted(source, [0, 0, 0])(inputs).items()},
            [batch],
            "It",
            1e-4,
        )


def test_what_fails_the_check_is_not_written(folders, tmp_path, monkeypatch):
    (tmp_path / "model.pt2").write_text("earlier")
    monkeypatch.setattr("ecg_transformers.exporting.program_export.TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="Nothing was written"):
        export_program(folders("dbeta"), tmp_path / "model.pt2", overwrite=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]


@pytest.mark.parametrize(
    "problem_type, names, sums",
    [
        ("single_label_classification", ("logits", "probabilities"), True),
        (None, ("logits", "probabilities"), False),
        ("regression", ("values",), False),
    ],
)
def test_the_outputs_follow_the_problem(problem_type, names, sums, batch):
    torch.manual_seed(0)
    config = small_config("dbeta", num_labels=3, problem_type=problem_type)
    module = ExportableModel(AutoModelForSequenceClassification.from_config(config).eval(), features=False)
    with torch.no_grad():
        output = module(**batch)
        logits = module.model(**batch).logits
    assert tuple(output) == module.output_names == names
    assert torch.equal(output[names[0]], logits)
    if len(names) == 2:
        expected = logits.softmax(-1) if sums else logits.sigmoid()
        assert torch.equal(output["probabilities"], expected)


def test_info_of_an_export(documented, capsys):
    place, printed = documented
    (told,) = [output for command, output in printed.items() if command.startswith("ecg-transformers info")]
    assert "input_values (batch, 6000) float32" in told and 'labels       ["AF", ' in told
    assert "recipe step  concatenate_leads()\n  recipe step  decimate(factor=5)\n" in told
    assert main(["info", str(place / "model.pt2"), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["preprocessor_config"]["recipe"] == ECGFeatureExtractor.for_model_type("hubert_ecg").recipe
    assert described["labels"] == LABELS and described["outputs"]["probabilities"]["shape"] == ["batch", 3]
    assert "opset" not in described and describe_export(place / "model.onnx")["opset"] >= 18


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_what_is_no_export_is_told(name, tmp_path):
    (tmp_path / name).write_bytes(b"\xff\xfe no model")
    with pytest.raises(ValueError, match=f"{name} is no "):
        describe_export(tmp_path / name)


def test_the_licence_of_the_folder_is_kept(folders, tmp_path, capsys):
    folder = shutil.copytree(folders("dbeta"), tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nbase_model: someone/d-beta\n---\n# A model\n")
    assert main(["export", str(folder), "--program", str(tmp_path / "model.pt2"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["size"] == (tmp_path / "model.pt2").stat().st_size and told["largest_difference"]["logits"] <= 1e-4
    metadata = read_export_metadata(tmp_path / "model.pt2")
    assert told["metadata"] == metadata
    assert (metadata["license"], metadata["base_model"]) == ("cc-by-nc-4.0", "someone/d-beta")


def refused(capsys, *arguments):
    assert main(["export", *map(str, arguments)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_what_cannot_be_exported_is_told(folders, tmp_path, capsys, monkeypatch):
    folder, target = folders("dbeta"), tmp_path / "model.onnx"
    assert "--onnx FILE, --program FILE" in refused(capsys, folder)
    assert "--dtype bfloat16" in refused(capsys, folder, "--program", tmp_path / "m.pt2", "--int8")
    assert "there is --int8" in refused(capsys, folder, "--onnx", target, "--dtype", "bfloat16")
    assert "ends in .onnx" in refused(capsys, folder, "--onnx", tmp_path / "model.bin")
    assert "create it first" in refused(capsys, folder, "--onnx", tmp_path / "nowhere" / "model.onnx")
    assert "There is no model folder" in refused(capsys, tmp_path / "none" / "none", "--onnx", target)
    target.write_text("kept")
    assert "pass --overwrite to replace it" in refused(capsys, folder, "--onnx", target)
    assert target.read_text() == "kept"
    target.unlink()

    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "backbone")
    told = refused(capsys, tmp_path / "backbone", "--onnx", target)
    assert "no classification head" in told and "--features" in told
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    assert "No model type 'bert'" in refused(capsys, tmp_path / "bert", "--onnx", target)

    monkeypatch.setattr(onnx_export, "_LARGEST_FILE", 1000)
    assert "less than 2 GiB" in refused(capsys, folder, "--onnx", target)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "pip install 'ecg-transformers[onnx]'" in refused(capsys, folder, "--onnx", target)
    assert not target.exists()


def test_a_place_that_cannot_be_written_is_told_first(folders, tmp_path, monkeypatch):
    def fail(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ecg_transformers.exporting.loading.tempfile", SimpleNamespace(TemporaryFile=fail))
    with pytest.raises(OSError, match=r"model\.pt2 cannot be written: Permission denied"):
        export_program(folders("dbeta"), tmp_path / "model.pt2")
