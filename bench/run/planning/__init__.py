"""Lays out the cells of a suite: a planner per kind of cell, and what they share worked out once."""
