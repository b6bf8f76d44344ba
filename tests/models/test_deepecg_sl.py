import contextlib
import math
from pathlib import Path

import pytest
import torch
from deepecg_sl_reference import SCALES, Network, calibrate, randomize
from tiny_deepecg_sl import config as tiny_config
from tiny_deepecg_sl import inputs as tiny_inputs
from torch import nn
from torch.nn import functional as F

from ecg_transformers import DeepECGSLConfig, DeepECGSLForSequenceClassification, DeepECGSLModel
from ecg_transformers.checkpoint_sources import SourceCheckpoint
from ecg_transformers.models.deepecg_sl.configuration_deepecg_sl import VARIANTS
from ecg_transformers.models.deepecg_sl.convert_deepecg_sl import convert

SMALL = {"channels": (5, 5, 6, 8, 8, 10, 12, 14), "depths": (9, 1, 2, 1, 1, 2, 1)}


def from_reference(network, tmp_path, **overrides):
    """Our model with the weights of a reference network."""
    found = convert(SourceCheckpoint(tmp_path / "network.pt", None, network.state_dict()))
    for name, value in overrides.items():
        setattr(found.config, name, value)
    model = found.model_class(found.config)
    model.load_state_dict(found.tensors)
    return model.eval()


def counts(records, samples, seed=0, leads=12):
    """Potentials in the unit of the model, of the size of an ECG."""
    return torch.randn(records, leads, samples, generator=torch.Generator().manual_seed(seed)) * 50


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_equals_the_reference(variant, tmp_path):
    assert variant.split("_")[0] in SCALES
    network = randomize(Network(variant, num_labels=4, **SMALL), seed=1)
    model = from_reference(network, tmp_path)
    for records, samples in ((2, 333), (1, 16), (3, 1)):
        ecg = counts(records, samples)
        with torch.no_grad():
            torch.testing.assert_close(model(ecg).logits, network(ecg), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_the_references_parameters_at_full_size(variant, tmp_path):
    with torch.device("meta"):
        network = Network(variant, num_labels=3)
        model = DeepECGSLForSequenceClassification(DeepECGSLConfig.from_variant(variant, num_labels=3))
    found = convert(SourceCheckpoint(tmp_path / "network.pt", None, network.state_dict()))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == shapes
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in model.parameters())
    expected = DeepECGSLConfig.from_variant(variant, num_labels=3, problem_type="multi_label_classification")
    assert found.config.to_dict() == expected.to_dict()
    assert f"variant {variant}." in found.notes[0]
    assert DeepECGSLConfig.from_size(variant).to_dict() == DeepECGSLConfig.from_variant(variant).to_dict()


def test_the_default_is_the_published_variant():
    assert DeepECGSLConfig().to_json_string() == DeepECGSLConfig.from_variant("s_v2").to_json_string()
    assert DeepECGSLConfig().total_stride == 16
    with pytest.raises(ValueError, match="'xl_v2'"):
        DeepECGSLConfig.from_variant("xl_v2")
    # The second version exists in three more sizes, the first does not
    with pytest.raises(ValueError, match="'s_v1'"):
        DeepECGSLConfig.from_variant("s_v1")


@pytest.mark.parametrize(
    "geometry",
    [
        {"kernels": (5, 7, 1, 9, 3, 11)},
        {"ratios": (1, 2, 3, 5, 6, 8)},
        {"eps": 1e-2},
        {"num_leads": 3},
        {"expansions": (1, 2, 2, 2, 4, 3)},
    ],
    ids=lambda geometry: next(iter(geometry)),
)
@pytest.mark.parametrize("variant", ["b1_v1", "b1_v2"])
def test_other_geometries_equal_the_reference(variant, geometry, tmp_path):
    network = randomize(Network(variant, num_labels=2, **SMALL, **geometry), seed=2)
    overrides = {"batch_norm_eps": geometry["eps"]} if "eps" in geometry else {}
    model = from_reference(network, tmp_path, **overrides)
    ecg = counts(2, 250, leads=geometry.get("num_leads", 12))
    with torch.no_grad():
        torch.testing.assert_close(model(ecg).logits, network(ecg), atol=1e-4, rtol=1e-4)
        if "eps" in geometry:
            wrong = from_reference(network, tmp_path)
            assert (wrong(ecg).logits - network(ecg)).abs().max() > 1e-3


