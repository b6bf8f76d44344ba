import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor, AutoTokenizer, T5Config, T5EncoderModel

from ecg_transformers import DBetaForSequenceClassification, load_corpus
from ecg_transformers.training import AugmentationSettings, pretrain_dbeta
from ecg_transformers.training.dbeta_building import build_dbeta, build_tokenizer
from ecg_transformers.training.dbeta_pretraining import EMBEDDINGS_FILE, build_banks, make_trainer, measure_dbeta
from ecg_transformers.training.report_corpus import load_report_corpus
from ecg_transformers.training.report_tokenizer import train_report_tokenizer

PARTS = {"mlm_loss", "mem_loss", "etm_loss", "ets_loss"}


@pytest.fixture(scope="module")
def finished(corpus_folder, tiny_dbeta_overrides, tmp_path_factory):
    """A finished run, not to be changed."""
    from ecg_transformers.training import parse_dbeta_pretraining_arguments

    folder = tmp_path_factory.mktemp("finished") / "dbeta"
    arguments = ["--corpus", corpus_folder, "--config_overrides", tiny_dbeta_overrides, "--output_dir", folder]
    arguments += ["--vocab_size", 300, "--num_train_epochs", 2, "--per_device_train_batch_size", 10, "--use_cpu"]
    result = pretrain_dbeta(*parse_dbeta_pretraining_arguments([*map(str, arguments), "--disable_tqdm", "true"]))
    return folder, result


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_the_folder_holds_model_processor_card_and_records(finished):
    folder, _ = finished
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} <= names
    assert {"run.json", "metrics.json", "README.md"} <= names
    assert "training_args.bin" not in names and EMBEDDINGS_FILE not in names
    card = (folder / "README.md").read_text()
    assert "AutoProcessor" in card and "etm accuracy" in card and "synthetic" in card.lower()


def test_every_part_of_the_loss_is_recorded(finished):
    folder, result = finished
    run = json.loads((folder / "run.json").read_text())
    assert run["kind"] == "pretraining" and run["training"]["steps"] == 6
    assert run["corpus"]["splits"]["train"]["records"] == 30
    assert len(run["learning_curve"]) == 2
    for entry in run["learning_curve"]:
        assert sum(entry[name] for name in PARTS) == pytest.approx(entry["validation_loss"], rel=1e-4)
        assert sum(entry[f"training_{name}"] for name in PARTS) == pytest.approx(entry["training_loss"], rel=1e-3)
        assert 0 <= entry["etm_accuracy"] <= 1 and 0 <= entry["training_retrieval_accuracy"] <= 1
    assert set(result.validation) == {"loss", "etm_accuracy", "retrieval_accuracy", *PARTS}
    best = min(entry["validation_loss"] for entry in run["learning_curve"])
    # The best checkpoint is the one that was saved.
    assert result.validation["loss"] == pytest.approx(best, rel=1e-5)


def test_the_folder_opens_with_the_auto_classes(finished, corpus_folder):
    folder, _ = finished
    processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    record = load_corpus(str(corpus_folder))["test"][0]["ecg"]
    inputs = processor(ecg=record, text=["Sinus rhythm", "atrial fibrillation"], return_tensors="pt")
    with torch.no_grad():
        scores = model(**inputs).logits_per_ecg
    assert scores.shape == (1, 2) and scores.isfinite().all()
    saved = weights(folder)
    assert torch.equal(model.ecg_projection.weight, saved["dbeta.ecg_projection.weight"])
    assert DBetaForSequenceClassification.from_pretrained(folder, num_labels=3).config.num_labels == 3


def test_another_run_does_not_overwrite_it(finished, make_pretraining_arguments, tmp_path):
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    with pytest.raises(ValueError, match="holds another run"):
        pretrain_dbeta(*make_pretraining_arguments())
    pretrain_dbeta(*make_pretraining_arguments("--overwrite_output_dir", "true", "--max_steps", 1))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["training"]["steps"] == 1


