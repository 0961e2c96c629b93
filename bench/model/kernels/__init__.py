"""How a GPU computes a denoiser: which attention, in which layout, with which norms. The values differ by rounding."""
