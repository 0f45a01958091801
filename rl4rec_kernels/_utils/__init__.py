"""Helpers for every layer: argument checks, lazy imports, progress bars, files."""
