"""Computes one cell: each stage reads its parents from the store and writes its own folder."""
