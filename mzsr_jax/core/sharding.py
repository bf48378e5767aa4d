"""Values that devices have in common, inside `jax.shard_map`."""

import jax
from jaxtyping import PyTree


def vary(tree: PyTree, axes) -> PyTree:
  """Inside jax.shard_map: values equal along axes, as if they were not, so that their gradient is summed over them."""
  return jax.tree.map(lambda x: jax.lax.pcast(x, axes, to="varying"), tree)
