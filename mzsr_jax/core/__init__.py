"""Pure functions of arrays: network, inner loop, degradation, kernels, tasks."""
