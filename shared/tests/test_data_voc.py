"""The VOC reader: 0-based corners, difficult objects, class lists."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from vireo.data import VocDetection
from vireo.data.voc import VOC_CLASSES, find_classes
from vireo.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")


def voc_object(name: str, box: tuple[object, ...] = (1, 1, 20, 10), difficult: int = 0) -> str:
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def voc_xml(*objects: str, size: str = "<size><width>40</width><height>30</height></size>") -> str:
    return f"<annotation><filename>any.jpg</filename>{size}{''.join(objects)}</annotation>"


def write(root: Path, annotations: dict[str, str], split: str = "train") -> Path:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for stem, text in annotations.items():
        (root / "Annotations" / f"{stem}.xml").write_text(text)
        Image.new("RGB", (40, 30), (200, 100, 0)).save(root / "JPEGImages" / f"{stem}.jpg", quality=95)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(annotations) + "\n")
    return root


def test_objects_become_zero_based_records(tmp_path: Path) -> None:
    part = "<object><name>person</name><part><name>head</name></part><bndbox><xmin>2</xmin><ymin>3</ymin>"
    part += "<xmax>12.7</xmax><ymax>13</ymax></bndbox></object>"
    root = write(tmp_path, {"b": voc_xml(voc_object("dog"), part), "a": voc_xml(voc_object("cat", difficult=1))})
    data = VocDetection(root, "train")
    assert data.classes == VOC_CLASSES
    assert data.category_ids == tuple(range(1, 21))
    image, target = data[0]
    assert image.shape == (3, 30, 40)
    assert target["boxes"].tolist() == [[0, 0, 19, 9], [1, 2, 11, 12]]
    assert target["labels"].tolist() == [VOC_CLASSES.index("dog"), VOC_CLASSES.index("person")]
    assert target["ids"].tolist() == [1, 2]
    assert target["area"].tolist() == [171, 100]
    assert target["orig_size"] == (30, 40)
    assert data[1][1]["iscrowd"].tolist() == [True]
    assert [record.image_id for record in data.records] == [1, 2]
    assert data.coco()["annotations"][0]["bbox"] == [0, 0, 19, 9]


def test_other_classes_are_numbered_alike_in_every_split(tmp_path: Path) -> None:
    write(tmp_path, {"a": voc_xml(voc_object("zebra")), "b": voc_xml(voc_object("apple"))})
    write(tmp_path, {"c": voc_xml(voc_object("zebra"))}, "val")
    assert VocDetection(tmp_path, "train").classes == VocDetection(tmp_path, "val").classes == ("apple", "zebra")
    assert VocDetection(tmp_path, "val")[0][1]["labels"].tolist() == [1]
    chosen = VocDetection(tmp_path, "val", classes=("zebra", "yak"))
    assert chosen[0][1]["labels"].tolist() == [0]
    (tmp_path / "Annotations" / "broken.xml").write_text("<annotation>")
    assert find_classes(tmp_path / "Annotations") == ("apple", "zebra")


def test_overhang_is_clipped_and_noted_beyond_a_pixel(tmp_path: Path) -> None:
    write(tmp_path, {"a": voc_xml(voc_object("cat", (0, 1, 41, 30)), voc_object("cat", (5, 5, 60, 20)))})
    data = VocDetection(tmp_path, "train")
    assert data.records[0].boxes.tolist() == [[0, 0, 40, 29], [4, 4, 40, 19]]
    assert len(data.notes) == 1
    assert data.notes[0].startswith("1 boxes that stuck out")
    assert "a.xml: object 2" in data.notes[0]


def test_skipping_keeps_ids_and_lists_what_is_gone(tmp_path: Path) -> None:
    annotations = {
        "a": voc_xml(voc_object("cat", (5, 5, 5, 5)), voc_object("dog")),
        "b": voc_xml(voc_object("dog"), size=""),
        "c": voc_xml(voc_object("dog")),
        "d": voc_xml(),
    }
    write(tmp_path, annotations)
    with pytest.raises(InputError, match=r"a.xml: object 1 \(cat\): box has no area \(w=0, h=0\)"):
        VocDetection(tmp_path, "train")
    data = VocDetection(tmp_path, "train", on_error="skip")
    assert [record.image_id for record in data.records] == [1, 3, 4]
    assert data.records[0].ids.tolist() == [2]
    assert len(data.records[2]) == 0  # an image without boxes is a negative
    assert len(data.skipped) == 2
    assert "a.xml: object 1 (cat): box has no area" in data.skipped[0]
    assert "b.xml: no image size" in data.skipped[1]


def test_image_extension_and_split_columns(tmp_path: Path) -> None:
    write(tmp_path, {"a": voc_xml(voc_object("cat"))})
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages" / "a.png")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a  1\n\n")
    data = VocDetection(tmp_path, "train")
    assert data.records[0].file_name == "a.png"
    assert torch.equal(data[0][0], torch.zeros(3, 30, 40, dtype=torch.uint8))
