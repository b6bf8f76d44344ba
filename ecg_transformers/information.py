"""What an ECG file, a model folder or one of codebooks contains, for the command `info`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .quality import assess_quality
from .record import ECGRecord


def describe_record(record: ECGRecord, path: str | Path | None = None) -> dict[str, Any]:
    """Return the facts of a recording as JSON-like values; amplitudes in mV.

    Per lead: the median, the span from the 1st to the 99th percentile, and whether it is flat or holds NaN. `quality`
    lists what `assess_quality` finds wrong.
    """
    leads = {}
    for name, row in zip(record.lead_names, record.signal, strict=True):
        known = row[~np.isnan(row)]
        low, median, high = np.percentile(known, [1, 50, 99]) if len(known) else (np.nan,) * 3
        notes = []
        if len(known) < len(row):
            notes.append(f"{len(row) - len(known)} samples missing")
        if len(known) and known.min() == known.max():
            notes.append("flat")
        leads[name] = {"median_mv": _rounded(median), "span_mv": _rounded(high - low), "notes": notes}
    return {
        **({"path": str(path)} if path is not None else {}),
        "sampling_rate": record.sampling_rate,
        "seconds": round(record.duration_seconds, 3),
        "samples": record.num_samples,
        "leads": leads,
        "quality": assess_quality(record).issues,
        "metadata": {key: value for key, value in record.metadata.items() if value not in (None, "", [])},
    }


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def describe_parquet(path: str | Path) -> dict[str, Any]:
    """Return what a Parquet file of recordings holds: number, columns, labels, and the description of the first one.

    Raises:
        ValueError: if it is no Parquet file of recordings.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    from .corpora import label_names, problem_type
    from .readers import read_ecg

    try:
        with pq.ParquetFile(path) as file:
            count, schema = file.metadata.num_rows, file.schema_arrow
    except pa.ArrowException as error:
        raise ValueError(f"{path} is no Parquet file, or damaged: {error}") from error
    features = Features.from_arrow_schema(schema)
    labelled = "labels" in features
    return {
        "path": str(path),
        "records": count,
        "columns": list(features),
        "problem_type": problem_type(features) if labelled else None,
        "labels": label_names(features) if labelled else [],
        "first": describe_record(read_ecg(f"{path}#ecg:0"), f"{path}#ecg:0") if count else None,
    }


def describe_codebooks(folder: str | Path) -> dict[str, Any]:
    """Return what a folder of codebooks is: codes of each, what they are over, and the facts of their making.

    Raises:
        ValueError: if the codebooks are damaged.
    """
    from .training.codebooks import CodebookSet

    found = CodebookSet.load(folder)
    return {
        "path": str(folder),
        "codebooks": found.sizes,
        "values": [book.centers.shape[1] for book in found.codebooks],
        "descriptors": dict(found.descriptors),
        "facts": dict(found.facts),
    }


def describe_model(folder: str | Path) -> dict[str, Any]:
    """Return what a model folder is: type, parameters, labels, thresholds and recipe, without loading weights.

    `labels` are those of a classification head, none without one; `tokenizer` tells whether the folder has one, `None`
    if its model takes no texts.
    """
    from transformers import AutoConfig

    from .conversion_tokenizers import has_tokenizer, takes_text
    from .feature_extraction.feature_extraction_ecg import ECGFeatureExtractor
    from .registration import MODELS

    config = AutoConfig.from_pretrained(folder)
    extractor = ECGFeatureExtractor.from_pretrained(folder)
    thresholds = getattr(config, "thresholds", None) or {}
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    with_text = any(entry.model_type == config.model_type and takes_text(entry, config) for entry in MODELS)
    return {
        "path": str(folder),
        "model_type": config.model_type,
        "architectures": config.architectures,
        "parameters": _count_parameters(Path(folder)),
        "labels": [config.id2label[index] for index in range(len(config.id2label))] if classifies else [],
        "thresholds": thresholds if classifies else {},
        "tokenizer": has_tokenizer(Path(folder)) if with_text else None,
        "input_leads": list(extractor.lead_names),
        "input_sampling_rate": extractor.sampling_rate,
        "window_seconds": extractor.window_seconds,
        "recipe": extractor.recipe,
    }


