"""What the card of a Hybrid ECG pretraining tells of its losses and shows of its reconstructions."""

from __future__ import annotations

from typing import Any

_ABOUT = (
    "The model follows the published outline of Hybrid ECG, named CREMA in its third version (arXiv 2407.07110): "
    "masked reconstruction with a contrastive regularisation. What we know of it are the abstracts, which "
    "give no numbers; sizes, weights of the losses, masking, views and everything else below are ours."
)
_NOT_IN_THE_ABSTRACT = (
    "Multi-scale masking and the alignment of views at R peaks are known from a summary of the paper, not from its "
    "abstract."
)


def describe_objective(objective: dict[str, Any]) -> str:
    """Return Markdown on the losses of a run.

    Args:
        objective (`dict`): `run["model"]["objective"]` of `run.json`.
    """
    layout = "all leads" if objective["patch_layout"] == "all_leads" else "one lead"
    lines = [_ABOUT, "", f"A token holds {objective['patch_size']} samples of {layout}.", ""]
    weights = [objective[f"{name}_loss_weight"] for name in ("reconstruction", "contrastive")]
    lines.append(_reconstruction(objective) if weights[0] else "- No reconstruction (weight 0): this is plain SimCLR.")
    lines.append(
        _contrast(objective)
        if weights[1]
        else "- No contrast (weight 0): this is a plain masked autoencoder, whose views were not computed."
    )
    if weights[1]:
        lines += [
            "",
            "Alignment is the mean squared distance of the two views of a record, from 0 (the same) to 4; uniformity "
            "the logarithm of the mean over pairs of records of exp(-2 d²), from about -4 (well spread) to 0 (all "
            "the same): arXiv 2005.10242.",
        ]
    if objective.get("mask_strategy") == "multi_scale" or objective.get("align") == "r_peak":
        lines += ["", _NOT_IN_THE_ABSTRACT]
    return "\n".join(lines)


def _reconstruction(objective: dict[str, Any]) -> str:
    longest = objective.get("mask_span_length")
    strategy = {
        "random": "single tokens at random",
        "span": f"spans of {longest} tokens",
        "multi_scale": f"spans of {objective.get('mask_short_span_length')} and of {longest} tokens, mixed",
        "lead": "whole leads",
    }[objective["mask_strategy"]]
    target = ", each patch normalised by its own mean and variance" if objective["normalize_targets"] else ""
    hidden = 100 * objective["mask_ratio"]
    return (
        f"- Reconstruction, weight {objective['reconstruction_loss_weight']:g}: {hidden:g} % of the tokens hidden "
        f"({strategy}); mean squared error over the hidden ones{target}."
    )


def _contrast(objective: dict[str, Any]) -> str:
    names = objective["view_augmentations"]["augmentations"]
    disturbed = f"disturbed by {', '.join(name.replace('_', ' ') for name in names)}" if names else "undisturbed"
    start = "at an R peak where one is found" if objective["align"] == "r_peak" else "anywhere"
    return (
        f"- Contrast, weight {objective['contrastive_loss_weight']:g}: NT-Xent at temperature "
        f"{objective['temperature']:g} between two views of each record, {objective['view_seconds']:g} s that start "
        f"{start}, {disturbed}; compared in {objective['projection_size']} dimensions."
    )


def show_picture(pictures: list[str]) -> str | None:
    """Return Markdown of the last picture of a run, if there is one."""
    if not pictures:
        return None
    return (
        f"![A record, what was hidden of it, and what the model made of that]({pictures[-1]})\n\nBlack is what the "
        "model saw, red what it made of the hidden rest, blue how that was. The picture shows a record of the corpus: "
        "whether it may be published is for the terms of the corpus to say."
    )
