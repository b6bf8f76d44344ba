"""Pretraining in two processes equals pretraining of the joined batch in one."""

import subprocess
import sys

import pytest
import torch
from tiny_deepecg_ssl import SAMPLES, config

from ecg_transformers import DeepECGSSLForPreTraining
from ecg_transformers.models.deepecg_ssl.modeling_deepecg_ssl import draw_negatives

_PROCESS = """
import datetime, sys
import torch
from torch.nn.parallel import DistributedDataParallel
from ecg_transformers import DeepECGSSLForPreTraining

folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=120)
)
model = DeepECGSSLForPreTraining.from_pretrained(folder + "/model").train()
parallel = DistributedDataParallel(model)
output = parallel(**torch.load(f"{folder}/batch-{rank}.pt"))
output.loss.backward()
gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
values = {name: value.detach() for name, value in output.items() if isinstance(value, torch.Tensor)}
with torch.no_grad():
    model.eval()
    values["loss in evaluation"] = model(**torch.load(f"{folder}/batch-{rank}.pt")).loss
torch.save((values, gradients), f"{folder}/result-{rank}.pt")
torch.distributed.destroy_process_group()
"""

JOINT = (
    "loss",
    "contrastive_loss",
    "diversity_loss",
    "feature_penalty",
    "cmsc_loss",
    "prob_perplexity",
    "code_perplexity",
    "contrastive_accuracy",
    "num_masked",
)


def build(seed=0):
    torch.manual_seed(seed)
    quiet = dict.fromkeys(
        ("hidden_dropout", "attention_dropout", "feat_proj_dropout", "feat_quantizer_dropout", "activation_dropout"),
        0.0,
    )
    model = DeepECGSSLForPreTraining(config(**quiet))
    with torch.no_grad():
        # Against logits as large as these Gumbel noise, which the processes draw for themselves, chooses nothing
        model.quantizer.weight_proj.weight.mul_(1e3)
    return model


def batch():
    generator = torch.Generator().manual_seed(1)
    records = 7
    mask = torch.zeros(records, 9, dtype=torch.bool)
    mask[:, [0, 2, 3, 5]] = True
    # The second part has fewer masked tokens in a record, besides fewer records
    mask[4:, 5] = False
    attention_mask = torch.ones(records, SAMPLES, dtype=torch.long)
    attention_mask[1, 120:] = 0
    return {
        "input_values": torch.randn(records, 12, SAMPLES, generator=generator),
        "attention_mask": attention_mask,
        "mask_time_indices": mask,
        "negative_indices": draw_negatives(mask.sum(dim=1), 3, generator),
        # Patient 4 stands in both parts
        "patient_ids": torch.tensor([3, 3, 4, 8, 4, 9, 9]),
        "segments": torch.tensor([0, 1, 0, 1, 1, 0, 1]),
    }


@pytest.mark.parametrize("split", [4, 6])
def test_two_processes_equal_one(tmp_path, split):
    model, whole = build(), batch()
    model.save_pretrained(tmp_path / "model")
    for rank, rows in enumerate((slice(0, split), slice(split, None))):
        part = {name: value[rows] for name, value in whole.items()}
        # Fewer masked tokens in every record of a part make its negatives' array shorter
        most = int(part["mask_time_indices"].sum(dim=1).max())
        part["negative_indices"] = part["negative_indices"][:, :most]
        torch.save(part, tmp_path / f"batch-{rank}.pt")
    processes = [
        subprocess.Popen([sys.executable, "-c", _PROCESS, tmp_path, str(rank)], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors

    model = DeepECGSSLForPreTraining.from_pretrained(tmp_path / "model").train()
    expected = model(**whole)
    expected.loss.backward()
    results = [torch.load(tmp_path / f"result-{rank}.pt") for rank in (0, 1)]
    for values, gradients in results:
        for name in JOINT:
            torch.testing.assert_close(values[name], expected[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(values["cmsc_logits"], expected.cmsc_logits, rtol=1e-5, atol=1e-5)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                gradients[name], parameter.grad, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: n + m
            )
    assert expected.cmsc_logits.shape == (3, 4)
    # Outside training each process stands for itself
    alone = [values["loss in evaluation"] for values, _ in results]
    assert not torch.equal(*alone)
    # and the parts on their own would have given something else
    mean = (
        sum(model(**{k: v for k, v in torch.load(tmp_path / f"batch-{r}.pt").items()}).cmsc_loss for r in (0, 1)) / 2
    )
    assert (mean - expected.cmsc_loss).abs() > 1e-3
