"""Does a miniature predict? The ranks of published results on Stable Diffusion beside ours."""
