"""What goes into a published folder, what stays behind, what the card says, and what is refused."""

import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, metadata_load
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from ecg_transformers import ECGFeatureExtractor, convert_checkpoint
from ecg_transformers.evaluation import multilabel_metrics, regression_metrics, singlelabel_metrics
from ecg_transformers.publishing import render_card, write_card
from ecg_transformers.publishing.card_lint import lint_card
from ecg_transformers.publishing.folder_assembly import PublishingError, assemble_folder
from ecg_transformers.publishing.folder_check import FolderToCheck, check_folders
from ecg_transformers.registration import find_model
from ecg_transformers.training.building import config_from_size
from ecg_transformers.training.run_record import write_json

LABELS = ["AFIB", "LBBB", "NORM"]
THRESHOLDS = {"AFIB": 0.25, "LBBB": 0.5, "NORM": 0.75}


def scores(problem_type):
    """Scores of eight records; every label has one pair of sixteen in the wrong order: an AUROC of 15/16."""
    ranked = np.array([0.9, 0.8, 0.7, 0.45, 0.5, 0.3, 0.2, 0.1])
    truth = np.repeat([1.0, 0.0], 4)
    if problem_type == "regression":
        return regression_metrics(np.stack([truth] * 3, 1), np.stack([ranked] * 3, 1), LABELS) | {"intervals": {}}
    if problem_type == "single_label_classification":
        logits = np.stack([ranked, ranked / 3, ranked / 3], 1)
        probabilities = logits / logits.sum(axis=1, keepdims=True)
        classes = np.array([0, 0, 1, 1, 2, 2, 0, 1])
        return singlelabel_metrics(classes, probabilities, LABELS) | {"intervals": {}}
    found = multilabel_metrics(np.stack([truth] * 3, 1), np.stack([ranked] * 3, 1), LABELS)
    interval = {"value": 0.9375, "lower": 0.8125, "upper": 1.0, "num_resamples": 10}
    return found | {"intervals": {"auroc": {"macro": interval, "per_label": dict.fromkeys(LABELS, interval)}}}


def run_facts(extractor, corpus="ptbxl", problem_type="multi_label_classification", **model):
    """`run.json` as training writes it, with figures that can be told apart."""
    counts = {"positives": 11, "negatives": 29, "unknown": 0}
    test = scores(problem_type)
    split = {"records": 40, "patients": 30, "labels": {name: counts for name in LABELS}}
    metric = "mae" if problem_type == "regression" else "macro_auroc"
    return {
        "format_version": 1,
        "finished": "2026-01-01T00:00:00+00:00",
        "arguments": {"ModelArguments": {"size": "tiny"}},
        "environment": {"versions": {"torch": "2.6.0"}, "device": "a CPU", "processes": 1},
        "corpus": {
            "name": corpus,
            "task": None,
            "problem_type": problem_type,
            "label_names": LABELS,
            "label_fraction": None,
            "splits": {"train": split, "validation": split, "test": split},
        },
        "model": {
            "model_type": "deepecg_sl",
            "base_model": None,
            "base_model_is_local": False,
            "parameters": 1000,
            "trainable_parameters": 900,
            "sampling_rate": 250,
            "window_seconds": 10,
            "recipe": extractor.recipe,
            **model,
        },
        "training": {
            "learning_rate": 0.001,
            "weight_decay": 0.01,
            "optimizer": "adamw_torch",
            "warmup": 0.08,
            "schedule": "linear",
            "batch_size": 16,
            "seed": 42,
            "steps": 9,
            "epochs": 3.0,
            "best_step": 6,
            "metric_for_best_model": metric,
        },
        "learning_curve": [
            {"epoch": i, "step": 3 * i, "training_loss": 1 / i, "validation_loss": 1.5 / i, metric: 0.1 * i}
            for i in (1, 2, 3)
        ],
        "thresholds": THRESHOLDS if problem_type == "multi_label_classification" else None,
        "metrics": {"test": test, "validation": None, "untrained_test": None},
        "seconds": {"training": 5.0},
    }


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A run as training leaves it: model, figures, card, and what is nobody's business."""
    folder = tmp_path_factory.mktemp("runs") / "my-run"
    config = config_from_size("deepecg_sl", "tiny")
    config.id2label = dict(enumerate(LABELS))
    config.label2id = {name: index for index, name in enumerate(LABELS)}
    config.problem_type = "multi_label_classification"
    config.thresholds, config.threshold_criterion = THRESHOLDS, "f1"
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    extractor = ECGFeatureExtractor.for_model_type("deepecg_sl")
    extractor.save_pretrained(folder)
    run = run_facts(extractor)
    write_json(folder / "run.json", run)
    write_json(folder / "metrics.json", run["metrics"])
    write_card(folder)
    (folder / "test_predictions.csv").write_text("record_id,patient_id\nr1,p1\n")
    (folder / "started_with.json").write_text("{}")
    for name in ("checkpoint-3", "runs"):
        (folder / name).mkdir()
        (folder / name / "optimizer.pt").write_bytes(b"x")
    (folder / "training_args.bin").write_bytes(b"x")
    return folder


