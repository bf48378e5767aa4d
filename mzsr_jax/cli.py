"""What the command-line entries share: wrong input ends in one line and exit code 2, never in a traceback."""

import logging
import math
import os
import pathlib
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging

import mzsr_jax
from mzsr_jax import devices, files, weights
from mzsr_jax.core import kernels
from mzsr_jax.errors import UserError
from mzsr_jax.photo import kernel_files

AUTO = "auto"  # of a flag whose value is then estimated from each photo
# Python, JAX and compiled programs.
_PROCESS_BYTES = 700 * 2**20
_CACHE_BYTES = 2**30  # of compiled programs, at the start of a command

_HELP = {"--help", "-help", "-h", "-?", "--helpshort"}
_CONFIG = re.compile(r"(?<![^=])configs/(?P<name>\w+\.py)(?=:|$)")  # of an argument, after "=" or alone

# Flags defined by the functions below belong to the entry that calls them, so that its --help lists them.
flags.disclaim_key_flags()


def run(main: Callable[[list[str]], None], arguments: int = 0, first: Sequence[str] = ()) -> None:
  """Runs an entry: `if __name__ == "__main__": cli.run(main)`. Parses the flags first and does not return.

  `main` gets the program's name and up to `arguments` words of the command line that are no flags. --help lists the flags
  `first` before all others.

  Exit codes: 0; 2 with one line on stderr for what the user got wrong (a flag, a config, a `UserError`) or the system
  refuses; 130 when interrupted by Ctrl-C, and 143 by SIGTERM. Any other exception is a bug and keeps its traceback.
  """
  # JAX tells, at this level, about each kind of accelerator that it did not find.
  logging.getLogger("jax").setLevel(logging.WARNING)
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):  # a name that the stream cannot print must not end the work on the others
      stream.reconfigure(errors="backslashreplace")
  app.run(lambda argv: _guarded(main, argv), flags_parser=lambda argv: _parse(argv, arguments, first))


def _guarded(main: Callable[[list[str]], None], argv: list[str]) -> None:
  try:
    main(argv)
  except (UserError, OSError) as e:  # the system's own errors name the file: no permission, no space, too long a name
    _fail(e)
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)


def report(error: Exception | str) -> None:
  """Prints an error as one line on stderr."""
  print("error:", " ".join(str(error).split()), file=sys.stderr)


def fault(error: Exception, where: str) -> str:
  """A line about an exception that no input should raise; its trace is logged under --verbosity=1."""
  absl_logging.debug("%s", "".join(traceback.format_exception(error)))
  return f"{where}: a fault of the program, not of the input ({type(error).__name__}: {error}); --verbosity=1 shows its trace"


def _fail(error: Exception | str) -> NoReturn:
  report(error)
  sys.exit(2)


def _parse(argv: list[str], arguments: int, first: Sequence[str]) -> list[str]:
  """Parses the flags, and any config file that they name, in absl's stead."""
  if argv[1:] == ["--version"]:
    print(mzsr_jax.__version__)
    sys.exit()
  if not _HELP.isdisjoint(argv[1:]):
    print(help_text(first))
    sys.exit()
  try:
    rest = flags.FLAGS([_CONFIG.sub(_shipped, arg) for arg in argv])
    for name in flags.FLAGS:
      getattr(flags.FLAGS[name].value, "keys", None)  # a config file that is missing says so at the first access only
  except (flags.Error, OSError) as e:
    user_error = _user_error_behind(e)
    if user_error is None and "Error whilst parsing config file" in str(e):
      raise  # a bug in the config file, which the message holds the traceback of
    if user_error is None and (missing := re.search(r"config file (?s:.*)No such file or directory: '(.*)'", str(e))):
      shipped = ", ".join(sorted(path.stem for path in _configs().glob("*.py")))
      _fail(f"config '{missing[1]}' does not exist: name a file, or configs/NAME.py with one of the names {shipped}")
    _fail(user_error or re.sub(r"^flag --(\w+)=None: .*", r"flag --\1 is missing: pass --\1=value", str(e)))
  except (AttributeError, KeyError, TypeError, ValueError, IndexError) as e:
    # This is how ml_collections says that a config has no such field.
    overrides = [arg for arg in argv[1:] if re.match(r"--?\w+\.\w", arg)]
    if not overrides:
      raise
    _fail(f"{' '.join(overrides)}: the config has no such field: {(e.__context__ or e).args[0]}")
  if len(rest) > 1 + arguments:
    _fail(f"unexpected argument '{rest[1 + arguments]}': options are flags, as in --name=value (--help lists them)")
  return rest


