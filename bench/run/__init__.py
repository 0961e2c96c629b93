"""Plans cells, computes them and keeps them."""
