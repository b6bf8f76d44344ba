"""Labels for ECG reports in any language, from a classifier of texts: what the command `label-reports` does.

DeepECG (medRxiv 10.1101/2025.03.02.25322575) labels its English and French reports so, with a fine-tuned BERT. Any
folder that `AutoModelForSequenceClassification` and `AutoTokenizer` open will do.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .decisions import resolve_thresholds
from .files import written_atomically
from .report_tables import ReportRow, ReportTable

# Bad rows that are kept in the result one by one; the rest is counted.
_LISTED = 20


class ReportLabeller:
    """A classifier of texts with its tokenizer.

    Args:
        model (`PreTrainedModel`): a sequence classifier that takes `input_ids`.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer that it was trained with.
        thresholds (*optional*): as in [`~decisions.resolve_thresholds`]: those stored with the model or 0.5 (`None`),
            `"stored"`, a number, values by label, or a JSON file of them.
        label_names (sequence of `str`, *optional*): names of the outputs, instead of those in the configuration.
        single_label (`bool`, *optional*): whether the classes exclude each other. By default the configuration's
            `problem_type` decides; where it says nothing, labels are independent.
        batch_size (`int`, *optional*, defaults to 32): reports in a forward pass.

    Raises:
        ValueError: if the model is no classifier of texts, or names or thresholds do not fit.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        thresholds: str | float | Mapping[str, float | None] | None = None,
        label_names: Sequence[str] | None = None,
        single_label: bool | None = None,
        batch_size: int = 32,
    ):
        config = model.config
        if model.main_input_name != "input_ids":
            raise ValueError(f"A {config.model_type} model reads {model.main_input_name}, not texts. {_NEEDED}")
        if config.problem_type == "regression":
            raise ValueError("The model is a regression; it predicts values, not labels.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        self.label_names = [config.id2label[index] for index in range(config.num_labels)]
        if label_names is not None:
            if len(label_names) != config.num_labels or len(set(label_names)) != len(label_names):
                raise ValueError(
                    f"The model has {config.num_labels} outputs and needs as many names, each once; got "
                    f"{len(label_names)}, {len(set(label_names))} of them different."
                )
            self.label_names = list(label_names)
        self.single_label = (
            config.problem_type == "single_label_classification" if single_label is None else single_label
        )
        if self.single_label and thresholds is not None:
            raise ValueError(
                f"Classes that exclude each other have no thresholds; got {thresholds!r}. Leave them out."
            )
        self.thresholds = None if self.single_label else resolve_thresholds(thresholds, self.label_names, config)
        self.max_length = _longest_input(config, tokenizer)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | None = None, **options: Any) -> ReportLabeller:
        """Load a model folder or Hub id; `options` as for the class.

        Raises:
            ValueError: if there is no such folder or device, no tokenizer, or the head is untrained.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        path = Path(folder)
        if len(path.parts) > 1 and not path.exists() and (len(path.parts) != 2 or path.parent.is_dir()):
            raise ValueError(f"There is no model folder {folder}.")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"The device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            model, loading = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
            if model.main_input_name != "input_ids":
                kind = model.config.model_type
                raise ValueError(
                    f"{folder} holds a {kind} model, which reads {model.main_input_name}, not texts. {_NEEDED}"
                )
            try:
                tokenizer = AutoTokenizer.from_pretrained(folder)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{folder} has no tokenizer that can be loaded: {str(error)[:300]}") from error
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
        # transformers gives a tokenizer without words, and no error, where the files of one are missing.
        words, size = len(tokenizer), model.config.vocab_size
        if words <= len(tokenizer.all_special_ids) or words > size:
            raise ValueError(
                f"{folder} has no tokenizer that fits: it knows {words} tokens, the model has {size}. Put the files "
                "of the model's own tokenizer (tokenizer.json or vocab.txt) into the folder."
            )
        if loading["missing_keys"]:
            raise ValueError(
                f"{folder} holds no trained classification head ({', '.join(sorted(loading['missing_keys'])[:3])} "
                "would be random). Fine-tune it first."
            )
        return cls(model.to(device), tokenizer, **options)

    def __call__(
        self, reports: Sequence[str], progress: Callable[[int], None] = lambda count: None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Classify reports, short ones with short ones, equal ones once.

        Args:
            reports (sequence of `str`): texts in any language that the model knows. Accents are brought to one form
                (NFC).
            progress (callable, *optional*): called with the number of reports done, batch by batch.

        Returns:
            `tuple`: probabilities, float32 of shape `(reports, labels)`, and whether a report was longer than the
            model reads and was cut, boolean `(reports,)`.
        """
        if not reports:
            return np.zeros((0, len(self.label_names)), np.float32), np.zeros(0, bool)
        texts: dict[str, int] = {}
        where = np.array([texts.setdefault(unicodedata.normalize("NFC", text), len(texts)) for text in reports])
        encoded = [self._encode(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda index: len(encoded[index][0]["input_ids"]), reverse=True)
        copies = np.bincount(where)
        values = np.empty((len(texts), len(self.label_names)), np.float32)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            values[rows] = self._forward([encoded[row][0] for row in rows])
            progress(int(copies[rows].sum()))
        return values[where], np.array([cut for _, cut in encoded])[where]

    def _encode(self, text: str) -> tuple[dict[str, list[int]], bool]:
        encoded = self.tokenizer(text, truncation=self.max_length is not None, max_length=self.max_length)
        cut = False
        if self.max_length is not None and len(encoded["input_ids"]) >= self.max_length:
            cut = len(self.tokenizer(text, verbose=False)["input_ids"]) > self.max_length
        return dict(encoded), cut

    @torch.inference_mode()
    def _forward(self, encoded: list[dict[str, list[int]]]) -> np.ndarray:
        inputs = self.tokenizer.pad(encoded, return_tensors="pt").to(self.model.device)
        logits = self.model(**inputs).logits.float()
        return (logits.softmax(-1) if self.single_label else logits.sigmoid()).cpu().numpy()

    def decide(self, probabilities: np.ndarray) -> list[list[int | None]]:
        """Return 1, 0, or `None` (no threshold) for each report and label."""
        if self.single_label:
            return (probabilities.argmax(-1)[:, None] == np.arange(len(self.label_names))).astype(int).tolist()
        known = ~np.isnan(self.thresholds)
        found = (probabilities > np.where(known, self.thresholds, 1)).astype(int).astype(object)
        found[:, ~known] = None
        return found.tolist()

    @property
    def undecided_labels(self) -> list[str]:
        """Labels without a threshold."""
        if self.thresholds is None:
            return []
        return [name for name, limit in zip(self.label_names, self.thresholds, strict=True) if np.isnan(limit)]

    def fingerprint(self) -> str:
        """Return a digest of weights (a sample of each tensor), tokenizer, names, and how labels are decided."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            flat = tensor.flatten()
            place = torch.linspace(0, max(len(flat) - 1, 0), min(len(flat), 64), dtype=torch.float64).long()
            picked = flat[place.to(flat.device)]
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(picked.double().cpu().numpy().tobytes())
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        digest.update((backend.to_str() if backend is not None else json.dumps(self.tokenizer.get_vocab())).encode())
        thresholds = None if self.thresholds is None else self.thresholds.tolist()
        digest.update(json.dumps([self.label_names, self.single_label, thresholds, self.max_length]).encode())
        return digest.hexdigest()


def _longest_input(config: Any, tokenizer: Any) -> int | None:
    """Return how many tokens the model reads, or `None` if nothing limits it."""
    limits = []
    # Tokenizers that do not know their limit have an astronomical one.
    if tokenizer.model_max_length < 10**9:
        limits.append(int(tokenizer.model_max_length))
    positions = getattr(config, "max_position_embeddings", None)
    if positions and positions > 0:
        # RoBERTa and its kin count positions from behind the padding token.
        offset = config.pad_token_id + 1 if "roberta" in config.model_type or config.model_type == "camembert" else 0
        limits.append(positions - offset)
    return min(limits, default=None)


_NEEDED = (
    "Reports are labelled by a text model with a classification head that AutoModelForSequenceClassification opens, "
    "such as a fine-tuned BERT, and its tokenizer."
)


@dataclass
class LabellingResult:
    """What became of a table.

    Args:
        output (`Path`): the table of labels.
        num_rows (`int`): rows of the table, all of which are in the output.
        num_bad (`int`): rows without labels; the column `error` says why.
        bad_rows (`list[str]`): the first of them, with line and reason.
        num_cut (`int`): reports longer than the model reads.
        num_resumed (`int`): rows taken over from an interrupted run.
    """

    output: Path
    num_rows: int
    num_bad: int = 0
    bad_rows: list[str] = field(default_factory=list)
    num_cut: int = 0
    num_resumed: int = 0


def label_reports(
    labeller: ReportLabeller,
    table: ReportTable,
    output: str | Path,
    *,
    columns: Sequence[str] | None = None,
    values: str = "labels",
    part_size: int = 2000,
    overwrite: bool = False,
    progress: bool = True,
) -> LabellingResult:
    """Label all reports of a table.

    The output has the table's rows in the table's order: the copied columns, `error` (empty, or why a row has no
    labels), and a column per label. Rows are worked through in parts, which are kept in the folder `<output>.parts`,
    each written whole or not at all. The same call goes on where an interrupted one stopped; the output appears,
    whole, when the last part is done.

    Args:
        labeller ([`ReportLabeller`]): the model.
        table ([`ReportTable`]): the reports.
        output (`str` or `Path`): CSV file to write, UTF-8.
        columns (sequence of `str`, *optional*): columns of the table to copy; by default all but the report.
        values (`"labels"` or `"probabilities"`, *optional*, defaults to `"labels"`): 1 and 0, empty where a label has
            no threshold; or probabilities.
        part_size (`int`, *optional*, defaults to 2000): rows in a part, and the most that an interruption costs.
        overwrite (`bool`, *optional*, defaults to `False`): replace an output, and drop what is left of a run with
            other input or settings.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        [`LabellingResult`]

    Raises:
        ValueError: if the output exists, an interrupted run had other input or settings, columns do not fit, or the
            table has no rows.
    """
    output = Path(output)
    copied = _copied_columns(table, columns, labeller.label_names)
    if values not in ("labels", "probabilities"):
        raise ValueError(f"values must be 'labels' or 'probabilities'; got {values!r}.")
    if part_size < 1:
        raise ValueError(f"part_size must be at least 1; got {part_size}.")
    if not output.resolve().parent.is_dir():
        raise ValueError(f"{output}: the folder {output.resolve().parent} does not exist; create it first.")
    if output.resolve() == table.path.resolve():
        raise ValueError(f"{output} is the table of reports itself; choose another name.")
    result = LabellingResult(output, 0)
    for row in table:
        result.num_rows += 1
        if row.error:
            result.num_bad += 1
            if len(result.bad_rows) < _LISTED:
                result.bad_rows.append(f"line {row.line} {row.error}")
    if not result.num_rows:
        raise ValueError(f"The table {table.path} has no rows.")
    plan = {
        "table": table.fingerprint(),
        "model": labeller.fingerprint(),
        "rows": result.num_rows,
        "columns": copied,
        "text_column": table.text_column,
        "delimiter": table.delimiter,
        "encoding": table.encoding,
        "values": values,
        "part_size": part_size,
    }
    parts = _open_parts(output, plan, overwrite)
    _work_through(labeller, table, parts, copied, values, part_size, result, progress)
    paths = [_part_path(parts, number) for number in range(-(-result.num_rows // part_size))]
    with written_atomically(output, newline="") as file:
        csv.writer(file).writerow([*copied, "error", *labeller.label_names])
        for path in paths:
            part = json.loads(path.read_text(encoding="utf-8"))
            result.num_cut += part["num_cut"]
            file.write(part["rows"])
    # The plan goes last: as long as it is there, a run knows what the rest is.
    for path in paths:
        path.unlink()
    shutil.rmtree(parts)
    return result


def _copied_columns(table: ReportTable, columns: Sequence[str] | None, label_names: Sequence[str]) -> list[str]:
    if columns is None:
        columns = [name for name in table.columns if name != table.text_column]
    unknown = [name for name in columns if name not in table.columns]
    if unknown:
        raise ValueError(f"The table has no columns {unknown}; it has {table.columns}.")
    taken = [name for name in columns if name in ("error", *label_names)]
    if taken:
        raise ValueError(f"The columns {taken} of the table have names of the output's; leave them out with columns=.")
    return list(columns)


def _open_parts(output: Path, plan: dict[str, Any], overwrite: bool) -> Path:
    """Return the folder of parts, new or of an interrupted run of the same plan."""
    folder = output.with_name(output.name + ".parts")
    path = folder / "plan.json"
    if folder.exists():
        foreign = [found.name for found in folder.iterdir() if not _is_ours(found.name)]
        if foreign:
            raise ValueError(
                f"{folder} holds {foreign[:3]}, which is no part of a run; move it, or choose another output."
            )
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # Stopped before the plan was written.
            found = {} if not any(folder.glob("part-*.json")) else None
        if found == plan:
            return folder
        if found != {}:
            differing = sorted(key for key in plan if not isinstance(found, dict) or found.get(key) != plan[key])
            if not overwrite:
                raise ValueError(
                    f"{folder} holds an interrupted run that differs in {', '.join(differing)}. Repeat its command to "
                    "go on with it, or start over with overwrite=True, or choose another output."
                )
        shutil.rmtree(folder)
    if output.exists() and not overwrite:
        raise ValueError(f"{output} exists; replace it with overwrite=True, or choose another output.")
    folder.mkdir()
    with written_atomically(path) as file:
        json.dump(plan, file)
    return folder


def _is_ours(name: str) -> bool:
    # A killed run leaves the file that it was writing, under a hidden name.
    return name == "plan.json" or name.startswith(("part-", ".part-", ".plan.json."))


def _part_path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}.json"


def _work_through(
    labeller: ReportLabeller,
    table: ReportTable,
    folder: Path,
    copied: list[str],
    values: str,
    part_size: int,
    result: LabellingResult,
    progress: bool,
) -> None:
    from tqdm import tqdm

    with tqdm(total=result.num_rows, unit="report", disable=not progress) as bar:
        rows, number = iter(table), 0
        while part := list(islice(rows, part_size)):
            path = _part_path(folder, number)
            number += 1
            if path.exists():
                result.num_resumed += len(part)
                bar.update(len(part))
                continue
            bar.update(sum(row.error is not None for row in part))
            text, num_cut = _label_part(labeller, part, copied, values, bar.update)
            with written_atomically(path) as file:
                json.dump({"num_cut": num_cut, "rows": text}, file)


def _label_part(
    labeller: ReportLabeller, part: list[ReportRow], copied: list[str], values: str, progress: Callable[[int], None]
) -> tuple[str, int]:
    """Return the rows of a part as CSV text, and how many reports were cut."""
    good = [row.report for row in part if row.error is None]
    probabilities, cut = labeller(good, progress)
    if values == "labels":
        cells = iter([["" if value is None else value for value in row] for row in labeller.decide(probabilities)])
    else:
        cells = iter([[f"{value:.6g}" for value in row] for row in probabilities])
    blank = [""] * len(labeller.label_names)
    text = io.StringIO()
    writer = csv.writer(text)
    for row in part:
        found = next(cells) if row.error is None else blank
        error = "" if row.error is None else f"line {row.line} {row.error}"
        writer.writerow([*(row.cells.get(name, "") for name in copied), error, *found])
    return text.getvalue(), int(cut.sum())