def help_text(first: Sequence[str] = ()) -> str:
  """What the entry is for, and its flags: those that people need before all others."""
  own = {flag.name: flag for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])}
  groups = {"flags": list(first) or sorted(own), "more": sorted(own.keys() - set(first)) if first else []}
  lines = [sys.modules["__main__"].__doc__ or ""]
  for title, names in groups.items():
    if names:
      lines += [f"{title}:", *(_flag_help(own[name]) for name in names), ""]
  return "\n".join([*lines, "--helpfull lists the flags of the libraries too, --version prints the version."])


def _flag_help(flag: flags.Flag) -> str:
  short = f"-{flag.short_name}, " if flag.short_name else ""
  text = f"{short}--{'[no]' * flag.boolean}{flag.name}: {flag.help}"
  if flag.default not in (None, "", []) and "(default: " not in text:
    text += f" (default: {flag.default_as_str})"
  return flags.text_wrap(text, indent=" " * 6, firstline_indent="  ")


def _configs() -> pathlib.Path:
  """Where the configs of this package are: in it, once it is installed, or beside it in a checkout."""
  package = pathlib.Path(__file__).resolve().parent
  return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def _shipped(named: re.Match) -> str:
  """The path of a config where there is such a file, or else of ours of that name."""
  ours = _configs() / named["name"]
  return str(ours) if ours.is_file() and not pathlib.Path(named[0]).is_file() else named[0]


def _user_error_behind(error: BaseException | None) -> UserError | None:
  """The `UserError` that a config file raised and that flag parsing wrapped, if that is what happened."""
  while error is not None:
    # ml_collections rebuilds the exception around a formatted traceback: the original has no context of its own.
    if isinstance(error, UserError) and error.__context__ is None:
      return error
    error = error.__context__
  return None


class _NumberListParser(flags.ListParser):
  """Comma-separated numbers."""

  def __init__(self, number: type, minimum: float):
    super().__init__()
    self._number = number
    self._minimum = minimum

  def parse(self, argument):
    try:
      values = argument if isinstance(argument, list) else [self._number(item) for item in super().parse(argument)]
    except ValueError as e:
      raise ValueError(f"not a list of numbers such as 1,10: {e}") from e
    if not values:
      raise ValueError("name at least one number")
    if any(not self._minimum <= value < float("inf") for value in values):
      raise ValueError(f"every value must be a finite number, {self._minimum} or more")
    return values


def define_numbers(name: str, default: list | None, help_text: str, *, number: type, minimum: float) -> None:
  """Defines a flag of comma-separated ints or floats."""
  flags.DEFINE(_NumberListParser(number, minimum), name, default, help_text, serializer=flags.ListSerializer(","))


class NoiseLevelParser(flags.ArgumentParser):
  """A standard deviation of noise, of 255, or "auto"."""

  syntactic_help = f"{AUTO} or a number from 0 to 100"

  def parse(self, argument):
    try:
      level = AUTO if argument == AUTO else float(argument)
    except ValueError:
      level = math.nan
    if level != AUTO and not 0 <= level <= 100:
      raise ValueError(f"it must be {self.syntactic_help}")
    return level


