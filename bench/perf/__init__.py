"""Measures speed: `tvc-bench perf`. What is measured, and how to read it: docs/performance.md."""
