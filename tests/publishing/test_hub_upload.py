"""Publishing against a Hub on this machine, with the real client: what arrives, what opens again, what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import Hub
from transformers import AutoModelForSequenceClassification

from ecg_transformers import ECGFeatureExtractor
from ecg_transformers.publishing.hub_repository import HubError, find_target
from ecg_transformers.publishing.publication import parse_publish_arguments, publish
from ecg_transformers.training.building import config_from_size

ROOT = Path(__file__).resolve().parents[2]
CARD = "---\nlicense: mit\ntags: [mine]\n---\n\n# Mine\n\nTold by me.\n"

_DRIVER = """
import contextlib, io, json, os, runpy, sys, traceback
from pathlib import Path

folder, script, report = sys.argv[1:]
results = {}

def note(name, action):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            value = action()
        except (ValueError, SystemExit) as error:
            value = error.code if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    results[name] = [value if isinstance(value, (int, str)) else None, out.getvalue(), err.getvalue()]
    return value

def command(*arguments):
    sys.argv = [script, *arguments]
    return runpy.run_path(script, run_name="__main__")

note("published", lambda: command(folder, "--repo_id", "tiny", "--private", "--include_code"))

import torch, transformers
from ecg_transformers import ECGFeatureExtractor, registration
from ecg_transformers.publishing.hub_repository import find_target, upload

def load():
    model = transformers.AutoModelForSequenceClassification.from_pretrained("anna/tiny")
    extractor = transformers.AutoProcessor.from_pretrained("anna/tiny")
    values = extractor(torch.arange(24000.0).view(12, 2000).sin().numpy(), sampling_rate=200, return_tensors="pt")
    with torch.no_grad():
        logits = model(values.input_values).logits
    return json.dumps([type(model).__module__, type(extractor).__module__, logits.tolist()])

note("loaded", load)

def again(**options):
    small = Path(folder).parent / "small"
    return upload(small, find_target("anna/tiny", **options), "Less")

