"""`ECGFeatureExtractor`: from recordings in millivolts to model input, by a recipe that travels with the weights."""

import copy
import inspect
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature

from .ecg_leads import STANDARD_LEADS, arrange_leads, canonical_lead_name
from .ecg_recipes import RECIPE_ADAPTERS, RECIPES, RECIPES_OF_MODEL_TYPE
from .local_regression import smooth_lowess  # noqa: F401, see below
from .missing_samples import LONGEST_BRIDGED_GAP, bridge_gaps, recorded_part
from .recipe_validation import validate_recipe
from .signal_operations import rows_with_nan  # noqa: F401, see below
from .signal_steps import SignalBatch, apply_recipe
from .spectral_peaks import flatten_spectral_peaks  # noqa: F401, see below

# Every file of this folder that the extractor needs is imported above, directly: when transformers 5.8 opens an
# export, it does not look for the files that a file imports from there.

# Where a recipe lies in a model folder; the second where a processor was saved with it nested
RECIPE_FILES = ("preprocessor_config.json", "processor_config.json")

MILLIVOLTS_PER_UNIT = {"mV": 1.0, "uV": 1e-3, "µV": 1e-3, "μV": 1e-3, "V": 1e3, "nV": 1e-6}

# Peak-to-peak bounds, in mV, of the median lead of a recording. Ours: the QRS complex of surface leads spans 0.1–5 mV,
# and the wildest artefacts of public corpora reach 66 mV (16 bits at 1 uV, and INCART at ±30 mV) on single leads,
# while an ECG in microvolts spans hundreds on every lead and one in volts about 0.001.
LARGEST_MEDIAN_SPAN = 60.0
SMALLEST_MEDIAN_SPAN = 0.005


# A lead of which more is missing carries no signal, although a line can be drawn through the rest (ours)
LARGEST_BRIDGED_SHARE = 0.5
_BRIDGE_ALL = {"step": "fill_nan", "value": "interpolate"}


class ECGSignalWarning(UserWarning):
    """A recording was used although part of it is missing or unusable; `lead_mask` tells which leads carry signal."""


