"""Concept-erasure methods: one paper, one file."""
