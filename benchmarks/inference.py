"""Inference speed: records per second of every model, against a named alternative in the same run.

For D-BETA, DeepECG-SSL and DeepECG-SL the alternative is the original's formulation written out plainly in torch
(`plain_formulations.py`) in fp32, with the same weights, for Hybrid ECG a plain vision transformer likewise; for
HuBERT-ECG it is the model itself in fp32 with eager attention. The largest difference to the alternative's output is
printed too. A GPU is used when there is one.

    python benchmarks/inference.py                                   # everything, many minutes on a CPU
    python benchmarks/inference.py --models dbeta --skip compile
    python benchmarks/inference.py --threads 1 --device cpu --cpu_time --skip compile bf16   # beside other work
"""

import argparse
import copy
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from plain_formulations import PlainECGEncoder, PlainEfficientNet, PlainSignalTransformer
from torch import nn
from transformers import PreTrainedConfig

import ecg_transformers as et

# name, attention, dtype, compiled
VARIANTS = (
    ("fp32 eager", "eager", torch.float32, False),
    ("fp32 SDPA", "sdpa", torch.float32, False),
    ("bf16 SDPA", "sdpa", torch.bfloat16, False),
    ("fp32 compile", "sdpa", torch.float32, True),
    ("bf16 compile", "sdpa", torch.bfloat16, True),
)


@dataclass
class Subject:
    """One model to be timed.

    Args:
        name (`str`): shown in the table.
        build (callable): attention implementation -> the model, always with the same weights.
        shape (`tuple[int, ...]`): of one record.
        plain (`nn.Module`, *optional*): the alternative; the first variant without it.
        output (callable): model, input -> tensor to be compared.
    """

    name: str
    build: Callable[[str], nn.Module]
    shape: tuple[int, ...]
    plain: nn.Module | None
    output: Callable[[nn.Module, torch.Tensor], torch.Tensor]


def hubert_ecg(size: str) -> Subject:
    """Return a HuBERT-ECG backbone."""
    config = et.HubertECGConfig.from_size(size)
    weights = et.HubertECGModel(config).state_dict()
    build = _builder(et.HubertECGModel, config, weights)
    return Subject(f"hubert_ecg {size}", build, (6000,), None, _last_hidden_state)


def dbeta() -> Subject:
    """Return the ECG encoder of D-BETA."""
    from ecg_transformers.models.dbeta.convert_dbeta import our_name

    plain = PlainECGEncoder(depth=8, class_token=True)
    weights = et.DBetaModel(et.DBetaConfig(ecg_only=True)).state_dict()
    for name, value in plain.state_dict().items():
        name = name if name == "class_embedding" else f"ecg_encoder.{name}"
        weights[our_name(name).removeprefix("dbeta.")].copy_(value)

    def output(model: nn.Module, values: torch.Tensor) -> torch.Tensor:
        return model.ecg_encoder(values, model.class_embedding).last_hidden_state

    build = _builder(et.DBetaModel, et.DBetaConfig(ecg_only=True), weights)
    return Subject("dbeta", build, (12, 5000), plain, output)


def deepecg_ssl() -> Subject:
    """Return the encoder of DeepECG-SSL."""
    from ecg_transformers.models.deepecg_ssl.convert_deepecg_ssl import our_name

    plain = PlainECGEncoder(depth=12, class_token=False)
    weights = et.DeepECGSSLModel(et.DeepECGSSLConfig()).state_dict()
    for name, value in plain.state_dict().items():
        weights[our_name(name)].copy_(value)
    build = _builder(et.DeepECGSSLModel, et.DeepECGSSLConfig(), weights)
    return Subject("deepecg_ssl", build, (12, 2500), plain, _last_hidden_state)


def deepecg_sl() -> Subject:
    """Return DeepECG-SL with its 77 labels."""
    from ecg_transformers.checkpoint_sources import SourceCheckpoint
    from ecg_transformers.models.deepecg_sl.convert_deepecg_sl import convert

    plain = PlainEfficientNet()
    converted = convert(SourceCheckpoint(Path("plain"), None, plain.state_dict()))
    build = _builder(converted.model_class, converted.config, converted.tensors)
    return Subject("deepecg_sl", build, (12, 2500), plain, lambda model, values: model(values).logits)