class ECGFeatureExtractor(SequenceFeatureExtractor):
    """Turn ECG recordings into the input of a model.

    All that a model expects of its input is the `recipe`, an ordered list of named steps that is stored in
    `preprocessor_config.json`. The steps run batched in torch, on the CPU or a GPU.

    What happens to imperfect recordings, always the same:

    | input | outcome |
    | --- | --- |
    | no sampling rate; an array without lead names that has not one row per model lead | `ValueError` |
    | a lead of the model missing: III, aVR, aVL, aVF | derived from I and II |
    | any other lead missing | zero, `lead_mask` is 0, a warning |
    | leads in another order or spelling | put in order by name |
    | leads that the model does not use | left out; a warning names them if they are no known leads or others miss |
    | median lead spans over 60 mV or under 0.005 mV | `ValueError`: wrong unit |
    | infinite samples, or no lead with a finite sample | `ValueError` |
    | NaN in all leads at the beginning or the end | cut off: the recording is shorter |
    | NaN in a lead for at most 10 ms | bridged by a line, a warning |
    | NaN for longer, the recipe begins with `fill_nan` by `"interpolate"` | the same, up to half of the lead |
    | any other NaN in a lead | the recipe's `fill_nan`, `lead_mask` is 0, a warning |
    | a flat lead | kept, `lead_mask` is 0, a warning |
    | shorter than the window | zeros at the end of each lead, `attention_mask` is 0 there |
    | longer than the window | `windows="first"` (default), `"random"` or `"all"` |
    | shorter than the filters need | `ValueError` |

    Args:
        recipe (`list[dict]`, *optional*): the steps, see `signal_steps.SIGNAL_STEPS`. Defaults to HuBERT-ECG's.
        lead_names (sequence of `str`, *optional*, defaults to the twelve standard leads): rows of the model input.
        sampling_rate (`float`, *optional*): rate of the model input in Hz; follows from the recipe and is checked.

    Raises:
        ValueError: if the recipe names an unknown step or parameter, or a lead is unknown.
    """

    model_input_names = ["input_values", "attention_mask"]

    def __init__(
        self,
        recipe: list[dict] | None = None,
        lead_names: Sequence[str] = STANDARD_LEADS,
        sampling_rate: float | None = None,
        **kwargs: Any,
    ):
        recipe = copy.deepcopy(list(recipe)) if recipe is not None else copy.deepcopy(RECIPES["hubert_ecg"]["recipe"])
        validate_recipe(recipe)
        unknown = [name for name in lead_names if canonical_lead_name(name) is None]
        if unknown or not lead_names:
            raise ValueError(f"Expected names of ECG leads such as I, aVR, V1; got {list(lead_names)}.")
        rate = _rate_after(recipe)
        if sampling_rate is not None and sampling_rate != rate:
            raise ValueError(
                f"The recipe ends at {rate} Hz, but sampling_rate is {sampling_rate}; leave it out or correct it."
            )
        for derived in ("feature_size", "padding_value", "feature_extractor_type"):
            kwargs.pop(derived, None)
        super().__init__(feature_size=len(lead_names), sampling_rate=rate, padding_value=0.0, **kwargs)
        self.recipe = recipe
        self.lead_names = [canonical_lead_name(name) for name in lead_names]

    @property
    def window_seconds(self) -> float | None:
        """Length of a window in seconds, or `None` if the recipe takes recordings whole."""
        return next((entry["seconds"] for entry in self.recipe if entry["step"] == "crop"), None)

    @classmethod
    def for_model_type(
        cls, model_type: str, recipe: str | None = None, config: Any = None, **kwargs: Any
    ) -> "ECGFeatureExtractor":
        """Return the extractor of a model type, as for checkpoints without `preprocessor_config.json`.

        Args:
            model_type (`str`): such as `"hubert_ecg"`.
            recipe (`str`, *optional*): another of the model type's recipes, such as `"hubert_ecg_filter_first"`.
            config (`PreTrainedConfig`, *optional*): of the model, where the recipe depends on it (HuBERT-ECG: the
                stride of the convolutions tells the sampling rate).

        Raises:
            ValueError: if the model type or the recipe is unknown, naming those that exist, or the recipe cannot
                serve the configuration.
        """
        names = RECIPES_OF_MODEL_TYPE.get(model_type)
        if names is None:
            known = ", ".join(sorted(RECIPES_OF_MODEL_TYPE))
            raise ValueError(f"No recipe is known for model type {model_type!r}; model types with a recipe: {known}.")
        if recipe is not None and recipe not in names:
            raise ValueError(f"Unknown recipe {recipe!r} for model type {model_type!r}; it has: {', '.join(names)}.")
        return cls(**_recipe_for(model_type, recipe or names[0], config), **kwargs)

    @classmethod
    def get_feature_extractor_dict(cls, pretrained_model_name_or_path, **kwargs):
        """Read `preprocessor_config.json`, or take the recipe of the checkpoint's model type if it has none."""
        try:
            found, remaining = super().get_feature_extractor_dict(pretrained_model_name_or_path, **kwargs)
        except OSError as error:
            # A file that is there but cannot be read is an error, not a reason for another recipe.
            if any((Path(pretrained_model_name_or_path) / name).exists() for name in RECIPE_FILES):
                raise
            location = {key: kwargs[key] for key in _LOCATION_ARGUMENTS if key in kwargs}
            try:
                config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **location)
            except (OSError, ValueError):
                raise error from None
            if config.model_type not in RECIPES_OF_MODEL_TYPE:
                raise error
            remaining = {key: value for key, value in kwargs.items() if key not in _CONSUMED_ARGUMENTS}
            return _recipe_for(config.model_type, RECIPES_OF_MODEL_TYPE[config.model_type][0], config), remaining
        if "recipe" not in found:
            raise ValueError(
                f"The preprocessor_config.json of {pretrained_model_name_or_path} holds no 'recipe' (its type is "
                f"{found.get('feature_extractor_type')!r}). Delete the file to get the recipe of the model "
                "type, or write it with ECGFeatureExtractor.save_pretrained."
            )
        return found, remaining

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Write `preprocessor_config.json`; see `FeatureExtractionMixin.save_pretrained`."""
        # A recipe with tensors or arrays in it would fail half-way through writing.
        json.dumps(self.recipe)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def pad(self, *args, **kwargs):
        """Not needed: a call of the extractor returns rows of equal length with their mask."""
        raise NotImplementedError(
            "ECGFeatureExtractor pads by itself: call extractor(records), which returns `input_values` and "
            "`attention_mask`."
        )

    def __call__(
        self,
        records: Any,
        sampling_rate: float | None = None,
        lead_names: Sequence[str] | None = None,
        units: str = "mV",
        windows: str = "first",
        device: str | torch.device | None = None,
        generator: torch.Generator | int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Run the recipe on one or many recordings.

        Args:
            records (record, array, or list of them): an `ECGRecord`; a NumPy array or tensor of shape `(leads,
                samples)`, or `(records, leads, samples)`; or a list of records and `(leads, samples)` arrays, of any
                lengths. float64 arrays are computed in double precision, all else in single precision.
            sampling_rate (`float`, *optional*): Hz; required for arrays. A record's own rate must agree.
            lead_names (sequence of `str`, *optional*): names of an array's rows. Without it an array must have one row
                for each of the extractor's `lead_names`, in that order.
            units (`str`, *optional*, defaults to `"mV"`): unit of arrays: mV, uV, V or nV. Records are always in mV.
            windows (`str`, *optional*, defaults to `"first"`): which windows of a longer recording: the first;
                `"random"`, one at a random start; `"all"`, side by side, the last one moved back to end with the
                recording.
            device (`str` or `torch.device`, *optional*): where to compute; the result stays there.
            generator (`torch.Generator` or `int`, *optional*): generator or seed of the random windows.
            return_attention_mask (`bool`, *optional*, defaults to `True`).
            return_tensors (`str`, *optional*): `"pt"` for tensors, `"np"` or nothing for NumPy arrays.

        Returns:
            `BatchFeature` with
            - `input_values` (float32, one row per window, in the shape that the recipe ends with; HuBERT-ECG: `(rows,
              6000)`),
            - `attention_mask` (int64, over the samples of a row: 1 real, 0 padding),
            - `lead_mask` (int64, `(rows, leads)`: 1 where the lead carries signal),
            - `record_index` (int64, `(rows,)`, with `windows="all"` only): the recording that a row is cut from.

        Raises:
            ValueError: for input that cannot be used; the message names the recording, what was expected and the
            remedy.
        """
        if windows not in ("first", "random", "all"):
            raise ValueError(f"windows must be 'first', 'random' or 'all'; got {windows!r}.")
        if units not in MILLIVOLTS_PER_UNIT:
            raise ValueError(f"Unknown unit {units!r}; expected one of {', '.join(MILLIVOLTS_PER_UNIT)}.")
        if isinstance(generator, int):
            generator = torch.Generator().manual_seed(generator)
        groups, num_records = self._group(records, sampling_rate, lead_names, units, device)
        outputs = []
        for (rate, *_), (indices, names, signal, lead_mask) in groups.items():
            signal, lead_mask = self._check(signal, lead_mask, names, num_records, rate)
            start = SignalBatch(
                signal,
                rate,
                torch.ones(signal.shape[0], signal.shape[-1], dtype=torch.bool, device=signal.device),
                torch.arange(len(indices), device=signal.device),
                windows,
                generator,
            )
            try:
                end = apply_recipe(start, self.recipe)
            except ValueError as error:
                seconds = signal.shape[-1] / rate
                raise ValueError(f"{names[0]} ({seconds:.2f} s at {rate:g} Hz): {error}") from error
            outputs.append((end, lead_mask[end.record_index], indices.to(signal.device)[end.record_index]))

        longest = max(end.signal.shape[-1] for end, _, _ in outputs)
        values = torch.cat([_pad_to(end.signal, longest) for end, _, _ in outputs])
        valid = torch.cat([_pad_to(end.valid, longest) for end, _, _ in outputs])
        lead_mask = torch.cat([mask for _, mask, _ in outputs])
        record_index = torch.cat([index for _, _, index in outputs])
        if len(outputs) > 1:
            order = torch.argsort(record_index, stable=True)
            values, valid, lead_mask, record_index = values[order], valid[order], lead_mask[order], record_index[order]

        features = {"input_values": values.to(torch.float32)}
        if return_attention_mask if return_attention_mask is not None else self.return_attention_mask:
            features["attention_mask"] = valid.to(torch.int64)
        features["lead_mask"] = lead_mask.to(torch.int64)
        if windows == "all":
            features["record_index"] = record_index
        if return_tensors not in (None, "np", "pt"):
            raise ValueError(f"return_tensors must be 'pt' or 'np'; got {return_tensors!r}.")
        if return_tensors != "pt":
            features = {name: value.cpu().numpy() for name, value in features.items()}
        return BatchFeature(features)

    def _group(self, records, sampling_rate, lead_names, units, device):
        """Bring recordings to mV and lead order, stacked by rate, length and precision: one tensor per kind."""
        if isinstance(records, np.ndarray | torch.Tensor) and records.ndim == 3:
            items = list(records)
        elif isinstance(records, list | tuple):
            items = list(records)
        else:
            items = [records]
        if not items:
            raise ValueError("Got an empty list of recordings; expected at least one.")
        kinds: dict[tuple, list] = {}
        for index, item in enumerate(items):
            signal, present, rate, name = self._normalize(item, index, len(items), sampling_rate, lead_names, units)
            kinds.setdefault((rate, signal.shape[-1], signal.dtype), []).append((index, name, signal, present))
        groups = {}
        for kind, members in kinds.items():
            signal = torch.stack([member[2] for member in members]).to(device=device)
            present = torch.from_numpy(np.stack([member[3] for member in members])).to(signal.device)
            indices = torch.tensor([member[0] for member in members])
            groups[kind] = (indices, [member[1] for member in members], signal, present)
        return groups, len(items)

    def _normalize(self, item, index, count, sampling_rate, lead_names, units):
        """Return one recording as a `(leads, samples)` tensor in mV, which leads are there, its rate and its name."""
        name = f"recording {index}" if count > 1 else "the recording"
        if item is None or isinstance(item, dict):
            raise ValueError(f"{name} is a {type(item).__name__}; expected an ECGRecord or an array (leads, samples).")
        if isinstance(lead_names, str) or isinstance(sampling_rate, list | tuple | np.ndarray):
            raise ValueError(
                f"Give one `sampling_rate` for all and `lead_names` as a list; got {sampling_rate!r}, {lead_names!r}. "
                "For recordings of several rates pass ECGRecord(signal, sampling_rate, lead_names) each."
            )
        if isinstance(item, str | Path):
            raise ValueError(f"Got the path {str(item)!r}; read it first: extractor(ecg_transformers.read_ecg(path)).")
        if all(hasattr(item, attribute) for attribute in ("signal", "sampling_rate", "lead_names")):
            record_id = getattr(item, "metadata", {}).get("record_id")
            name = f"record {record_id}" if record_id else name
            signal, names, rate, scale = item.signal, tuple(item.lead_names), float(item.sampling_rate), 1.0
            if sampling_rate is not None and float(sampling_rate) != rate:
                raise ValueError(
                    f"{name} has {rate:g} Hz, but sampling_rate={sampling_rate:g} was given; leave it out."
                )
        else:
            if sampling_rate is None:
                raise ValueError(
                    f"Pass `sampling_rate=` (Hz) with {name}: an array does not tell a 100 Hz recording from a 500 Hz "
                    f"one. The recipe brings any rate to the model's {self.sampling_rate:g} Hz."
                )
            signal, rate, scale = item, float(sampling_rate), MILLIVOLTS_PER_UNIT[units]
            names = None if lead_names is None else tuple(lead_names)
        if not np.isfinite(rate) or rate <= 0:
            raise ValueError(f"The sampling rate of {name} must be a positive number of Hz; got {rate}.")
        if not isinstance(signal, torch.Tensor):
            signal = _as_tensor(signal, name)
        if signal.dtype not in (torch.float32, torch.float64):
            if signal.dtype in (torch.bool, torch.complex64, torch.complex128):
                raise ValueError(f"{name} holds {signal.dtype} values; expected real numbers.")
            signal = signal.to(torch.float32)
        if scale != 1.0:
            signal = signal * scale
        if signal.ndim == 1 and len(names or self.lead_names) == 1:
            signal = signal[None]
        expected = len(names) if names is not None else len(self.lead_names)
        if signal.ndim != 2 or signal.shape[0] != expected or signal.shape[1] == 0:
            raise ValueError(_shape_message(name, tuple(signal.shape), names, self.lead_names))
        if names is None or list(names) == self.lead_names:
            return (
                self._cut_void_ends(signal, np.ones(expected, dtype=bool), name),
                np.ones(expected, bool),
                rate,
                name,
            )
        unknown = [lead for lead in names if canonical_lead_name(lead) is None]
        if len(unknown) == len(names):
            raise ValueError(f"No lead of {name} is known: {list(names)}. Expected names such as {self.lead_names}.")
        if unknown:
            _warn(name if count == 1 else None, "Unknown leads", unknown, "They are left out.")
        arranged, present = arrange_leads(signal.cpu().numpy(), names, self.lead_names)
        if not present.any():
            raise ValueError(
                f"{name} has leads {list(names)}; the model uses {self.lead_names} and none can be had from it."
            )
        if not present.all():
            missing = [lead for lead, found in zip(self.lead_names, present, strict=True) if not found]
            outcome = "They are set to zero, `lead_mask` is 0 for them."
            # A mistyped name may be that of a lead of another system, as VX is Frank's
            unused = [lead for lead in names if canonical_lead_name(lead) not in (None, *self.lead_names)]
            if unused and count == 1:
                outcome += f" Leads that the model does not use are left out: {unused}."
            _warn(name if count == 1 else None, "Missing leads", missing, outcome)
        arranged = self._cut_void_ends(torch.from_numpy(arranged), present, name)
        return arranged.to(signal.device), present, rate, name

    @staticmethod
    def _cut_void_ends(signal: torch.Tensor, present: np.ndarray, name: str) -> torch.Tensor:
        """Leave out the beginning and the end where all leads that are there hold NaN."""
        part = recorded_part(signal if present.all() else signal[torch.from_numpy(present)])
        if part.start == part.stop:
            raise ValueError(f"{name} holds nothing but NaN; leave it out.")
        return signal[:, part]

    def _check(
        self, signal: torch.Tensor, present: torch.Tensor, names: list[str], num_records: int, rate: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Bridge short gaps, refuse what cannot be an ECG in mV, warn of leads without signal.

        Returns the signal, and which leads carry signal.
        """
        single = names[0] if num_records == 1 else None
        low, high = signal.amin(-1), signal.amax(-1)
        incomplete = low.isnan()
        if bool(incomplete.any()):
            rows = bridge_gaps(signal[incomplete], max(1, int(LONGEST_BRIDGED_GAP * rate + 1e-6)))
            if self.recipe[0] == _BRIDGE_ALL:
                mostly_there = rows.isnan().float().mean(-1) <= LARGEST_BRIDGED_SHARE
                rows[mostly_there] = bridge_gaps(rows[mostly_there])
            if bool(rows.isinf().any()):
                row = int(signal.isinf().flatten(1).any(-1).nonzero()[0])
                raise ValueError(f"{names[row]} holds infinite samples; mark missing samples as NaN.")
            signal = signal.clone()
            signal[incomplete] = rows
            low, high = signal.amin(-1), signal.amax(-1)
            bridged = incomplete & ~low.isnan()
            if bool(bridged.any()):
                leads = [self.lead_names[lead] for lead in bridged.any(0).nonzero().flatten().tolist()]
                _warn(single, "Gaps (NaN)", leads, "They are bridged by straight lines.")
        span = high - low
        if bool(torch.isinf(low).any() or torch.isinf(high).any()):
            row = int((torch.isinf(low) | torch.isinf(high)).any(-1).nonzero()[0])
            raise ValueError(f"{names[row]} holds infinite samples; mark missing samples as NaN.")
        has_nan = span.isnan()
        if bool(has_nan.any()):
            leads = [self.lead_names[lead] for lead in has_nan.any(0).nonzero().flatten().tolist()]
            _warn(single, "NaN", leads, "They are filled as the recipe says, `lead_mask` is 0 for them.")
        usable = present & ~has_nan & (span > 0)
        flat = present & (span == 0)
        if bool(flat.any()):
            leads = [self.lead_names[lead] for lead in flat.any(0).nonzero().flatten().tolist()]
            _warn(single, "Flat leads", leads, "They are kept as they are, `lead_mask` is 0 for them.")
        median = torch.where(usable, span, torch.nan).nanmedian(-1).values
        wrong = (median > LARGEST_MEDIAN_SPAN) | (median < SMALLEST_MEDIAN_SPAN)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            value = float(median[row])
            guess = "'uV'" if value > LARGEST_MEDIAN_SPAN else "'V'"
            raise ValueError(
                f"The leads of {names[row]} span {value:g} mV from peak to peak (median over leads); an ECG spans "
                f"{SMALLEST_MEDIAN_SPAN:g}–{LARGEST_MEDIAN_SPAN:g} mV. If the values are in another unit, say so, "
                f"e.g. units={guess}; raw digital values must be divided by the gain first."
            )
        return signal, usable


_LOCATION_ARGUMENTS = ("cache_dir", "force_download", "proxies", "subfolder", "token", "local_files_only", "revision")
_CONSUMED_ARGUMENTS = (*_LOCATION_ARGUMENTS, "_from_pipeline", "_from_auto")


def _recipe_for(model_type: str, name: str, config: Any) -> dict[str, Any]:
    """Return the arguments of the extractor for a named recipe, fitted to a configuration if one is given."""
    found = copy.deepcopy(dict(RECIPES[name]))
    if config is not None and model_type in RECIPE_ADAPTERS:
        found["recipe"] = RECIPE_ADAPTERS[model_type](found["recipe"], config)
    return found


def _rate_after(recipe: list[dict]) -> float:
    fixing = [index for index, entry in enumerate(recipe) if entry["step"] in ("resample", "slice_stride")]
    rate = recipe[fixing[-1]]["sampling_rate"] if fixing else None
    if rate is None:
        raise ValueError(
            "A recipe needs a 'resample' step, so that the model sees one sampling rate whatever comes in."
        )
    for entry in recipe[fixing[-1] :]:
        if entry["step"] == "decimate":
            rate = rate / entry["factor"]
    return int(rate) if float(rate).is_integer() else rate


def _as_tensor(signal: Any, name: str) -> torch.Tensor:
    try:
        array = np.asarray(signal)
        if array.dtype == object or array.dtype.kind not in "fiu":
            raise ValueError(f"values of type {array.dtype}")
    except ValueError as error:
        raise ValueError(f"{name} is no array of numbers of shape (leads, samples): {error}.") from error
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    if not array.flags.writeable or not array.flags.c_contiguous or not array.dtype.isnative:
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(array)


def _shape_message(name: str, shape: tuple, names: tuple | None, model_leads: list[str]) -> str:
    expected = len(names) if names is not None else len(model_leads)
    message = f"{name} has shape {shape}; expected ({expected}, samples)"
    if len(shape) == 2 and shape[1] == expected:
        return message + ": it looks transposed, pass array.T."
    if names is None:
        return message + f", one row for each of {model_leads}. Name the rows with `lead_names=` if there are others."
    return message + f", one row for each of lead_names={list(names)}."


_TOLD: set[str] = set()


def _warn(name: str | None, what: str, leads: list[str], outcome: str) -> None:
    """Warn of leads: for a call with one recording in full, for batches once, or training would not end warning."""
    if name is not None:
        message = f"{what} in {name}: {leads}. {outcome}"
    elif what in _TOLD:
        return
    else:
        _TOLD.add(what)
        message = f"{what} in some recordings (told once). {outcome}"
    warnings.warn(message, ECGSignalWarning, stacklevel=_levels_to_caller())


def _levels_to_caller() -> int:
    """Return the `stacklevel` with which `_warn` points at the code that uses the package."""
    own = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], Path(torch.__file__).parent))
    frame, level = inspect.currentframe().f_back, 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(own):
        frame, level = frame.f_back, level + 1
    return level


def _pad_to(values: torch.Tensor, length: int) -> torch.Tensor:
    if values.shape[-1] == length:
        return values
    return torch.nn.functional.pad(values, (0, length - values.shape[-1]))
