"""What is particular to HuBERT-ECG: sizes, token masks, time masks, heads, losses."""

import json

import pytest
import torch
from tiny_models import SAMPLES, TINY_MODELS, TOKENS, hubert_ecg_config, hubert_ecg_inputs
from torch.nn import functional as F

from ecg_transformers import (
    HubertECGConfig,
    HubertECGForPreTraining,
    HubertECGForSequenceClassification,
    HubertECGModel,
)
from ecg_transformers.models.hubert_ecg.modeling_hubert_ecg import draw_span_mask

QUIET = TINY_MODELS["hubert_ecg"].deterministic


def build(model_class, seed=0, **overrides):
    torch.manual_seed(seed)
    return model_class(hubert_ecg_config(**overrides)).eval()


@pytest.mark.parametrize(
    "size, millions, exact", [("small", 30.4, 30_468_992), ("base", 93.1, 93_123_712), ("large", 189, 188_392_768)]
)
def test_sizes(size, millions, exact):
    # The published counts include the codebooks, whose sizes differ between the published checkpoints
    with torch.device("meta"):
        model = HubertECGForPreTraining(HubertECGConfig.from_size(size, vocab_sizes=[500]))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == exact
    assert count / 1e6 == pytest.approx(millions, rel=0.004)
    with pytest.raises(ValueError, match="small.*base.*large"):
        HubertECGConfig.from_size("tiny")
    assert HubertECGConfig.from_size(size, layerdrop=0.2).layerdrop == 0.2


@pytest.mark.parametrize(
    "kernels, strides, samples",
    [
        ([10, 3, 3, 2, 2], [4, 2, 2, 2, 2], 6000),
        ([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2], 30000),
        ([10, 3, 3, 2], [4, 2, 2, 2], 3000),
    ],
)
def test_token_masks(kernels, strides, samples):
    sets = {"conv_kernel": kernels, "conv_stride": strides, "conv_dim": [8] * len(kernels)}
    model = build(HubertECGModel, **sets)
    step, field = torch.tensor(strides).prod().item(), model.config.receptive_field
    generator = torch.Generator().manual_seed(0)
    masks = torch.ones(6, samples, dtype=torch.long)
    masks[1, samples // 2 :] = 0
    masks[2, : samples // 3] = 0
    masks[3] = (torch.rand(samples, generator=generator) > 0.005).long()
    masks[4].view(12, -1)[:, -samples // 40 :] = 0
    masks[5] = 0
    expected = torch.tensor(
        [[bool(row[step * token : step * token + field].all()) for token in range(93)] for row in masks]
    )
    for dtype in (torch.long, torch.bool, torch.float32):
        assert torch.equal(model.get_token_mask(masks.to(dtype)), expected)
    assert expected[0].all() and not expected[5].any() and 0 < expected[3].sum() < 93
    assert expected[4].view(-1).sum() < 93


def test_the_receptive_field_is_what_reaches_a_token():
    model = build(HubertECGModel, feat_extract_norm="layer")
    values = torch.randn(1, SAMPLES, requires_grad=True)
    features = model.feature_extractor(values)
    assert features.shape[2] == TOKENS
    for token in (0, 4, TOKENS - 1):
        (gradient,) = torch.autograd.grad(features[0, :, token].sum(), values, retain_graph=True)
        reached = gradient[0].nonzero().flatten()
        assert reached[0] == 64 * token
        assert reached[-1] == 64 * token + model.config.receptive_field - 1


def test_padding_anywhere_is_not_attended_to():
    # Zeros in the middle and at the start, where the original's counting would drop the row's tail instead
    model = build(
        HubertECGModel, feat_extract_norm="layer", num_conv_pos_embeddings=1, num_conv_pos_embedding_groups=1
    )
    inputs = hubert_ecg_inputs(1)
    mask = torch.ones(1, SAMPLES)
    mask[:, :100] = 0
    mask[:, 300:330] = 0
    kept = model.get_token_mask(mask)[0]
    assert 0 < kept.sum() < TOKENS
    other = torch.where(mask == 0, 20.0, inputs["input_values"])
    with torch.no_grad():
        first = model(**inputs, attention_mask=mask).last_hidden_state[0, kept]
        second = model(other, attention_mask=mask).last_hidden_state[0, kept]
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", ["linear", "mlp", "label_embedding"])
def test_a_blank_record_does_not_depend_on_its_samples(head):
    model = build(HubertECGForSequenceClassification, classifier_head=head)
    inputs = hubert_ecg_inputs(2)
    mask = torch.ones(2, SAMPLES)
    mask[0] = 0
    with torch.no_grad():
        first = model(inputs["input_values"], attention_mask=mask, output_hidden_states=True)
        second = model(inputs["input_values"].flip(1), attention_mask=mask)
    assert torch.equal(first.logits[0], second.logits[0])
    assert not torch.equal(first.logits[1], second.logits[1])
    if head == "linear":
        torch.testing.assert_close(first.logits[0], model.classifier.bias)
    assert first.hidden_states[-1].isfinite().all()


def test_pooling_leaves_the_hidden_states_alone():
    model = build(HubertECGForSequenceClassification)
    inputs = hubert_ecg_inputs(2, padded=True)
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
        base = model.hubert_ecg(**inputs)
    assert torch.equal(output.hidden_states[-1], base.last_hidden_state)


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"input_values": torch.zeros(1, 12, 500)}, r"\(records, samples\).*\(1, 12, 500\)"),
        ({"input_values": torch.zeros(1, 81)}, "81 samples; one token needs 82"),
        ({"input_values": torch.zeros(1, 640), "attention_mask": torch.ones(1, 9)}, "attention_mask"),
        ({"input_values": torch.zeros(1, 640), "mask_time_indices": torch.ones(1, 8)}, "mask_time_indices"),
    ],
)
def test_inputs_of_the_wrong_shape(inputs, message):
    with pytest.raises(ValueError, match=message):
        build(HubertECGModel)(**inputs)


