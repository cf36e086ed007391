"""The safetensors file format: named arrays written atomically and read with suspicion; no pickle anywhere.

    bytes 0-7   n, the header's length, a little-endian 64-bit number
    n bytes     JSON {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}, padded with
                spaces to a multiple of 8; under "__metadata__", if there is any, a table of string to string
    the rest    the arrays, little-endian, in C order; the offsets count from here and leave no byte out

Other tools read these files, and this module reads theirs. The specification and its reference:
https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
import os
import reprlib
import secrets
import stat
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from tinynet.typing import Array, FilePath, Shape

# Larger items come first in the file, so that every array lies at a multiple of its item size. This is the
# reference's order, so the same arrays give the same bytes.
DTYPES = {
    "U64": np.dtype("<u8"), "I64": np.dtype("<i8"), "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"), "U32": np.dtype("<u4"), "I32": np.dtype("<i4"),
    "F16": np.dtype("<f2"), "U16": np.dtype("<u2"), "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
RANK = {code: rank for rank, code in enumerate(DTYPES)}

MAX_HEADER = 100_000_000            # bytes; the reference's limit
MAX_DIMENSIONS = 64                 # NumPy's limit

UNFINISHED = ".unfinished-"         # how the names of temporary files begin
FORGOTTEN = 3600                    # seconds without a change after which nobody can be writing to one any more

BRIEF = reprlib.Repr()              # what a hostile file says, fit to stand in a sentence, however much it is
BRIEF.maxstring = BRIEF.maxother = BRIEF.maxlong = 80
BRIEF.maxlevel = 3


class FormatError(ValueError):
    """A file that breaks the rules of its format."""


def save(state: Mapping[str, Array], path: FilePath, metadata: Mapping[str, str] | None = None) -> None:
    """Write `state`, a dict of name to ndarray, to `path` as safetensors.

    The file is replaced in one step: whatever goes wrong, `path` holds the old file or the new.
    `metadata` is a dict of str to str that travels in the header.
    Raises TypeError for values that aren't arrays, ValueError for names and dtypes that the format lacks, and
    OSError where the file can't be written.

    >>> import tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "weights.safetensors")
    >>> save({"w": np.ones((2, 3), np.float32)}, path, metadata={"by": "a doctest"})
    >>> load(path)["w"].shape, load_metadata(path)
    ((2, 3), {'by': 'a doctest'})
    """
    arrays = {_checked_name(name): _little_endian(name, array) for name, array in state.items()}
    names = sorted(arrays, key=lambda name: (RANK[CODES[arrays[name].dtype]], name))

    header, start = {}, 0
    if metadata:
        header["__metadata__"] = _checked_metadata(metadata)
    for name in names:
        array = arrays[name]
        offsets = [start, start + array.nbytes]
        header[name] = {"dtype": CODES[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        start = offsets[1]

    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > MAX_HEADER:
        raise ValueError(f"save: the header takes {len(encoded):,} bytes, more than the {MAX_HEADER:,} that "
                         "readers accept; give fewer or shorter names, or less metadata")
    chunks = (arrays[name].reshape(-1).view(np.uint8) for name in names)
    write_atomically(path, [struct.pack("<Q", len(encoded)), encoded, *chunks])


def load(path: FilePath) -> dict[str, Array]:
    """Read a safetensors file: a dict of name to ndarray, each array fresh, writable and of its own memory.

    Raises ValueError, naming the file and the reason, for a file that breaks the format in any way, before
    memory for its arrays is taken; FileNotFoundError where there is none. Time and memory are in proportion to
    the file's size, whatever it claims: an array takes its bytes, and each byte of the header at most 30.
    """
    with _open(path) as file:
        entries, _ = _read_header(file, path)
        return {name: _read_array(file, path, name, entry) for name, entry in entries.items()}


def load_metadata(path: FilePath) -> dict[str, str]:
    """Read the metadata of a safetensors file, a dict of str to str, and no array; errors as `load`."""
    with _open(path) as file:
        _, metadata = _read_header(file, path)
        return metadata


def write_atomically(path: FilePath, chunks: Iterable[Any]) -> None:
    """Write the bytes-like `chunks` to `path`, which at any moment holds all of the old or all of the new.

    They go to a temporary file in the same folder, which is forced to the disk, then renamed over `path`.
    Raises OSError, naming the file and the reason; the temporary file is removed, the old file as it was.
    Only a process that is killed outright leaves its temporary file behind: an hour later the next write into
    this folder removes it.
    """
    target = os.path.realpath(path)         # through a symbolic link, so that the link stays one
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f"{UNFINISHED}{secrets.token_hex(8)}")
    try:
        _remove_forgotten(folder)
        try:
            with open(temporary, "xb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:               # Ctrl-C too
            if os.path.lexists(temporary):
                os.remove(temporary)
            raise
        _sync_folder(folder)
    except OSError as error:
        raise OSError(f"cannot write {os.fspath(path)}: {error.strerror or error}; give a file in a folder "
                      "that exists, can be written and has room") from error


def _remove_forgotten(folder):
    """Remove the temporary files of processes that were killed; not those of others that are writing now."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(UNFINISHED):
                with suppress(OSError):         # another process was faster, or it isn't ours to remove
                    if entry.is_file(follow_symlinks=False) and time.time() - entry.stat().st_mtime > FORGOTTEN:
                        os.remove(entry.path)


