"""Losses and gradients of two processes are those of one process with the joined batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_dbeta
import torch

from ecg_transformers import DBetaForPreTraining
from ecg_transformers.models.dbeta.modeling_dbeta import gather_rows

LOSSES = ("loss", "mlm_loss", "mem_loss", "etm_loss", "ets_loss")
# Records of each process; both differ in masked tokens, padding and mismatched reports
PARTS = {0: slice(0, 2), 1: slice(2, 5)}


def batch():
    """Five records with unequal numbers of masked tokens and real samples."""
    inputs = {**tiny_dbeta.inputs(5, padded=True), **tiny_dbeta.labels("AutoModelForPreTraining", 5)}
    generator = torch.Generator().manual_seed(8)
    inputs["labels"][torch.rand(5, tiny_dbeta.TEXT_TOKENS, generator=generator) < 0.5] = -100
    inputs["labels"][2] = torch.arange(2, 2 + tiny_dbeta.TEXT_TOKENS)
    inputs["attention_mask"][1:4] = 1
    return inputs


def build():
    # Without group norm every record stands alone, so only the losses join the batch
    torch.manual_seed(0)
    settings = {**tiny_dbeta.WITHOUT_DROPOUT, "ets_loss_weight": 2.0}
    settings["ecg_config"] = {**settings["ecg_config"], "feat_extract_norm": "layer"}
    model = DBetaForPreTraining(tiny_dbeta.config(**settings))
    # Scores that differ from record to record
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "text_encoder" not in name:
                parameter.mul_(8)
    return model


def worker(folder, rank):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=len(PARTS)
    )
    model = build()
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    part = {name: value[PARTS[rank]] for name, value in batch().items()}
    result = parallel.train()(**part)
    result.loss.backward()
    rows = gather_rows(part["labels"].float())
    with torch.no_grad():
        alone = model.eval()(**part)
    torch.save(
        {
            "losses": {name: result[name].detach() for name in LOSSES},
            "gradients": {name: parameter.grad for name, parameter in model.named_parameters()},
            "rows": rows,
            "alone": {name: alone[name] for name in LOSSES},
        },
        f"{folder}/{rank}.pt",
    )
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one_with_the_joined_batch(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    root = Path(__file__).resolve().parents[2]
    places = [str(root), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(places)
    processes = [
        subprocess.Popen([sys.executable, __file__, str(tmp_path), str(rank)], env=environment, stderr=subprocess.PIPE)
        for rank in PARTS
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in PARTS]

    model, inputs = build().train(), batch()
    joined = model(**inputs)
    joined.loss.backward()
    for rank, result in enumerate(results):
        for name in LOSSES:
            torch.testing.assert_close(result["losses"][name], joined[name].detach(), rtol=1e-5, atol=1e-6)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(result["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-6)
        assert torch.equal(result["rows"], inputs["labels"].float())
        # Outside training a process speaks of its own records
        with torch.no_grad():
            part = {name: value[PARTS[rank]] for name, value in inputs.items()}
            alone = model.eval()(**part)
        for name in LOSSES:
            assert result["alone"][name].item() == pytest.approx(alone[name].item(), rel=1e-5)
            # The comparison above tells
            assert alone[name].item() != pytest.approx(joined[name].item(), rel=1e-4), name


if __name__ == "__main__":
    worker(sys.argv[1], int(sys.argv[2]))