def test_resumed_run_equals_the_straight_one(make_pretraining_arguments, tmp_path):
    options = ["--num_train_epochs", 3, "--load_best_model_at_end", "false", "--save_total_limit", 10]
    pretrain_dbeta(*make_pretraining_arguments(*options, output="straight"))
    shutil.copytree(tmp_path / "straight", tmp_path / "resumed")
    for name in ("checkpoint-9", "checkpoint-6"):
        shutil.rmtree(tmp_path / "resumed" / name)
    pretrain_dbeta(*make_pretraining_arguments(*options, "--resume_from_checkpoint", "last", output="resumed"))
    first, second = weights(tmp_path / "straight"), weights(tmp_path / "resumed")
    assert all(torch.equal(first[name], second[name]) for name in first)
    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("straight", "resumed")]
    assert runs[0]["learning_curve"] == runs[1]["learning_curve"] and len(runs[0]["learning_curve"]) == 3

    with pytest.raises(ValueError, match="mlm_probability was 0.25, is 0.1"):
        arguments = make_pretraining_arguments(
            *options, "--resume_from_checkpoint", "last", "--mlm_probability", 0.1, output="resumed"
        )
        pretrain_dbeta(*arguments)


def test_learning_lowers_every_loss(make_pretraining_arguments):
    options = ["--num_train_epochs", 40, "--learning_rate", 3e-3, "--eval_strategy", "no", "--save_strategy", "no"]
    options += ["--lead_mask_probability", 0, "--logging_strategy", "epoch"]
    result = pretrain_dbeta(*make_pretraining_arguments(*options))
    first, last = result.learning_curve[0], result.learning_curve[-1]
    assert last["training_mlm_loss"] < 0.7 * first["training_mlm_loss"]
    assert last["training_ets_loss"] < 0.7 * first["training_ets_loss"]
    assert last["training_mem_loss"] < first["training_mem_loss"]
    assert last["training_loss"] < first["training_loss"]
    assert result.validation["loss"] > 0


def test_going_on_from_a_checkpoint(finished, make_pretraining_arguments, tmp_path):
    folder, _ = finished
    start = ["--model_name_or_path", folder, "--config_overrides", "mlm_loss_weight=0.5,decoder_config.mask_ratio=0.5"]
    result = pretrain_dbeta(*make_pretraining_arguments(*start, "--learning_rate", 0.0))
    saved = weights(tmp_path / "run")
    assert all(torch.equal(value, saved[name]) for name, value in weights(folder).items())
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["decoder_config"]["mask_ratio"] == config["mlm_loss_weight"] == 0.5
    parts = result.validation
    weighted = 0.5 * parts["mlm_loss"] + sum(parts[name] for name in PARTS - {"mlm_loss"})
    assert parts["loss"] == pytest.approx(weighted, rel=1e-4)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"]["base_model"] == "dbeta"
    first, second = (AutoTokenizer.from_pretrained(path) for path in (folder, tmp_path / "run"))
    assert first.get_vocab() == second.get_vocab()


def test_heads_that_a_checkpoint_lacks_start_anew(finished, make_pretraining_arguments, tmp_path):
    folder, _ = finished
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "base")
    AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path / "base")
    arguments = ("--config_overrides", "", "--max_steps", 1, "--learning_rate", 0.0)
    pretrain_dbeta(*make_pretraining_arguments("--model_name_or_path", tmp_path / "base", *arguments))
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["model"]["new_parts"] == ["etm_head", "mem_head", "mlm_head"]
    saved = weights(tmp_path / "run")
    assert torch.equal(saved["dbeta.ecg_projection.weight"], weights(folder)["dbeta.ecg_projection.weight"])


def test_a_model_of_another_kind_is_no_start(make_pretraining_arguments, tiny_overrides, tmp_path):
    from ecg_transformers import HubertECGConfig, HubertECGModel
    from ecg_transformers.training.run_arguments import parse_overrides

    HubertECGModel(HubertECGConfig(**parse_overrides(tiny_overrides))).save_pretrained(tmp_path / "hubert")
    with pytest.raises(ValueError, match="holds a hubert_ecg model; this script pretrains dbeta"):
        pretrain_dbeta(*make_pretraining_arguments("--model_name_or_path", tmp_path / "hubert"))