def _sync_folder(folder):
    """Force a folder's entries to the disk: until then a rename may be lost with the power."""
    if os.name == "nt":                     # Windows can't open folders, and needs no such step
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):             # some network file systems refuse; the rename is done anyway
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


# What is written

def _checked_name(name):
    if not isinstance(name, str):
        raise TypeError(f"save: state has the key {name!r}, a {type(name).__name__}; give names as str")
    if name == "__metadata__":
        raise ValueError("save: state has the name '__metadata__', which the format keeps for itself; "
                         "rename the array, or pass metadata=")
    return _checked_text(name)


def _checked_metadata(metadata):
    for key, value in metadata.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"save: metadata has {key!r}: {value!r}; keys and values must be str, "
                            "which json.dumps makes of most things")
        _checked_text(key + value)
    return dict(metadata)


def _checked_text(text):
    if not _is_unicode(text):
        raise ValueError(f"save: {text!r} isn't valid Unicode; remove the lone surrogate in it")
    return text


def _is_unicode(text):
    """Whether UTF-8 holds the text: Python's strings and JSON's escapes allow halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _little_endian(name, array):
    if not isinstance(array, np.ndarray | np.generic):
        raise TypeError(f"save: {name!r} is a {type(array).__name__}; give an ndarray (a Tensor's .data)")
    dtype = array.dtype.newbyteorder("<")
    if dtype not in CODES:
        raise ValueError(f"save: {name!r} has the dtype {array.dtype}, which this module doesn't write; "
                         f"convert it to one of {', '.join(d.name for d in CODES)}")
    return np.asarray(array, dtype=dtype, order="C")


# What is read: nothing in a file is believed before it's checked

class _Entry(NamedTuple):
    code: str
    shape: Shape
    start: int              # from the file's beginning
    stop: int


def _open(path: FilePath) -> BinaryIO:
    """The file, opened for reading; a folder, a pipe or a device is refused."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"load: there is no file {os.fspath(path)}") from None
    if not stat.S_ISREG(mode):
        raise ValueError(f"load: {os.fspath(path)} is no regular file; give the path of a safetensors file")
    return open(path, "rb")


def _refuse(path: FilePath, reason: str) -> NoReturn:
    raise FormatError(f"load: {os.fspath(path)} is not a sound safetensors file: {reason}")


