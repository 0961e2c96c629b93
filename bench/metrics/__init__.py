"""What an edit cost the rest of the model: one metric a file."""
