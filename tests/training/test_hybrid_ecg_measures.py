import math

import numpy as np
import pytest
import torch

from ecg_transformers.training import PretrainingTrainer, alignment, uniformity
from ecg_transformers.training.alignment_uniformity import FINISH_MEASURES, measure_views


def embeddings(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_alignment_is_the_mean_squared_distance():
    first, second = embeddings(5, 8), embeddings(5, 8, seed=1)
    expected = np.mean([np.sum((a - b) ** 2) for a, b in zip(first.numpy(), second.numpy(), strict=True)])
    assert alignment(first, second).item() == pytest.approx(float(expected), rel=1e-5)
    assert alignment(first, second, alpha=1).item() == pytest.approx(
        float(np.linalg.norm((first - second).numpy(), axis=1).mean()), rel=1e-5
    )
    assert alignment(first, first) == 0 and alignment(first, -first).item() == pytest.approx(4)


def test_uniformity_is_the_log_of_the_mean_potential():
    embeds = embeddings(6, 4).numpy()
    pairs = [np.exp(-2 * np.sum((embeds[i] - embeds[j]) ** 2)) for i in range(6) for j in range(i)]
    assert uniformity(torch.tensor(embeds)).item() == pytest.approx(math.log(np.mean(pairs)), rel=1e-5)
    # All in one point, and two opposite ones
    assert uniformity(torch.ones(4, 1)) == 0
    assert uniformity(torch.tensor([[1.0], [-1.0]])).item() == pytest.approx(-8)
    # Evenly on a sphere of high dimension squared distances are near 2
    assert uniformity(embeddings(500, 256)).item() == pytest.approx(-4, abs=0.1)


def test_batches_can_be_pooled():
    batches = [embeddings(records, 2, 8, seed=records) for records in (4, 1, 7)]
    measured = [measure_views(batch) for batch in batches]
    totals = {name: [sum(m[name][part] for m in measured) for part in (0, 1)] for name in ("alignment", "uniformity")}
    whole = torch.cat(batches)
    total, count = totals["alignment"]
    assert float(total) / count == pytest.approx(alignment(whole[:, 0], whole[:, 1]).item(), rel=1e-5)
    pairs = []
    for batch in batches:
        for view in batch.unbind(1):
            n = len(view)
            pairs += [math.exp(-2 * float((view[i] - view[j]).square().sum())) for i in range(n) for j in range(i)]
    total, count = totals["uniformity"]
    assert count == len(pairs) == 2 * (6 + 21)
    assert FINISH_MEASURES["uniformity"](float(total) / count) == pytest.approx(math.log(np.mean(pairs)), rel=1e-5)


def test_measures_have_no_gradient_and_take_half_precision():
    embeds = embeddings(3, 2, 4).to(torch.bfloat16).requires_grad_()
    for total, _ in measure_views(embeds).values():
        assert not total.requires_grad and total.dtype == torch.float32


def test_the_trainer_finishes_means(tmp_path):
    from transformers import TrainingArguments

    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    trainer = PretrainingTrainer(model=torch.nn.Linear(1, 1), args=arguments, finish={"loudness": math.log})
    trainer._sums["train"] = {name: torch.tensor([6.0, 2.0]) for name in ("loudness", "other")}
    trainer._sums["train"]["never_measured"] = torch.zeros(2)
    assert trainer._take_means("train") == pytest.approx({"loudness": math.log(3), "other": 3.0})