def _read_header(file, path):
    """The arrays' entries in the order of their bytes, and the metadata; every rule of the format checked."""
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        _refuse(path, f"it has {size} bytes, and the header's length alone takes 8")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER:
        _refuse(path, f"its header claims {length:,} bytes, more than the {MAX_HEADER:,} allowed")
    if length > size - 8:
        _refuse(path, f"its header claims {length:,} bytes, but {size - 8:,} follow; it may be cut short")

    header = _parse(file.read(length), path)
    metadata = header.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        _refuse(path, "its __metadata__ is not a table of string to string")
    for text in (*header, *metadata, *metadata.values()):
        if not _is_unicode(text):
            _refuse(path, f"its header has {_short(text)}, half of a surrogate pair, which is no character")

    first = 8 + length
    entries = {name: _entry(name, raw, first, path) for name, raw in header.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    end = first
    for name, entry in entries.items():
        if entry.start != end:
            fault = "a hole before" if entry.start > end else "an overlap at"
            _refuse(path, f"there is {fault} {_short(name)}, "
                          f"whose bytes start at {entry.start:,} and not at {end:,}")
        end = entry.stop
    if end != size:
        fault = "it may be cut short" if end > size else "something follows the arrays"
        _refuse(path, f"its arrays end at byte {end:,}, but it has {size:,}; {fault}")
    return entries, metadata


def _parse(encoded, path):
    """The header as a dict; Python's parser alone would keep the last of two equal keys without a word."""
    def table(pairs):
        found = {}
        for key, value in pairs:
            if key in found:
                _refuse(path, f"its header has the key {_short(key)} twice")
            found[key] = value
        return found

    def whole(digits):
        if digits[0] == "-":            # -0 too, which int would make a harmless 0 of
            _refuse(path, f"its header has the number {_short(digits)}, and it knows none below 0")
        return int(digits)

    if encoded[:1] != b"{":
        _refuse(path, "its header does not begin with '{'")
    try:
        return json.loads(encoded.decode("utf-8"), object_pairs_hook=table, parse_int=whole)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        _refuse(path, f"its header is not JSON that can be read ({error})")


def _entry(name, raw, first, path):
    """One array's entry, checked by itself: its dtype, its shape, and offsets that fit both."""
    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"{_short(name)} is not described by exactly dtype, shape and data_offsets")
    code, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        _refuse(path, f"{_short(name)} has the dtype {_short(code)}; this module reads {', '.join(DTYPES)}")
    if not _is_counts(shape) or len(shape) > MAX_DIMENSIONS:
        _refuse(path, f"{_short(name)} has the shape {_short(shape)}; it must be a list of at most "
                      f"{MAX_DIMENSIONS} whole numbers from 0 on")
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(path, f"{_short(name)} has the data_offsets {_short(offsets)}; "
                      "they must be [start, stop] from 0 on")

    itemsize = DTYPES[code].itemsize
    # An array without elements takes no bytes, but NumPy still wants its other sizes to make a sane product.
    if itemsize * math.prod(size or 1 for size in shape) >= 2**63:
        _refuse(path, f"{_short(name)} has the shape {_short(shape)}, too large for any machine")
    needed, taken = itemsize * math.prod(shape), offsets[1] - offsets[0]
    if needed != taken:
        _refuse(path, f"{_short(name)} of dtype {code} and shape {_short(shape)} needs {needed:,} bytes, "
                      f"but its data_offsets span {taken:,}")
    return _Entry(code, tuple(shape), first + offsets[0], first + offsets[1])


def _is_counts(value):
    """A JSON list of whole numbers from 0 to 2**63 (True and 1.0 are none)."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _short(value):
    text = BRIEF.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _read_array(file, path, name, entry):
    """One array; the header's checks have already tied its size to the file's."""
    dtype = DTYPES[entry.code]
    try:
        array = np.empty(entry.shape, dtype)
    except MemoryError:
        raise MemoryError(f"load: {_short(name)} in {os.fspath(path)} takes {entry.stop - entry.start:,} bytes, "
                          "more than this machine has free") from None
    file.seek(entry.start)
    if file.readinto(array.reshape(-1).view(np.uint8)) != array.nbytes:
        _refuse(path, f"it ended inside {_short(name)} while it was read")
    if entry.code == "BOOL" and array.size and array.view(np.uint8).max() > 1:
        _refuse(path, f"{_short(name)} is BOOL, but has bytes other than 0 and 1")
    return array.astype(dtype.newbyteorder("="), copy=False)
