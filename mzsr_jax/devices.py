"""Settings that JAX needs before it starts: CPU cores as devices, several processes as one program."""

import functools
import os
import pathlib

import jax
import jax.numpy as jnp
from absl import flags, logging

from mzsr_jax.errors import UserError

flags.disclaim_key_flags()

# Of XLA's CPU backend. The order of computations that needs the least memory: 8% less for a meta-step in the same time.
_LEAST_MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
# oneDNN computes convolutions of bfloat16 as such. Those of float32 it computes faster than YNNPACK on CPUs with AVX-512, and
# more slowly on others. Its programs cannot be kept from one process to the next.
ONEDNN = {
    "xla_cpu_experimental_onednn_custom_call": True,
    "xla_cpu_use_xnnpack": False,
    "xla_cpu_experimental_ynn_fusion_type": "",
}
_FLOAT32_INSTRUCTIONS = {"avx512f"}
_BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
_CPU_INFO = pathlib.Path("/proc/cpuinfo")


def use_all_cores(count: int = 0) -> None:
  """Makes each CPU core a JAX device, since XLA runs convolutions of small images on one thread each.

  To be called before JAX has any device. A number of CPU devices that the user has set otherwise (XLA_FLAGS,
  jax_num_cpu_devices) stands. GPUs and TPUs are as before: the CPU is then not the default.

  Args:
    count: devices; 0 takes the cores that this process may use.
  """
  if jax.config.jax_num_cpu_devices > 0 or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
    return
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  try:
    jax.config.update("jax_num_cpu_devices", count or cores)
  except RuntimeError:  # JAX has started
    logging.warning("JAX is running already: its number of CPU devices stays %d.", len(jax.devices("cpu")))


@functools.cache
def compiler_options(platform: str, precision: str, lasting: bool = False) -> dict[str, str | bool]:
  """What XLA is told of programs, as far as this version knows it.

  Args:
    platform: of the devices.
    precision: see `computed_precision`.
    lasting: whether a program runs for so long that it does not matter to compile it in each process.
  """
  if platform != "cpu":
    return {}
  both = _LEAST_MEMORY | ONEDNN
  gains = precision == "bfloat16" or (lasting and _cpu_has(_FLOAT32_INSTRUCTIONS))
  if gains and uses_onednn(both, precision):
    return both
  return {} if _program(_LEAST_MEMORY) is None else _LEAST_MEMORY


@functools.cache
def computed_precision(platform: str, precision: str) -> str:
  """The precision that is computed in: on a CPU that gains nothing by bfloat16, float32, of which a warning tells once."""
  if (platform, precision) != ("cpu", "bfloat16"):
    return precision
  if not _cpu_has(_BFLOAT16_INSTRUCTIONS):
    reason = f"this CPU has none of the instructions {', '.join(sorted(_BFLOAT16_INSTRUCTIONS))}"
  elif not uses_onednn(ONEDNN, precision):
    reason = f"jax {jax.__version__} makes no use of this CPU's instructions, as 0.12 does"
  else:
    return precision
  logging.warning("float32 is computed in the place of bfloat16: %s.", reason)
  return "float32"


def uses_onednn(options: dict[str, str | bool], precision: str) -> bool:
  """Whether this version of XLA has oneDNN compute convolutions of a precision under some options."""
  return "onednn$convolution" in (_program(options, precision) or "")


def _cpu_has(instructions: set[str]) -> bool:
  """Whether the CPU has one of some kinds of instructions."""
  return not instructions.isdisjoint(_CPU_INFO.read_text().split() if _CPU_INFO.exists() else [])


def _program(options: dict[str, str | bool], precision: str = "float32") -> str | None:
  """What XLA makes of a small convolution of a precision under some options; None where it does not know them."""
  convolve = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
  dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
  shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((1, 16, 16, 16), (3, 3, 16, 16))]
  try:
    return jax.jit(convolve, compiler_options=options).lower(*shapes).compile().as_text()
  except Exception:  # the error's type differs by version
    return None


def initialize_distributed(
    coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> bool:
  """Joins the processes of one program, where this is one of several.

  It is one of several when the arguments or JAX's own variables (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID)
  say so, or when Slurm, Open MPI or a TPU cluster has started it as such: then JAX finds the arguments itself.
  To be called before JAX has any device.

  Args:
    coordinator_address: host:port of the first process.
    num_processes: of the whole program.
    process_id: 0 for the first.

  Returns:
    Whether there are several processes.

  Raises:
    UserError: only some of the arguments are known, or the other processes cannot be reached.
  """
  env = os.environ
  coordinator_address = coordinator_address or env.get("JAX_COORDINATOR_ADDRESS")
  num_processes = _number(num_processes, "JAX_NUM_PROCESSES")
  process_id = _number(process_id, "JAX_PROCESS_ID")
  given = [x is not None for x in (coordinator_address, num_processes, process_id)]
  if not any(given) and not _in_cluster():
    return False
  if any(given) and not all(given) and not _in_cluster():
    raise UserError("several processes need all of --coordinator_address, --num_processes and --process_id")
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  try:
    jax.distributed.initialize(coordinator_address, num_processes, process_id)
  except (ValueError, RuntimeError) as e:
    raise UserError(f"the processes of this run cannot be joined: {e}") from e
  return jax.process_count() > 1


def _number(value: int | None, variable: str) -> int | None:
  """A number given, or else that of an environment variable, if there is one."""
  text = os.environ.get(variable)
  if value is not None or not text:
    return value
  if not text.isdigit():
    raise UserError(f"environment variable {variable} is '{text}': it must be a number")
  return int(text)


def _in_cluster() -> bool:
  """Whether a launcher that JAX knows has started several processes."""
  env = os.environ
  several = lambda *names: any(int(env.get(name) or 1) > 1 for name in names)
  # Not SLURM_NTASKS: in a batch script without srun, that is set, and there is one process all the same.
  slurm = "SLURM_JOB_ID" in env and several("SLURM_STEP_NUM_TASKS")
  open_mpi = several("OMPI_COMM_WORLD_SIZE")
  tpu = any("," in env.get(name, "") for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"))
  return slurm or open_mpi or tpu or "MEGASCALE_COORDINATOR_ADDRESS" in env


def define_flags() -> None:
  """Defines the flags of `start`."""
  flags.DEFINE_integer("cpu_devices", 0, "CPU devices to split the work over (default: one a core)", lower_bound=0)
  flags.DEFINE_string("coordinator_address", None, "host:port of the first of several processes")
  flags.DEFINE_integer("num_processes", None, "number of processes of this run", lower_bound=1)
  flags.DEFINE_integer("process_id", None, "number of this process, 0 being the first", lower_bound=0)


def start() -> None:
  """`use_all_cores` and `initialize_distributed`, as the flags say."""
  args = flags.FLAGS
  use_all_cores(args.cpu_devices)
  initialize_distributed(args.coordinator_address, args.num_processes, args.process_id)
