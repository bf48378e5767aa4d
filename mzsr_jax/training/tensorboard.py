"""TensorBoard events. Each is written at once and whole; where the disk refuses, the run goes on without."""

import os
import pathlib
import socket
import struct
import time

import numpy as np
from absl import logging
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.crc32c import crc32c
from tensorboardX.proto import event_pb2


class Writer:
  """A file of events in a folder.

  tensorboardX's own writer hands events to a thread, which dies of a full disk and then blocks whoever writes on.
  """

  def __init__(self, folder: pathlib.Path, first_step: int, write: bool = True):
    """Args: where the file goes; step from which on older events are void; whether to write, or only to take calls."""
    self._file = None
    if write:
      try:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb", buffering=0)
      except OSError as e:
        logging.warning("No TensorBoard logs: '%s' cannot be written (%s)", folder, e.strerror)
    self._refused = False
    self._write(file_version="brain.Event:2")
    self._write(session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START), step=first_step)

  def scalar(self, tag: str, value: float, step: int) -> None:
    """Writes a number."""
    self._write(summary=summary.scalar(tag, value), step=step)

  def image(self, tag: str, image: UInt8[np.ndarray, "h w 3"], step: int) -> None:
    """Writes a picture."""
    self._write(summary=summary.image(tag, image, dataformats="HWC"), step=step)

  def close(self) -> None:
    """Ends the file."""
    if self._file:
      self._file.close()

  def _write(self, **fields) -> None:
    if not self._file:
      return
    data = event_pb2.Event(wall_time=time.time(), **fields).SerializeToString()
    length = struct.pack("<Q", len(data))
    record = length + _checksum(length) + data + _checksum(data)
    before = self._file.tell()
    try:
      if self._file.write(record) < len(record):
        raise OSError(0, "not all of it was taken")
      self._refused = False
    except OSError as e:
      self._file.seek(before)
      self._file.truncate()  # a part of an event would hide all after it
      if not self._refused:
        logging.warning("TensorBoard events are being lost: '%s' cannot be written (%s)", self._file.name, e.strerror)
      self._refused = True


def _checksum(data: bytes) -> bytes:
  """As the format of TensorFlow's record files has it."""
  crc = crc32c(data)
  return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
