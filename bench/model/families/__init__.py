"""Families of base models: what differs between them, a file each."""
