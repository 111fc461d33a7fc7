"""One training run: its parts, its folder, its record, what it shows."""
