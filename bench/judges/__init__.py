"""Judges decide whether an image shows a concept: one judge per file."""
