"""The paper's three claims and its toy study, measured: ``tvc-bench paper`` (arXiv 2404.03631)."""
