"""Checkpoints of the field made into safetensors with the names of diffusers."""
