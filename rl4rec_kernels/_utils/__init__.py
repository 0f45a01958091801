"""What every layer uses: checks of arguments, lazy imports, progress bars, files."""