# Time masks


def test_drawn_masks():
    torch.manual_seed(0)
    mask = draw_span_mask((2000, 93), 0.33)
    counts = mask.sum(dim=1)
    assert set(counts.tolist()) <= {30, 31}  # 30.69, rounded up or down once for the batch
    assert mask.float().mean(dim=0).sub(0.33).abs().max() < 0.06

    allowed = torch.zeros(3, 93, dtype=torch.bool)
    allowed[0, 10:30] = True
    allowed[1] = True
    spans = draw_span_mask((3, 93), 0.3, length=4, min_spans=2, allowed=allowed)
    assert not (spans & ~allowed).any()
    assert spans[0].sum() >= 4 and spans[1].sum() >= 8 and spans[2].sum() == 0
    edges = F.pad(spans.float(), (1, 1)).diff(dim=1)
    for row in (0, 1):
        starts, ends = (edges[row] == 1).nonzero().flatten(), (edges[row] == -1).nonzero().flatten()
        assert (ends - starts).min() >= 4

    torch.manual_seed(3)
    first = draw_span_mask((4, 50), 0.2, 2)
    torch.manual_seed(3)
    assert torch.equal(first, draw_span_mask((4, 50), 0.2, 2))
    assert not draw_span_mask((4, 50), 0.0).any()
    with pytest.raises(ValueError, match="mask_time_length"):
        draw_span_mask((1, 5), 0.5, 6)


def test_when_tokens_are_masked():
    inputs = hubert_ecg_inputs(2)
    model = build(HubertECGModel, **QUIET | {"mask_time_prob": 0.5})
    with torch.no_grad():
        plain = model(**inputs).last_hidden_state
        chosen = torch.zeros(2, TOKENS, dtype=torch.bool)
        chosen[:, 3] = True
        explicit = model(**inputs, mask_time_indices=chosen).last_hidden_state
        model.train()
        drawn = model(**inputs).last_hidden_state
        model.config.apply_spec_augment = False
        assert torch.equal(model(**inputs).last_hidden_state, plain)
        # A mask that is given is meant, whatever the flag for drawn ones says
        assert torch.equal(model(**inputs, mask_time_indices=chosen.long()).last_hidden_state, explicit)
    assert not torch.equal(plain, explicit) and not torch.equal(plain, drawn)
    with pytest.raises(ValueError, match="mask_time_prob"):
        build(HubertECGModel, mask_time_prob=0.0)(**inputs, mask_time_indices=chosen)


def test_masked_features():
    model = build(HubertECGModel, **QUIET | {"mask_feature_prob": 0.5, "mask_feature_length": 2}).train()
    tokens = model._mask_tokens(torch.ones(2, TOKENS, 16), None, None)
    zeroed = (tokens == 0).all(dim=1)
    assert torch.equal(zeroed[:, None].expand_as(tokens), tokens == 0)
    assert 2 <= zeroed.sum(dim=1).min()


def test_layerdrop_skips_layers():
    model = build(HubertECGModel, **QUIET | {"layerdrop": 1.0}).train()
    inputs = hubert_ecg_inputs(1)
    dropped = model(**inputs).last_hidden_state
    expected = model.eval()(**inputs, output_hidden_states=True).hidden_states[0]
    torch.testing.assert_close(dropped, expected)


# Pretraining


def pretraining_batch(records=3):
    generator = torch.Generator().manual_seed(4)
    return hubert_ecg_inputs(records), torch.randint(0, 5, (records, 2, TOKENS), generator=generator)


def test_pretraining_needs_codebooks():
    for sizes in (None, []):
        with pytest.raises(ValueError, match="vocab_sizes"):
            build(HubertECGForPreTraining, vocab_sizes=sizes)


