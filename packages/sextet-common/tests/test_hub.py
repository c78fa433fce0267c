import json
import os
import sys

import numpy as np
import pytest
from sextet_common import hub
from sextet_common.errors import InputError

NASTY = [
    "plain",
    'quote " and \\ backslash',
    "colon: # hash",
    "---",
    "line\nbreak\r\n---\n",
    "\x1b]0;x\x07\x00",
    "\x85\u2028\u2029\ufeff",
    "日本 🎉",
    "- [x] {y}",
    "yes",
    "1e5",
    "",
    "~",
    "!!python/object:os.system x",
    "<img onerror=x>",
]


@pytest.fixture
def offline(monkeypatch, tmp_path_factory):
    """A Hub without network; `datasets` and `huggingface_hub` read these variables when they are imported."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))


def open_as_datasets(folder, cache):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return datasets.load_dataset(str(folder), cache_dir=str(cache))


def images_of(n, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, channels, 6, 5), dtype=np.uint8)


@pytest.mark.parametrize("text", NASTY)
def test_a_yaml_parser_reads_any_text_back_from_the_front_matter(text):
    yaml = pytest.importorskip("yaml")
    front = {"key": text, "list": [text, text], "nested": [{"names": {"0": text}, "n": 3, "none": None, "yes": True}]}
    written = hub.card(front, "# Body\n")
    head = written.split("---\n", 2)[1]
    assert len(head.splitlines()) == 3 and yaml.safe_load(head) == front
    assert written.endswith("---\n\n# Body\n")


@pytest.mark.parametrize("text", NASTY)
def test_huggingface_reads_the_same_front_matter_of_a_card(text, tmp_path, offline):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    front = {"license": "mit", "tags": ["a", text], "pretty_name": text}
    (tmp_path / "README.md").write_text(hub.card(front, "# Title\n\nbody"), encoding="utf-8")
    read = huggingface_hub.DatasetCard.load(tmp_path / "README.md", ignore_metadata_errors=False)
    assert read.data.to_dict() == front and read.text.strip() == "# Title\n\nbody"


def test_a_lone_surrogate_is_escaped_and_not_written():
    assert '"a": "' not in hub.card({"a": "\ud800"}, "") and r"\ud800" in hub.card({"a": "\ud800"}, "")
    hub.card({"a": "\ud800"}, "").encode()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
def test_datasets_opens_labelled_images_with_their_class_names(tmp_path, offline, layout, channels):
    images, labels, classes = images_of(7, channels), np.array([1, 0, 2, 1, 1, 0, 2]), ("cat", "dog", "owl")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "more.safetensors").write_bytes(b"not an image")
    front = hub.write_images(folder, images, labels, classes, layout=layout)
    (folder / "README.md").write_text(hub.card(front, "# A set"), encoding="utf-8")
    opened = open_as_datasets(folder, tmp_path / "cache")["train"]
    assert opened.features["label"].names == list(classes) and set(opened.features) == {"image", "label"}
    read = [(row["label"], np.asarray(row["image"]).tobytes()) for row in opened]
    if layout == "imagefolder":  # class by class, in order within a class
        order = np.argsort(labels, kind="stable")
        images, labels = images[order], labels[order]
    expected = [
        (y, (x[0] if channels == 1 else x.transpose(1, 2, 0)).tobytes())
        for x, y in zip(images, labels.tolist(), strict=True)
    ]
    assert read == expected


def test_parquet_keeps_any_class_names(tmp_path, offline):
    folder = tmp_path / "set"
    folder.mkdir()
    front = hub.write_images(folder, images_of(len(NASTY), 1), np.arange(len(NASTY)), NASTY)
    (folder / "README.md").write_text(hub.card(front, ""), encoding="utf-8")
    assert open_as_datasets(folder, tmp_path / "cache")["train"].features["label"].names == NASTY


def test_an_imagefolder_numbers_the_classes_as_given_whatever_their_names(tmp_path, offline):
    classes = ["b", "../a", "=x", "<i>", *map(str, range(7))]
    folder = tmp_path / "set"
    folder.mkdir()
    front = hub.write_images(folder, images_of(11, 1), np.arange(11), classes, layout="imagefolder")
    (folder / "README.md").write_text(hub.card(front, ""), encoding="utf-8")
    opened = open_as_datasets(folder, tmp_path / "cache")["train"]
    assert opened["label"][:] == list(range(11)) and opened.features["label"].names[:2] == ["00_b", "01_a"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["set"]


def test_a_new_folder_is_whole_or_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), hub.new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with hub.new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("whole")
    with pytest.raises(InputError, match="exists; expected: a new folder"), hub.new_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "a").read_text() == "whole"


def test_an_existing_folder_is_taken_without_the_hub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.local_folder("owner/name").samefile(tmp_path / "owner" / "name")
    with pytest.raises(InputError, match=r"sextet-common\[hub\]"):
        hub.local_folder("owner/other")


@pytest.mark.parametrize(
    "wrong", ["", "missing", "/no/where", "../a/b", "a/b/c", "./x", "a/..", "https://x/y", "a b/c"]
)
def test_what_is_neither_a_folder_nor_a_repository_is_refused_without_the_hub(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="is no folder; expected: a folder, or OWNER/NAME"):
        hub.local_folder(wrong or tmp_path / "empty")


def test_a_repository_is_downloaded_with_its_kind_revision_and_files(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path), raising=False
    )
    monkeypatch.chdir(tmp_path)
    assert hub.local_folder("owner/na.me", kind="dataset", revision="v1", only=["*.safetensors"]) == tmp_path
    options = {"repo_type": "dataset", "revision": "v1", "allow_patterns": ["*.safetensors"]}
    assert asked == [(("owner/na.me",), options)]


def error_of(name):
    """One of the library's errors, as the Hub's answer raises it."""
    errors = pytest.importorskip("huggingface_hub.errors")
    httpx = pytest.importorskip("httpx")
    response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))
    kind = getattr(errors, name)
    return (
        kind("not for you\nRequest ID: 1", response=response) if issubclass(kind, errors.HfHubHTTPError) else kind("?")
    )


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("GatedRepoError", "a token with access"),
        ("RepositoryNotFoundError", "a repository that exists"),
        ("RevisionNotFoundError", "a branch, tag or commit"),
        ("LocalEntryNotFoundError", "HF_HUB_OFFLINE"),
        ("OfflineModeIsEnabled", "HF_HUB_OFFLINE"),
        ("HfHubHTTPError", "a connection to the Hub"),
    ],
)
def test_what_the_hub_refuses_is_one_line(name, advice, tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def refuse(*arguments, **options):
        raise error_of(name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="owner/name is no folder here, and cannot be fetched from the Hub") as caught:
        hub.local_folder("owner/name")
    assert advice in str(caught.value) and "\n" not in str(caught.value)


def test_without_network_a_repository_is_one_line(tmp_path, offline):
    """In a process of its own, which reads HF_HUB_OFFLINE at its start."""
    pytest.importorskip("huggingface_hub")
    import subprocess

    code = "from sextet_common import hub; hub.local_folder('owner/name')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert "InputError: owner/name is no folder here" in ended.stderr.splitlines()[-1]


def test_a_folder_is_pushed_as_it_is(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    calls = []

    class Api:
        def create_repo(self, name, **options):
            calls.append(("create", name, options))
            return f"https://huggingface.co/{name}"

        def upload_folder(self, **options):
            calls.append(("upload", options))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api, raising=False)
    with pytest.raises(InputError, match=r"has no README\.md"):
        hub.push(tmp_path, "me/set")
    (tmp_path / "README.md").write_text(hub.card({}, ""))
    assert hub.push(tmp_path, "me/set", kind="dataset") == "https://huggingface.co/me/set"
    assert calls == [
        ("create", "me/set", {"repo_type": "dataset", "private": True, "exist_ok": True}),
        ("upload", {"repo_id": "me/set", "folder_path": str(tmp_path), "repo_type": "dataset"}),
    ]


def test_the_features_of_parquet_are_those_that_datasets_writes(tmp_path, offline):
    datasets = pytest.importorskip("datasets")
    parquet = pytest.importorskip("pyarrow.parquet")
    hub.write_images(tmp_path, images_of(2, 3), np.array([0, 1]), ("a", "b"))
    schema = parquet.read_schema(tmp_path / "data" / "train-00000-of-00001.parquet")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    assert json.loads(schema.metadata[b"huggingface"])["info"]["features"] == features.to_dict()
    assert schema.remove_metadata() == features.arrow_schema.remove_metadata()
