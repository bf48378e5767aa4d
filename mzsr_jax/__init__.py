"""Zero-shot super-resolution by meta-transfer learning (MZSR, Soh, Cho and Cho, CVPR 2020), in JAX.

    import mzsr_jax as mz

    weights = mz.load_weights("x2_direct")
    degradation = mz.load_degradation("g20d")
    adapted = mz.adapt(weights.params, lr, degradation, scale=2, inner_lrs=weights.inner_lrs(5))
    sr = mz.super_resolve(adapted, lr, scale=2)

Images are float32 RGB in [0, 1], (H, W, 3). `adapt` and `super_resolve` are pure and work under jax.jit, jax.vmap and
jax.grad. `TiledAdapter` does the same for images of any size, many sizes and several devices, from the host.
`mzsr_jax.core.maml` has the inner loop and the meta-loss for any network and loss. experiments/api.ipynb shows all of this at
work.
"""

from mzsr_jax.core.adapt import adapt, lr_son, super_resolve
from mzsr_jax.core.degradation import degrade, enlarge
from mzsr_jax.core.inner_rules import Spectral
from mzsr_jax.core.kernels import Degradation, gaussian
from mzsr_jax.core.model import MZSRNet
from mzsr_jax.errors import UserError
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo.kernel_files import load_degradation
from mzsr_jax.weights import Weights, save_weights
from mzsr_jax.weights import load as load_weights

__version__ = "0.1.0"

__all__ = [
    "Degradation",
    "MZSRNet",
    "Spectral",
    "TiledAdapter",
    "UserError",
    "Weights",
    "adapt",
    "degrade",
    "enlarge",
    "gaussian",
    "load_degradation",
    "load_weights",
    "lr_son",
    "save_weights",
    "super_resolve",
]