def copied(folder, place, **changes):
    shutil.copytree(folder, place)
    for name, change in changes.items():
        path = place / f"{name}.json"
        write_json(path, change(json.loads(path.read_text())))
    return place


def assembled(source, place, **options):
    place.mkdir()
    return assemble_folder(source, place, **options)


def test_what_belongs_to_a_model_is_taken_and_nothing_else(finished_run, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    folder = assembled(finished_run, tmp_path / "clean")
    assert set(folder.files) == {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"} | {
        "NOTICE",
        "run.json",
        "metrics.json",
        "learning_curve.png",
    }
    assert folder.left_out == ["checkpoint-3/", "runs/", "started_with.json", "test_predictions.csv"] + [
        "training_args.bin"
    ]
    assert folder.files["model.safetensors"] == (finished_run / "model.safetensors").stat().st_size
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before
    assert [note for note in folder.notes if "changed" in note] == []


def test_the_card_of_a_run_is_complete(finished_run, tmp_path):
    folder = assembled(finished_run, tmp_path / "clean", repo_id="me/ecg", licence="apache-2.0", with_code=True)
    card = ModelCard.load(folder.path / "README.md")
    assert lint_card(str(card)) == []
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "ecg_transformers",
        "feature-extraction",
    )
    assert data.datasets == ["ptbxl"] and data.model_name == "ecg" and data.base_model is None
    assert {"deepecg-sl", "ecg-classification", "custom_code"} <= set(data.tags)
    (score,) = [result for result in data.eval_results if result.metric_type == "macro_auroc"]
    assert (score.dataset_type, score.dataset_split, score.metric_value) == ("ptbxl", "test", 0.9375)
    text = card.text
    assert "| LBBB | 0.500 | 11 | 29 |" in text and "0.938 [0.812, 1.000]" in text
    assert "learning rate 0.001" in text and "torch 2.6.0" in text and "- `size`: tiny" in text
    assert 'folder = "me/ecg"' in text and "trust_remote_code=True" in text
    assert "![Losses over training](learning_curve.png)" in text
    width, height = struct.unpack(">II", (folder.path / "learning_curve.png").read_bytes()[16:24])
    assert width > 2 * height > 600
    notice = (folder.path / "NOTICE").read_text()
    assert "apache-2.0" in notice and "Apache License" in (folder.path / "LICENSE-CODE").read_text()


@pytest.mark.parametrize(
    ("facts", "metadata", "words"),
    [
        ({"problem_type": "regression"}, {"datasets": ["ptbxl"]}, "(trained: "),
        ({"problem_type": "single_label_classification", "corpus": "ward-7"}, {"datasets": None}, "| AFIB | 11 |"),
        ({"corpus": "lab/ecgs", "base_model": "a/b"}, {"datasets": ["lab/ecgs"], "base_model": "a/b"}, "`a/b`"),
        ({"corpus": "folder", "base_model": "x", "base_model_is_local": True}, {"base_model": None}, "`x`"),
    ],
)
def test_cards_of_other_runs(finished_run, tmp_path, facts, metadata, words):
    extractor = ECGFeatureExtractor.from_pretrained(finished_run)
    folder = copied(finished_run, tmp_path / "run", run=lambda _: run_facts(extractor, **facts))
    text = render_card(folder)
    assert lint_card(text) == []
    data = ModelCard(text).data
    assert {name: data.get(name) for name in metadata} == metadata
    if words != "(trained: ":
        assert words in text
    else:
        assert {result.metric_type for result in data.eval_results} == {"mae", "rmse", "r2"}
        assert "| label |" not in text


