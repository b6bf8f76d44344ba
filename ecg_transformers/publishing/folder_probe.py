"""Open model folders through the Auto classes and run them on recordings.

The file is run as a program of its own where this package may not be importable, so it imports none of it.
"""

import contextlib
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers

TEXTS = ("sinus rhythm", "atrial fibrillation")


def run_folder(folder: str, auto_classes: Sequence[str], records: str, remote_code: bool) -> dict[str, torch.Tensor]:
    """Open a folder as others will, and return all that comes out for some recordings.

    Args:
        folder (`str`): a model folder.
        auto_classes (sequence of `str`): open the weights with each of these Auto classes of transformers.
        records (`str`): `.npz` file with `signals` of shape `(records, leads, samples)` in mV, `sampling_rate` and
            `lead_names`.
        remote_code (`bool`): run the code in the folder (`trust_remote_code=True`).

    Returns:
        `dict[str, torch.Tensor]`: inputs, and outputs in evaluation mode, by names such as
        `AutoModel.last_hidden_state`.

    Raises:
        RuntimeError: if weights are missing, or the classes come from elsewhere than `remote_code` says.
    """
    options = {"trust_remote_code": True} if remote_code else {}
    inputs = _inputs(folder, records, options)
    results = {f"inputs.{name}": value for name, value in inputs.items()}
    for auto_class in auto_classes:
        loader = getattr(transformers, auto_class)
        model, loading = loader.from_pretrained(folder, output_loading_info=True, **options)
        _check_origin(model, remote_code)
        if loading["missing_keys"] or loading["mismatched_keys"]:
            raise RuntimeError(f"weights are missing or of another shape: {loading}")
        model.eval()
        taken = inspect.signature(model.forward).parameters
        given = {name: value for name, value in {**inputs, **_views(inputs)}.items() if name in taken}
        given = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in given.items()}
        # Nothing is drawn in evaluation mode; if anything is, it is the same on both sides.
        torch.manual_seed(0)
        with torch.no_grad():
            results |= dict(_flat(model(**given), auto_class))
            if hasattr(model, "get_ecg_features"):
                parts = {name: given[name] for name in ("input_values", "attention_mask") if name in given}
                results[f"{auto_class}.get_ecg_features"] = model.get_ecg_features(**parts)
    return {name: value.detach().cpu().contiguous() for name, value in results.items()}


def _inputs(folder: str, records: str, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, **options)
    _check_origin(extractor, bool(options))
    with np.load(records) as content:
        signals, rate, leads = list(content["signals"]), float(content["sampling_rate"]), list(content["lead_names"])
    inputs = dict(extractor(signals, sampling_rate=rate, lead_names=leads, return_tensors="pt"))
    processor = transformers.AutoProcessor.from_pretrained(folder, **options)
    _check_origin(processor, bool(options))
    if getattr(processor, "tokenizer", None) is not None:
        inputs |= dict(processor(text=list(TEXTS), return_tensors="pt"))
    return inputs


def _views(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return two views of each record, for models that compare such."""
    values, mask = inputs["input_values"], inputs.get("attention_mask")
    views = {"view_values": torch.stack([values, values.roll(50, -1)], 1)}
    if mask is not None:
        views["view_attention_mask"] = torch.stack([mask, mask], 1)
    return views


def _check_origin(part: Any, remote_code: bool) -> None:
    module = type(part).__module__
    if module.startswith("transformers_modules.") is not remote_code:
        wanted = "the code in the folder" if remote_code else "the installed package"
        raise RuntimeError(f"{type(part).__name__} came from {module}, not from {wanted}")


def _flat(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif hasattr(value, "items"):
        for key, entry in value.items():
            yield from _flat(entry, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, entry in enumerate(value):
            yield from _flat(entry, f"{name}.{index}")


class _Refuse:
    """Makes a package impossible to import."""

    def __init__(self, package: str):
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Refuse the package; find nothing else."""
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {self.package!r}: it is refused here", name=name)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # The last line is what the caller shows
        import traceback

        traceback.print_exc()
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        sys.exit(f"{type(error).__name__}: {first_line}")


def main(jobs_file: str) -> None:
    """Run the jobs of a JSON file.

    Args:
        jobs_file (`str`): with `package` (to import, or to refuse with `remote_code`), `remote_code`, `records`, and
            `jobs`, each with `folder`, `auto_classes` and `output`, the safetensors file to write.
    """
    import importlib

    from safetensors.torch import save_file

    with open(jobs_file, encoding="utf-8") as file:
        content = json.load(file)
    with _one_line_errors():
        if content["remote_code"]:
            sys.meta_path.insert(0, _Refuse(content["package"]))
        else:
            importlib.import_module(content["package"])
        for job in content["jobs"]:
            results = run_folder(job["folder"], job["auto_classes"], content["records"], content["remote_code"])
            # A tensor under two names is two tensors in the file
            save_file({name: value.clone() for name, value in results.items()}, job["output"])


if __name__ == "__main__":
    main(sys.argv[1])
