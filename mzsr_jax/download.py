"""Downloads a training set from its official address.

  python -m mzsr_jax.download div2k --to=data

A download that was cut off goes on where it stopped when the command is run again. An image folder appears under `--to`
only when its archive has been fetched, verified and unpacked whole.
"""

import pathlib
import shutil
import zipfile
from typing import NamedTuple

import pooch
import requests
from absl import flags
from tqdm import tqdm

from mzsr_jax import cli
from mzsr_jax.errors import UserError

_CHUNK = 1 << 16  # bytes
_TIMEOUT = 30  # seconds without an answer


class Archive(NamedTuple):
  """A .zip file that holds one folder of images.

  Attributes:
    url: its address.
    sha256: its checksum, hexadecimal.
    folder: name of the folder in it.
  """

  url: str
  sha256: str
  folder: str


# Addresses and checksums: tensorflow_datasets, url_checksums/div2k.txt.
DATASETS = {
    "div2k": (
        Archive(
            "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip",
            "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
            "DIV2K_train_HR",
        ),
        Archive(
            "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_valid_HR.zip",
            "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
            "DIV2K_valid_HR",
        ),
    ),
}


def download(name: str, to: str | pathlib.Path, overwrite: bool = False) -> list[pathlib.Path]:
  """Fetches a dataset; a folder that is there already is left alone unless `overwrite`.

  Args:
    name: a key of `DATASETS`.
    to: folder that receives the image folders, made if need be.
    overwrite: fetch and replace folders that are there.

  Returns:
    The image folders, one for each archive of the dataset.

  Raises:
    UserError: unknown name, no connection, wrong checksum, damaged archive, or no permission or room to write.
  """
  if name not in DATASETS:
    raise UserError(f"unknown dataset '{name}': use one of {', '.join(DATASETS)}")
  targets = []
  for archive in DATASETS[name]:
    target = pathlib.Path(to) / archive.folder
    if target.exists() and not overwrite:
      print(f"'{target}' is already there and stays as it is (--overwrite replaces it)")
    else:
      try:
        _install(archive, target)
      except OSError as e:
        raise UserError(f"cannot write '{target}': {e.strerror or e}") from e
    targets.append(target)
  return targets


def _install(archive: Archive, target: pathlib.Path) -> None:
  """Makes `target` from an archive; all that is unfinished lives in one folder beside it."""
  work = target.with_name(f"{target.name}.download")
  zip_path, unpacked = work / "archive.zip", work / "unpacked"
  _fetch(archive, zip_path)
  shutil.rmtree(unpacked, ignore_errors=True)
  _unpack(zip_path, unpacked)
  if target.exists():
    target.rename(work / "replaced")
  (unpacked / archive.folder).rename(target)
  shutil.rmtree(work)


def _fetch(archive: Archive, path: pathlib.Path) -> None:
  """Downloads the archive to `path`, unless it is there; a file with a wrong checksum is deleted."""
  try:
    pooch.retrieve(archive.url, archive.sha256, path.name, path.parent, downloader=_resume)
  except requests.RequestException as e:
    reason = f"the server answered {e.response.status_code}" if e.response is not None else type(e).__name__
    raise UserError(f"cannot download {archive.url} ({reason}): run the command again to go on from there") from e
  except ValueError as e:
    raise UserError(f"{archive.url} does not have the SHA-256 {archive.sha256}: the download is deleted") from e


def _resume(url: str, output_file: str, _) -> None:
  """A downloader for pooch that keeps the bytes of an interrupted run and asks for the missing ones only."""
  part = pathlib.Path(output_file).with_name("part")  # pooch names output_file anew in each run
  have = part.stat().st_size if part.exists() else 0
  headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
  with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
    if response.status_code != requests.codes.requested_range_not_satisfiable:  # which says that nothing is missing
      response.raise_for_status()
      if response.status_code != requests.codes.partial_content:  # the server knows no ranges and sends all
        have = 0
      total = have + int(response.headers.get("Content-Length", 0))
      with (
          part.open("ab" if have else "wb") as file,
          tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=url.rsplit("/", 1)[-1]) as progress,
      ):
        for chunk in response.iter_content(_CHUNK):
          file.write(chunk)
          progress.update(len(chunk))
  part.replace(output_file)


def _unpack(path: pathlib.Path, to: pathlib.Path) -> None:
  """Unpacks a .zip file, unless it is damaged or one of its entries would be written outside `to`."""
  try:
    with zipfile.ZipFile(path) as archive:
      for name in archive.namelist():
        if not (to / name).resolve().is_relative_to(to.resolve()):
          raise UserError(f"'{path}' is not safe to unpack: its entry '{name}' leads out of the folder")
      archive.extractall(to)
  except zipfile.BadZipFile as e:
    raise UserError(f"'{path}' is damaged: {e}") from e


def main(argv: list[str]) -> None:
  if len(argv) < 2:
    raise UserError(f"name a dataset: {', '.join(DATASETS)}")
  folders = download(argv[1], flags.FLAGS.to, flags.FLAGS.overwrite)
  print(f"To train on it: --config.data.root={folders[0]}")


if __name__ == "__main__":
  flags.DEFINE_string("to", "data", "folder that receives the image folders")
  flags.DEFINE_bool("overwrite", False, "fetch anew, and replace image folders that are already there")
  cli.run(main, arguments=1)