def pixels(path):
    """The bytes of the image of a PNG."""
    content, place, data = path.read_bytes(), 8, b""
    while place < len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        data += content[place + 8 : place + 8 + size] if kind == b"IDAT" else b""
        place += 12 + size
    return zlib.decompress(data)


def test_the_learning_curve_is_drawn_from_the_run(finished_run, tmp_path):
    def flat(run):
        return run | {"learning_curve": [entry | {"validation_loss": 1.0} for entry in run["learning_curve"]]}

    other = copied(finished_run, tmp_path / "flat", run=flat)
    short = copied(
        finished_run, tmp_path / "short", run=lambda run: run | {"learning_curve": run["learning_curve"][:1]}
    )
    (short / "learning_curve.png").unlink()
    for folder in (other, short):
        write_card(folder)
    assert pixels(other / "learning_curve.png") != pixels(finished_run / "learning_curve.png")
    assert not (short / "learning_curve.png").exists()
    assert "learning_curve.png" not in (short / "README.md").read_text()


def test_pictures_of_patients_stay_behind(finished_run, tmp_path):
    extractor = ECGFeatureExtractor.from_pretrained(finished_run)
    picture = "reconstructions/final.png"
    for corpus, taken in (("synthetic", True), ("mimic_iv_ecg", False)):
        run = run_facts(extractor, corpus, pictures=[picture], model_type="hybrid_ecg", base_model_licence=None)
        run |= {"kind": "pretraining", "metrics": {"validation": {"loss": 0.5}}}
        folder = copied(finished_run, tmp_path / corpus, run=lambda _, run=run: run)
        (folder / "reconstructions").mkdir()
        shutil.copy(folder / "learning_curve.png", folder / picture)
        found = assembled(folder, tmp_path / f"{corpus}-clean")
        assert (picture in found.files) is taken is (picture in (found.path / "README.md").read_text())
        assert any("terms may forbid" in note for note in found.notes) is not taken


def test_a_licence_in_the_card_is_kept_and_other_changes_are_told(finished_run, tmp_path):
    folder = copied(finished_run, tmp_path / "run")
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("license: unknown", "license: cc-by-4.0"))
    found = assembled(folder, tmp_path / "clean")
    assert found.licence == metadata_load(found.path / "README.md")["license"] == "cc-by-4.0"
    assert "was changed since the run wrote it" in found.notes[0]
    mine = assembled(folder, tmp_path / "mine", card=folder / "README.md", repo_id="me/x")
    assert "Every figure below is from the run" in (mine.path / "README.md").read_text()
    assert (mine.path / "learning_curve.png").is_file() and mine.notes == []


def test_the_licence_of_a_given_card_is_taken(finished_run, tmp_path):
    card = tmp_path / "mine.md"
    card.write_text("---\nlicense: mit\n---\n# Mine\n")
    assert assembled(finished_run, tmp_path / "clean", card=card).licence == "mit"
    assert assembled(finished_run, tmp_path / "other", card=card, licence="cc0-1.0").licence == "cc0-1.0"


def test_places_on_the_machine_are_not_published(finished_run, tmp_path):
    arguments = {"Arguments": {"corpus_options": ["labels_csv=/data/alice/labels.csv", "token=geheim"]}}
    folder = copied(
        finished_run,
        tmp_path / "run",
        run=lambda run: run | {"arguments": arguments},
        config=lambda config: config | {"base_model": "/data/alice/base"},
    )
    write_card(folder)
    found = assembled(folder, tmp_path / "clean")
    for name in ("run.json", "README.md"):
        text = (found.path / name).read_text()
        assert "labels_csv=labels.csv" in text and "alice" not in text and "geheim" not in text
    assert json.loads((found.path / "config.json").read_text())["base_model"] == "base"
    assert ["run.json held places" in note for note in found.notes] == [True, False]  # and no licence
    with pytest.raises(PublishingError, match="where files lie on this machine: .*clean/run.json. Write their"):
        card = tmp_path / "mine.md"
        card.write_text(f"# Mine\n\nSee {found.path / 'run.json'}.\n")
        assembled(folder, tmp_path / "mine", card=card)


