"""The commands of ``tvc-bench``."""
