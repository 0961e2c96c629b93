"""Task Vectors with Diverse Inversion (arXiv 2404.03631)."""