def test_a_classifier_is_no_start(finished, make_pretraining_arguments, tmp_path):
    folder, _ = finished
    DBetaForSequenceClassification.from_pretrained(folder, num_labels=2).save_pretrained(tmp_path / "classifier")
    arguments = make_pretraining_arguments(
        "--model_name_or_path", tmp_path / "classifier", "--tokenizer", folder, "--config_overrides", ""
    )
    with pytest.raises(ValueError, match="ECG branch only"):
        pretrain_dbeta(*arguments)


@pytest.fixture(scope="module")
def t5_folder(corpus_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    reports = [report.lower() for report in load_corpus(str(corpus_folder))["train"]["report"]]
    tokenizer = train_report_tokenizer(reports, vocab_size=250)
    torch.manual_seed(3)
    # The embedding has more rows than the tokenizer has tokens, as that of flan-t5.
    config = T5Config(vocab_size=len(tokenizer) + 8, d_model=24, d_kv=8, num_heads=3, d_ff=32, num_layers=2)
    T5EncoderModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_text_side_starts_from_a_pretrained_t5(
    t5_folder, make_pretraining_arguments, tiny_dbeta_overrides, tmp_path
):
    overrides = ",".join(part for part in tiny_dbeta_overrides.split(",") if not part.startswith("text_config"))
    arguments = ["--text_encoder", t5_folder, "--config_overrides", overrides, "--negative_embedder", t5_folder]
    arguments += ["--negatives", "similar", "--max_steps", 1, "--learning_rate", 0.0]
    pretrain_dbeta(*make_pretraining_arguments(*arguments))
    encoder = T5EncoderModel.from_pretrained(t5_folder)
    model = AutoModel.from_pretrained(tmp_path / "run")
    for name, value in encoder.state_dict().items():
        assert torch.equal(model.text_encoder.state_dict()[name], value), name
    assert model.config.text_config.d_model == 24 and model.config.hidden_size == 16
    vocabulary = AutoTokenizer.from_pretrained(t5_folder).get_vocab()
    assert AutoTokenizer.from_pretrained(tmp_path / "run").get_vocab() == vocabulary
    assert model.config.text_config.vocab_size == len(vocabulary) + 8
    # Where files lay on this disk is nobody's business.
    for name in ("run.json", "README.md", "started_with.json"):
        assert str(t5_folder.parent) not in (tmp_path / "run" / name).read_text()
    assert not (tmp_path / "run" / EMBEDDINGS_FILE).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config_overrides", "hidden_sise=16"], "hidden_sise"),
        (["--config_overrides", "ecg_config.hiden=16"], "ecg_config.hiden"),
        (["--config_overrides", "hidden_size=15"], "hidden_size"),
        (["--size", "huge"], "--size huge"),
        (["--model_name_or_path", "/nowhere"], "/nowhere"),
        (["--tokenizer", "/nowhere"], "--tokenizer"),
        (["--text_encoder", "/nowhere"], "/nowhere"),
        (["--negative_embedder", "/nowhere"], "'tfidf'"),
        (["--vocab_size", 20], "too small"),
        (["--mask_token", "[MASK]"], "no token"),
        (["--corpus", "nothing"], "nothing"),
    ],
)
def test_arguments_that_cannot_be_used(make_pretraining_arguments, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        pretrain_dbeta(*make_pretraining_arguments(*arguments))
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mlm_probability", 1.5],
        ["--negative_candidates", 0],
        ["--max_text_size", 2],
        ["--lead_mask_probability", -1],
    ],
)
def test_arguments_out_of_range(make_pretraining_arguments, arguments):
    with pytest.raises(ValueError, match=arguments[0]):
        make_pretraining_arguments(*arguments)