def test_strides_equal_the_reference():
    network = randomize(Network("s_v2", num_labels=2, **SMALL, strides=(2, 1, 3, 1, 2, 1)), seed=3)
    found = convert(SourceCheckpoint(Path("network.pt"), None, network.state_dict()))
    found.config.stem_stride, found.config.stage_strides = 2, [2, 1, 3, 1, 2, 1]
    model = found.model_class(found.config).eval()
    model.load_state_dict(found.tensors)
    ecg = counts(2, 401)
    with torch.no_grad():
        torch.testing.assert_close(model(ecg).logits, network(ecg), atol=1e-4, rtol=1e-4)
    mask = torch.ones(2, 401, dtype=torch.long)
    mask[:, 300:] = 0
    with torch.no_grad():
        torch.testing.assert_close(
            model(ecg, attention_mask=mask).logits, network(ecg[..., :300]), atol=1e-4, rtol=1e-4
        )


def test_without_squeeze_excite():
    model = DeepECGSLModel(tiny_config(stage_squeeze_ratios=[0, 0, 4, 0]))
    names = {name for name, _ in model.named_parameters() if "squeeze_excite" in name}
    assert names and all(name.startswith("stages.2.") for name in names)
    assert model.eval()(**tiny_inputs(2, padded=True)).pooler_output.isfinite().all()


def test_the_feature_map_the_pooled_features_and_the_stages(tmp_path):
    network = randomize(Network("b0_v2", num_labels=2, **SMALL), seed=4)
    model = from_reference(network, tmp_path)
    ecg = counts(2, 500)
    with torch.no_grad():
        outputs = model.deepecg_sl(ecg, output_hidden_states=True)
        blocks = network.initial_conv(ecg)
        torch.testing.assert_close(outputs.hidden_states[0], blocks)
        blocks = network.features(blocks)
        torch.testing.assert_close(outputs.hidden_states[-1], blocks, atol=1e-4, rtol=1e-4)
        features = network.final_norm(network.final_conv(blocks))
        torch.testing.assert_close(outputs.last_hidden_state, features, atol=1e-4, rtol=1e-4)
        assert features.shape == (2, 14, math.ceil(500 / 16))
        torch.testing.assert_close(outputs.pooler_output, features.mean(-1), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.deepecg_sl.get_ecg_features(ecg), features.mean(-1), atol=1e-4, rtol=1e-4)
    assert [state.shape[2] for state in outputs.hidden_states] == [500, 500, 500, 250, 125, 63, 32]


@pytest.mark.parametrize("variant", ["s_v2", "b0_v1"])
@pytest.mark.parametrize("real", [2500, 2484, 2001, 1250, 700, 1])
def test_alone_padded_and_in_a_batch_give_the_same_probabilities(variant, real, tmp_path):
    ecg = counts(3, 2500)
    network = calibrate(randomize(Network(variant, num_labels=77), seed=5), ecg)
    model = from_reference(network, tmp_path)
    mask = torch.ones(3, 2500, dtype=torch.long)
    mask[1, real:] = 0
    padded = ecg.masked_fill(mask[:, None] == 0, 1000.0)
    with torch.no_grad():
        original = network(ecg[1:2, :, :real]).sigmoid()
        alone = model(ecg[1:2, :, :real]).logits.sigmoid()
        alone_padded = model(padded[1:2], attention_mask=mask[1:2]).logits.sigmoid()
        together = model(padded, attention_mask=mask).logits.sigmoid()
        others = model(ecg[::2]).logits.sigmoid()
    assert 0.05 < original.std()
    for found in (alone, alone_padded, together[1:2]):
        torch.testing.assert_close(found, original, atol=1e-5, rtol=0)
    torch.testing.assert_close(together[::2], others, atol=1e-5, rtol=0)


def test_a_gap_is_where_the_mask_says(tmp_path):
    model = from_reference(randomize(Network("b0_v2", num_labels=3, **SMALL), seed=6), tmp_path)
    mask = torch.ones(1, 400, dtype=torch.long)
    mask[:, 150:230] = 0
    ecg = counts(1, 400)
    with torch.no_grad():
        features = model.deepecg_sl(ecg, attention_mask=mask)
        broken = ecg.clone()
        broken[..., 150:230] = torch.nan
        again = model.deepecg_sl(broken, attention_mask=mask)
        moved = model.deepecg_sl(ecg, attention_mask=mask.flip(1))
    torch.testing.assert_close(again.last_hidden_state, features.last_hidden_state, atol=0, rtol=0)
    assert (moved.pooler_output - features.pooler_output).abs().max() > 1e-3
    expected = mask[:, ::16] != 0
    assert torch.equal(model.get_token_mask(mask), expected)
    assert (features.last_hidden_state[:, :, ~expected[0]] == 0).all()
    assert (features.last_hidden_state[:, :, expected[0]] != 0).all()
    mean = features.last_hidden_state[:, :, expected[0]].mean(-1)
    torch.testing.assert_close(features.pooler_output, mean, atol=1e-5, rtol=1e-5)


