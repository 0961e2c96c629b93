"""Training of the miniature: tokenizer, CLIP, autoencoder, judge and UNet, each a resumable stage."""
