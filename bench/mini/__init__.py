"""The miniature: a small, real text-to-image diffusion model of a drawn world."""
