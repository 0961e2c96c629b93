"""Building blocks for the file of a method or an attack."""