def hybrid_ecg() -> Subject:
    """Return the encoder of Hybrid ECG in its base size."""
    config = et.HybridECGConfig()
    plain = PlainSignalTransformer(config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
    weights = et.HybridECGModel(config).state_dict()
    plain.load_state_dict(weights)
    return Subject("hybrid_ecg", _builder(et.HybridECGModel, config, weights), (12, 2500), plain, _last_hidden_state)


def subjects(models: Sequence[str], sizes: Sequence[str]) -> Iterator[Subject]:
    """Yield what is to be timed."""
    for model in models:
        if model == "hubert_ecg":
            yield from map(hubert_ecg, sizes)
        else:
            yield {
                "dbeta": dbeta,
                "deepecg_ssl": deepecg_ssl,
                "deepecg_sl": deepecg_sl,
                "hybrid_ecg": hybrid_ecg,
            }[model]()


def _builder(model_class: type, config: PreTrainedConfig, weights: dict[str, torch.Tensor]) -> Callable:
    def build(attention: str) -> nn.Module:
        config._attn_implementation = attention
        model = model_class(copy.deepcopy(config)).eval()
        model.load_state_dict(weights)
        return model

    return build


def _last_hidden_state(model: nn.Module, values: torch.Tensor) -> torch.Tensor:
    return model(values).last_hidden_state


def records_per_second(
    run: Callable, batch_size: int, seconds: float, device: torch.device, clock: Callable[[], float]
) -> float:
    """Return the throughput of `run` over at least `seconds` of `clock`, after one warm-up call."""

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    run()
    wait()
    start, calls = clock(), 0
    while calls < 2 or clock() - start < seconds:
        run()
        wait()
        calls += 1
    return calls * batch_size / (clock() - start)


@torch.inference_mode()
def measure(subject: Subject, arguments: argparse.Namespace, device: torch.device) -> None:
    """Measure all variants of one model and print a row each."""
    values = torch.randn(arguments.batch_size, *subject.shape).clamp(-1, 1).to(device)
    expected, reference = None, None
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    if subject.plain is not None:
        plain = subject.plain.eval().to(device)
        reference = records_per_second(lambda: plain(values), arguments.batch_size, arguments.seconds, device, clock)
        expected = plain(values)
        print(f"{subject.name:16} {'fp32 plain':13} {reference:10.1f} {1:8.2f} x {0:14.1e}", flush=True)
        subject.plain = plain = None
    done = set()
    for name, attention, dtype, compiled in VARIANTS:
        if any(word in name for word in arguments.skip):
            continue
        model = subject.build("eager" if subject.name == "deepecg_sl" else attention).to(device=device, dtype=dtype)
        if subject.name == "deepecg_sl":
            # A network without attention has one variant of each kind
            name = name.replace(" eager", "").replace(" SDPA", "")
            if name in done:
                continue
        done.add(name)
        inputs = values.to(dtype)
        run = torch.compile(subject.output) if compiled else subject.output
        try:
            rate = records_per_second(
                lambda: run(model, inputs),  # noqa: B023
                arguments.batch_size,
                arguments.seconds,
                device,
                clock,
            )
        except Exception as error:
            if not compiled:
                raise
            # torch.compile needs a C++ compiler on a CPU; the other figures stand without it.
            reason = str(error).strip().splitlines()[0][:70]
            print(f"{subject.name:16} {name:13} not measured: {reason}", flush=True)
            continue
        output = run(model, inputs).float()
        expected = output if expected is None else expected
        reference = rate if reference is None else reference
        difference = float((output - expected).abs().max())
        print(f"{subject.name:16} {name:13} {rate:10.1f} {rate / reference:8.2f} x {difference:14.1e}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = ["hubert_ecg", "dbeta", "deepecg_ssl", "deepecg_sl", "hybrid_ecg"]
    parser.add_argument("--models", nargs="+", default=models, choices=models)
    parser.add_argument("--sizes", nargs="+", default=["small", "base", "large"], help="of hubert_ecg")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0, help="least duration of a measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--skip", nargs="*", default=[], help="leave out variants whose name holds a word (compile)")
    parser.add_argument(
        "--cpu_time",
        action="store_true",
        help="seconds of CPU time of this process, not of the clock: for a busy machine, with one thread",
    )
    arguments = parser.parse_args()
    if arguments.cpu_time and (arguments.threads != 1 or arguments.device != "cpu"):
        parser.error("--cpu_time is the time of one thread on a CPU; add --threads 1 --device cpu")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", module="torch")
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {arguments.threads} thread(s)"
    print(f"batch {arguments.batch_size}, {name}{', CPU time' if arguments.cpu_time else ''}")
    print(f"{'model':16} {'variant':13} {'records/s':>10} {'ratio':>10} {'max difference':>14}")
    for subject in subjects(arguments.models, arguments.sizes):
        measure(subject, arguments, device)


if __name__ == "__main__":
    main()
