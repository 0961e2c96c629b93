"""Numbers from rows: no torch, no model."""
