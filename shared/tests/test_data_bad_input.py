"""Every fault of an input is one message that names file, record and remedy; with skip, a line and nothing worse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vireo.data import CocoDetection, VocDetection
from vireo.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

Content = dict[str, Any]


def good() -> Content:
    return {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 2, "file_name": "b.jpg", "width": 40, "height": 30},
        ],
        "annotations": [
            {"id": 11, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 12], "area": 120, "iscrowd": 0},
            {"id": 12, "image_id": 2, "category_id": 1, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0},
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (40, 30), (1, 2, 3)).save(tmp_path / name)
    return tmp_path


def write(folder: Path, content: Content) -> Path:
    path = folder / "train.json"
    path.write_text(json.dumps(content))
    return path


def first(key: str, field: str, value: object) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content[key][0][field] = value

    return change


def without(key: str, field: str) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        del content[key][0][field]

    return change


def again(key: str, **fields: object) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content[key].append(content[key][0] | fields)

    return change


# what is wrong, the record the message names, the message, and how many images and boxes are left by skipping
FAULTS: list[tuple[Callable[[Content], None], str, str, int, int]] = [
    (first("images", "file_name", "gone.jpg"), "image 1 ('gone.jpg')", "image file is missing", 1, 1),
    (first("images", "file_name", "../a.jpg"), "image 1 ('../a.jpg')", "leaves the image folder", 1, 1),
    (first("images", "file_name", "/etc/passwd"), "image 1 ('/etc/passwd')", "leaves the image folder", 1, 1),
    (first("images", "width", 0), "image 1 ('a.jpg')", "size 0x30 is not positive", 1, 1),
    (first("images", "width", "40"), "images[0]", "'width' is '40', not an integer", 1, 1),
    (again("images", id="one"), "images[2]", "'id' is 'one', not an integer", 2, 2),
    (without("images", "height"), "images[0]", "key 'height' is missing", 1, 1),
    (again("images", file_name="b.jpg"), "image 1 ('b.jpg')", "image id 1 is used twice", 2, 2),
    (first("annotations", "bbox", [float("nan"), 3, 10, 12]), "annotation 11 of image 'a.jpg'", "not finite", 2, 1),
    (first("annotations", "bbox", [2, 3, float("inf"), 12]), "annotation 11 of image 'a.jpg'", "not finite", 2, 1),
    (first("annotations", "bbox", [2, 3, 0, 12]), "annotation 11 of image 'a.jpg'", "no area (w=0, h=12)", 2, 1),
    (first("annotations", "bbox", [2, 3, 10, -4]), "annotation 11 of image 'a.jpg'", "no area (w=10, h=-4)", 2, 1),
    (first("annotations", "bbox", [50, 3, 10, 12]), "annotation 11 of image 'a.jpg'", "outside its 40x30 image", 2, 1),
    (first("annotations", "bbox", [-20, 3, 20, 12]), "annotation 11 of image 'a.jpg'", "outside its 40x30", 2, 1),
    (first("annotations", "bbox", [1, 2, 3]), "annotation 11 of image 'a.jpg'", "not four numbers", 2, 1),
    (first("annotations", "bbox", [1, 2, None, "4"]), "annotation 11 of image 'a.jpg'", "not four numbers", 2, 1),
    (first("annotations", "bbox", [1, 2, 10**400, 4]), "annotation 11 of image 'a.jpg'", "not four numbers", 2, 1),
    (first("annotations", "bbox", "1234"), "annotations[0]", "not a list", 2, 1),
    (first("annotations", "category_id", 9), "annotation 11 of image 'a.jpg'", "category id 9 is not in the", 2, 1),
    (first("annotations", "image_id", 77), "annotation 11 of image 77", "image id 77 is not in the image list", 2, 1),
    (first("annotations", "id", 10**30), "annotations[0]", "not an integer", 2, 1),
    (again("annotations"), "annotation 11 of image 'a.jpg'", "annotation id 11 is used twice", 2, 2),
    (without("annotations", "bbox"), "annotations[0]", "key 'bbox' is missing", 2, 1),
    (
        lambda content: content["annotations"].insert(0, [1]),
        "annotations[0]",
        "entry is of type list, not object",
        2,
        2,
    ),
]


@pytest.mark.parametrize(("change", "where", "what", "images", "boxes"), FAULTS, ids=[fault[2] for fault in FAULTS])
def test_fault_of_a_coco_record(
    folder: Path, change: Callable[[Content], None], where: str, what: str, images: int, boxes: int
) -> None:
    content = good()
    change(content)
    path = write(folder, content)
    with pytest.raises(InputError) as caught:
        CocoDetection(folder, path)
    assert caught.value.where == f"{path}: {where}"
    assert what in caught.value.what
    assert "data.on_error=skip" in caught.value.remedy or "image folder" in caught.value.remedy
    data = CocoDetection(folder, path, on_error="skip")
    assert len(data) == images
    assert sum(map(len, data.records)) == boxes
    assert len(data.skipped) == 1
    assert where in data.skipped[0]
    assert what in data.skipped[0]
    for index in range(images):
        assert len(data[index][1]["boxes"]) == len(data.records[index])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(annotations=[]), "annotation list is empty"),
        (lambda c: c.update(images=[]), "image list is empty"),
        (lambda c: c.update(categories=[]), "category list is empty"),
        (lambda c: c.pop("annotations"), "has no list 'annotations'"),
        (lambda c: c.pop("images"), "has no list 'images'"),
        (lambda c: c.update(images={}), "'images' is of type object, not list"),
        (again("categories", name="dog"), "category id 1 is used twice"),
        (again("categories", id=2), "category name 'cat' is used twice"),
        (first("categories", "name", 3), "'name' is 3, not a string"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_fault_of_the_whole_coco_file_is_never_skipped(
    folder: Path, change: Callable[[Content], None], message: str, on_error: Any
) -> None:
    content = good()
    change(content)
    path = write(folder, content)
    with pytest.raises(InputError, match=message) as caught:
        CocoDetection(folder, path, on_error=on_error)
    assert caught.value.where.startswith(str(path))


def test_nothing_left_after_skipping_is_an_error(folder: Path) -> None:
    content = good()
    for annotation in content["annotations"]:
        annotation["bbox"] = [0, 0, 0, 0]
    with pytest.raises(InputError, match="no usable annotation is left"):
        CocoDetection(folder, write(folder, content), on_error="skip")
    with pytest.raises(InputError, match="no image is left"):
        CocoDetection(folder, write(folder, good()), min_size=100)


def test_json_that_cannot_be_read(folder: Path) -> None:
    path = write(folder, good())
    text = path.read_text()
    for wrong in (text[: len(text) // 2], "", "[" * 100_000, "\udcff"):
        path.write_bytes(wrong.encode("utf-8", "surrogateescape"))
        with pytest.raises(InputError, match=r"train.json: file is no complete JSON, cut off or damaged"):
            CocoDetection(folder, path)
    path.write_text("[]")
    with pytest.raises(InputError, match="top level is of type list"):
        CocoDetection(folder, path)
    with pytest.raises(InputError, match="annotation file is missing"):
        CocoDetection(folder, folder / "gone.json")
    with pytest.raises(InputError, match="cannot be read"):
        CocoDetection(folder, folder)
    with pytest.raises(InputError, match="image folder is missing"):
        CocoDetection(folder / "gone", write(folder, good()))
    with pytest.raises(InputError, match=r"data.on_error: 'ignore' is not a choice"):
        CocoDetection(folder, path, on_error="ignore")  # type: ignore[arg-type]


def test_image_faults_show_when_read_and_are_found_beforehand(folder: Path) -> None:
    path = write(folder, good())
    data = CocoDetection(folder, path)
    data.check_images(2, decode=True)
    encoded = (folder / "a.jpg").read_bytes()
    cases = [
        (encoded[: len(encoded) * 3 // 4], "cut off|cannot be decoded", True),
        (b"GIF89a not really", "not a JPEG, PNG, WebP or BMP image", False),
        (b"", "image file is empty", False),
        (b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03", "65535x65535 pixels, over the limit", False),
    ]
    for content, message, needs_decoding in cases:
        (folder / "a.jpg").write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            data[0]
        assert caught.value.where == str(folder / "a.jpg")
        with pytest.raises(InputError, match=message):
            data.check_images(2, decode=needs_decoding)
        skipping = CocoDetection(folder, path, on_error="skip")
        skipping.check_images(2, decode=needs_decoding)
        assert [record.file_name for record in skipping.records] == ["b.jpg"]
        assert len(skipping.skipped) == 1
        assert "a.jpg" in skipping.skipped[0]


def test_image_of_another_size_than_annotated(folder: Path) -> None:
    data = CocoDetection(folder, write(folder, good()))
    Image.new("RGB", (30, 40)).save(folder / "a.jpg")
    message = r"a.jpg: image is 30x40 pixels, its annotation says 40x30"
    with pytest.raises(InputError, match=message):
        data[0]
    with pytest.raises(InputError, match=message):
        data.check_images()


SIZE = "<size><width>40</width><height>30</height></size>"
BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
CAT = f"<object><name>cat</name>{BOX}</object>"
BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (f"<annotation>{CAT}</annotation>", "b.xml: no image size"),
        (f"<annotation>{SIZE.replace('40', 'wide')}{CAT}</annotation>", "b.xml: no image size"),
        (f"<annotation>{SIZE.replace('40', '0')}{CAT}</annotation>", "b.xml: image size 0x30 is not positive"),
        (f"<annotation>{SIZE}{CAT}", "b.xml: file is no well-formed XML"),
        (f"{BOMB}<annotation>{SIZE}{CAT}</annotation>", "document type declaration is not allowed"),
        (f"<annotation>{SIZE}{CAT.replace('cat', 'cart')}</annotation>", "object 1 .cart.: unknown category 'cart'"),
        (f"<annotation>{SIZE}<object><name>cat</name></object></annotation>", "object 1 .cat.: box is not finite"),
        (f"<annotation>{SIZE}{CAT.replace('>9<', '>nan<')}</annotation>", "object 1 .cat.: box is not finite"),
        (f"<annotation>{SIZE}{CAT.replace('>1<', '>9<')}</annotation>", "object 1 .cat.: box has no area"),
        (f"<annotation>{SIZE}{CAT.replace('>1<', '>55<').replace('>9<', '>70<')}</annotation>", "outside its 40x30"),
    ],
)
def test_fault_of_a_voc_record(folder: Path, xml: str, message: str) -> None:
    root = voc_tree(folder, f"<annotation>{SIZE}{CAT}</annotation>", xml)
    with pytest.raises(InputError, match=message) as caught:
        VocDetection(root, "train", classes=("cat", "dog"))
    assert "data.on_error=skip" in caught.value.remedy
    data = VocDetection(root, "train", classes=("cat", "dog"), on_error="skip")
    assert len(data.skipped) == 1
    assert "b.xml" in data.skipped[0]
    assert sum(map(len, data.records)) == 1


def voc_tree(folder: Path, *xmls: str) -> Path:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for stem, xml in zip("ab", xmls):
        (folder / "Annotations" / f"{stem}.xml").write_text(xml)
        (folder / f"{stem}.jpg").rename(folder / "JPEGImages" / f"{stem}.jpg")
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    return folder


def test_fault_of_a_voc_folder(folder: Path) -> None:
    xml = f"<annotation>{SIZE}{CAT}</annotation>"
    root = voc_tree(folder, xml, xml)
    with pytest.raises(InputError, match="folder is missing"):
        VocDetection(root / "gone", "train")
    with pytest.raises(InputError, match=r"val.txt: split is missing. Choose one of the splits there: train"):
        VocDetection(root, "val")
    split = root / "ImageSets" / "Main" / "train.txt"
    for text, message in [
        ("a\nb\na\n", r"train.txt: line 3: image 'a' is listed twice"),
        ("a\nc\n", r"train.txt: line 2: image file of 'c' is missing"),
        ("../a\n", "is no image name"),
        ("\n", "split is empty"),
    ]:
        split.write_text(text)
        with pytest.raises(InputError, match=message):
            VocDetection(root, "train")
    split.write_text("a\nb\n")
    (root / "Annotations" / "b.xml").unlink()
    with pytest.raises(InputError, match=r"b.xml: annotation file is missing"):
        VocDetection(root, "train")
    (root / "Annotations" / "a.xml").write_text(f"<annotation>{SIZE}</annotation>")
    with pytest.raises(InputError, match="no usable object"):
        VocDetection(root, "train", on_error="skip")