def define_adaptation_flags() -> None:
  """Defines the flags of every entry that runs the meta-test."""
  flags.DEFINE_string(
      "weights", weights.DEFAULT,
      "shipped weights by name, or the path of a .safetensors file; 'spectral:' before either adapts them by spectral steps",
  )  # fmt: skip
  flags.DEFINE_enum(
      "subsample", None, kernels.SUBSAMPLINGS,
      "how the LR image was subsampled after the blur (default: as the named kernel goes; direct for a file or gaussian:)",
  )
  flags.DEFINE_enum(
      "kernel_shift", "ignore", kernel_files.SHIFTS,
      "of a kernel whose centre is not its middle pixel, which moves the image: ignore leaves the result moved; centre_of_mass "
      "measures by how much, and has the network see, and return, the image in its place (plain bicubic stays as it is)",
  )
  flags.DEFINE_bool(
      "flip_kernel", False, "turn the kernel of a file by 180 degrees: the image is correlated with it, and some tools "
      "(USRNet, scipy.ndimage.convolve, MATLAB's conv2) convolve",
  )
  define_numbers(
      "inner_lr", None, "learning rate of the adaptation, by the kind of steps that the weights are for: one for all, or a "
      "comma-separated list, the last of which holds for all further steps (default: as the weights say)",
      number=float, minimum=0,
  )
  flags.DEFINE_enum(
      "precision", "float32", ("float32", "bfloat16"), "of the network's inner layers; bfloat16 is faster on GPUs and on CPUs "
      "that have it (others compute float32), and costs next to nothing in PSNR"
  )
  flags.DEFINE_bool("overwrite", False, "replace output files that exist")
  define_memory_flag()
  define_cache_flag()


def define_memory_flag() -> None:
  """Defines the flag that `memory_limit` reads."""
  flags.DEFINE_float(
      "memory_limit", None, "GiB that the program may use on a CPU, or on all accelerators together; large images are worked "
      "on in smaller tiles (default: 4 on a CPU, half of an accelerator's memory)", lower_bound=0,
  )


def define_cache_flag() -> None:
  """Defines the flag of every entry that compiles programs."""
  flags.DEFINE_string(
      "compilation_cache", _cache_folder(), "folder where compiled programs are kept, so that the next run of the same "
      "sizes starts at once; empty for none. The default one is kept below 1 GiB",
  )


def _cache_folder() -> str:
  """JAX's own variable, or a folder in the user's cache; empty where the user has no home."""
  if folder := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    return folder
  try:
    return str(pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "mzsr_jax")
  except RuntimeError:
    return ""


def start_jax() -> None:
  """What must be set before JAX is first used: all cores of a CPU, and the cache of compiled programs."""
  devices.use_all_cores()
  use_compilation_cache()


def use_compilation_cache() -> None:
  """Has compiled programs kept where --compilation_cache says."""
  folder = flags.FLAGS.compilation_cache
  if folder == _cache_folder() != os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # in any other, there may be what is not ours
    files.shrink(folder, "*-cache", _CACHE_BYTES)  # JAX's own limit takes one more package, and fails on what it did not write
  jax.config.update("jax_enable_compilation_cache", bool(folder))
  # Programs that call oneDNN cannot be kept: each run compiles them.
  warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")
  if folder:
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def memory_limit(lr_pixels: int, scale: float, pictures: int = 1) -> float | None:
  """--memory_limit as `TiledAdapter` takes it, in bytes for tiles; None leaves the choice to it.

  Args:
    lr_pixels: of the largest LR image.
    scale: scale factor.
    pictures: of SR size that are held at a time.

  Raises:
    UserError: no number above 0, or the images alone need more.
  """
  limit = flags.FLAGS.memory_limit
  if limit is not None and not 0 < limit < math.inf:
    raise UserError(f"--memory_limit={limit:g}: it must be a number of GiB above 0")
  if jax.default_backend() != "cpu":
    return None if limit is None else limit * 2**30
  # LR image in 8 bits and float32, its son; SR image in 8 bits, in the encoder and as a PNG file.
  besides = _PROCESS_BYTES + lr_pixels * (27 + (6 + 3 * pictures) * scale**2)
  if limit is None:
    return max(4 * 2**30 - besides, 2**30)
  if limit * 2**30 <= besides:
    raise UserError(f"--memory_limit={limit:g} is too low: an image of {lr_pixels / 1e6:.1f} megapixels takes more than "
                    f"{besides / 2**30:.1f} GiB besides the network's memory")
  return limit * 2**30 - besides


def load_weights() -> weights.Weights:
  """The weights that --weights names; their rates are those of --inner_lr, where it is given.

  Raises:
    UserError: --weights names none that can be read.
  """
  args = flags.FLAGS
  loaded = weights.load_checked(args.weights)
  return loaded._replace(rates=list(args.inner_lr)) if args.inner_lr else loaded
