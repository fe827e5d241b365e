"""Data as they lie on disks and in people's programs: links, tars, names of any bytes, items of every kind."""

from __future__ import annotations

import io
import os
import tarfile
from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dgn
from dgn.analysis.examples import find_examples, search_warnings
from dgn.analysis.squares import Squares
from dgn.errors import DgnError
from dgn.evaluation.real import classes_of, load_real
from dgn.files.listing import Entry, counted, list_images, printable, suffixes
from dgn.images.items import find_image
from dgn.images.reading import decode, read_image
from dgn.network.network import Network
from dgn.training.data import StepBatches


def picture(seed: int = 0, size: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def names(root: Path) -> list[str]:
    return [entry.name for entry in list_images(root)]


# --- folders --------------------------------------------------------------------------------------------------


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    """A class folder may lie elsewhere; its images keep the link's name, and so their class."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "x.png").write_bytes(png())
    root = tmp_path / "data"
    root.mkdir()
    (root / "cat").symlink_to("../store")
    (root / "y.png").symlink_to("../store/x.png")
    assert names(root) == ["cat/x.png", "y.png"]
    assert classes_of(list_images(root), ["dog", "cat"]) == [1, -1]
    link = tmp_path / "link"
    link.symlink_to("data")
    assert names(link) == ["cat/x.png", "y.png"]


def test_loops_end_and_a_folder_is_seen_once(tmp_path: Path) -> None:
    """Links upwards, to each other, to themselves and to nowhere; of two ways to a folder its own is taken."""
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(png())
    (tmp_path / "a").symlink_to("b")  # before it in the alphabet
    (tmp_path / "b" / "up").symlink_to("..")
    (tmp_path / "b" / "other").symlink_to("../c")
    (tmp_path / "c" / "other").symlink_to("../b")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "nowhere").symlink_to("gone")
    assert names(tmp_path) == ["b/x.png", "c/x.png"]


def test_what_cannot_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without permission, a broken and a compressed tar: counted, named, with the reason; the rest is used."""
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(png())
    (tmp_path / "broken.tar").write_bytes(b"no tar file at all")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(tmp_path / "open" / "x.png", "x.png")
    (tmp_path / "packed.tar").rename(tmp_path / "open" / "packed.tar.gz")
    scan = os.scandir

    def refused(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    listing = list_images(tmp_path)
    assert [entry.name for entry in listing] == ["open/x.png"]
    assert sorted(text.partition(" (")[0] for text in listing.unread) == ["broken.tar", "closed", "open/packed.tar.gz"]
    assert any("closed (Permission denied)" in text for text in listing.unread)
    assert any("compressed" in text and "unpack it first" in text for text in listing.unread)
    assert listing.warnings[0].startswith("3 folders or tar files could not be looked into: 'closed")
    with pytest.raises(DgnError, match=r"can't look into .*closed': Permission denied"):
        list_images(tmp_path / "closed")


@pytest.mark.parametrize(
    ("mode", "suffix"), [("w:gz", "tar"), ("w:gz", "tar.gz"), ("w:bz2", "tbz2"), ("w:xz", "tar.xz")]
)
def test_a_compressed_tar_is_refused_in_a_line(mode: Any, suffix: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / f"a.{suffix}", mode) as archive:
        member = tarfile.TarInfo("x.png")
        member.size = len(png())
        archive.addfile(member, io.BytesIO(png()))
    with pytest.raises(DgnError, match=r"compressed.*unpack it first"):
        list_images(tmp_path / f"a.{suffix}")
    with pytest.raises(DgnError, match=r"no images in .*compressed"):
        list_images(tmp_path)


def test_names_of_any_bytes(tmp_path: Path, network: Network) -> None:
    """In folders and in tars; the names can be written, and the files are read."""
    folder = os.fsencode(tmp_path / "data")
    os.makedirs(folder + b"/caf\xe9")
    for name in (b"/caf\xe9/a\xff.png", "/é 'ü'.png".encode()):
        with open(folder + name, "wb") as file:
            file.write(png())
    root = tmp_path / "data"
    assert names(root) == ["caf\\xe9/a\\xff.png", "é 'ü'.png"] and names(root)[0].encode()
    with tarfile.open(tmp_path / "a.tar", "w", encoding="utf-8", errors="surrogateescape") as archive:
        archive.add(root, "d")
    assert sorted(names(tmp_path / "a.tar")) == ["a.tar/d/caf\\xe9/a\\xff.png", "a.tar/d/é 'ü'.png"]
    for source in (root, tmp_path / "a.tar"):
        (found,), _, broken = find_examples(
            network, dgn.parse_units([1], network), source, k=2, state=tmp_path / f"{source.name}.safetensors"
        )
        assert not broken and {example.name for example in found.top} == set(names(source))
    assert load_real(root, ["x"]).names and printable("plain") == "plain"


def formats() -> list[str]:
    """Suffixes of the formats that Pillow can both write and read here."""
    Image.init()
    known = Image.registered_extensions()
    return sorted({suffix for suffix in suffixes() if known[suffix] in Image.SAVE})


@pytest.mark.parametrize("suffix", formats())
def test_every_format_that_pillow_writes_is_read(suffix: str, tmp_path: Path) -> None:
    """Written by Pillow in the first mode that the format takes, and seen as the same picture."""
    smooth = Image.new("RGB", (32, 32))
    smooth.putdata([(8 * x, 8 * y, 60) for y in range(32) for x in range(32)])
    path = tmp_path / f"a{suffix}"
    for mode in ("RGB", "RGBA", "L", "P", "1"):
        try:
            smooth.convert(mode).save(path)
            break
        except (OSError, ValueError, KeyError):
            continue
    else:
        pytest.skip(f"Pillow here can't write {suffix}")
    assert names(tmp_path) == [path.name]
    seen = read_image(path)
    assert seen.shape[0] == 3 and float(seen.std()) > 0.05
    if mode == "RGB" and seen.shape[1:] == (32, 32):
        assert float((seen * 255 - torch.from_numpy(np.array(smooth)).permute(2, 0, 1)).abs().mean()) < 16


def test_documents_and_containers_are_no_images() -> None:
    """Those need another program, or are named by Pillow without being decoded."""
    assert not suffixes() & {".pdf", ".eps", ".ps", ".h5", ".hdf", ".mpg", ".wmf", ".emf", ".grib", ".txt", ".npy", ""}
    assert suffixes() >= {
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".tga",
        ".jp2",
        ".mpo",
    }


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"]
)
def test_pictures_of_every_mode_are_flattened(mode: str, network: Network) -> None:
    (found,), _, broken = find_examples(network, dgn.parse_units([1], network), [Image.new(mode, (20, 20))], k=1)
    assert not broken and np.isfinite(found.top[0].activation)


def test_unreadable_files_are_counted_and_named(tmp_path: Path, network: Network) -> None:
    (tmp_path / "0").mkdir()
    for index in range(3):
        (tmp_path / "0" / f"{index}.png").write_bytes(png(index))
    for name in ("broken.png", "cut.png", "empty.jpg"):
        (tmp_path / "0" / name).write_bytes({"broken.png": b"no", "cut.png": png()[:60], "empty.jpg": b""}[name])
    bad = ["0/broken.png", "0/cut.png", "0/empty.jpg"]
    found, squares, broken = find_examples(network, dgn.parse_units([1], network), tmp_path, k=1)
    assert broken == bad
    assert search_warnings(found, squares, broken, network)[0] == (
        "3 images could not be read: '0/broken.png', '0/cut.png', '0/empty.jpg'"
    )
    assert sorted(load_real(tmp_path, ["x"]).broken) == bad
    assert counted(["a"] * 5, "x") == ["5 x: 'a', 'a', 'a' and 2 more"] and counted([], "x") == []
    _, named = StepBatches(list_images(tmp_path), 16, 6, seed=0)[0]
    assert set(named) == set(bad)
    only_bad = [entry for entry in list_images(tmp_path) if entry.name in bad]
    with pytest.raises(
        DgnError, match=r"none of the 3 images can be decoded; the first, .*in no format that Pillow knows"
    ):
        StepBatches(only_bad[:1] * 3, 16, 2, seed=0)[0]
    for name in bad:
        with pytest.raises(DgnError, match=r"can't be read as an image: .") as error:
            read_image(tmp_path / name)
        assert "BytesIO" not in str(error.value) and "\n" not in str(error.value)


# --- items ----------------------------------------------------------------------------------------------------


PICTURE = picture()
ARRAY = np.array(PICTURE)
FLOATS = torch.from_numpy(ARRAY).permute(2, 0, 1).float() / 255
ITEMS: list[Any] = [
    PICTURE, ARRAY, ARRAY.transpose(2, 0, 1), ARRAY.astype(np.float32) / 255, FLOATS, FLOATS[None], png(),
    (PICTURE, 3), [PICTURE, 3], (FLOATS, 3), (ARRAY, np.int64(3), "more"), ((PICTURE, PICTURE), 3),
    {"image": PICTURE, "label": 0}, {"label": 0, "img": ARRAY}, {"label": torch.tensor(0), "anything": FLOATS},
    {"pixel_values": FLOATS, "labels": 1}, {"image": {"bytes": png(), "path": None}, "label": 1},
    {"image": {"bytes": png(), "path": "gone.png"}}, {"bytes": png(), "path": "x.png"},
    UserDict(image=PICTURE), {"__key__": "a", "png": png(), "cls": b"3"}, {"id": "a", "label": 1, "picture": PICTURE},
]  # fmt: skip
"""One picture in every kind of item that people's data sets give."""


@pytest.mark.parametrize("item", ITEMS)
def test_items_of_every_kind(item: Any, network: Network) -> None:
    (found,), squares, broken = find_examples(network, dgn.parse_units([1], network), [item, item], k=1)
    assert not broken and found.top[0].activation == pytest.approx(float(network(FLOATS[None])[0, 1]), abs=1e-5)
    torch.testing.assert_close(squares.tensors([0])[0], FLOATS)


@pytest.mark.parametrize(
    "wrap", [str, Path, lambda path: {"image": str(path)}, lambda path: {"bytes": None, "path": path}]
)
def test_items_that_are_paths(wrap: Any, network: Network, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    (found,), _, _ = find_examples(network, dgn.parse_units([1], network), [wrap(tmp_path / "x.png")], k=1)
    assert found.top[0].activation == pytest.approx(float(network(FLOATS[None])[0, 1]), abs=1e-5)
    rows = find_examples(network, dgn.parse_units([1], network), str(tmp_path), k=1).units
    assert rows[0].top[0].activation == pytest.approx(found.top[0].activation, abs=1e-6)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (3, "a int is no image: expected a picture"),
        ({"label": 0, "text": "a cat"}, "no image among the keys 'label', 'text': expected 'image'"),
        ("gone.png", "No such file"),
        (b"no", "in no format that Pillow knows"),
        (torch.full((3, 16, 16), 7.0), "values from 7 to 7, expected 0 to 1"),
        (torch.zeros(4, 16, 16), "images of 4 channels can't be shown to what takes 3"),
        (torch.zeros(2, 3, 16, 16), "an item holds 2 images, expected one"),
        (None, "a NoneType is no image"),
        ((), "a tuple is no image"),
    ],
)  # fmt: skip
def test_the_first_reason_is_told(item: Any, expected: str, network: Network) -> None:
    name = item if isinstance(item, str) else "0"
    with pytest.raises(DgnError, match=f"none of the 2 images can be read; the first, '{name}': .*{expected}"):
        find_examples(network, dgn.parse_units([1], network), [item, item], k=1)


