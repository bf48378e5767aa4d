"""Meta-training: config, data, step and loop."""
