"""A pipeline folder as it lies on the disk: read and checked without loading a network."""