def test_another_licence_than_that_of_the_start_is_told(finished_run, tmp_path):
    folder = copied(
        finished_run,
        tmp_path / "run",
        run=lambda run: (
            run
            | {
                "model": run["model"]
                | {"base_model": "b", "base_model_is_local": True, "base_model_licence": "cc-by-nc-4.0"}
            }
        ),
    )
    write_card(folder)
    assert assembled(folder, tmp_path / "same").licence == "cc-by-nc-4.0"
    (note,) = assembled(folder, tmp_path / "other", licence="mit").notes
    assert "started from are under cc-by-nc-4.0, these are to be under mit" in note
    with pytest.raises(PublishingError, match="none that the Hub knows; expected one such as apache-2.0"):
        assembled(folder, tmp_path / "wrong", licence="Apache-2")


def test_sharded_weights_travel_whole_or_not(finished_run, tmp_path):
    folder = copied(finished_run, tmp_path / "run")
    (folder / "model.safetensors").unlink()
    model = AutoModelForSequenceClassification.from_pretrained(finished_run)
    model.save_pretrained(folder, max_shard_size="20KB")
    found = assembled(folder, tmp_path / "clean")
    parts = [name for name in found.files if name.startswith("model-")]
    assert len(parts) > 1 and "model.safetensors.index.json" in found.files
    again = AutoModelForSequenceClassification.from_pretrained(found.path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    (folder / parts[0]).unlink()
    with pytest.raises(PublishingError, match=f"lacks parts of its weights .*: {parts[0]}"):
        assembled(folder, tmp_path / "lacking")


def spoil_run(folder, *keys):
    run = json.loads((folder / "run.json").read_text())
    place = run if len(keys) == 1 else run[keys[0]]
    del place[keys[-1]]
    write_json(folder / "run.json", run)


def test_links_and_pictures_do_not_lead_out_of_the_folder(finished_run, tmp_path):
    (tmp_path / "secret").write_text("geheim")
    folder = copied(finished_run, tmp_path / "run")
    (folder / "LICENSE.txt").symlink_to(tmp_path / "secret")
    found = assembled(folder, tmp_path / "clean")
    assert "LICENSE.txt" in found.left_out and "LICENSE.txt: a link stays behind" in found.notes[0]
    (tmp_path / "x.png").write_bytes(b"x")
    run = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", run | {"model": run["model"] | {"pictures": ["../x.png"]}})
    with pytest.raises(PublishingError, match="picture ../x.png, which is not in"):
        assembled(folder, tmp_path / "out")


def test_names_are_text_in_a_card(finished_run, tmp_path):
    """Names of folders are no code, names of labels no columns; another name is no other card."""

    def renamed(run):
        return json.loads(json.dumps(run).replace("AFIB", "A|F").replace("LBBB", "LB\\nBB"))

    folder = copied(finished_run, tmp_path / 'my"; import os', run=renamed)
    write_card(folder)
    text = (folder / "README.md").read_text()
    assert lint_card(text) == [] and 'folder = "my\\"; import os"' in text
    assert "| A\\|F | 0.250 | 11 | 29 |" in text and "| LB BB | 0.500 |" in text
    moved = folder.rename(tmp_path / "other")
    assert not any("was changed" in note for note in assembled(moved, tmp_path / "clean").notes)


def test_a_card_of_ones_own_is_looked_through(finished_run, tmp_path):
    card = tmp_path / "mine.md"
    card.write_text("---\nlicense: mit\n---\n# Mine\n")
    (note,) = assembled(finished_run, tmp_path / "clean", card=card).notes
    assert note.startswith("The card is incomplete: line ") and "no section ## Use" in note
    card.write_text("---\nlicense: mit\nmodel-index: 3\n---\n# Mine\n")
    with pytest.raises(PublishingError, match="The metadata of .*mine.md are none that the Hub reads"):
        assembled(finished_run, tmp_path / "wrong", card=card)


def without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "There is no folder"),
        (without("config.json"), "a run that has not finished: it has no config.json"),
        (without("run.json"), "a run that has not finished: there is no run.json"),
        (without("model.safetensors"), r"pickled weights only \(training_args.bin\).* ecg-transformers convert"),
        (without("model.safetensors", "training_args.bin"), "has no weights: neither model.safetensors nor"),
        (without("preprocessor_config.json"), "has no preprocessor_config.json"),
        (without("run.json", "started_with.json", "README.md"), "neither a card nor the run.json"),
        (lambda folder: (folder / "optimizer.pt").write_bytes(b"x"), "is a checkpoint of a run"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "model of type 'bert'"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("{}"), "holds no recipe of this package"),
        (lambda folder: (folder / "run.json").write_text('{"model": {}}'), "run.json lacks 'base_model'"),
        (lambda folder: spoil_run(folder, "corpus", "task"), "run.json lacks 'task'"),
        (lambda folder: spoil_run(folder, "training"), "run.json lacks 'training'"),
        (
            lambda folder: (folder / "preprocessor_config.json").write_text(
                '{"recipe": ["crop"], "lead_names": ["I"]}'
            ),
            "preprocessor_config.json: Step 0 of the recipe is 'crop'",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "deepecg_sl", "architectures": ["X"]}'),
            "was not saved by this package",
        ),
    ],
)
def test_what_cannot_be_published_is_refused(finished_run, tmp_path, spoil, words):
    folder = copied(finished_run, tmp_path / "run")
    spoil(folder)
    with pytest.raises(PublishingError, match=words):
        assembled(folder, tmp_path / "clean")


