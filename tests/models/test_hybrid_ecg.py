"""Hybrid ECG: losses against NumPy, masks and missing leads, the two plain pretrainings within the hybrid one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_hybrid_ecg import LAYOUTS, PATCH, SAMPLES, TOKENS, batch, build, config, every_layout, every_pooling

from ecg_transformers import (
    HybridECGConfig,
    HybridECGForPreTraining,
    HybridECGForSequenceClassification,
    HybridECGModel,
)
from ecg_transformers.models.hybrid_ecg.masking_hybrid_ecg import make_fixed_noise, make_mask_noise
from ecg_transformers.models.hybrid_ecg.modeling_hybrid_ecg import contrastive_loss


def take(values, rows):
    return {name: value[rows] for name, value in values.items()}


def numpy_patches(signal, layout):
    """Patches of one record `(12, samples)` in the order of the tokens."""
    times = signal.shape[1] // PATCH
    cut = [signal[:, PATCH * time : PATCH * (time + 1)] for time in range(times)]
    if layout == "all_leads":
        return np.stack([piece.reshape(-1) for piece in cut])
    return np.stack([piece[lead] for lead in range(len(signal)) for piece in cut])


def numpy_nt_xent(embeds, temperature):
    """Equation 1 of arXiv 2002.05709, view by view."""
    views = embeds.reshape(-1, embeds.shape[-1]).astype(np.float64)
    losses = []
    for one, view in enumerate(views):
        similarity = [view @ other / (np.linalg.norm(view) * np.linalg.norm(other)) for other in views]
        exponentials = np.exp(np.array(similarity) / temperature)
        partner = one + 1 if one % 2 == 0 else one - 1
        losses.append(-np.log(exponentials[partner] / (exponentials.sum() - exponentials[one])))
    return np.mean(losses)


@every_pooling
@pytest.mark.parametrize(
    "layout, strategy",
    [(layout, kind) for layout in LAYOUTS for kind in ("random", "multi_scale")] + [("per_lead", "lead")],
)
def test_gradients_reach_every_parameter(layout, strategy, pooling):
    model = build(patch_layout=layout, mask_strategy=strategy, pooling=pooling).train()
    model(**batch(padded=True)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("records", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
def test_nt_xent_equals_numpy(records, temperature):
    embeds = torch.nn.functional.normalize(
        torch.randn(records, 2, 5, generator=torch.Generator().manual_seed(1)), dim=2
    )
    found = contrastive_loss(embeds, temperature).item()
    assert found == pytest.approx(numpy_nt_xent(embeds.numpy(), temperature), rel=1e-5, abs=1e-6)
    if records == 1:
        assert found == 0


def test_the_contrast_of_the_model_is_nt_xent_of_whole_views():
    model = build(temperature=0.2)
    values = batch(5, padded=True)
    output = model(**values)
    assert output.view_embeds.shape == (5, 2, 8)
    torch.testing.assert_close(output.view_embeds.norm(dim=2), torch.ones(5, 2))
    expected = numpy_nt_xent(output.view_embeds.detach().numpy(), 0.2)
    assert output.contrastive_loss.item() == pytest.approx(expected, rel=1e-5)
    # Nothing of a view is masked, and the views go through the same encoder
    pooled = model.hybrid_ecg.get_ecg_features(values["view_values"][:, 1], values["view_attention_mask"][:, 1])
    embeds = torch.nn.functional.normalize(model.projection(pooled), dim=1)
    torch.testing.assert_close(output.view_embeds[:, 1], embeds, atol=1e-6, rtol=0)


@pytest.mark.parametrize("normalized", [True, False])
@every_layout
def test_targets_and_reconstruction_loss_equal_numpy(layout, normalized):
    model = build(patch_layout=layout, normalize_targets=normalized)
    values = batch(4, padded=True, absent=[(1, 3), (1, 4), (2, 0)])
    values["input_values"] += 0.3 * torch.arange(SAMPLES) / SAMPLES
    values["input_values"][1, 3:5] = 0.7
    values["input_values"][2, 0] = 0.7
    # The third record is whole
    values["attention_mask"][2] = 1
    targets = model.get_reconstruction_targets(values["input_values"], values["attention_mask"]).numpy()
    output = model(**values)
    reconstruction, mask = output.reconstruction.detach().numpy(), output.mask.numpy()

    errors = []
    for row in range(4):
        signal = values["input_values"][row].numpy().astype(np.float64)
        absent = np.ptp(signal, axis=1) < 1e-3
        assert absent.sum() == {1: 2, 2: 1}.get(row, 0)
        patches, weights = (
            numpy_patches(signal, layout),
            numpy_patches(np.where(absent, 0.0, 1.0)[:, None] + 0 * signal, layout),
        )
        for token in np.flatnonzero(mask[row]):
            real = weights[token] == 1
            patch = patches[token][real]
            if normalized:
                patch = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
            np.testing.assert_allclose(targets[row, token][real], patch, atol=2e-6)
            assert not targets[row, token][~real].any()
            errors.append(np.mean((reconstruction[row, token][real] - patch) ** 2))
    assert output.reconstruction_loss.item() == pytest.approx(np.mean(errors), rel=1e-5)
    assert output.loss.item() == pytest.approx(np.mean(errors) + 0.1 * output.contrastive_loss.item(), rel=1e-5)


@every_layout
def test_masks_leave_out_padding_and_absent_leads(layout):
    model = build(patch_layout=layout)
    output = model(**batch(4, padded=True, absent=[(1, 3), (1, 4)]))
    # Half of a record is real, which cuts a patch in two: eight whole ones
    times = SAMPLES // 2 // PATCH
    assert times == 8 and output.mask.shape == output.reconstruction.shape[:2]
    masked = output.mask.view(4, -1, TOKENS)
    assert not masked[..., times:].any()
    if layout == "per_lead":
        assert not masked[1, 3:5].any()
        assert masked.sum(dim=(1, 2)).tolist() == [72, 60, 72, 72]
    else:
        assert masked.sum(dim=(1, 2)).tolist() == [6] * 4


@every_layout
def test_tokens_outside_the_mask_do_not_enter_the_reconstruction_loss(layout):
    model = build(patch_layout=layout, contrastive_loss_weight=0)
    values = batch(3, padded=True)
    output = model(**values)
    gradient = torch.autograd.grad(output.loss, output.reconstruction)[0]
    assert (gradient[output.mask] != 0).any(dim=1).all()
    assert not gradient[~output.mask].any()


@every_layout
def test_the_encoder_does_not_see_masked_tokens(layout):
    model = build(patch_layout=layout, contrastive_loss_weight=0)
    values = batch(3)
    before = model(**values)
    hidden = model.expand_mask(before.mask, SAMPLES)
    other = values["input_values"] + hidden * torch.randn(values["input_values"].shape)
    after = model(**{**values, "input_values": other})
    assert torch.equal(after.mask, before.mask)
    torch.testing.assert_close(after.reconstruction, before.reconstruction, atol=1e-6, rtol=0)
    assert after.loss != before.loss


@every_layout
@every_pooling
def test_the_loss_does_not_change_under_a_permutation_of_the_records(layout, pooling):
    model = build(patch_layout=layout, pooling=pooling)
    values = batch(5, padded=True, absent=[(1, 3)])
    values["attention_mask"][2] = 1
    values["noise"] = make_mask_noise(model.config, SAMPLES, 5, generator=torch.Generator().manual_seed(2))
    order = torch.tensor([3, 0, 4, 1, 2])
    one, other = model(**values), model(**take(values, order))
    for name in ("loss", "reconstruction_loss", "contrastive_loss"):
        assert other[name].item() == pytest.approx(one[name].item(), rel=1e-6)
    torch.testing.assert_close(other.reconstruction, one.reconstruction[order], atol=1e-6, rtol=0)


@every_layout
@every_pooling
def test_a_row_alone_equals_the_row_in_company(layout, pooling):
    model = build(patch_layout=layout, pooling=pooling)
    values = batch(4, padded=True, absent=[(1, 3), (1, 0), *((2, lead) for lead in range(11))])
    values["attention_mask"][2] = 1
    values["attention_mask"][3] = 0
    together = model(**values)
    features = model.hybrid_ecg.get_ecg_features(values["input_values"], values["attention_mask"])
    for row in range(4):
        alone = model(**take(values, slice(row, row + 1)))
        for name in ("reconstruction", "mask", "view_embeds"):
            torch.testing.assert_close(alone[name][0], together[name][row], atol=1e-6, rtol=0)
        one = take(values, slice(row, row + 1))
        torch.testing.assert_close(
            model.hybrid_ecg.get_ecg_features(one["input_values"], one["attention_mask"])[0],
            features[row],
            atol=1e-6,
            rtol=0,
        )


@every_layout
def test_records_of_random_lengths(layout):
    model = build(patch_layout=layout)
    base = build(HybridECGModel, patch_layout=layout)
    generator = torch.Generator().manual_seed(5)
    for samples in [PATCH, PATCH + 1, *torch.randint(PATCH, 400, (12,), generator=generator).tolist()]:
        values = torch.randn(2, 12, samples, generator=generator)
        views = torch.randn(2, 2, 12, max(PATCH, samples // 2), generator=generator)
        output = model(values, view_values=views)
        assert output.loss.isfinite()
        tokens = model.config.count_tokens(samples)
        assert tokens == (samples // PATCH) * model.config.token_rows
        assert output.mask.shape == (2, tokens)
        assert output.mask.sum(dim=1).tolist() == [min(int(0.75 * tokens + 0.5), tokens - 1)] * 2
        hidden = base(values).last_hidden_state
        assert hidden.shape == (2, 1 + tokens, 16)
        # A rest shorter than a patch is padding
        rest = samples % PATCH
        if rest:
            torch.testing.assert_close(base(values[..., :-rest]).last_hidden_state, hidden, atol=1e-6, rtol=0)
        # Longer padding changes nothing but the last digit
        padded = torch.cat([values, torch.full((2, 12, 37), 9.0)], dim=2)
        mask = (torch.arange(samples + 37) < samples).long().expand(2, -1)
        torch.testing.assert_close(
            base.get_ecg_features(padded, mask), base.get_ecg_features(values), atol=1e-5, rtol=0
        )
        longer = model(padded, mask, view_values=views)
        assert longer.loss.item() == pytest.approx(output.loss.item(), rel=1e-5)


def test_weight_zero_of_the_contrast_is_a_masked_autoencoder():
    hybrid, plain = build(), build(contrastive_loss_weight=0)
    plain.load_state_dict({name: value for name, value in hybrid.state_dict().items() if "projection" not in name})
    values = batch()
    expected, found = hybrid(**values), plain(values["input_values"])
    assert torch.equal(found.loss, expected.reconstruction_loss)
    assert torch.equal(found.reconstruction, expected.reconstruction)
    assert found.contrastive_loss is None and found.view_embeds is None and not hasattr(plain, "projection")


def test_weight_zero_of_the_reconstruction_is_simclr():
    hybrid, plain = build(), build(reconstruction_loss_weight=0, contrastive_loss_weight=1)
    plain.load_state_dict({name: value for name, value in hybrid.state_dict().items() if "decoder" not in name})
    values = batch()
    expected, found = hybrid(**values), plain(view_values=values["view_values"])
    assert torch.equal(found.loss, expected.contrastive_loss)
    assert torch.equal(found.view_embeds, expected.view_embeds)
    assert found.reconstruction_loss is None and found.mask is None and not hasattr(plain, "decoder")


@pytest.mark.parametrize("name", ["reconstruction_loss_weight", "contrastive_loss_weight"])
def test_the_parts_of_a_pretraining_can_be_left_out_of_what_is_loaded(name, tmp_path):
    hybrid = build()
    hybrid.save_pretrained(tmp_path)
    plain, info = HybridECGForPreTraining.from_pretrained(tmp_path, **{name: 0}, output_loading_info=True)
    assert not any(info.values())
    setattr(plain.config, name, 1.0)
    with pytest.raises(ValueError, match=f"`{name}` was 0 when this model was built"):
        plain(**batch())


def test_weights_scale_the_parts():
    one = build()(**batch())
    other = build(reconstruction_loss_weight=2, contrastive_loss_weight=3)(**batch())
    assert other.loss.item() == pytest.approx(2 * one.reconstruction_loss.item() + 3 * one.contrastive_loss.item())


@pytest.mark.parametrize("strategy", ["random", "span", "multi_scale"])
def test_evaluation_has_a_fixed_mask_and_training_another_one_each_time(strategy):
    model = build(mask_strategy=strategy)
    values = batch(3)
    first, again = model(**values), model(**values)
    assert torch.equal(first.mask, again.mask) and first.loss == again.loss
    assert (first.mask == first.mask[0]).all()
    given = model(**values, noise=make_fixed_noise(model.config, SAMPLES).expand(3, -1))
    assert torch.equal(given.mask, first.mask) and given.loss == first.loss
    model.train()
    torch.manual_seed(0)
    drawn = [model(**values).mask for _ in range(3)]
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0][0], drawn[0][1])
    torch.manual_seed(0)
    assert torch.equal(model(**values).mask, drawn[0])
    noise = make_mask_noise(model.config, SAMPLES, seeds=[1, 2, 3])
    assert torch.equal(model(**values, noise=noise).mask, model.eval()(**values, noise=noise).mask)


@pytest.mark.parametrize("normalized", [True, False])
@every_layout
def test_reconstructing_the_targets_gives_the_input_back(layout, normalized):
    model = build(patch_layout=layout, normalize_targets=normalized)
    values = batch(3, padded=True, absent=[(1, 3)])
    values["input_values"] = 2 * values["input_values"] + 1
    values["attention_mask"][2] = 1
    signal, mask = values["input_values"], values["attention_mask"]
    assert torch.equal(model.unpatchify(model.patchify(signal)), signal[..., : TOKENS * PATCH])
    output = model(**values)
    output.reconstruction = model.get_reconstruction_targets(signal, mask)
    again = model.reconstruct(output, signal, mask)
    assert again.shape == signal.shape
    for row, whole in enumerate((64, 64, 128)):
        expected = signal[row].clone()
        expected[:, whole:] = 0
        if row == 1:
            expected[3] = 0
        torch.testing.assert_close(again[row], expected, atol=1e-5, rtol=0)


def test_patches_are_cut_in_the_order_of_the_tokens():
    signal = batch(2)["input_values"]
    for layout in LAYOUTS:
        patches = build(patch_layout=layout).patchify(signal)
        for row in range(2):
            np.testing.assert_array_equal(patches[row].numpy(), numpy_patches(signal[row].numpy(), layout))


@every_layout
def test_masks_are_spread_over_samples(layout):
    model = build(patch_layout=layout)
    mask = torch.zeros(1, model.config.count_tokens(SAMPLES), dtype=torch.bool)
    token = 2 if layout == "all_leads" else 3 * TOKENS + 2
    mask[0, token] = True
    spread = model.expand_mask(mask, SAMPLES)
    assert spread.shape == (1, 12, SAMPLES) and spread.dtype == torch.bool
    expected = torch.zeros_like(spread)
    expected[0, slice(None) if layout == "all_leads" else 3, 16:24] = True
    assert torch.equal(spread, expected)


def test_a_step_of_training_lowers_both_losses():
    model = build().train()
    values = {**batch(8), "noise": make_mask_noise(model.config, SAMPLES, seeds=range(8))}
    values["view_values"][:, 1] = values["view_values"][:, 0] + 0.1 * torch.randn(8, 12, SAMPLES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        output = model(**values)
        losses.append((output.reconstruction_loss.item(), output.contrastive_loss.item()))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert losses[-1][0] < 0.9 * losses[0][0] and losses[-1][1] < 0.5 * losses[0][1]


def test_the_encoder_is_a_plain_vision_transformer(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    from plain_formulations import PlainSignalTransformer

    plain = PlainSignalTransformer(width=16, depth=2, heads=2, patch=PATCH)
    model = build(HybridECGModel, intermediate_size=64)
    plain.load_state_dict(model.state_dict())
    signal = batch(3)["input_values"]
    torch.testing.assert_close(model(signal).last_hidden_state, plain(signal), atol=1e-5, rtol=0)


def test_the_sizes():
    counts = {}
    for size in ("tiny", "small", "base"):
        made = HybridECGConfig.from_size(size)
        assert made.intermediate_size == 4 * made.hidden_size and made.count_tokens(2500) == 50
        with torch.device("meta"):
            counts[size] = sum(parameter.numel() for parameter in HybridECGModel(made).parameters())
    width = 768
    layer = 4 * (width * width + width) + 2 * 4 * width * width + 5 * width + 4 * width
    assert counts["base"] == 12 * layer + (12 * 50 + 1) * width + width + 2 * width
    assert counts["tiny"] < counts["small"] < counts["base"]
    assert HybridECGConfig().to_dict() == HybridECGConfig.from_size("base").to_dict()
    assert HybridECGConfig.from_size("tiny", patch_layout="per_lead", patch_size=75).count_tokens(2250) == 12 * 30
    with pytest.raises(ValueError, match="'tiny', 'small', 'base'.*'large'"):
        HybridECGConfig.from_size("large")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"input_values": torch.zeros(2, 8, SAMPLES)}, "12 leads"),
        ({"input_values": torch.zeros(2, 12, 7)}, "7 samples; one token needs 8"),
        ({"attention_mask": torch.ones(2, 5)}, "`attention_mask` has shape .records, samples., here .2, 131."),
        ({"lead_mask": torch.ones(2, 3)}, "`lead_mask` has shape .records, leads., here .2, 12."),
        ({"noise": torch.ones(2, 3)}, "`noise` has shape .records, tokens., here .2, 16."),
        ({"view_values": None}, "needs `view_values`.*`contrastive_loss_weight` to 0"),
        ({"input_values": None}, "needs `input_values`.*`reconstruction_loss_weight` to 0"),
        ({"view_values": torch.zeros(2, 3, 12, SAMPLES)}, "2 views"),
        ({"view_values": torch.zeros(3, 2, 12, SAMPLES)}, "two views of each.*got .3, 2, 12, 131. for 2 records"),
        ({"view_attention_mask": torch.zeros(2, SAMPLES)}, "`view_attention_mask`.*here .2, 2, 131."),
    ],
)
def test_errors_name_value_and_remedy(change, words):
    with pytest.raises(ValueError, match=words):
        build()(**{**batch(2), **change})


def test_kept_tokens_come_with_their_mask():
    with pytest.raises(ValueError, match="`kept_token_mask`.*together"):
        build(HybridECGModel)(batch(2)["input_values"], kept_tokens=torch.zeros(2, 3, dtype=torch.long))


def test_the_number_of_weights_of_positives_is_checked():
    with pytest.raises(ValueError, match="3 labels; got 2"):
        HybridECGForSequenceClassification(config(pos_weight=[1.0, 2.0]))


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_classifier_reads_the_pooled_feature(head):
    model = build(HybridECGForSequenceClassification, classifier_head=head, pooling="mean")
    values = batch(3, padded=True)
    features = model.hybrid_ecg.get_ecg_features(values["input_values"], values["attention_mask"])
    logits = model(values["input_values"], values["attention_mask"]).logits
    torch.testing.assert_close(logits, model.classifier(features))
    model.freeze_base_model()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"classifier"}
