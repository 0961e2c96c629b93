"""Reads files of prompts as people publish them: formats, layouts, columns, rows that are dropped and counted."""
