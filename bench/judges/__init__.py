"""What decides whether an image shows a concept: one judge a file."""