def test_equal_reports_cannot_be_swapped(corpus_folder, make_pretraining_arguments, tmp_path):
    corpus = load_corpus(str(corpus_folder)).map(lambda row: {"report": "normal ECG"}, input_columns=["report"])
    corpus.save_to_disk(str(tmp_path / "same"))
    with pytest.raises(ValueError, match="--negative_share 0"):
        pretrain_dbeta(*make_pretraining_arguments("--corpus", tmp_path / "same"))
    result = pretrain_dbeta(
        *make_pretraining_arguments(
            "--corpus", tmp_path / "same", "--negative_share", 0, "--max_steps", 1, "--overwrite_output_dir", "true"
        )
    )
    assert result.validation["etm_loss"] > 0 and result.validation["retrieval_accuracy"] == 1


def test_every_argument_of_the_reports_reaches_the_batches(make_pretraining_arguments, tmp_path):
    given = {
        "negative_share": 0.25,
        "negative_candidates": 3,
        "negatives": "similar",
        "mlm_probability": 0.125,
        "mask_token": "<extra_id_5>",
        "lead_mask_probability": 0.75,
        "keep_one_lead": True,
        "max_text_size": 40,
        "train_windows": "first",
    }
    options = [text for name, value in given.items() for text in (f"--{name}", value)]
    model_args, data_args, report_args, training_args, _ = make_pretraining_arguments(*options)
    corpus = load_report_corpus(data_args)
    tokenizer = build_tokenizer(model_args, report_args, corpus.reports["train"])
    built = build_dbeta(model_args, report_args, tokenizer)
    banks = build_banks(corpus, report_args, tmp_path)
    augmentations = AugmentationSettings(("emg",))
    trainer, stopper = make_trainer(built, corpus, banks, data_args, report_args, training_args, augmentations)
    stopper.restore_handlers()
    for split, collator in (("train", trainer.data_collator), ("validation", trainer.eval_collator)):
        assert collator.negatives is banks[split] and set(banks[split].texts) == set(corpus.reports[split])
        assert (banks[split].k, banks[split].kind) == (3, "similar")
        assert (collator.negative_share, collator.max_text_size) == (0.25, 40)
        assert collator.masker.probability == 0.125
        assert collator.masker.mask_token_id == tokenizer.convert_tokens_to_ids("<extra_id_5>")
        assert collator.count_tokens(5000) == 312
    assert (trainer.data_collator.lead_mask_probability, trainer.data_collator.keep_one_lead) == (0.75, True)
    assert trainer.data_collator.windows == "first"
    # Validation records keep their leads, and are not disturbed.
    assert trainer.data_collator.augmentations == augmentations
    assert trainer.eval_collator.augmentations == AugmentationSettings()
    assert (trainer.eval_collator.lead_mask_probability, trainer.eval_collator.windows) == (0.0, "first")
    _, data_args, report_args, training_args, _ = make_pretraining_arguments(output="other")
    trainer, stopper = make_trainer(built, corpus, banks, data_args, report_args, training_args)
    stopper.restore_handlers()
    assert (trainer.data_collator.windows, trainer.eval_collator.windows) == ("random", "first")


def test_the_best_checkpoint_is_loaded_without_warnings(make_pretraining_arguments, caplog, monkeypatch):
    """Files hold the tied text embeddings once."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level("WARNING"):
        pretrain_dbeta(*make_pretraining_arguments("--num_train_epochs", 1))
    assert "missing keys" not in caplog.text


def test_measures():
    outputs = {
        "etm_logits": torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]),
        "ecg_embeds": torch.eye(4),
        "text_embeds": torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 2], [0, 0, 1, 0], [0, 3, 0, 0]]),
    }
    inputs = {
        "is_aligned": torch.tensor([1.0, 0.0, 0.0, 1.0]),
        # The second and the fourth report are the same but for what is hidden.
        "input_ids": torch.tensor([[5, 6], [7, 99], [8, 9], [99, 8]]),
        "labels": torch.tensor([[-100, -100], [-100, 8], [-100, -100], [7, -100]]),
    }
    measured = {name: tuple(map(float, pair)) for name, pair in measure_dbeta(outputs, inputs).items()}
    assert measured == {"etm_accuracy": (2.0, 4.0), "retrieval_accuracy": (2.0, 2.0)}
    inputs["labels"][3, 0] = 6
    assert float(measure_dbeta(outputs, inputs)["retrieval_accuracy"][0]) == 1