def test_code_and_references_of_an_earlier_publication_do_not_stay(finished_run, tmp_path):
    first = assembled(finished_run, tmp_path / "first", with_code=True).path
    assert "auto_map" in json.loads((first / "config.json").read_text())
    second = assembled(first, tmp_path / "second")
    assert not any(name.endswith(".py") or name == "LICENSE-CODE" for name in second.files)
    for name in ("config.json", "preprocessor_config.json"):
        assert "auto_map" not in json.loads((second.path / name).read_text())


def test_models_with_texts_need_their_tokenizer(dbeta_folder, tmp_path):
    folder = copied(dbeta_folder, tmp_path / "dbeta")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    found = assembled(folder, tmp_path / "clean", with_code=True)
    assert (
        AutoTokenizer.from_pretrained(found.path)("af")["input_ids"]
        == AutoTokenizer.from_pretrained(folder)("af")["input_ids"]
    )
    assert "zero-shot-ecg-classification" in metadata_load(found.path / "README.md")["tags"]
    (folder / "tokenizer.json").unlink()
    with pytest.raises(PublishingError, match="has no tokenizer, which texts need"):
        assembled(folder, tmp_path / "lacking")


def test_a_converted_original_gets_the_card_of_its_family(golden, tmp_path):
    source = golden / "hubert_ecg" / "hub_checkpoint" / "checkpoint"
    converted = convert_checkpoint(source, tmp_path / "hubert-ecg-converted")
    found = assembled(converted, tmp_path / "clean", repo_id="me/hubert-ecg", with_code=True)
    card = ModelCard.load(found.path / "README.md")
    assert (card.data.license, found.licence) == ("cc-by-nc-4.0", "cc-by-nc-4.0")
    (note,) = found.notes
    assert "licence cc-by-nc-4.0 is assumed" in note
    assert card.text.lstrip().startswith("# hubert-ecg\n") and "Converted from `checkpoint`" in card.text
    assert 'folder = "me/hubert-ecg"' in card.text and {"hubert-ecg", "ecg-feature-extraction"} <= set(card.data.tags)
    assert "arXiv" in card.text or "medRxiv" in card.text
    assert "](../" not in card.text and ".md)" not in card.text and "trust_remote_code=True" in card.text
    auto_classes = list(dict.fromkeys([found.auto_class, "AutoModel"]))
    assert check_folders([FolderToCheck(converted, found.path, auto_classes)], without_package=False) > 100
    assert find_model("hubert_ecg").get_model_class("AutoModel") is type(AutoModel.from_pretrained(found.path))


def test_every_family_has_a_card_to_publish():
    cards = Path(__file__).resolve().parents[2] / "model_cards"
    for model_type in ("hubert_ecg", "dbeta", "deepecg_ssl", "deepecg_sl"):
        assert (cards / f"{model_type}.md").is_file()
