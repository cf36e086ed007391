"""Fuzzing: millions of files that nobody wrote by hand, given to every reader. A command, not part of the suite:

    pip install -e '.[examples,test,fuzz]'
    python -m tests.fuzz safetensors --minutes 60

Each file must be read, or be refused by a sentence that names it and is short; within seconds, and in bounded memory.
Atheris (https://github.com/google/atheris) changes the bytes of small sound files, watches which lines of the reader
each change reaches, and keeps on changing those that reached new ones. What breaks the rule is printed once and kept in
the folder `--out`, and the run goes on; its last line counts. A finding belongs into the tests of its reader.
"""
import argparse
import gzip
import hashlib
import json
import mmap
import os
import random
import re
import struct
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import atheris
import numpy as np
import safetensors.numpy
from PIL import Image

with atheris.instrument_imports(include=["tinynet"]):
    import tinynet as tn
    from tinynet import nn, optim
    from tinynet.checkpoint import load_checkpoint, save_checkpoint
    from tinynet.data import VOC, CamVid, TinyImageNet
    from tinynet.data.images import image_size, read_image, read_labels
    from tinynet.data.mnist import read_idx
    from tinynet.safetensors import DTYPES, load, load_metadata, save

LONGEST_FILE = 8_192            # bytes that a changed file may have
LONGEST_SENTENCE = 1_000        # characters
SECONDS = 2                     # of the processor, for a single file
HANG, MEGABYTES = 600, 2_048    # seconds (much, for the machine may be busy) and memory after which the run ends


class Target:
    """A reader with `seeds`, sound files to start from; `read(content)` raises only `refusals`, naming `path`."""

    tokens = ()                             # what the files are made of
    refusals = (ValueError, FileNotFoundError)

    def __init__(self, folder):
        self.path = folder / "hostile"
        self.sound = list(self.seeds())

    def change(self, content, longest, rng):
        """Another content, made from this one."""
        return atheris.Mutate(content, longest)


