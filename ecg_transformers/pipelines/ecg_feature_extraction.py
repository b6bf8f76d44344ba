"""The pipeline `ecg-feature-extraction`: one vector per recording, as the command `embed` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from .base import check_choice
from .inference_pipeline import ECGInferencePipeline


class ECGFeatureExtractionPipeline(ECGInferencePipeline):
    """Turn recordings into feature vectors with the backbone of a model of any type of this package.

    A vector is what the model's `get_ecg_features` gives, averaged over the windows of a longer recording: that of
    `ecg_transformers.ECGInference(..., embeddings=True)`, as in the command `embed`. A head in the folder is not used.

    A call takes:

    - `inputs`: the path of an ECG file, an `ECGRecord`, an array of shape `(leads, samples)`, or a row with the column
      `ecg`; a list of these or an array of shape `(records, leads, samples)`; a data set with the column `ecg`, or a
      generator. Of a folder give its files: `ecg_transformers.find_ecg_files(folder)`.
    - `return_tensors` (`str`, *optional*, defaults to `"np"`): `"np"` for NumPy arrays, `"pt"` for tensors on the CPU.
    - `windows` (`str`, *optional*): of recordings longer than the model's window, `"all"` or `"first"`. Default: those
      with which the model was evaluated, else `"all"`.
    - `sampling_rate` (Hz), `lead_names`, `units` (*optional*): of arrays, and of files that do not say.
    - `on_error` (`str`, *optional*, defaults to `"raise"`): the first recording that cannot be read or used is an
      error that names it; with `"warn"` its answer is `None`, a warning tells why, and the others go on. (A stream
      of a data set ends at a file that cannot be decoded.)
    - `batch_size`, `num_workers` (*optional*): recordings in one batch, processes that read files.

    It returns for each recording an array of shape `(features,)`, float32: one for a single input, a list of them for
    a list (`np.stack` makes a matrix of it), an iterator over them for a data set or a generator, which knows its
    length if the data set does (`tqdm` then shows progress).

    Raises:
        ValueError: for arguments or recordings that cannot be used; `ECGReadError` for files.

    Example:
        ```python
        embed = et.pipeline("ecg-feature-extraction", model="hubert-ecg-base")
        embed("JS00001.hea").shape  # (768,)
        ```
    """

    embeddings = True

    def prepared_model(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the backbone of the model."""
        for part in (model, model.base_model):
            if hasattr(part, "get_ecg_features"):
                return part
        raise ValueError(f"{type(model).__name__} gives no features: it has no `get_ecg_features`.")

    def _sanitize_parameters(
        self, return_tensors: str | None = None, **shared: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if shared.get("aggregation") is not None:
            raise ValueError("Features of windows are always averaged; leave `aggregation` out.")
        check_choice("return_tensors", return_tensors, ("np", "pt"))
        reading, running = self._shared_parameters(**shared)
        return reading, running, {} if return_tensors is None else {"return_tensors": return_tensors}

    def postprocess(self, outputs: Mapping[str, Any], return_tensors: str = "np") -> np.ndarray | torch.Tensor | None:
        """Return the features of one recording."""
        values = self._only_result(outputs).values
        return torch.from_numpy(values) if return_tensors == "pt" and values is not None else values
