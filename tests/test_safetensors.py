"""The safetensors format: what is saved is loaded, nothing stays half-written, nothing unsound gets in."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors as reference
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinynet.safetensors
from tinynet.safetensors import DTYPES, load, load_metadata, save, write_atomically


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# Round trips

arrays = hnp.arrays(st.sampled_from(list(DTYPES.values())),
                    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3))


@given(state=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), arrays, max_size=5))
def test_what_is_saved_is_loaded(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("round") / "file.safetensors"
    state.pop("__metadata__", None)
    save(state, path)
    loaded = load(path)
    assert set(loaded) == set(state)
    assert all(same(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("array", [
    np.arange(12, dtype=np.float32).reshape(3, 4).T,
    np.arange(12, dtype=np.float32)[::-2],
    np.broadcast_to(np.float64(2), (3, 2)),
    np.arange(5, dtype=">i4"),
    np.float32(7),
], ids=["transposed", "reversed", "broadcast", "big-endian", "scalar"])
def test_layout_in_memory_does_not_matter(array, path):
    save({"a": array}, path)
    loaded = load(path)["a"]
    np.testing.assert_array_equal(loaded, array)
    assert loaded.shape == array.shape
    assert loaded.flags.c_contiguous and loaded.flags.writeable and loaded.dtype.isnative


def test_bytes_are_those_of_the_specification(path):
    save({"b": np.array([1, 2], np.uint8), "a": np.array([1.5], np.float32)}, path, metadata={"k": "ü"})
    header = ('{"__metadata__":{"k":"ü"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
              '"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}').encode()
    header += b" " * (-len(header) % 8)
    assert path.read_bytes() == struct.pack("<Q", len(header)) + header + struct.pack("<f2B", 1.5, 1, 2)


def test_nan_and_inf_keep_their_bits(path):
    array = np.array([np.nan, -np.inf, np.inf, -0.0])
    save({"a": array}, path)
    assert same(load(path)["a"], array)


def test_metadata(path):
    save({}, path, metadata={"a": "1", "b": ""})
    assert load(path) == {}
    assert load_metadata(path) == {"a": "1", "b": ""}
    save({}, path)
    assert load_metadata(path) == {}


# What can't be saved

@pytest.mark.parametrize("state, metadata, error, match", [
    ({1: np.zeros(1)}, None, TypeError, "key 1, a int; give names as str"),
    ({"__metadata__": np.zeros(1)}, None, ValueError, "keeps for itself"),
    ({"\ud800": np.zeros(1)}, None, ValueError, "lone surrogate"),
    ({"a": [1.0]}, None, TypeError, "'a' is a list; give an ndarray"),
    ({"a": np.zeros(1, complex)}, None, ValueError, "'a' has the dtype complex128"),
    ({"a": np.array([None])}, None, ValueError, "'a' has the dtype object"),
    ({"a": np.array(["x"])}, None, ValueError, "'a' has the dtype <U1"),
    ({}, {"a": 1}, TypeError, "metadata has 'a': 1"),
])
def test_refused_before_writing(state, metadata, error, match, path):
    save({"old": np.zeros(1)}, path)
    with pytest.raises(error, match=match):
        save(state, path, metadata)
    assert list(load(path)) == ["old"]
    assert os.listdir(path.parent) == [path.name]


# Atomic writing

@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(step, error, path, monkeypatch):
    def fail(*args):
        raise error

    save({"old": np.arange(3)}, path)
    before = path.read_bytes()
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)) as caught:
        save({"new": np.arange(9)}, path)
    if isinstance(error, OSError):
        assert "file.safetensors: No space left on device" in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_failure_between_chunks_leaves_the_old_file(path):
    def chunks():
        yield b"half"
        raise RuntimeError("here")

    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="here"):
        write_atomically(path, chunks())
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_file_and_folder_are_forced_to_the_disk_around_the_rename(path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace(*names)))
    save({}, path)
    assert calls == ["fsync", "replace", "fsync"]


def test_permissions_are_those_of_any_new_file(path):
    (path.parent / "other").touch()
    save({}, path)
    assert path.stat().st_mode == (path.parent / "other").stat().st_mode


def test_a_symbolic_link_stays_one(path):
    target = path.parent / "target"
    path.symlink_to(target)
    save({"a": np.zeros(2)}, path)
    assert path.is_symlink() and list(load(target)) == ["a"]


def test_unwritable_places(tmp_path):
    (tmp_path / "plain").touch()
    for place in (tmp_path / "plain" / "x", tmp_path / "absent" / "x", tmp_path):
        with pytest.raises(OSError, match=f"cannot write {place}: "):
            save({}, place)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("options, whole", [(["--points", "200"], True), (["--points", "40", "--in-place"], False)])
def test_killed_at_any_point_while_overwriting_the_file_is_whole(options, whole, tmp_path):
    command = [sys.executable, "-m", "tests.kill_points", tmp_path, *options]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300)
    assert (done.returncode == 0) == whole, done.stdout + done.stderr
    assert ("200 of 200 kill points survived" in done.stdout) == whole
    assert done.stderr == ""
    # What the killed ones have left goes with the first write an hour later, and not before.
    unfinished = list(tmp_path.glob(".unfinished-*"))
    assert bool(unfinished) == whole
    for number, place in enumerate(unfinished):
        os.utime(place, (0, 0) if number else None)
    save({}, tmp_path / "another.safetensors")
    assert list(tmp_path.glob(".unfinished-*")) == unfinished[:1]


def writing_to(monkeypatch, device):
    """Let the temporary file be a device, which fails as a full disk does."""
    def opened(path, mode):
        os.symlink(device, path)
        return open(path, "wb")

    monkeypatch.setattr(tinynet.safetensors, "open", opened, raising=False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("size", [1, 1_000_000], ids=["at the flush", "at the write"])
def test_a_full_disk(size, path, monkeypatch):
    save({"old": np.arange(3)}, path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        writing_to(patch, "/dev/full")
        with pytest.raises(OSError, match=f"cannot write {path}: No space left on device; give a file in a folder"):
            save({"new": np.zeros(size)}, path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_file_beyond_the_limit_of_the_process(path):
    """The system itself refuses to let the file grow, after it has taken a part of it."""
    resource = pytest.importorskip("resource")
    save({"old": np.arange(3)}, path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"cannot write {path}: File too large"):
            save({"new": np.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="folders have no such permissions")
def test_a_read_only_folder(path):
    save({"old": np.arange(3)}, path)
    before = path.read_bytes()
    os.chmod(path.parent, 0o555)
    root = os.geteuid() == 0
    if root:                # whom no permission stops
        os.seteuid(65534)
    try:
        with pytest.raises(OSError, match=f"cannot write {path}: Permission denied; give a file in a folder"):
            save({"new": np.zeros(3)}, path)
    finally:
        if root:
            os.seteuid(0)
        os.chmod(path.parent, 0o755)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


# The reference library

@given(state=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), arrays, max_size=5),
       metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2))
def test_the_reference_library_reads_and_writes_the_same_bits(state, metadata, tmp_path_factory):
    ours, theirs = (tmp_path_factory.mktemp("both") / name for name in ("ours", "theirs"))
    state.pop("__metadata__", None)
    save(state, ours, metadata)
    reference.numpy.save_file(state, theirs, metadata or None)
    if len(metadata) < 2:               # the reference writes metadata in the order of its hash table
        assert ours.read_bytes() == theirs.read_bytes()
    assert load_metadata(theirs) == metadata
    with reference.safe_open(ours, "numpy") as file:
        assert (file.metadata() or {}) == metadata
    for loaded in (reference.numpy.load_file(ours), load(theirs)):
        assert set(loaded) == set(state)
        assert all(same(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("code", DTYPES)
def test_the_reference_library_reads_and_writes_every_dtype(code, tmp_path):
    """All bit patterns of the small ones, NaNs with a payload too."""
    values = np.arange(65536, dtype="<u2").view("u1")
    array = (values % 2 if code == "BOOL" else values).view(DTYPES[code]).reshape(2, -1)
    save({"a": array}, tmp_path / "ours")
    reference.numpy.save_file({"a": array}, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert same(reference.numpy.load_file(tmp_path / "ours")["a"], array)
    assert same(load(tmp_path / "theirs")["a"], array)


# Hostile files

def entry(dtype="U8", shape=(2,), offsets=(0, 2)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def pack(header, data=b"", length=None):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


HOSTILE = {
    "empty": (b"", "it has 0 bytes"),
    "length cut": (b"\x02\0\0\0\0\0\0", "it has 7 bytes"),
    "length beyond the file": (pack(b"{}", length=3), "claims 3 bytes, but 2 follow"),
    "length overflows": (pack(b"{}", length=2**64 - 1), "more than the 100,000,000 allowed"),
    "length above the limit": (pack(b"{}", length=100_000_001), "more than the 100,000,000 allowed"),
    "no header": (pack(b""), "does not begin with '{'"),
    "header starts with a space": (pack(b" {}"), "does not begin with '{'"),
    "no JSON": (pack(b"{"), "not JSON"),
    "no UTF-8": (pack(b'{"\xff": 1}'), "not JSON"),
    "deep JSON": (pack(b'{"a":' + b"[" * 200_000), "not JSON"),
    "a number of 5,000 digits": (pack(b'{"a":' + b"9" * 5000 + b"}"), "not JSON"),
    "list in place of a table": (pack([]), "does not begin with '{'"),
    "same name twice": (pack(b'{"a":1,"a":1}'), "the key 'a' twice"),
    "same field twice": (pack(b'{"a":{"dtype":"U8","dtype":"U8"}}'), "the key 'dtype' twice"),
    "metadata no table": (pack({"__metadata__": []}), "table of string to string"),
    "metadata of numbers": (pack({"__metadata__": {"a": 1}}), "table of string to string"),
    "entry no table": (pack({"a": 1}), "exactly dtype, shape and data_offsets"),
    "field missing": (pack({"a": {"dtype": "U8", "shape": []}}), "exactly dtype, shape and data_offsets"),
    "field too many": (pack({"a": {**entry(), "x": 1}}, b"12"), "exactly dtype, shape and data_offsets"),
    "unknown dtype": (pack({"a": entry("BF16", (1,))}, b"12"), "'a' has the dtype 'BF16'; this module reads"),
    "dtype a list": (pack({"a": entry(["U8"])}, b"12"), "has the dtype"),
    "shape a number": (pack({"a": {**entry(), "shape": 2}}, b"12"), "has the shape 2"),
    "negative size": (pack({"a": entry(shape=(-1, -2))}, b"12"), "the number '-1', and it knows none below 0"),
    "minus nothing": (pack(b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'), "the number '-0'"),
    "half a character": (pack(b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), "surrogate"),
    "half a character in the metadata": (pack(b'{"__metadata__":{"a":"\\udfff"}}'), "surrogate"),
    "size no integer": (pack({"a": entry(shape=(2.0,))}, b"12"), "has the shape"),
    "size a bool": (pack({"a": entry(shape=(True,), offsets=(0, 1))}, b"1"), "has the shape"),
    "size above 2**63": (pack({"a": entry(shape=(2**63,))}, b"12"), "has the shape"),
    "65 dimensions": (pack({"a": entry(shape=[1] * 65, offsets=(0, 1))}, b"1"), "at most 64"),
    "product overflows to 2": (pack({"a": entry(shape=(2**32, 2**32, 1))}, b"12"), "too large for any"),
    "vast without elements": (pack({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}), "too large"),
    "one offset": (pack({"a": entry(offsets=(0,))}, b"12"), "must be \\[start, stop\\]"),
    "offsets backwards": (pack({"a": entry(offsets=(2, 0))}, b"12"), "must be \\[start, stop\\]"),
    "offset negative": (pack({"a": entry(offsets=(-2, 0))}, b"12"), "the number '-2'"),
    "offset no integer": (pack({"a": entry(offsets=(0, 2.0))}, b"12"), "must be \\[start, stop\\]"),
    "shape larger than span": (pack({"a": entry(shape=(3,))}, b"12"), "needs 3 bytes, but its data_offs"),
    "shape smaller than span": (pack({"a": entry(shape=(1,))}, b"12"), "needs 1 bytes"),
    "dtype larger than span": (pack({"a": entry("F32")}, b"12"), "needs 8 bytes"),
    "hole at the start": (pack({"a": entry(offsets=(1, 3))}, b"123"), "a hole before 'a'"),
    "hole between": (pack({"a": entry(), "b": entry(offsets=(3, 5))}, b"12345"), "a hole before 'b'"),
    "overlap": (pack({"a": entry(), "b": entry(offsets=(1, 3))}, b"123"), "an overlap at 'b'"),
    "same bytes twice": (pack({"a": entry(), "b": entry()}, b"12"), "an overlap at 'b'"),
    "trailing bytes": (pack({"a": entry()}, b"123"), "something follows the arrays"),
    "cut short": (pack({"a": entry()}, b"1"), "it may be cut short"),
    "a terabyte claimed": (pack({"a": entry(shape=(2**40,), offsets=(0, 2**40))}, b"1"), "may be cut short"),
    "bool of 2": (pack({"a": entry("BOOL")}, b"\x01\x02"), "bytes other than 0 and 1"),
}


@pytest.mark.parametrize("content, match", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused(content, match, path):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as caught:
        load(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 600


def test_the_packer_of_hostile_files_can_pack_sound_ones(path):
    empty = entry(shape=(0, 3), offsets=(2, 2))
    path.write_bytes(pack({"b": entry(offsets=(2, 4)), "a": entry(), "e": empty}, b"1234"))
    loaded = load(path)
    assert {name: array.tobytes() for name, array in loaded.items()} == {"a": b"12", "e": b"", "b": b"34"}


small_entry = st.builds(entry, st.sampled_from(["U8", "F16"]), st.tuples(st.integers(0, 3)),
                        st.tuples(st.integers(0, 4), st.integers(0, 4)))


@settings(max_examples=300)
@given(header=st.dictionaries(st.sampled_from("abc"), small_entry, max_size=3), size=st.integers(0, 4))
@example(header={"b": entry(offsets=(2, 4)), "a": entry()}, size=4)
@example(header={"a": entry(offsets=(1, 3))}, size=3)
def test_arrays_that_lay_out_the_file_are_read_and_no_others(header, size, tmp_path):
    """Every byte after the header belongs to one array, and each array has as many as its shape and dtype need."""
    owners = [0] * size
    sound = True
    for claim in header.values():
        start, stop = claim["data_offsets"]
        sound &= stop - start == claim["shape"][0] * DTYPES[claim["dtype"]].itemsize and stop <= size
        for place in range(start, min(stop, size)):
            owners[place] += 1
    path = tmp_path / "file.safetensors"
    path.write_bytes(pack(header, bytes(range(size))))
    if sound and all(count == 1 for count in owners):
        for name, array in load(path).items():
            assert array.tobytes() == bytes(range(*header[name]["data_offsets"]))
    else:
        with pytest.raises(ValueError, match=f"{path} is not a sound safetensors file"):
            load(path)


LARGE_HEADERS = {
    "empty lists": b'{"a":[' + b"[]," * 100_000 + b"[]]}",
    "empty tables": b'{"a":[' + b"{}," * 100_000 + b"{}]}",
    "one field after another": b"{" + b",".join(b'"%x":0' % i for i in range(30_000)) + b"}",
    "a long name": b'{"' + b"a" * 1_000_000 + b'":0}',
    "a long number": b'{"a":' + b"9" * 1_000_000 + b"}",
    "digits": b'{"a":{"dtype":"U8","shape":[' + b"1," * 200_000 + b'1],"data_offsets":[0,1]}}',
    "arrays": b"{" + b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(7_000))
              + b',"z":0}',
}


@pytest.mark.parametrize("header", LARGE_HEADERS.values(), ids=LARGE_HEADERS.keys())
def test_what_a_large_header_takes_is_in_proportion(header, path):
    """At most 30 bytes of memory for each of its bytes, and a microsecond or so."""
    path.write_bytes(pack(header))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a sound safetensors file") as caught:
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 30 * len(header)
    finally:
        tracemalloc.stop()
    began = time.process_time()
    with pytest.raises(ValueError):
        load(path)
    assert time.process_time() - began < 1e-5 * len(header)
    assert len(str(caught.value)) < 600


def test_a_vast_file_of_nothing(path):
    """It takes no room on the disk, but would in memory."""
    size = 2**42
    path.write_bytes(pack({"a": entry(shape=(size,), offsets=(0, size))}))
    try:
        os.truncate(path, path.stat().st_size + size)
    except OSError:
        pytest.skip("no files of this size here")
    with pytest.raises(MemoryError, match=f"'a' in {path} takes 4,398,046,511,104 bytes, more than this machine"):
        load(path)


def test_every_cut_is_refused(path):
    save({"a": np.arange(3, dtype=np.float32), "b": np.arange(2, dtype=np.int8)}, path, metadata={"k": "v"})
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(ValueError, match="not a sound safetensors file"):
            load(path)


@pytest.mark.parametrize("byte", b'\0 "0:]\xff')
def test_any_changed_byte_is_refused_or_read(byte, path):
    save({"a": np.arange(3, dtype=np.float32), "b": np.array([True, False])}, path, metadata={"k": "v"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1:])
        try:
            assert len(load(path)) == 2
        except ValueError as error:
            assert str(path) in str(error)


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load(tmp_path / "absent")
    with pytest.raises(ValueError, match="is no regular file"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is no regular file"):
        load_metadata(tmp_path / "pipe")