def test_inputs_stay_as_they_are_and_wrong_ones_are_named():
    model = DeepECGSLForSequenceClassification(tiny_config()).eval()
    inputs = tiny_inputs(2, padded=True)
    before = {name: value.clone() for name, value in inputs.items()}
    with torch.no_grad():
        model(**inputs)
    assert all(torch.equal(inputs[name], before[name]) for name in before)
    for shape in ((12, 320), (1, 320, 12), (2, 8, 320)):
        with pytest.raises(ValueError, match=r"\(records, 12, samples\)"):
            model(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"attention_mask.*\(2, 320\).*\(2, 12, 320\)"):
        model(inputs["input_values"], attention_mask=torch.ones(2, 12, 320))


def norms_of(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]


def statistics_of(model):
    return [
        (norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone())
        for norm in norms_of(model)
    ]


def same_statistics(first, second, **tolerance):
    return all(
        torch.allclose(a.double(), b.double(), **tolerance)
        for x, y in zip(first, second, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_padding_does_not_enter_the_batch_statistics():
    results = []
    for padded in (False, True):
        torch.manual_seed(0)
        model = DeepECGSLForSequenceClassification(tiny_config(drop_path_rate=0.0)).train()
        ecg = tiny_inputs(3)["input_values"][..., :200]
        mask = torch.ones(3, 200, dtype=torch.long)
        if padded:
            ecg, mask = F.pad(ecg, (0, 120), value=9.0), F.pad(mask, (0, 120))
        labels = torch.tensor([[1.0, 0.0, 1.0]]).expand(3, 3)
        output = model(ecg, attention_mask=mask, labels=labels)
        output.loss.backward()
        results.append((output.logits, statistics_of(model), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-4)
    assert same_statistics(results[0][1], results[1][1], atol=1e-5)
    for one, other in zip(results[0][2], results[1][2], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_training_uses_batch_statistics_and_evaluation_does_not():
    model = DeepECGSLForSequenceClassification(tiny_config(drop_path_rate=0.0))
    inputs = tiny_inputs(4)["input_values"]
    before = statistics_of(model)
    model.train()(inputs)
    after = statistics_of(model)
    assert not same_statistics(before, after)
    stem = model.deepecg_sl.stem
    with torch.no_grad():
        mean = stem.conv(inputs).mean((0, 2))
    torch.testing.assert_close(stem.norm.running_mean, 0.1 * mean, atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        model.eval()(inputs)
    assert same_statistics(after, statistics_of(model), atol=0, rtol=0)


def test_a_single_frame_trains_without_batch_statistics():
    model = DeepECGSLForSequenceClassification(tiny_config()).train()
    mask = torch.zeros(2, 320, dtype=torch.long)
    mask[0, 0] = 1
    output = model(tiny_inputs(2)["input_values"], attention_mask=mask, labels=torch.zeros(2, 3))
    output.loss.backward()
    assert output.logits.isfinite().all()


def test_stochastic_depth_is_for_training():
    model = DeepECGSLModel(tiny_config(drop_path_rate=0.5))
    block = model.stages[2].blocks[1]
    assert block.has_residual and not model.stages[1].blocks[0].has_residual
    features, transformed = torch.full((4000, 6, 2), 1.0), torch.full((4000, 6, 2), 0.25)
    assert torch.equal(block.eval().connect(features, transformed), features + transformed)
    torch.manual_seed(0)
    drawn = block.train().connect(features, transformed)
    # A record passes the block, or it does not: twice as strong, so that the mean stays
    assert set(drawn[:, 0, 0].tolist()) == {1.0, 1.5}
    assert (drawn == drawn[:, :1, :1]).all()
    assert drawn.mean() == pytest.approx(1.25, abs=0.02)
    rates = {one.drop_path_rate for stage in model.stages for one in stage.blocks}
    assert rates == {0.5}
    off = DeepECGSLModel(tiny_config(drop_path_rate=0)).stages[2].blocks[1].train()
    assert torch.equal(off.connect(features, transformed), features + transformed)


def test_what_is_frozen_computes_as_in_evaluation():
    torch.manual_seed(0)
    model = DeepECGSLForSequenceClassification(tiny_config(drop_path_rate=0.9))
    inputs = tiny_inputs(4)
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
    before = statistics_of(model)
    model.train().freeze_base_model()
    assert model.training and model.classifier.training
    for _ in range(2):
        torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-6, rtol=0)
        model.train()
    assert same_statistics(before, statistics_of(model), atol=0, rtol=0)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "classifier.weight",
        "classifier.bias",
    }
    for parameter in model.deepecg_sl.stages[3].parameters():
        parameter.requires_grad = True
    model.train()
    learning = {
        name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm1d) and module.training
    }
    assert learning and all(name.startswith("deepecg_sl.stages.3.") for name in learning)
    other = DeepECGSLForSequenceClassification(tiny_config()).train()
    other.freeze_feature_encoder()
    assert {name.split(".")[1] for name, p in other.named_parameters() if not p.requires_grad} == {"stem"}
    assert not other.deepecg_sl.stem.norm.training and other.deepecg_sl.stages[0].blocks[0].training


def test_checkpointing_counts_a_batch_once():
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = DeepECGSLForSequenceClassification(tiny_config(drop_path_rate=0.5)).train()
        if checkpointing:
            with contextlib.suppress(AttributeError):
                model.activation_checkpointing_enable()
            if not model.deepecg_sl.stages[0].blocks[0].gradient_checkpointing:
                model.gradient_checkpointing_enable()
        torch.manual_seed(1)
        model(**tiny_inputs(3, padded=True), labels=torch.zeros(3, 3)).loss.backward()
        results.append((statistics_of(model), [p.grad for p in model.parameters()]))
        assert all(norm.momentum == 0.1 for norm in norms_of(model))
    assert same_statistics(results[0][0], results[1][0], atol=0, rtol=0)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_norms_stay_in_float32_when_loaded_in_half_precision(tmp_path):
    model = DeepECGSLForSequenceClassification(tiny_config())
    with torch.no_grad():
        model.deepecg_sl.stem.norm.running_var.fill_(1e6)
    model.save_pretrained(tmp_path)
    half = DeepECGSLForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float16).eval()
    assert half.dtype == torch.float16 and half.deepecg_sl.stem.norm.running_var.dtype == torch.float32
    inputs = tiny_inputs(2, padded=True)
    with torch.no_grad():
        found, expected = half(**inputs).logits.float(), model.eval()(**inputs).logits
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-2)


