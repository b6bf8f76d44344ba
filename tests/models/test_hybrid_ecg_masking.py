"""Masks of Hybrid ECG: exact numbers, shapes of spans, independence of company and padding."""

import math

import pytest
import torch
from tiny_hybrid_ecg import config

from ecg_transformers.models.hybrid_ecg.masking_hybrid_ecg import (
    choose_masked,
    count_masked,
    make_fixed_noise,
    make_mask_noise,
)

KINDS = [
    ("all_leads", "random"),
    ("all_leads", "span"),
    ("all_leads", "multi_scale"),
    ("per_lead", "random"),
    ("per_lead", "span"),
    ("per_lead", "multi_scale"),
    ("per_lead", "lead"),
]
every_kind = pytest.mark.parametrize("layout, strategy", KINDS)
TIMES = 40
SAMPLES = TIMES * 8 + 3


def settings(layout, strategy, **overrides):
    return config(patch_layout=layout, mask_strategy=strategy, **overrides)


def runs(row):
    """Lengths of the runs of equal values."""
    edges = [0, *[index for index in range(1, len(row)) if row[index] != row[index - 1]], len(row)]
    return [after - before for before, after in zip(edges, edges[1:], strict=False)]


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75, 0.9])
@every_kind
def test_the_share_of_the_real_tokens_is_masked_exactly(layout, strategy, ratio):
    made = settings(layout, strategy)
    tokens = made.count_tokens(SAMPLES)
    assert tokens == (12 if layout == "per_lead" else 1) * TIMES
    real = torch.rand(64, tokens, generator=torch.Generator().manual_seed(0)) < torch.linspace(0, 1, 64)[:, None]
    real[-1], real[0] = True, False
    noise = make_mask_noise(made, SAMPLES, 64, generator=torch.Generator().manual_seed(1))
    chosen = choose_masked(noise, ratio, real)
    for row in range(64):
        count = int(real[row].sum())
        # Rounded half up; of a single token nothing is masked, and one is always left to be seen
        expected = min(math.floor(round(count * ratio, 9) + 0.5), max(count - 1, 0))
        assert chosen.masked[row].sum() == count_masked(count, ratio) == expected
        assert not (chosen.masked[row] & ~real[row]).any()
        # Kept are all other real tokens, in their order, and each can be found again
        kept = chosen.kept[row][chosen.kept_mask[row]]
        assert kept.tolist() == (real[row] & ~chosen.masked[row]).nonzero().flatten().tolist()
        assert torch.equal(chosen.visible[row], real[row] & ~chosen.masked[row])
        assert torch.equal(chosen.kept[row][chosen.place[row][kept]], kept)
        if 0 < expected < count:
            assert noise[row][chosen.masked[row]].min() >= noise[row][kept].max()