class Safetensors(Target):
    """The strict reader, which must refuse all that the reference refuses, and else read the very same bits."""

    tokens = ['"', "{", "}", "[", "]", ":", ",", "-0", "1e0", "true", "null", "NaN", "-1", "0", "4", "4294967296",
              "9223372036854775807", "18446744073709551616", '"a"', '"\\ud800"', '"__metadata__"', '"dtype"',
              '"shape"', '"data_offsets"', *(f'"{code}"' for code in DTYPES), '"BF16"', '"F8_E4M3"']

    def seeds(self):
        arrays = [{}, {"a": np.arange(3, dtype=np.float32)}, {"é": np.zeros((0, 2)), "b": np.array(True)},
                  {code: np.ones((2, 1), dtype) for code, dtype in DTYPES.items()}]
        for state in arrays:
            save(state, self.path, metadata={"k": "v"} if len(state) == 2 else None)
            yield self.path.read_bytes()

    def change(self, content, longest, rng):
        """Any byte; or of the header alone, its length set right, any byte, a token for another, or whole arrays."""
        if rng.random() < 0.3:              # most of what has been reached is far from sound by now: begin anew
            content = rng.choice(self.sound)
        if rng.random() < 0.25 or len(content) < 8:
            return atheris.Mutate(content, longest)
        (length,) = struct.unpack("<Q", content[:8])
        header, rest = content[8:8 + length], content[8 + length:]
        kind = rng.random()
        if kind < 0.3:
            header = atheris.Mutate(header, max(longest - 8 - len(rest), 1))
        elif kind < 0.6:
            header = self.rearranged(header, rng)
        else:
            places = list(re.finditer(rb'"[^"]*"|[-+.\w]+|[^\s]', header)) or [re.match(b"", header)]
            place = rng.choice(places)
            start = rng.choice([place.start(), place.end()])            # replaced, or put behind
            header = header[:start] + rng.choice(self.tokens).encode() + header[place.end():]
        return (struct.pack("<Q", len(header)) + header + rest)[:longest]

    @staticmethod
    def rearranged(header, rng):
        """Each array sound by itself, but some removed, some copied, some of other bytes: holes and overlaps."""
        try:
            arrays = json.loads(header)
            arrays.pop("__metadata__", None)
            bounds = sorted(bound for entry in arrays.values() for bound in entry["data_offsets"])
            for _ in range(rng.randint(1, 2)):
                start, stop = sorted(rng.choices(bounds, k=2))
                name = rng.choice([*arrays, rng.choice(list(arrays)) + "'"])
                arrays[name] = {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
                if rng.random() < 0.3:
                    del arrays[rng.choice(list(arrays))]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return header                   # it is broken by now
        return json.dumps(arrays).encode()

    def read(self, content):
        self.path.write_bytes(content)
        ours = load(self.path)
        load_metadata(self.path)
        try:
            theirs = safetensors.numpy.load(content)
        except safetensors.SafetensorError as error:
            raise AssertionError(f"the reference refuses it: {error}") from error
        assert set(ours) == set(theirs)
        for name, array in ours.items():
            assert (array.dtype, array.shape) == (theirs[name].dtype, theirs[name].shape)
            assert array.tobytes() == theirs[name].tobytes()


class Checkpoint(Safetensors):
    """A checkpoint and what its metadata say; after a refusal the model is what it was."""

    tokens = [*Safetensors.tokens, "\\\"", "[1]", '"model.weight"', '"optimizer.lr"', '"progress"', '"random"', "{}"]

    def seeds(self):
        self.model = nn.Dense(2, 1)
        self.optimizer = optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        save_checkpoint(self.path, self.model, self.optimizer, {"epoch": 3})
        yield self.path.read_bytes()

    def read(self, content):
        self.path.write_bytes(content)
        before = {name: array.copy() for name, array in self.model.state_dict().items()}
        try:
            load_checkpoint(self.path, self.model, self.optimizer)
        except ValueError:
            after = self.model.state_dict()
            assert all(np.array_equal(before[name], after[name], equal_nan=True) for name in before)
            raise


class Idx(Target):
    """IDX files, gzipped or not."""

    def seeds(self):
        for packed in (bytes, gzip.compress):
            yield packed(struct.pack(">4I", 0x803, 2, 3, 2) + bytes(range(12)))

    def change(self, content, longest, rng):
        """Also what is inside of the gzip file, which chance alone would hardly ever pack right."""
        if rng.random() < 0.5:
            try:
                return gzip.compress(atheris.Mutate(gzip.decompress(content), longest))
            except Exception:               # it is broken gzip by now: go on breaking it
                pass
        return atheris.Mutate(content, longest)

    def read(self, content):
        self.path.write_bytes(content)
        assert read_idx(self.path, 3).ndim == 3


class Voc(Target):
    """Pascal VOC's XML."""

    tokens = ["<object>", "</object>", "<name>", "<bndbox>", "<xmin>", "nan", "inf", "1e400", "-1", "1_0", "<!DOCTYPE",
              "<!ENTITY", "<![CDATA[", "]]>", "&#0;", "&lt;", "<?xml", "encoding='utf-16'", "encoding='utf-7'",
              "encoding='idna'", "xmlns:a='b'", "a:b", "<annotation>", "<difficult>1</difficult>", "<filename>"]

    def __init__(self, folder):
        super().__init__(folder)
        self.path = folder / "x.xml"
        Image.new("RGB", (8, 6)).save(folder / "x.jpg")

    def seeds(self):
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4.5</xmax><ymax>3</ymax></bndbox>"
        body = f"<filename>x.jpg</filename><object><name>apple</name><difficult>0</difficult>{box}</object>"
        yield f"<annotation>{body}</annotation>".encode()
        yield f"<?xml version='1.0' encoding='latin-1'?><annotation>{body * 2}</annotation>".encode()

    def read(self, content):
        self.path.write_bytes(content)
        for item in VOC(self.path.parent, "val").items:
            assert np.isfinite(item.boxes).all() and (item.boxes >= 0).all() and (item.boxes <= 1).all()
            assert (item.boxes[:, 2:] > item.boxes[:, :2]).all()


class Images(Target):
    """Pictures of all formats."""

    def seeds(self):
        for kind, mode in (("PNG", "RGB"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("BMP", "RGB"),
                           ("GIF", "P"), ("WEBP", "RGBA")):
            Image.new(mode, (5, 4)).save(self.path, kind)
            yield self.path.read_bytes()

    def read(self, content):
        self.path.write_bytes(content)
        refused = None
        for reader in (image_size, read_image, read_labels):
            try:
                assert min(reader(self.path)[:2] if reader is image_size else reader(self.path).shape) > 0
            except ValueError as error:
                check_sentence(error, self)
                refused = error
        if refused is not None:
            raise refused


class Lists(Target):
    """The text files of CamVid and of Tiny ImageNet, which name other files."""

    tokens = ["..", "/", "//", "\\", "a.png", "train", "mask", "n1", "n1_0.JPEG", "\t", "\n", "\ufeff", "-1", "1_0",
              "9" * 400, "é", "\0"]

    def __init__(self, folder):
        super().__init__(folder)
        self.folder = self.path = folder
        for name in ("c/train/a.png", "c/mask/a.png", "t/train/n1/images/n1_0.JPEG", "t/train/n1/images/n1_1.JPEG"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (5, 4)).save(folder / name)
        names = "c/train.txt", "t/wnids.txt", "t/words.txt", "t/train/n1/n1_boxes.txt"
        self.lists = [folder / name for name in names]

    def seeds(self):
        yield b"0train/a.png mask/a.png\n"
        yield b"1n1\n"
        yield b"2n1\tone, two\n"
        yield b"3n1_0.JPEG\t0\t0\t4\t3\nn1_1.JPEG\t0\t0\t2\t2\n"

    def read(self, content):
        for path, sound in zip(self.lists, self.seeds(), strict=True):
            path.write_bytes(sound[1:])
        which = content[0] % 4 if content else 0
        self.lists[which].write_bytes(content[1:])
        dataset = CamVid(self.folder / "c") if which == 0 else TinyImageNet(self.folder / "t")
        for sample in dataset:
            for part in sample:
                assert np.isfinite(part).all()
        if which == 0:
            assert all(self.folder in path.resolve().parents for pair in dataset.pairs for path in pair)


TARGETS = {target.__name__.lower(): target for target in (Safetensors, Checkpoint, Idx, Voc, Images, Lists)}


def check_sentence(error, target):
    assert str(target.path) in str(error), f"does not name its file: {error}"
    assert len(str(error)) < LONGEST_SENTENCE, f"{len(str(error))} characters: {str(error)[:200]}"


class Findings:
    """Counts what is read and what is refused; keeps, of every fault, the first file that shows it."""

    def __init__(self, target, out):
        self.target, self.out = target, out
        self.faults = set()
        # In memory that a process shares with its fork: the fuzzer ends its process without a word to Python.
        self.counts = np.frombuffer(mmap.mmap(-1, 3 * 8), np.int64)      # files read, refused, findings

    def try_one(self, content):
        try:
            began = time.process_time()
            try:
                self.target.read(content)
                self.counts[0] += 1
            except self.target.refusals as error:
                check_sentence(error, self.target)
                self.counts[1] += 1
            assert time.process_time() - began < SECONDS, "it takes too long"
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            fault = (type(error).__name__, *(f"{frame.name}:{frame.lineno}" for frame in frames[-3:]))
            if fault not in self.faults:
                self.faults.add(fault)
                self.counts[2] += 1
                self.keep(content)

    def keep(self, content):
        kept = self.out / f"{type(self.target).__name__.lower()}-{hashlib.sha256(content).hexdigest()[:12]}"
        kept.write_bytes(content)
        print(f"FINDING {kept}\n{traceback.format_exc()}", flush=True)

    def report(self):
        read, refused, findings = self.counts
        print(f"{type(self.target).__name__}: {read:,} files read, {refused:,} refused, {findings} findings")


def dictionary(tokens, path):
    """The option for a file of tokens, each line of it "text" with its bytes as \\xAB; none if there are none."""
    escaped = ("".join(f"\\x{byte:02x}" for byte in token.encode()) for token in tokens)
    path.write_text("".join(f'"{token}"\n' for token in escaped))
    return [f"-dict={path}"] if tokens else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", type=Path, default=Path("findings"), help="folder for the files that break the rule")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")         # Pillow's, of images that are large but not too large
    tn.manual_seed(0)
    # In memory, where there is such a place: a disk would take a hundred times as long as the reader.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        folder = Path(folder)
        for name in ("work", "corpus"):
            (folder / name).mkdir()
        target = TARGETS[options.target](folder / "work")
        for number, content in enumerate(target.sound):
            (folder / "corpus" / str(number)).write_bytes(content)
        findings = Findings(target, options.out)
        arguments = [
            sys.argv[0], f"-max_total_time={round(60 * options.minutes)}", f"-seed={options.seed}",
            f"-max_len={LONGEST_FILE}", f"-timeout={HANG}", f"-report_slow_units={HANG}",
            f"-rss_limit_mb={MEGABYTES}", f"-artifact_prefix={options.out}/", str(folder / "corpus"),
            *dictionary(target.tokens, folder / "tokens")]
        child = os.fork()
        if child == 0:
            fuzz(target, findings, arguments)
        _, status = os.waitpid(child, 0)
        findings.report()
    sys.exit(1 if status or findings.counts[2] else 0)


def fuzz(target, findings, arguments):
    """Try files until the time is over; doesn't return."""
    atheris.Setup(
        arguments, findings.try_one,
        custom_mutator=lambda content, longest, seed: target.change(content, longest, random.Random(seed)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