def test_a_new_network_keeps_its_signal():
    torch.manual_seed(0)
    model = DeepECGSLModel(DeepECGSLConfig(drop_path_rate=0.0)).train()
    pooled = model(counts(4, 1000)).last_hidden_state
    assert 0.1 < pooled.std() < 10


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_heads(head):
    model = DeepECGSLForSequenceClassification(
        tiny_config(classifier_head=head, classifier_hidden_size=None if head == "linear" else 5)
    ).eval()
    inputs = tiny_inputs(2, padded=True)
    with torch.no_grad():
        pooled = model.deepecg_sl.get_ecg_features(**inputs)
        if head == "linear":
            expected = pooled @ model.classifier.weight.T + model.classifier.bias
        else:
            first, _, last = model.classifier
            assert first.weight.shape == (5, 16)
            expected = (pooled @ first.weight.T + first.bias).tanh() @ last.weight.T + last.bias
        torch.testing.assert_close(model(**inputs).logits, expected)


def test_losses():
    inputs = tiny_inputs(2)
    model = DeepECGSLForSequenceClassification(tiny_config(pos_weight=[1.0, 2.0, 5.0])).eval()
    labels = torch.tensor([[1.0, torch.nan, 1.0], [0.0, 1.0, torch.nan]])
    with torch.no_grad():
        output = model(**inputs, labels=labels)
    total = 0.0
    for row, column in ((0, 0), (0, 2), (1, 0), (1, 1)):
        probability = output.logits[row, column].sigmoid()
        target = labels[row, column]
        weight = (1.0, 2.0, 5.0)[column]
        total -= weight * target * probability.log() + (1 - target) * (1 - probability).log()
    torch.testing.assert_close(output.loss, total / 4)
    with torch.no_grad():
        assert model(**inputs, labels=torch.full((2, 3), torch.nan)).loss == 0

        single = DeepECGSLForSequenceClassification(tiny_config(problem_type="single_label_classification")).eval()
        output = single(**inputs, labels=torch.tensor([2, -100]))
        torch.testing.assert_close(output.loss, -output.logits[0].log_softmax(0)[2])

        regression = DeepECGSLForSequenceClassification(tiny_config(problem_type=None, num_labels=1)).eval()
        output = regression(**inputs, labels=torch.tensor([0.5, torch.nan]))
        torch.testing.assert_close(output.loss, (output.logits[0, 0] - 0.5) ** 2)
        assert regression.config.problem_type == "regression"
    with pytest.raises(ValueError, match="needs 6 values.*got 4"):
        model(**inputs, labels=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="pos_weight.*3 labels; got 2"):
        DeepECGSLForSequenceClassification(tiny_config(pos_weight=[1.0, 1.0]))