def _count_parameters(folder: Path) -> int | None:
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    total = 0
    for path in files:
        with safe_open(path, framework="np") as tensors:
            total += sum(int(np.prod(tensors.get_slice(name).get_shape())) for name in tensors.keys())
    return total


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, which takes an s for all numbers but 1."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _format_codebooks(description: dict[str, Any]) -> str:
    descriptors, sizes = description["descriptors"], description["codebooks"]
    details = ", ".join(f"{key} {descriptors[key]}" for key in ("model", "layer") if key in descriptors)
    rate = f", at {descriptors['sampling_rate']:g} Hz" if "sampling_rate" in descriptors else ""
    lines = [
        f"{description['path']}: {counted(len(sizes), 'codebook')} for pretrain_hubert_ecg.py train --codebooks",
        f"  codes        {', '.join(map(str, sizes))}",
        f"  descriptors  {descriptors['kind']}{f' ({details})' if details else ''}, "
        f"{counted(description['values'][0], 'value')}{rate}",
    ]
    return "\n".join([*lines, *_format_recipe(descriptors.get("recipe", ()))])


def _format_recipe(recipe: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for step in recipe:
        parameters = ", ".join(f"{key}={value}" for key, value in step.items() if key != "step")
        lines.append(f"  recipe step  {step['step']}({parameters})")
    return lines


def _format_export(description: dict[str, Any]) -> str:
    told = {key: value for key, value in description.items() if key not in ("path", "model_type", "architecture")}
    recipe = told.pop("preprocessor_config")["recipe"]
    lines = [f"{description['path']}: {description['model_type']} ({description['architecture']}), exported"]
    for kind in ("inputs", "outputs"):
        for name, value in told.pop(kind).items():
            shape = ", ".join(map(str, value["shape"]))
            lines.append(f"  {kind[:-1]:<12} {name} ({shape}) {value['dtype']}: {value['meaning']}")
    for key, value in told.items():
        lines.append(f"  {key:<12} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return "\n".join([*lines, *_format_recipe(recipe)])


def format_description(description: dict[str, Any]) -> str:
    """Lay out a description of a record, a Parquet file, codebooks, a model or its export for reading."""
    if "codebooks" in description:
        return _format_codebooks(description)
    if "preprocessor_config" in description:
        return _format_export(description)
    if "records" in description:
        labels = ", ".join(description["labels"]) or "none"
        lines = [
            f"{description['path']}: {counted(description['records'], 'record')}; load_corpus opens the folder",
            f"  columns      {', '.join(description['columns'])}",
            f"  labels       {textwrap.shorten(labels, 200, placeholder=' … (all with --json)')}",
        ]
        return "\n".join([*lines, *([format_description(description["first"])] if description["first"] else [])])
    if "leads" not in description:
        lines = [
            f"{description['path']}: {description['model_type']} ({', '.join(description['architectures'] or [])})"
        ]
        if description["parameters"]:
            lines.append(f"  parameters   {description['parameters']:,}")
        limits = description["thresholds"]
        labels = [
            name if limits.get(name) is None else f"{name} ({limits[name]:.3f})" for name in description["labels"]
        ]
        lines.append(f"  labels       {', '.join(labels) or 'none, the folder has no classification head'}")
        window = description["window_seconds"]
        lines.append(
            f"  input        {counted(len(description['input_leads']), 'lead')}, "
            f"{'whole recordings' if window is None else f'{window:g} s'} at "
            f"{description['input_sampling_rate']:g} Hz: {' '.join(description['input_leads'])}"
        )
        if description["tokenizer"] is not None:
            lines.append(f"  texts        {'tokenizer in the folder' if description['tokenizer'] else 'no tokenizer'}")
        return "\n".join([*lines, *_format_recipe(description["recipe"])])
    lines = [
        f"{description.get('path', 'record')}: {counted(len(description['leads']), 'lead')}, "
        f"{description['seconds']:g} s, {counted(description['samples'], 'sample')} at "
        f"{description['sampling_rate']:g} Hz"
    ]
    for key, value in description["metadata"].items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        lines.append(f"  {key:<12} {textwrap.shorten(text, 200, placeholder=' … (all with --json)')}")
    for issue in description["quality"] or ["no issues"]:
        lines.append(f"  quality      {issue}")
    for name, lead in description["leads"].items():
        values = f"median {lead['median_mv']} mV, span {lead['span_mv']} mV (1st to 99th percentile)"
        lines.append(f"  lead {name:<7} {values}{'; ' + ', '.join(lead['notes']) if lead['notes'] else ''}")
    return "\n".join(lines)
