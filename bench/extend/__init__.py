"""A run on top of a published report: only what the report lacks is computed."""
