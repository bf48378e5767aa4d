"""Photos in files: kernel, noise, enlargement, refinement."""
