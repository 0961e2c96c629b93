"""From rows to tables, figures and a page: reads three frames and pictures, computes no images."""