@every_kind
def test_masks_of_seeds_depend_on_the_seed_only(layout, strategy):
    made = settings(layout, strategy)
    together = make_mask_noise(made, SAMPLES, seeds=[3, 4, 5])
    assert torch.equal(together[1:2], make_mask_noise(made, SAMPLES, seeds=[4]))
    assert not torch.equal(together[0], together[1])
    # Longer padding leaves the first scores as they were
    rows = made.token_rows
    longer = make_mask_noise(made, SAMPLES + 10 * 8, seeds=[3, 4, 5]).view(3, rows, TIMES + 10)
    assert torch.equal(longer[..., :TIMES].flatten(1), together)
    state = torch.get_rng_state()
    make_mask_noise(made, SAMPLES, seeds=[1])
    make_mask_noise(made, SAMPLES, 2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert make_mask_noise(made, SAMPLES, seeds=[]).shape == (0, rows * TIMES)


@every_kind
def test_the_fixed_mask(layout, strategy):
    made = settings(layout, strategy)
    fixed = make_fixed_noise(made, SAMPLES)
    assert fixed.shape == (1, made.count_tokens(SAMPLES))
    assert torch.equal(fixed, make_fixed_noise(made, SAMPLES))
    longer = make_fixed_noise(made, SAMPLES + 80).view(1, made.token_rows, TIMES + 10)
    assert torch.equal(longer[..., :TIMES].flatten(1), fixed)
    assert 0 <= fixed.min() and fixed.max() < 1
    numbers = {"random": fixed.shape[1], "lead": 12}.get(strategy)
    assert numbers is None or len(fixed.unique()) == numbers


def test_random_tokens_do_not_share_scores():
    noise = make_mask_noise(settings("all_leads", "random"), SAMPLES, 20, generator=torch.Generator().manual_seed(0))
    assert all(set(runs(row)) == {1} for row in noise.tolist())
    assert noise.mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("length", [1, 3, 5, 100])
def test_spans_have_their_length_and_any_phase(length):
    made = settings("all_leads", "span", mask_span_length=length)
    noise = make_mask_noise(made, SAMPLES, 200, generator=torch.Generator().manual_seed(0)).tolist()
    for row in noise:
        found = runs(row)
        assert sum(found) == TIMES and all(1 <= run <= length for run in found)
        assert set(found[1:-1]) <= {length}
    first = {runs(row)[0] for row in noise}
    if length < TIMES:
        # The first span may begin at each of its tokens
        assert first == set(range(1, length + 1))
    else:
        assert len(first) > TIMES / 2


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_multi_scale_mixes_short_and_long_spans(share):
    made = settings(
        "all_leads", "multi_scale", mask_short_span_length=2, mask_span_length=7, mask_long_span_share=share
    )
    noise = make_mask_noise(made, SAMPLES, 400, generator=torch.Generator().manual_seed(0)).tolist()
    inner = [run for row in noise for run in runs(row)[1:-1]]
    assert set(inner) == {0.0: {2}, 0.3: {2, 7}, 1.0: {7}}[share]
    # Long spans are the ones that the end cuts off more often, hence the room
    assert sum(run == 7 for run in inner) / len(inner) == pytest.approx(share, abs=0.05)


def test_a_mask_of_spans_is_made_of_whole_spans_and_one_cut():
    made = settings("all_leads", "span", mask_span_length=5)
    noise = make_mask_noise(made, SAMPLES, 100, generator=torch.Generator().manual_seed(0))
    masked = choose_masked(noise, 0.75, torch.ones(100, TIMES, dtype=torch.bool)).masked
    for scores, row in zip(noise, masked, strict=True):
        partly = [s for s in scores.unique() if 0 < row[scores == s].sum() < (scores == s).sum()]
        assert len(partly) <= 1


def test_leads_draw_their_spans_by_themselves():
    for strategy in ("span", "multi_scale", "random"):
        noise = make_mask_noise(settings("per_lead", strategy), SAMPLES, seeds=[1]).view(12, TIMES)
        assert len({tuple(row) for row in noise.tolist()}) == 12


@pytest.mark.parametrize("present", [12, 8, 4, 1])
def test_whole_leads_are_masked(present):
    made = settings("per_lead", "lead")
    noise = make_mask_noise(made, SAMPLES, 50, generator=torch.Generator().manual_seed(0))
    real = (torch.arange(12) < present)[:, None].expand(12, TIMES).flatten().expand(50, -1)
    masked = choose_masked(noise, 0.75, real).masked.view(50, 12, TIMES)
    assert (masked.sum(dim=(1, 2)) == 0.75 * present * TIMES).all()
    if present > 1:
        assert (masked.all(dim=2).sum(dim=1) == 0.75 * present).all()
        # Another choice of leads for each record
        assert len({tuple(row) for row in masked.all(dim=2).tolist()}) > 3


def test_who_asks_for_noise_says_for_how_many():
    for wrong in ({}, {"records": 2, "seeds": [1, 2]}):
        with pytest.raises(ValueError, match="`records`.*`seeds`"):
            make_mask_noise(config(), SAMPLES, **wrong)
