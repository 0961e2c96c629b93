"""Roles of parameters: their purposes, in words that hold for every family of base models."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Role"]


class Role(StrEnum):
    """A method asks for parameters by these, and never by their names. A parameter may have several."""

    DENOISER = "denoiser"
    """All of the network that predicts noise or v."""
    CROSS_ATTENTION = "cross-attention"
    """Layers of the denoiser in which pixels look at the text."""
    TEXT_KEYS_AND_VALUES = "text keys and values"
    """The matrices of cross-attention that are multiplied with text states."""
    TEXT_VALUES = "text values"
    """Of these, the matrices that give values: what a pixel takes from the text, not which word it looks at."""
    SELF_ATTENTION = "self-attention"
    """Layers of the denoiser in which pixels look at pixels."""
    FEED_FORWARD = "feed-forward"
    """Of the denoiser."""
    FEED_FORWARD_OUT = "feed-forward output matrix"
    """The second matrix of each feed-forward layer of the denoiser, without its bias."""
    CONVOLUTION = "convolution"
    """Of the denoiser."""
    NORM = "norm"
    """Of the denoiser."""
    TIME_EMBEDDING = "time embedding"
    """The embedding of the timestep that all blocks of the denoiser share."""
    OUTPUT = "output"
    """The denoiser's last norm and last convolution."""
    TEXT_ENCODER = "text encoder"
    """All of the network that reads prompts."""
    TEXT_SELF_ATTENTION = "text self-attention"
    """Of the text encoder."""
    TEXT_FEED_FORWARD = "text feed-forward"
    """Of the text encoder."""
