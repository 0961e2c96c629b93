"""From a suite's YAML file to its parts."""