def test_pretraining_draws_its_mask_in_training():
    inputs, labels = pretraining_batch()
    inputs["attention_mask"] = torch.ones(3, SAMPLES)
    inputs["attention_mask"][:, SAMPLES // 2 :] = 0
    model = build(HubertECGForPreTraining, mask_time_prob=0.5, alpha=0.25).train()
    seen = []
    model.hubert_ecg.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["mask_time_indices"]), with_kwargs=True
    )
    output = model(**inputs, labels=labels)
    torch.testing.assert_close(output.loss, 0.25 * output.masked_loss + 0.75 * output.unmasked_loss)
    real = model.get_token_mask(inputs["attention_mask"])
    assert seen[0].any() and not (seen[0] & ~real).any()
    # Outside training: all tokens, as the original validates
    output = model.eval()(**inputs, labels=labels)
    assert output.masked_loss is None and seen[1] is None
    members = [F.cross_entropy(logits.transpose(1, 2), labels[:, i]) for i, logits in enumerate(output.logits)]
    torch.testing.assert_close(output.loss, sum(members))


def test_unknown_codes_and_empty_masks():
    inputs, labels = pretraining_batch()
    model = build(HubertECGForPreTraining, alpha=0.5)
    mask = torch.zeros(3, TOKENS, dtype=torch.bool)
    mask[:, ::2] = True
    unknown = labels.clone()
    unknown[0] = -100
    output = model(**inputs, labels=unknown, mask_time_indices=mask)
    expected = sum(
        F.cross_entropy(logits[mask], unknown[:, index][mask]) for index, logits in enumerate(output.logits)
    )
    torch.testing.assert_close(output.masked_loss, expected)
    for empty in (torch.zeros_like(mask), torch.ones_like(mask)):
        output = model(**inputs, labels=labels, mask_time_indices=empty)
        assert output.loss.isfinite()
        output.loss.backward()
    output = model(**inputs, labels=torch.full_like(labels, -100), mask_time_indices=mask)
    assert output.loss == 0
    output.loss.backward()
    with pytest.raises(ValueError, match=r"\(3, 2, 9\).*\(2, 3, 9\)"):
        model(**inputs, labels=labels.transpose(0, 1))


def test_cosine_logits_of_zero_vectors_are_finite():
    model = build(HubertECGForPreTraining)
    with torch.no_grad():
        model.label_embedding[0].weight[0] = 0
        model.final_proj[0].weight.zero_()
        model.final_proj[0].bias.zero_()
    inputs, labels = pretraining_batch()
    output = model(**inputs, labels=labels)
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    for dtype in (torch.float32, torch.float16):
        output = model.to(dtype)(**inputs, labels=labels)
        assert all(logits.isfinite().all() and logits.abs().max() <= 10.01 for logits in output.logits)


# Heads and losses


def classifier(**overrides):
    return build(HubertECGForSequenceClassification, **overrides)


def test_label_embedding_is_a_cosine():
    model = classifier(classifier_head="label_embedding", num_labels=4)
    inputs = hubert_ecg_inputs(3)
    pooled = model.hubert_ecg(**inputs).last_hidden_state.mean(dim=1)
    expected = F.cosine_similarity(pooled[:, None], model.classifier.weight[None], dim=-1)
    torch.testing.assert_close(model(**inputs).logits, expected)


def test_mlp_head():
    model = classifier(classifier_head="mlp", classifier_hidden_size=6)
    assert [tuple(p.shape) for p in model.classifier.parameters()] == [(6, 16), (6,), (3, 6), (3,)]
    assert classifier(classifier_head="mlp").classifier[0].out_features == 16


def test_multi_label_loss():
    weights = [1.0, 2.0, 5.0]
    model = classifier(pos_weight=weights)
    inputs = hubert_ecg_inputs(4)
    labels = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 0, 0], [0, 1, 1]])
    expected = F.binary_cross_entropy_with_logits(
        model(**inputs).logits, labels.float(), pos_weight=torch.tensor(weights)
    )
    for dtype in (torch.float32, torch.float64, torch.float16, torch.long, torch.bool):
        torch.testing.assert_close(model(**inputs, labels=labels.to(dtype)).loss, expected)

    unknown = labels.float()
    unknown[0, 1] = unknown[2] = torch.nan
    loss = model(**inputs, labels=unknown).loss
    logits, known = model(**inputs).logits, ~unknown.isnan()
    each = F.binary_cross_entropy_with_logits(
        logits, labels.float(), pos_weight=torch.tensor(weights), reduction="none"
    )
    torch.testing.assert_close(loss, each[known].mean())
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "problem_type, labels",
    [
        ("multi_label_classification", torch.full((2, 3), torch.nan)),
        ("regression", torch.full((2, 3), torch.nan)),
        ("single_label_classification", torch.full((2,), -100)),
        ("single_label_classification", torch.full((2,), torch.nan)),
    ],
)
def test_a_batch_without_any_known_label(problem_type, labels):
    model = classifier(problem_type=problem_type)
    loss = model(**hubert_ecg_inputs(2), labels=labels).loss
    assert loss == 0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_single_label_loss():
    model = classifier(problem_type="single_label_classification")
    inputs = hubert_ecg_inputs(4)
    labels = torch.tensor([2, -100, 0, 1])
    expected = F.cross_entropy(model(**inputs).logits, labels)
    torch.testing.assert_close(model(**inputs, labels=labels).loss, expected)
    torch.testing.assert_close(model(**inputs, labels=labels.int()[:, None]).loss, expected)
    as_numbers = torch.where(labels == -100, torch.nan, labels.float())
    torch.testing.assert_close(model(**inputs, labels=as_numbers).loss, expected)