def test_one_bad_item_is_named_by_its_number(network: Network) -> None:
    _, _, broken = find_examples(network, dgn.parse_units([1], network), [PICTURE, 3, FLOATS], k=1)
    assert broken == ["1"]


def test_whole_arrays_and_foreign_data_sets(network: Network) -> None:
    """An array of images, torch's and torchvision's data sets, and Hugging Face's where it is installed."""
    from torch.utils.data import DataLoader, TensorDataset
    from torchvision.datasets import FakeData
    from torchvision.transforms import ToTensor

    units, truth = dgn.parse_units([1], network), float(network(FLOATS[None])[0, 1])
    sources: list[Any] = [
        np.stack([ARRAY] * 3), torch.stack([FLOATS] * 3), TensorDataset(torch.stack([FLOATS] * 2), torch.zeros(2)),
    ]  # fmt: skip
    for source in sources:
        (found,), _, _ = find_examples(network, units, source, k=1)
        assert found.top[0].activation == pytest.approx(truth, abs=1e-5)
    plain, tensors = (FakeData(4, (3, 16, 16), 2, transform) for transform in (None, ToTensor()))
    first, second = (find_examples(network, units, data, k=4, workers=2).units[0].top for data in (plain, tensors))
    assert [e.index for e in first] == [e.index for e in second]
    assert [e.activation for e in first] == pytest.approx([e.activation for e in second], abs=1e-5)
    for bad in (DataLoader(plain), iter([PICTURE]), (PICTURE for _ in range(2))):
        with pytest.raises(DgnError, match="is no data set: expected a folder, or items with"):
            Squares(bad, 16)  # type: ignore[arg-type]
    with pytest.raises(DgnError, match="holds no image"):
        Squares([], 16)


def test_hugging_faces_rows(network: Network) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"image": [PICTURE, PICTURE], "label": [0, 1]}).cast_column(
        "image", datasets.Image()
    )
    (found,), _, _ = find_examples(network, dgn.parse_units([1], network), data, k=1)
    assert found.top[0].activation == pytest.approx(float(network(FLOATS[None])[0, 1]), abs=1e-5)


def test_floats_keep_their_precision(network: Network) -> None:
    """A tensor of a data set is not rounded to 256 steps on its way."""
    fine = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    (found,), squares, _ = find_examples(network, dgn.parse_units([1], network), [fine], k=1)
    assert torch.equal(squares.tensors([0])[0], fine)
    assert found.top[0].activation == pytest.approx(float(network(fine[None])[0, 1]), abs=1e-6)


def test_entries_are_read_from_inside_tars(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for index in range(3):
            member = tarfile.TarInfo(f"{index}.PNG")
            member.size = len(png(index))
            archive.addfile(member, io.BytesIO(png(index)))
    entries = list_images(tmp_path)
    assert [np.array(decode(entry.read())).sum() for entry in entries] == [
        np.array(picture(index)).sum() for index in range(3)
    ]
    assert isinstance(entries[0], Entry) and find_image(entries[0].read()) == png(0)
