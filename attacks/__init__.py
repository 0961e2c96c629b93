"""Attacks on edited models: one paper, one file."""
