"""The commands and the code of the README, the documents and the cards run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"

# Installing is the Makefile's and CI's business.
NOT_RUN = ("pip install",)


def code_blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def shell_commands(path: Path) -> list[str]:
    lines = "\n".join(code_blocks(path, "bash")).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith(NOT_RUN)]


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    """A working folder in which the demonstration has run, as the README assumes."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("training_scripts", "hub_upload.py"):
        (folder / name).symlink_to(ROOT / name)
    run("ecg-transformers demo --short", folder)
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    process = subprocess.run(shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, f"{command}\n{process.stdout[-2000:]}\n{process.stderr[-4000:]}"
    return process


def test_the_commands_of_the_readme_run(demo_folder):
    from ecg_transformers.publishing.card_lint import lint_card

    commands = shell_commands(README)
    assert len(commands) >= 5 and any("finetune_classification" in command for command in commands)
    for command in commands:
        run(command, demo_folder)
    made_by_commands = ("sheet.png", "predictions.csv", "embeddings.npz", "outputs/synthetic/README.md")
    for made in (
        *made_by_commands,
        "outputs/hybrid/README.md",
        "outputs/dbeta/README.md",
        "outputs/zero-shot/metrics.json",
    ):
        assert (demo_folder / made).stat().st_size > 0, made
    for run_folder in ("synthetic", "hybrid", "dbeta"):
        card = (demo_folder / "outputs" / run_folder / "README.md").read_text(encoding="utf-8")
        assert lint_card(card) == [], run_folder


def test_the_python_of_the_readme_and_of_deploying_runs(demo_folder, dbeta_folder):
    blocks = code_blocks(README, "python")
    assert len(blocks) >= 3
    (pipelines,) = [block for block in code_blocks(ROOT / "docs" / "deploying.md", "python") if "tqdm" in block]
    script = demo_folder / "readme.py"
    if not (demo_folder / "outputs" / "dbeta").exists():
        (demo_folder / "outputs" / "dbeta").symlink_to(dbeta_folder)
    told = "tuple(probabilities.shape), len(scores), len(findings[0]), [len(answer) for answer in answers]"
    script.write_text("\n".join([*blocks, pipelines, f"print({told}, sep='|')\nprint(features.shape, finding)"]))
    *_, counts, last = run(f"{sys.executable} readme.py", demo_folder).stdout.splitlines()
    assert counts == "(1, 9)|2|3|[1, 1]"
    assert re.fullmatch(r"\(\d+,\) \{'label': '.*', 'score': 0\.\d+, 'present': (True|False)\}", last)


def test_the_card_of_a_run_works_and_tells_the_runs_figures(demo_folder):
    import json

    from huggingface_hub import ModelCard

    from ecg_transformers.publishing.card_lint import lint_card

    folder = demo_folder / "outputs" / "demo" / "model"
    card = ModelCard.load(folder / "README.md")
    metrics = json.loads((folder / "metrics.json").read_text())
    reported = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert reported["macro_auroc"] == pytest.approx(metrics["test"]["macro_auroc"], abs=1e-4)
    assert card.data.library_name == "ecg_transformers" and card.data.license == "unknown"
    assert lint_card((folder / "README.md").read_text(encoding="utf-8")) == []
    assert f"{metrics['untrained_test']['macro_auroc']:.3f}".rstrip("0") in card.text
    (demo_folder / "record.npz").write_bytes((demo_folder / "outputs" / "demo" / "record.npz").read_bytes())
    script = "\n".join(code_blocks(folder / "README.md", "python")).replace('"model"', '"outputs/demo/model"')
    (demo_folder / "card.py").write_text(script + "\nprint(tuple(logits.shape))\n")
    assert run(f"{sys.executable} card.py", demo_folder).stdout.splitlines()[-1] == "(1, 9)"


def test_the_card_of_hubert_ecg_runs(golden, demo_folder, tmp_path):
    (tmp_path / "hubert-ecg").symlink_to(golden / "hubert_ecg" / "hub_checkpoint" / "checkpoint")
    (tmp_path / "record.npz").symlink_to(demo_folder / "outputs" / "demo" / "record.npz")
    script = "\n".join(code_blocks(ROOT / "model_cards" / "hubert_ecg.md", "python"))
    (tmp_path / "card.py").write_text(script + "\nprint(tuple(features.shape))\n")
    assert run(f"{sys.executable} card.py", tmp_path).stdout.splitlines()[-1] == "(1, 48)"


def test_the_card_of_dbeta_runs(dbeta_folder, demo_folder, tmp_path):
    (tmp_path / "d-beta").symlink_to(dbeta_folder)
    (tmp_path / "record.npz").symlink_to(demo_folder / "outputs" / "demo" / "record.npz")
    script = "\n".join(code_blocks(ROOT / "model_cards" / "dbeta.md", "python"))
    (tmp_path / "card.py").write_text(
        script + "\nprint(len(scores), tuple(similarity.shape), tuple(features.shape))\n"
    )
    assert run(f"{sys.executable} card.py", tmp_path).stdout.splitlines()[-1] == "2 (1, 1) (1, 12)"


def test_the_card_of_hybrid_ecg_runs(demo_folder, tmp_path):
    import torch
    from transformers import AutoModel

    from ecg_transformers import ECGFeatureExtractor
    from ecg_transformers.training.building import config_from_size

    torch.manual_seed(0)
    AutoModel.from_config(config_from_size("hybrid_ecg", "demo")).save_pretrained(tmp_path / "hybrid-ecg")
    ECGFeatureExtractor.for_model_type("hybrid_ecg").save_pretrained(tmp_path / "hybrid-ecg")
    (tmp_path / "record.npz").symlink_to(demo_folder / "outputs" / "demo" / "record.npz")
    script = "\n".join(code_blocks(ROOT / "model_cards" / "hybrid_ecg.md", "python"))
    (tmp_path / "card.py").write_text(script + "\nprint(tuple(features.shape))\n")
    assert run(f"{sys.executable} card.py", tmp_path).stdout.splitlines()[-1] == "(1, 64)"


@pytest.mark.parametrize("model_type", ["deepecg_ssl", "deepecg_sl"])
def test_the_cards_of_deepecg_run(model_type, demo_folder, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification

    from ecg_transformers import ECGFeatureExtractor
    from ecg_transformers.registration import find_model
    from ecg_transformers.training.building import config_from_size

    folder = tmp_path / f"{model_type.replace('_', '-')}-77"
    config = config_from_size(model_type, "tiny")
    config.num_labels = 77
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    assert type(model) is find_model(model_type).get_model_class("AutoModelForSequenceClassification")
    model.save_pretrained(folder)
    ECGFeatureExtractor.for_model_type(model_type).save_pretrained(folder)
    (tmp_path / "record.npz").symlink_to(demo_folder / "outputs" / "demo" / "record.npz")
    script = "\n".join(code_blocks(ROOT / "model_cards" / f"{model_type}.md", "python"))
    (tmp_path / "card.py").write_text(script + "\nprint(tuple(probabilities.shape))\n")
    assert run(f"{sys.executable} card.py", tmp_path).stdout.splitlines()[-1] == "(1, 77)"


def test_the_document_of_publishing_runs(demo_folder, monkeypatch, capsys):
    from ecg_transformers.publishing import parse_publish_arguments, publish

    path = ROOT / "docs" / "publishing.md"
    monkeypatch.chdir(demo_folder)
    commands = [shlex.split(command) for command in shell_commands(path)]
    assert len(commands) == 3 and all(command[:2] == ["python", "hub_upload.py"] for command in commands)
    parsed = [parse_publish_arguments(command[2:])[0] for command in commands]
    # Of the dry runs the longer one; the upload has tests of its own, against a Hub on this machine.
    assert [arguments.dry_run for arguments in parsed] == [True, False, True]
    assert publish(parsed[2]) is None and "without ecg_transformers ..." in capsys.readouterr().out
    without_package, in_python = code_blocks(path, "python")
    refuse = "import sys\nsys.modules['ecg_transformers'] = None\n"
    (demo_folder / "outside.py").write_text(refuse + without_package + "print(tuple(probabilities.shape))\n")
    assert run(f"{sys.executable} outside.py", demo_folder).stdout.splitlines()[-1] == "(1, 9)"
    names = {}
    # With the package the same lines work as they are, but for what they say of remote code
    exec(without_package.replace(", trust_remote_code=True", ""), names)
    assert type(names["model"]).__module__ == "ecg_transformers.models.hubert_ecg.modeling_hubert_ecg"
    exec(in_python, names)
    assert "model.safetensors" in capsys.readouterr().out


def test_the_document_of_original_checkpoints_runs(golden, tmp_path, monkeypatch):
    """Each command finds, under the name that it gives, what the original code has written from a small model."""
    from transformers import AutoConfig, AutoModel, AutoProcessor

    from ecg_transformers import load_corpus
    from ecg_transformers.checkpoint_sources import read_source
    from ecg_transformers.cli import main
    from ecg_transformers.training.report_tokenizer import train_report_tokenizer

    monkeypatch.chdir(tmp_path)
    sources = {
        "hubert-ecg-base-original": "hubert_ecg/hub_checkpoint/checkpoint",
        "hubert_2_iteration.pt": next((golden / "hubert_ecg" / "pt_pretrained").glob("*.pt")),
        "finetuned.pt": next((golden / "hubert_ecg" / "pt_finetuned_linear").glob("*.pt")),
        "dbeta-original": "dbeta/checkpoint",
        "wcr_77_classes": "deepecg_ssl/finetuned_classifier",
        "mimic_iv_ecg_physionet_pretrained.pt": "deepecg_ssl/pretrained_checkpoint/checkpoint.pt",
        "efficientnetv2_77.pt": "deepecg_sl/efficientnet_state_dict/state_dict.pt",
    }
    for name, place in sources.items():
        (tmp_path / name).symlink_to(golden / place)
    num_labels = read_source(tmp_path / "finetuned.pt").entries["finetuning_vocab_size"]
    (tmp_path / "labels.txt").write_text("\n".join(f"finding {number}" for number in range(num_labels)))
    train_report_tokenizer(["sinus rhythm"], 100, num_sentinels=4).save_pretrained("flan-t5-base")
    next(iter(load_corpus("synthetic", num_patients=20, records_per_patient=1)["test"]))["ecg"].save("record.npz")
    commands = shell_commands(ROOT / "docs" / "from_original_checkpoints.md")
    converted = [shlex.split(command)[3] for command in commands if " convert " in command]
    assert len(converted) == 7 and len(commands) == 9
    for command in commands:
        arguments = shlex.split(command.replace("google/flan-t5-base", "flan-t5-base"))[1:]
        assert main(arguments) == 0, command
    for folder in converted:
        assert AutoConfig.from_pretrained(folder).model_type == AutoModel.from_pretrained(folder).config.model_type
    assert AutoConfig.from_pretrained("my-classifier").id2label[0] == "finding 0"
    assert AutoProcessor.from_pretrained("d-beta").tokenizer is not None


def test_two_iterations_of_hubert_ecg_run(tmp_path):
    (tmp_path / "training_scripts").symlink_to(ROOT / "training_scripts")
    commands = [line for line in shell_commands(ROOT / "docs" / "pretraining.md") if "pretrain_hubert_ecg" in line]
    assert [shlex.split(command)[2] for command in commands] == ["cluster", "train", "cluster", "train"]
    for command in commands:
        run(command, tmp_path)
    for made in ("codes-1/codebooks.png", "codes-2/teacher/config.json", "iteration-2/README.md"):
        assert (tmp_path / "runs" / made).stat().st_size > 0, made


@pytest.fixture(scope="module")
def exports_folder(tmp_path_factory):
    """A working folder with recordings of twenty patients in several formats and a table of their labels."""
    from ecg_transformers import ECGRecord, load_corpus
    from ecg_transformers.readers.wfdb_writer import save_wfdb

    folder = tmp_path_factory.mktemp("corpora")
    (folder / "exports" / "ward").mkdir(parents=True)
    corpus = load_corpus("synthetic", num_patients=20, records_per_patient=1)
    rows = [row for split in corpus.values() for row in split]
    lines = ["file,patient_id,AFIB,LBBB"]
    for number, row in enumerate(rows):
        record = row["ecg"]
        told = ECGRecord(
            record.signal, record.sampling_rate, record.lead_names, {"sex": row["sex"], "age": row["age"]}
        )
        name = f"r{number:02d}"
        if number % 2:
            save_wfdb(told, folder / "exports" / "ward" / f"{name}.hea")
        else:
            told.save(folder / "exports" / f"{name}.npz")
        lines.append(f"{name},p{number},{number % 2},{number % 3 // 2}")
    (folder / "exports" / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_document_of_corpora_runs(exports_folder, monkeypatch):
    from ecg_transformers.cli import main

    path = ROOT / "docs" / "corpora.md"
    monkeypatch.chdir(exports_folder)
    commands = shell_commands(path)
    assert any("convert-records" in command for command in commands)
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "ecg-transformers" and main(arguments) == 0, command
    blocks = [block for block in code_blocks(path, "python") if "ludb" not in block]
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["record"].num_leads == 12 and sum(names["corpus"].num_rows.values()) == 20
    assert sum(names["unlabelled"].num_rows.values()) == 20 and "labels" not in names["unlabelled"]["train"].features


def test_the_document_of_waves_and_beats_runs(shared_data, tmp_path, monkeypatch):
    import ecg_transformers

    monkeypatch.chdir(tmp_path)
    for name in ("ludb", "mit-bih"):
        (tmp_path / name).symlink_to(shared_data / name)
    (block,) = [block for block in code_blocks(ROOT / "docs" / "corpora.md", "python") if "ludb" in block]
    names = {"et": ecg_transformers}
    exec(block, names)
    assert (names["waves"].shape, names["tokens"].shape, names["beats"].shape) == ((12, 5000), (12, 15), (3600,))
    assert {names["WAVE_CLASSES"][number] for number in set(names["waves"].ravel()) - {-1}} == {
        "none",
        "P",
        "QRS",
        "T",
    }
    assert {names["AAMI_CLASSES"][number] for number in set(names["beats"]) - {-1}} == {"N", "S"}


def test_the_document_names_every_corpus_and_format():
    from ecg_transformers.corpora import list_corpora
    from ecg_transformers.readers import list_readers

    text = (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8")
    assert [name for name in list_corpora() if f"`{name}`" not in text] == []
    formats = text.partition("## Formats")[2].partition("## Quality")[0]
    unnamed = {"hdf5": (".hdf",), "dicom": (".dicom",)}
    for name, endings in list_readers().items():
        for ending in set(endings) - set(unnamed.get(name, ())):
            assert f"`{ending}`" in formats, (name, ending)


def test_the_document_tells_from_which_number_on_labels_are_kept():
    import inspect

    from ecg_transformers.corpora import corpus_function, list_corpora

    text = (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8")
    told = re.search(r"the default is 8 in (.*?), 1 in (.*?), 0 \(all are kept\) in (.*?)\. ", text)
    named = {default: re.findall(r"`(\w+)`", told[place]) for place, default in ((1, 8), (2, 1), (3, 0))}
    taken = {name: inspect.signature(corpus_function(name)).parameters for name in list_corpora()}
    defaults = {
        name: options["min_positives"].default for name, options in taken.items() if "min_positives" in options
    }
    parts = {"challenge_ptbxl", "cpsc2018", "cpsc_extra", "georgia", "chapman_shaoxing", "ningbo", "ptb", "incart"}
    for default, names in named.items():
        assert {name for name, value in defaults.items() if value == default} - parts == set(names)
    assert {defaults[name] for name in parts & set(defaults)} <= {8}


# What makes the commands of docs/pretraining.md and docs/heart_age.md short; the rest of them is as it stands.
SHORTER = {
    "pretrain_hybrid_ecg.py": "--corpus_options num_patients=50 records_per_patient=1 --max_steps 2 "
    "--eval_strategy no --save_strategy no --per_device_train_batch_size 8 --probe_untrained 1",
    "linear_probe.py": "--corpus_options num_patients=50 records_per_patient=1 --untrained 1 --bootstrap_resamples 10",
    "finetune_classification.py": "--num_train_epochs 1",
}


def test_the_commands_of_pretraining_and_heart_age_run(tmp_path, monkeypatch, capsys):
    import runpy

    monkeypatch.chdir(tmp_path)
    documents = [ROOT / "docs" / name for name in ("pretraining.md", "heart_age.md")]
    commands = [command for document in documents for command in shell_commands(document)]
    # Those of HuBERT-ECG are run above.
    commands = [command for command in commands if "pretrain_hubert_ecg" not in command]
    assert len(commands) >= 4
    tables = "\n".join(code_blocks(documents[1], "python"))
    assert "num_patients=600" in tables
    exec(tables.replace("num_patients=600", "num_patients=50"), {})
    for command in commands:
        program, script, *arguments = shlex.split(command)
        assert program == "python"
        arguments += shlex.split(SHORTER[Path(script).name]) + ["--disable_tqdm", "true"]
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        assert ended.value.code == 0, f"{command}\n{capsys.readouterr()}"
    for made in ("hybrid/README.md", "hybrid/reconstructions/final.png", "probe/metrics.json", "heart-age/README.md"):
        assert (tmp_path / "runs" / made).stat().st_size > 0, made


def test_benchmarks_and_scripts_explain_themselves():
    files = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "training_scripts").glob("*.py"), ROOT / "hub_upload.py"]
    scripts = [file for file in files if "__main__" in file.read_text(encoding="utf-8")]
    assert len(scripts) >= 5
    for script in scripts:
        assert "usage:" in run(f"{sys.executable} {script} --help", ROOT).stdout


@pytest.mark.parametrize("recipe", ["hubert_ecg", "deepecg_ssl"])
def test_the_preprocessing_benchmark_prints_a_ratio(recipe):
    command = f"{sys.executable} {ROOT / 'benchmarks' / 'preprocessing.py'} --records 4 --repeats 1 --recipe {recipe}"
    output = run(command, ROOT).stdout
    assert re.search(r"ratio: +\d+\.\d x", output)
    assert float(re.search(r"largest difference: +(\S+)", output)[1]) < 1e-5


def test_the_document_of_preprocessing_runs(tmp_path, monkeypatch):
    """Its code runs, its commands draw the pictures beside it, and what it says of steps is what the code says."""
    import inspect

    import numpy as np
    from matplotlib import image

    from ecg_transformers.cli import main
    from ecg_transformers.feature_extraction.ecg_recipes import RECIPES
    from ecg_transformers.feature_extraction.feature_extraction_ecg import ECGFeatureExtractor
    from ecg_transformers.feature_extraction.signal_steps import SIGNAL_STEPS
    from ecg_transformers.recipe_visualization import describe_step

    path = ROOT / "docs" / "preprocessing.md"
    text = path.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in code_blocks(path, "python"):
        exec(block, names)
    assert tuple(names["inputs"].input_values.shape) == (1, 12, 2500)
    commands = shell_commands(path)
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command
        name = shlex.split(command)[-1]
        drawn, shown = image.imread(name), image.imread(ROOT / "docs" / "pictures" / name)
        # Other versions of matplotlib set letters otherwise
        assert drawn.shape == shown.shape and np.abs(drawn - shown).mean() < 0.02, name
        recipe = RECIPES[shlex.split(command)[4]]["recipe"]
        listed = "\n".join(f"{number}. `{describe_step(entry)}`" for number, entry in enumerate(recipe, 1))
        assert f"{listed}\n\n![" in text, name
    assert len(commands) == len(list((ROOT / "docs" / "pictures").glob("*.png"))) == 4
    for name, step in SIGNAL_STEPS.items():
        summary = " ".join(inspect.getdoc(step).split("\n\n")[0].split())
        assert f"| `{name}` | {summary} |" in text
    table = [line for line in inspect.getdoc(ECGFeatureExtractor).splitlines() if line.startswith("|")]
    assert "\n".join(table) in text


def test_the_model_of_one_s_own_runs(tmp_path):
    (block,) = code_blocks(ROOT / "docs" / "adding.md", "python")
    (tmp_path / "toy.py").write_text(block + "\nprint(probabilities.shape, features.shape, type(config).model_type)\n")
    assert run(f"{sys.executable} toy.py", tmp_path).stdout.splitlines()[-1] == "(1, 2) (1, 16) toy_ecg"


def test_the_document_on_choosing_knows_every_model():
    import ecg_transformers
    from ecg_transformers.registration import MODELS

    path = ROOT / "docs" / "choosing.md"
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", path.read_text(encoding="utf-8"), flags=re.M | re.S))
    assert set(sections) == {"In short", "What they are", "What each can do", "Published results", "Speed"}
    rows = {
        title: {
            row[0].split("`")[1]: row
            for line in text.splitlines()
            if (row := line.strip("| ").split(" | "))[0][:1] == "`"
        }
        for title, text in sections.items()
    }
    for entry in MODELS:
        abilities = rows["What each can do"][entry.model_type]
        assert (abilities[3] != "no") == ("AutoModelForPreTraining" in entry.model_classes)
        if abilities[3] != "no":
            assert (ROOT / "training_scripts" / abilities[3].strip("`")).is_file()
        assert (abilities[4] == "yes") == hasattr(entry.get_model_class(), "get_text_features")
        facts = rows["What they are"][entry.model_type]
        extractor = ecg_transformers.ECGFeatureExtractor.for_model_type(entry.model_type)
        assert facts[3] == f"{extractor.window_seconds:g} s" and f"{extractor.sampling_rate} Hz" in facts[4].replace(
            "as DeepECG-SSL", "250 Hz"
        )
        sizes = [size for size in ("tiny", "small", "base", "large") if size in facts[0]]
        config_class = entry.get_config_class()
        configs = [config_class.from_size(size) for size in sizes] or [config_class()]
        assert facts[2] == ", ".join(str(config.hidden_size) for config in configs)
    assert len(rows["What each can do"]) == len(rows["What they are"]) == len(MODELS)


def written_commands(path: Path) -> list[str]:
    """Return the whole commands of a document, those inside its sentences too."""
    text = path.read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S)).replace("\\\n", " ").splitlines()
    found = [
        " ".join(line.split())
        for line in (*lines, *re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S)))
    ]
    scripts = r"(?:python|accelerate launch .*) training_scripts/\S+ ."
    whole = (r"ecg-transformers \S+ .", r"python hub_upload\.py .", scripts)
    # An ellipsis stands for what the reader puts there; run.yaml is a file of theirs
    left_out = ("…", "run.yaml")
    chosen = [command for command in found if any(re.match(pattern, command) for pattern in whole)]
    return [command for command in chosen if not any(word in command for word in left_out)]


