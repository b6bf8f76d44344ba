"""What codebooks are worth before anything is trained on them: how apart, how used, how pure their clusters are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..corpora.sample_classes import (
    AAMI_CLASSES,
    UNKNOWN,
    WAVE_CLASSES,
    beat_classes,
    classes_at_rate,
    wave_classes,
)
from ..feature_extraction.ecg_leads import STANDARD_LEADS
from ..files import written_atomically
from .codebooks import Codebook, CodebookSet
from .shard_descriptors import INPUT_RATE, INPUT_SAMPLES, join_shards

# The silhouette compares each row with each other one.
_SCORED_ROWS = 4000


def effective_codes(counts: np.ndarray) -> float:
    """Return the perplexity of how often codes occur: as many codes, equally often, would be as varied."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def measure_clusters(codebook: Codebook, rows: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Score the clusters of a codebook on a sample of its rows, by scikit-learn's measures.

    Args:
        codebook (`Codebook`): the clusters.
        rows (`np.ndarray` of shape `(rows, values)`): of unit length, as the clusters were fitted.
        seed (`int`, *optional*, defaults to 0): which rows are scored where there are more than 4000.

    Returns:
        `dict` (JSON): `silhouette` (-1 to 1, higher is better), `davies_bouldin` (lower is better),
        `calinski_harabasz` (higher is better), null where fewer than two codes occur; `inertia` (mean squared distance
        of a row to its centre); `effective_codes` (perplexity) and `unused_codes` in the whole sample.
    """
    from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score

    codes = Codebook(codebook.centers).assign(torch.from_numpy(rows)).numpy()
    counts = np.bincount(codes, minlength=len(codebook))
    chosen = np.random.default_rng(seed).permutation(len(rows))[:_SCORED_ROWS]
    some, their = rows[chosen], codes[chosen]
    found = {
        "codes": len(codebook),
        "rows": len(rows),
        "inertia": codebook.inertia,
        "effective_codes": effective_codes(counts),
        "unused_codes": int((counts == 0).sum()),
    }
    if 2 <= len(np.unique(their)) < len(their):
        found["silhouette"] = float(silhouette_score(some, their))
        found["davies_bouldin"] = float(davies_bouldin_score(some, their))
        found["calinski_harabasz"] = float(calinski_harabasz_score(some, their))
    else:
        found |= dict.fromkeys(("silhouette", "davies_bouldin", "calinski_harabasz"))
    return found


def classes_of_corpus(dataset: Any) -> tuple[str, tuple[str, ...]] | None:
    """Return which column of a corpus marks waves or beats, and the classes it makes; `None` if there is none."""
    if "delineation" in dataset.column_names:
        return "delineation", WAVE_CLASSES
    return ("beats", AAMI_CLASSES) if "beats" in dataset.column_names else None


def shard_classes(row: Mapping[str, Any], column: str, sampling_rate: int = 100) -> np.ndarray:
    """Return the class in the middle of each shard of a record's first 5 s.

    A shard is about as long as a beat, so most shards hold all waves and the most frequent class says little; the
    middle is also where the token of a model looks.

    Args:
        row (mapping): of a corpus: `ecg`, and `delineation` or `beats`.
        column (`str`): which of the two.
        sampling_rate (`int`, *optional*, defaults to 100): Hz of the shards.

    Returns:
        `np.ndarray` of shape `(93,)`, int8: indices in `WAVE_CLASSES` or `AAMI_CLASSES`, -1 where nothing was marked,
        such as in leads that the record lacks.
    """
    record = row["ecg"]
    if column == "delineation":
        classes = wave_classes(row[column], record.lead_names, record.num_samples)
    else:
        classes = beat_classes(row[column], record.num_samples, record.sampling_rate)
        classes = np.broadcast_to(classes, (len(record.lead_names), len(classes)))
    classes = classes_at_rate(classes, record.sampling_rate, INPUT_RATE)[:, :INPUT_SAMPLES]
    placed = np.full((12, INPUT_SAMPLES), UNKNOWN, dtype=np.int8)
    for number, lead in enumerate(record.lead_names):
        if lead in STANDARD_LEADS:
            placed[STANDARD_LEADS.index(lead), : classes.shape[1]] = classes[number]
    shards = join_shards(torch.from_numpy(placed)[None], sampling_rate)[0].numpy()
    return shards[:, shards.shape[-1] // 2]


def measure_purity(codes: np.ndarray, classes: np.ndarray, names: Sequence[str], num_codes: int) -> dict[str, Any]:
    """Say how well codes tell marked classes apart.

    Args:
        codes (`np.ndarray` of shape `(shards,)`): of shards.
        classes (`np.ndarray` of shape `(shards,)`): their classes; -1 is left out.
        names (sequence of `str`): of the classes.
        num_codes (`int`): of the codebook.

    Returns:
        `dict` (JSON): `purity`, the share of shards whose class is the most frequent one of their code (a single
        cluster would have `most_frequent_class`), `normalized_mutual_information` (0 to 1), `table` (codes x classes,
        how often).
    """
    from sklearn.metrics import normalized_mutual_info_score

    known = classes >= 0
    codes, classes = codes[known], classes[known]
    table = np.zeros((num_codes, len(names)), dtype=np.int64)
    np.add.at(table, (codes, classes), 1)
    total = max(int(table.sum()), 1)
    return {
        "shards": int(table.sum()),
        "classes": list(names),
        "purity": float(table.max(axis=1).sum() / total),
        "most_frequent_class": float(table.sum(axis=0).max() / total),
        "normalized_mutual_information": float(normalized_mutual_info_score(classes, codes)) if len(codes) else None,
        "table": table.tolist(),
    }


def draw_codebooks(books: CodebookSet, rows: np.ndarray, purity: Mapping[str, Any] | None, path: Path) -> None:
    """Draw how often the codes occur and, where classes are known, what they stand for; a PNG.

    Args:
        books (`CodebookSet`): the codebooks.
        rows (`np.ndarray` of shape `(rows, values)`): a sample of scaled rows.
        purity (mapping, *optional*): what `measure_purity` returns for the first codebook.
        path (`Path`): of the picture.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.2 * (1 + (purity is not None))), layout="constrained")
    axes = figure.subplots(1 + (purity is not None), 1, squeeze=False)[:, 0]
    for book in books.codebooks:
        codes = Codebook(book.centers).assign(torch.from_numpy(rows)).numpy()
        counts = np.bincount(codes, minlength=len(book))
        shares = np.sort(counts)[::-1] / len(codes)
        label = f"{len(book)} codes, {effective_codes(counts):.0f} effective, {int((counts == 0).sum())} unused"
        axes[0].step(np.linspace(0, 1, len(shares)), shares * len(book), where="mid", label=label)
    axes[0].axhline(1, color="0.7", linewidth=0.8)
    axes[0].set(
        xlabel="codes, from the most to the least frequent (share of the codebook)",
        ylabel="frequency\n(1: as often as the others)",
        title="How often codes occur",
        yscale="log",
    )
    axes[0].legend(frameon=False, fontsize=8)
    if purity is not None:
        table = np.array(purity["table"], dtype=float)
        used = table.sum(axis=1) > 0
        shares = table[used] / table[used].sum(axis=1, keepdims=True)
        order = np.lexsort((-shares.max(axis=1), shares.argmax(axis=1)))
        bottom = np.zeros(len(order))
        colors = matplotlib.colormaps["tab10"]
        for number, name in enumerate(purity["classes"]):
            axes[1].bar(np.arange(len(order)), shares[order, number], 1.0, bottom, color=colors(number), label=name)
            bottom += shares[order, number]
        axes[1].set(
            xlim=(-0.5, len(order) - 0.5),
            ylim=(0, 1),
            xlabel=f"codes of the first codebook, {int(used.sum())} that occur, by their most frequent class",
            ylabel="share of marked shards",
            title=f"What codes stand for: purity {purity['purity']:.2f} "
            f"(one cluster: {purity['most_frequent_class']:.2f})",
        )
        axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[1].legend(ncols=len(purity["classes"]), fontsize=8, loc="lower left")
    with written_atomically(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)