@pytest.mark.parametrize("num_labels", [1, 3])
def test_regression_loss(num_labels):
    model = classifier(problem_type="regression", num_labels=num_labels)
    inputs = hubert_ecg_inputs(4)
    targets = torch.randn(4, num_labels, generator=torch.Generator().manual_seed(0))
    logits = model(**inputs).logits
    torch.testing.assert_close(model(**inputs, labels=targets).loss, F.mse_loss(logits, targets))
    if num_labels == 1:
        torch.testing.assert_close(model(**inputs, labels=targets[:, 0]).loss, F.mse_loss(logits, targets))
    targets[1] = torch.nan
    known = torch.tensor([0, 2, 3])
    torch.testing.assert_close(model(**inputs, labels=targets).loss, F.mse_loss(logits[known], targets[known]))


@pytest.mark.parametrize(
    "num_labels, labels, inferred",
    [
        (1, torch.zeros(2), "regression"),
        (3, torch.zeros(2, dtype=torch.long), "single_label_classification"),
        (3, torch.zeros(2, 3), "multi_label_classification"),
        (3, torch.zeros(2, 3, dtype=torch.long), "multi_label_classification"),
    ],
)
def test_the_problem_type_follows_from_the_labels(num_labels, labels, inferred):
    model = classifier(problem_type=None, num_labels=num_labels)
    model(**hubert_ecg_inputs(2), labels=labels)
    assert model.config.problem_type == inferred


def test_labels_that_do_not_fit():
    for problem_type, labels in (
        ("multi_label_classification", torch.zeros(2, 4)),
        ("single_label_classification", torch.zeros(2, 3, dtype=torch.long)),
        ("regression", torch.zeros(2)),
    ):
        with pytest.raises(ValueError, match=problem_type):
            classifier(problem_type=problem_type)(**hubert_ecg_inputs(2), labels=labels)
    with pytest.raises(ValueError, match="pos_weight.*3 labels.*2"):
        classifier(pos_weight=[1.0, 2.0])


def test_freezing():
    model = classifier(**QUIET).train()
    model.freeze_feature_encoder()
    model(**hubert_ecg_inputs(2), labels=torch.zeros(2, 3)).loss.backward()
    convolutions = list(model.hubert_ecg.feature_extractor.parameters())
    assert all(p.grad is None for p in convolutions)
    assert all(p.grad is not None for p in model.hubert_ecg.encoder.layers.parameters())
    model = classifier(**QUIET).train()
    model.freeze_base_model()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"classifier.weight", "classifier.bias"}
    model(**hubert_ecg_inputs(2), labels=torch.zeros(2, 3)).loss.backward()


def test_outputs_asked_for_in_the_configuration():
    model = classifier(output_hidden_states=True)
    assert len(model(**hubert_ecg_inputs(1)).hidden_states) == 3


def test_stable_layer_norm_and_other_variants():
    for variant in ({"do_stable_layer_norm": True}, {"conv_pos_batch_norm": True}, {"feat_extract_norm": "layer"}):
        with torch.no_grad():
            output = build(HubertECGModel, **variant)(**hubert_ecg_inputs(2, padded=True))
        assert output.last_hidden_state.isfinite().all()


def test_code_files_named_in_a_configuration_are_forgotten(tmp_path):
    config = hubert_ecg_config()
    (tmp_path / "config.json").write_text(
        json.dumps({**config.to_dict(), "auto_map": {"AutoConfig": "hubert_ecg.HuBERTECGConfig"}})
    )
    assert not hasattr(HubertECGConfig.from_pretrained(tmp_path), "auto_map")
    # Set on purpose, as publishing does, it is kept
    config.auto_map = {"AutoConfig": "configuration_hubert_ecg.HubertECGConfig"}
    config.save_pretrained(tmp_path / "published")
    assert "auto_map" in json.loads((tmp_path / "published" / "config.json").read_text())
