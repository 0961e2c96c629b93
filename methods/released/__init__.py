"""Checkpoints as their authors released them: read, recognised and mapped to the base."""
