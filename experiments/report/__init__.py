"""Reports of sweeps: Markdown, plots and a page."""
