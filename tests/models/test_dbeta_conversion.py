"""The original's checkpoints through the command, opened with the Auto classes, against the recorded numbers."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_dbeta import config as tiny_config
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
    T5Tokenizer,
)

from ecg_transformers import DBetaForPreTraining, DBetaForSequenceClassification, DBetaModel, ECGFeatureExtractor
from ecg_transformers.cli import main
from ecg_transformers.conversion import CheckpointConversionError, convert_checkpoint

CASES = ["checkpoint", "checkpoint_mask_emb", "joint_forward", "pretraining"]
FIRST_TOKENS = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
EMBEDDING = "language_encoder.shared.weight"
PLAIN = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


def letter_tokenizer(size=60):
    """A vocabulary of single letters, small enough for every recorded text encoder."""
    letters = [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz0123456789"][: size - 4]
    return T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters, ("<extra_id_0>", 0.0)], extra_ids=1
    )


@pytest.fixture
def source(golden, tmp_path):
    """A copy of a recorded checkpoint that a test may change: what the original publishes, and nothing else."""

    def copy(case="checkpoint"):
        folder = tmp_path / "source"
        folder.mkdir()
        for name in ("checkpoint.pt", "config.json", "t5_config.json"):
            shutil.copyfile(golden / "dbeta" / case / name, folder / name)
        return folder

    return copy


def change_weights(folder, change):
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    change(content["model"])
    torch.save(content, folder / "checkpoint.pt")


def change_json(file, **values):
    content = json.loads(file.read_text())
    (content["model"] if "model" in content else content).update(values)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("case", CASES)
def test_the_command_converts_what_the_auto_classes_open(golden, tmp_path, capsys, case):
    folder = tmp_path / "converted"
    letter_tokenizer().save_pretrained(tmp_path / "tokenizer")
    command = ["convert", str(golden / "dbeta" / case), str(folder)]
    assert main(command) == 0
    output = capsys.readouterr()
    assert {path.name for path in folder.iterdir()} == PLAIN
    assert "google/flan-t5-base" in output.err and "--tokenizer" in output.err and "model.safetensors" in output.out
    assert main([*command, "--overwrite", "--tokenizer", str(tmp_path / "tokenizer")]) == 0
    assert capsys.readouterr().err == ""
    assert {path.name for path in folder.iterdir()} == PLAIN | {"tokenizer.json", "tokenizer_config.json"}

    inputs = load_file(golden / "dbeta" / case / "inputs.safetensors")
    outputs = load_file(golden / "dbeta" / case / "outputs.safetensors")
    atol = json.loads((golden / "dbeta" / case / "case.json").read_text())["atol"]
    processor = AutoProcessor.from_pretrained(folder)
    ecg = processor(ecg=inputs["ecg"].float(), sampling_rate=500, return_tensors="pt")
    assert torch.equal(ecg["input_values"], inputs["ecg"].float())
    for auto_class, model_class in (
        (AutoModel, DBetaModel),
        (AutoModelForPreTraining, DBetaForPreTraining),
        (AutoModelForSequenceClassification, DBetaForSequenceClassification),
    ):
        model, info = auto_class.from_pretrained(folder, output_loading_info=True)
        assert type(model) is model_class
        new = {name for name in info["missing_keys"] if not name.startswith("classifier.")}
        assert not new and not info["mismatched_keys"] and not info["unexpected_keys"]
        backbone = model if auto_class is AutoModel else model.dbeta
        with torch.no_grad():
            features = backbone.get_ecg_features(**ecg)
        if case != "pretraining":
            expected = outputs["ecg_pooled" if "ecg_pooled" in outputs else "uni_modal_ecg_feats"]
            torch.testing.assert_close(features, expected, atol=atol, rtol=0)

    model = AutoModel.from_pretrained(folder)
    trained = AutoModelForPreTraining.from_pretrained(folder)
    with torch.no_grad():
        if "similarity" in outputs:
            result = model(**ecg, input_ids=inputs["input_ids"], text_attention_mask=inputs["attention_mask"])
            torch.testing.assert_close(result.text_embeds, outputs["text_pooled_with_mask"], atol=atol, rtol=0)
            torch.testing.assert_close(result.logits_per_ecg, outputs["similarity"], atol=10 * atol, rtol=0)
        elif case == "joint_forward":
            model.config.text_encoder_uses_mask = False
            texts = {name: inputs[name] for name in ("input_ids", "text_attention_mask")}
            result = model(**ecg, **texts, return_fusion=True)
            torch.testing.assert_close(result.multi_modal_embeds, outputs["multi_modal_cls_feats"], atol=atol, rtol=0)
        else:
            trained.config.text_encoder_uses_mask = False
            texts = {name: inputs[name] for name in ("input_ids", "text_attention_mask", "is_aligned", "noise")}
            result = trained(ecg["input_values"], labels=inputs["mlm_labels"], **texts)
            losses = json.loads((golden / "dbeta" / case / "losses.json").read_text())["losses"]
            for name, value in losses.items():
                ours = result.loss if name == "total" else result[f"{name}_loss"]
                assert ours.item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_file_with_its_configuration_beside_it_is_a_source(source, tmp_path, what):
    folder = source()
    letter_tokenizer().save_pretrained(folder)
    converted = convert_checkpoint(folder if what == "folder" else folder / "checkpoint.pt", tmp_path / "converted")
    processor = AutoProcessor.from_pretrained(converted)
    assert processor.tokenizer.get_vocab() == letter_tokenizer().get_vocab()
    assert str(tmp_path) not in (converted / "tokenizer_config.json").read_text()
    model = AutoModel.from_pretrained(converted)
    assert model(**processor(text=["Sinus rhythm", "af"], return_tensors="pt")).text_embeds.shape == (2, 48)


def refuse(source, tmp_path, message, **options):
    with pytest.raises(CheckpointConversionError, match=message) as caught:
        convert_checkpoint(source, tmp_path / "converted", **options)
    assert not (tmp_path / "converted").exists()
    assert str(source) in str(caught.value)


def test_missing_and_foreign_configurations(source, tmp_path):
    folder = source()
    (folder / "t5_config.json").unlink()
    # Then the text encoder is flan-t5-base, whose sizes these weights do not have
    refuse(folder, tmp_path, r"of another shape: .*text_encoder.*\(768, 768\).*No t5_config.json.*flan-t5-base")
    (folder / "config.json").unlink()
    for path in (folder, folder / "checkpoint.pt"):
        refuse(path, tmp_path, "config.json that was published with it")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 48}))
    refuse(folder, tmp_path, "config.json lacks .*encoder_layers")


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("config.json", {"encoder_layers": 3}, "missing: .*ecg_encoder.layers.2"),
        ("config.json", {"encoder_layers": 1}, "unexpected: .*ecg_encoder.layers.1"),
        ("config.json", {"hidden_dim": 60}, r"of another shape: .* instead of \(60"),
        ("config.json", {"conv_feature_layers": "[(16, 2, 2)] * 3"}, "unexpected: .*conv_layers.3"),
        ("config.json", {"conv_feature_layers": "__import__('os').system('true')"}, "conv_feature_layers"),
        ("config.json", {"conv_feature_layers": "[(16, 2, 2)] * 10**9"}, "conv_feature_layers"),
        ("config.json", {"encoder_layers": 10**8}, "num_hidden_layers` 100000000"),
        ("config.json", {"encoder_embed_dim": 10**9}, "cannot be converted"),
        ("config.json", {"encoder_embed_dim": "wide"}, "hidden_size"),
        ("config.json", {"encoder_attention_heads": 0}, "num_attention_heads"),
        ("config.json", {"vocab_size": -1}, "vocab_size"),
        ("config.json", {"mem_layer": 7}, "fusion_layer"),
        ("config.json", {"mem_prob": 3}, "mask_ratio"),
        ("config.json", {"normalize": True}, "normalize"),
        ("t5_config.json", {"num_layers": 1}, "unexpected: .*text_encoder"),
        ("t5_config.json", {"d_model": 64}, "of another shape|must equal|width"),
        ("t5_config.json", {"num_heads": 0}, "cannot be converted|of another shape"),
        ("t5_config.json", {"feed_forward_proj": "gated-loud"}, "loud"),
        ("t5_config.json", {"feed_forward_proj": "relu"}, "unexpected: .*wi_0"),
        ("t5_config.json", {"model_type": "bert"}, "'bert', not a T5"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value.split("_")[0],
)
def test_a_configuration_that_does_not_fit(source, tmp_path, name, values, message):
    folder = source()
    change_json(folder / name, **values)
    refuse(folder, tmp_path, message)


@pytest.mark.parametrize("name", ["config.json", "t5_config.json"])
def test_a_damaged_configuration(source, tmp_path, name):
    folder = source()
    (folder / name).write_text('{"model": ')
    with pytest.raises(CheckpointConversionError, match=f"{name} is no JSON"):
        convert_checkpoint(folder, tmp_path / "converted")
    (folder / name).write_text("[1]")
    with pytest.raises(CheckpointConversionError, match="not an object of settings"):
        convert_checkpoint(folder, tmp_path / "converted")


POOLER = "unimodal_ecg_pooler.dense.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.pop(POOLER), "missing: dbeta.ecg_pooler.dense.weight"),
        (lambda state: state.update({"surplus.weight": torch.ones(1)}), "unexpected: surplus.weight"),
        (lambda state: state[POOLER][0].fill_(torch.nan), "NaN.*dbeta.ecg_pooler.dense.weight"),
        (lambda state: state[POOLER][0].fill_(torch.inf), "infinite.*dbeta.ecg_pooler.dense.weight"),
        (lambda state: state.update({POOLER: state[POOLER][:7]}), r"dense.weight \(7, 48\) instead of \(48, 48\)"),
        (
            lambda state: state.update(
                {"language_encoder.shared.weight": state["language_encoder.shared.weight"] + 1}
            ),
            "one tensor in the model and differ",
        ),
        (lambda state: state["mim_head.decoder_pos_embed.pe"].neg_(), "fixed positions"),
    ],
    ids=["missing", "surplus", "nan", "infinite", "shape", "embeddings differ", "positions"],
)
def test_weights_that_do_not_fit(source, tmp_path, change, message):
    folder = source()
    change_weights(folder, change)
    refuse(folder, tmp_path, message)


def test_one_of_two_equal_embeddings_is_enough(source, tmp_path):
    folder = source()
    change_weights(folder, lambda state: state.pop("language_encoder.encoder.embed_tokens.weight"))
    with_one = AutoModel.from_pretrained(convert_checkpoint(folder, tmp_path / "one"))
    shutil.rmtree(folder)
    with_both = AutoModel.from_pretrained(convert_checkpoint(source(), tmp_path / "both"))
    for name, value in with_both.state_dict().items():
        assert torch.equal(with_one.state_dict()[name], value)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_truncated_file(source, tmp_path, share):
    folder = source()
    whole = (folder / "checkpoint.pt").read_bytes()
    (folder / "checkpoint.pt").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match="checkpoint.pt .*damaged, cut off"):
        convert_checkpoint(folder, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_a_tokenizer_that_does_not_fit(source, tmp_path):
    folder = source("checkpoint_mask_emb")
    large = T5Tokenizer(vocab=[*FIRST_TOKENS, *((f"a{i}", -1.0) for i in range(70))], extra_ids=0)
    with pytest.raises(CheckpointConversionError, match="up to number 72, the text encoder 64 rows"):
        convert_checkpoint(folder, tmp_path / "converted", tokenizer=large)
    shifted = letter_tokenizer()
    shifted.pad_token = "a"
    with pytest.raises(CheckpointConversionError, match="`pad_token_id` .* is 4, that of the text encoder is 0"):
        convert_checkpoint(folder, tmp_path / "converted", tokenizer=shifted)
    with pytest.raises(CheckpointConversionError, match="tokenizer .*nowhere cannot be loaded"):
        convert_checkpoint(folder, tmp_path / "converted", tokenizer=tmp_path / "nowhere")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointConversionError, match="without tokenizer_config.json"):
        convert_checkpoint(folder, tmp_path / "converted")
    letter_tokenizer().save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointConversionError, match=f"{folder} cannot be loaded"):
        convert_checkpoint(folder, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_folders_of_ours(tmp_path):
    """What this package saved goes through unchanged: whole, pretraining and classifier folders."""
    labels = {"id2label": {0: "AF", 1: "SR", 2: "LBBB"}, "label2id": {"AF": 0, "SR": 1, "LBBB": 2}}
    extra = {"thresholds": {"AF": 0.25, "SR": 0.5, "LBBB": None}, "eval_windows": "first", "window_aggregation": "max"}
    tokenizer = letter_tokenizer(24)
    for model_class in (DBetaModel, DBetaForPreTraining, DBetaForSequenceClassification):
        folder = tmp_path / model_class.__name__
        torch.manual_seed(0)
        model = model_class(tiny_config(**labels, **extra))
        model.save_pretrained(folder)
        ECGFeatureExtractor.for_model_type("dbeta").save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        notes = []
        converted = convert_checkpoint(folder, tmp_path / f"{model_class.__name__} again", on_note=notes.append)
        before, after = (json.loads((path / "config.json").read_text()) for path in (folder, converted))
        assert before == after and after["thresholds"] == extra["thresholds"]
        again = model_class.from_pretrained(converted)
        assert again.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
        assert not notes
        ecg_only = model_class is DBetaForSequenceClassification
        assert AutoConfig.from_pretrained(converted).ecg_only is ecg_only
        # A model without text encoder takes no tokenizer along
        assert (converted / "tokenizer.json").is_file() is not ecg_only
        if ecg_only:
            with pytest.raises(CheckpointConversionError, match="without text encoder takes no texts"):
                convert_checkpoint(folder, tmp_path / "other", tokenizer=tokenizer)
        else:
            assert AutoTokenizer.from_pretrained(converted).get_vocab() == tokenizer.get_vocab()


def test_a_tokenizer_in_the_destination_stays(source, tmp_path, capsys):
    folder = source()
    converted = convert_checkpoint(folder, tmp_path / "converted")
    letter_tokenizer().save_pretrained(converted)
    capsys.readouterr()
    assert main(["convert", str(folder), str(converted), "--overwrite"]) == 0
    assert capsys.readouterr().err == ""
    assert AutoProcessor.from_pretrained(converted).tokenizer.get_vocab() == letter_tokenizer().get_vocab()