def test_every_written_command_has_the_options_of_the_program(capsys):
    """Also of commands that cannot run here, for want of a corpus or a checkpoint."""
    from ecg_transformers import evaluation, training
    from ecg_transformers.cli import build_parser
    from ecg_transformers.publishing import publication
    from ecg_transformers.training.hubert_ecg_arguments import (
        parse_cluster_arguments,
        parse_hubert_ecg_pretraining_arguments,
    )

    parsers = {
        "finetune_classification.py": training.parse_finetuning_arguments,
        "linear_probe.py": training.parse_probe_arguments,
        "pretrain_dbeta.py": training.parse_dbeta_pretraining_arguments,
        "pretrain_deepecg_ssl.py": training.parse_deepecg_ssl_pretraining_arguments,
        "pretrain_hybrid_ecg.py": training.parse_hybrid_ecg_pretraining_arguments,
        "evaluate_zero_shot.py": evaluation.parse_zero_shot_arguments,
        "pretrain_hubert_ecg.py cluster": parse_cluster_arguments,
        "pretrain_hubert_ecg.py train": parse_hubert_ecg_pretraining_arguments,
        "pretrain_hubert_ecg.py --preset": lambda words: training.parse_hubert_ecg_demo_arguments(words[1:]),
    }
    documents = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "model_cards").glob("*.md"))]
    commands = [(document.name, command) for document in documents for command in written_commands(document)]
    assert len(commands) > 60
    wrong = []
    for place, command in commands:
        words = shlex.split(command.replace("$fraction", "0.1"), comments=True)
        parse = build_parser().parse_args
        if words[1] == "hub_upload.py":
            parse, words = publication.build_parser().parse_args, words[1:]
        elif "training_scripts/" in command:
            start = next(number for number, word in enumerate(words) if "training_scripts/" in word)
            name = Path(words[start]).name
            if name == "pretrain_hubert_ecg.py":
                start += 1
                name += f" {words[start]}"
            parse, words = parsers[name], words[start:]
        try:
            parse(words[1:])
        except (SystemExit, ValueError) as error:
            wrong.append((place, command, str(error), capsys.readouterr().err[-200:]))
    assert wrong == []
