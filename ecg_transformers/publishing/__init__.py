"""Publishing: model cards rendered from what a run recorded."""

from .model_card import render_card, write_card

__all__ = ["render_card", "write_card"]
