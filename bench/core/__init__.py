"""Foundations of every other room; they know nothing of diffusion."""
