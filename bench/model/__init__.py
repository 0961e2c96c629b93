"""A text-to-image model as a value, and how it is loaded and sampled."""
