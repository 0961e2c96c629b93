"""Metrics say what an edit cost the rest of the model: one metric per file."""
