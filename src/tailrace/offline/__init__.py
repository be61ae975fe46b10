"""Work off the hot path: sources, materialisation."""