note("pull request", lambda: again(create_pr=True))
import huggingface_hub
huggingface_hub.create_branch("anna/tiny", branch="next")
note("a branch", lambda: again(revision="next"))
note("replaced", again)
note("no such revision", lambda: find_target("anna/tiny", revision="nowhere"))
note("public already", lambda: find_target("anna/open", private=True))
note("belongs to another", lambda: find_target("bert/his"))
note("a namespace of another", lambda: find_target("carla/new"))
note("new and a pull request", lambda: find_target("anna/new", create_pr=True))
note("fails at the commit", lambda: upload(Path(folder).parent / "small", find_target("anna/full"), "Full"))
note("cannot be listed", lambda: upload(Path(folder).parent / "small", find_target("anna/unlisted"), "Seen by none"))
note("fails at the upload", lambda: upload(Path(folder), find_target("anna/refused"), "Refused"))
os.environ["HF_TOKEN"] = "hf_reads"
note("reads only", lambda: command(folder, "--repo_id", "anna/tiny"))
os.environ["HF_TOKEN"] = "hf_nobody"
note("wrong token", lambda: command(folder, "--repo_id", "anna/tiny"))
del os.environ["HF_TOKEN"]
note("no token", lambda: command(folder, "--repo_id", "anna/tiny"))
os.environ["HF_TOKEN"] = "hf_writes"
huggingface_hub.constants.ENDPOINT = "http://127.0.0.1:9"
note("unreachable", lambda: command(folder, "--repo_id", "anna/tiny"))
Path(report).write_text(json.dumps(results))
"""


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A classifier with a card of its own, and what a training leaves beside."""
    place = tmp_path_factory.mktemp("hub")
    folder = place / "mine"
    config = config_from_size("deepecg_sl", "tiny")
    config.num_labels = 3
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    ECGFeatureExtractor.for_model_type("deepecg_sl").save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "test_predictions.csv").write_text("record_id,patient_id\n1,Anna\n")
    (folder / "logs").mkdir()
    (place / "small").mkdir()
    (place / "small" / "README.md").write_text(CARD)
    (place / "small" / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def hub():
    hub = Hub()
    hub.create("anna/open")
    hub.create("bert/his")
    hub.failures[("POST", "/api/models/anna/full/commit")] = (507, "storage is full")
    hub.failures[("GET", "/api/models/anna/unlisted/")] = (403, "not for your eyes")
    hub.failures[("POST", "/anna/refused.git/info/lfs")] = (403, "no large files for you")
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def results(hub, model_folder):
    hub_home = model_folder.parent / "home"
    report = model_folder.parent / "report.json"
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(hub_home),
        "HF_TOKEN": "hf_writes",
    }
    environment.pop("HF_MODULES_CACHE", None)
    process = subprocess.run(
        [sys.executable, "-c", _DRIVER, model_folder, ROOT / "hub_upload.py", report],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, f"{process.stdout}\n{process.stderr}"
    return json.loads(report.read_text())


def test_a_folder_arrives_whole_in_one_private_commit(results, hub, model_folder):
    code, out, err = results["published"]
    assert code == 0, out + err
    repository = hub.repositories["anna/tiny"]
    assert repository["private"]
    first, commit = list(repository["commits"])[:2]
    assert out.splitlines()[-1] == f"{hub.endpoint}/anna/tiny/commit/{commit}"
    files = hub.files("anna/tiny", commit)
    assert {"modeling_deepecg_sl.py", "configuration_deepecg_sl.py", "feature_extraction_ecg.py"} < files.keys()
    assert {"config.json", "preprocessor_config.json", "NOTICE", "LICENSE-CODE", "README.md"} < files.keys()
    assert not any("predictions" in name or "logs" in name for name in files)
    assert files["model.safetensors"] == (model_folder / "model.safetensors").read_bytes()
    assert "deepecg_sl with ecg_transformers" in repository["commits"][commit]["message"]
    assert "Left out: logs/, test_predictions.csv." in out


def test_what_was_published_opens_from_the_hub_with_the_local_classes(results, model_folder):
    model_module, extractor_module, logits = json.loads(results["loaded"][0])
    assert model_module == "ecg_transformers.models.deepecg_sl.modeling_deepecg_sl"
    assert extractor_module == "ecg_transformers.feature_extraction.feature_extraction_ecg"
    model = AutoModelForSequenceClassification.from_pretrained(model_folder)
    signal = torch.arange(24000.0).view(12, 2000).sin().numpy()
    inputs = ECGFeatureExtractor.from_pretrained(model_folder)(signal, sampling_rate=200, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(logits), model(inputs.input_values).logits, atol=1e-6, rtol=1e-6)


def test_a_card_of_ones_own_stays_and_is_completed(results, hub):
    files = hub.files("anna/tiny", list(hub.repositories["anna/tiny"]["commits"])[1])
    card = files["README.md"].decode()
    assert "Told by me." in card and "license: mit" in card and "- mine" in card
    assert "library_name: ecg_transformers" in card and "- custom_code" in card
    assert "trust_remote_code=True" in card and 'folder = "anna/tiny"' in card
    assert files["NOTICE"].decode().startswith("Weights: mit (https://opensource.org/license/mit).")


def test_pull_requests_and_branches_leave_the_main_branch(results, hub):
    assert results["pull request"][0] == f"{hub.endpoint}/anna/tiny/discussions/1"
    assert "/commit/" in results["a branch"][0]
    for revision in ("refs/pr/1", "next"):
        assert hub.files("anna/tiny", revision)["config.json"] == b"{}"
        # What an earlier upload left would be mixed up with this one
        assert "model.safetensors" not in hub.files("anna/tiny", revision)


def test_an_upload_replaces_the_files_of_an_earlier_one(results, hub):
    assert "/commit/" in results["replaced"][0]
    assert hub.files("anna/tiny").keys() == {".gitattributes", "NOTICE", "README.md", "config.json"} | {
        "preprocessor_config.json"
    }


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no such revision", "anna/tiny has no revision 'nowhere'. Leave --revision out"),
        ("public already", "anna/open exists and is public"),
        ("belongs to another", "bert/his belongs to 'bert', not to anna. Offer the files with --create_pr"),
        ("a namespace of another", "anna, who is no member of 'carla'. Name a repository of your own"),
        ("new and a pull request", "does not exist yet, so it cannot take a pull request"),
        ("fails at the commit", "refused anna/full (507: storage is full)"),
        ("fails at the upload", "may not write to anna/refused (403: no large files for you)"),
    ],
)
def test_the_hub_refuses_in_words(results, case, words):
    assert words in results[case][0] and results[case][0].startswith("HubError: ")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("reads only", "The token of anna may only read."),
        ("wrong token", "does not accept the token (401)"),
        ("no token", "There is no token for http://127.0.0.1"),
        ("unreachable", "http://127.0.0.1:9 cannot be reached"),
    ],
)
def test_the_script_ends_before_the_check_where_nothing_can_be_sent(results, case, words):
    code, out, err = results[case]
    assert code == 2 and err.startswith("error: ") and words in err
    assert "Checking" not in out


def test_what_arrived_and_cannot_be_verified_is_told_as_published(results, hub):
    told = results["cannot be listed"][0]
    commit = list(hub.repositories["anna/unlisted"]["commits"])[-1]
    assert told.startswith(f"HubError: Published at {hub.endpoint}/anna/unlisted/commit/{commit}, but not verified (")
    assert "Nothing was published" not in told and hub.files("anna/unlisted")["config.json"] == b"{}"


def test_nothing_is_left_where_it_failed(results, hub):
    assert hub.repositories.keys() == {"anna/open", "bert/his", "anna/tiny", "anna/unlisted"}
    assert ("POST", "/api/models/anna/full/commit/main") in hub.requests


def test_no_token_is_shown(results):
    assert "hf_writes" not in json.dumps(results) and "hf_nobody" not in json.dumps(results)


def test_offline_is_said_before_anything_is_sent(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        find_target("anna/tiny")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x"], "--repo_id is required"),
        (["x", "--repo_id", "a/b/c"], "expected name or namespace/name"),
        (["x", "--repo_id", "a b"], "expected name or namespace/name"),
        (["x", "--repo_id", "a/b", "--output", "y"], "--output leaves the folder of a --dry_run"),
        (["x", "--repo_id", "a/b", "--commit_message", " "], "--commit_message is empty"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, words):
    with pytest.raises(ValueError, match=words):
        parse_publish_arguments(arguments)


def test_an_output_folder_is_not_overwritten(model_folder):
    with pytest.raises(ValueError, match="is there already"):
        publish(*parse_publish_arguments([str(model_folder), "--dry_run", "--output", str(model_folder)]))
