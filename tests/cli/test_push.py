"""a4a push, against a small HTTP server that speaks as much of the hub's protocol as an upload needs."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import ModelCard, constants
from PIL import Image

import tiny_models
from a4a import A4A
from a4a.cli.main import main


class Hub(BaseHTTPRequestHandler):
    """Takes every file as a regular one, inside the commit."""

    files, refused = {}, False

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refused:
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path.endswith("/commit/main"):
            lines = [json.loads(line) for line in body.splitlines()]
            for line in lines[1:]:
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        asked = json.loads(body).get("files", []) if "preupload" in self.path else []
        uploads = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
        url = f"http://{self.headers['Host']}/me/mine"
        answer = {"url": url, "files": uploads, "errors": [], "warnings": [], "commitOid": "0" * 40}
        return self._answer(200, {**answer, "commitUrl": f"{url}/commit/{'0' * 40}", "success": True})

    def do_GET(self):
        self._answer(404, {})

    def _answer(self, status, content):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Hub, "files", {})
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield Hub
    server.shutdown()


@pytest.fixture
def adapter(tmp_path, sd15, pixart):
    folder = tmp_path / "adapter"
    tiny_models.a4a(tiny_models.ip_adapter(sd15), pixart).save_pretrained(folder)
    (folder / "optimizer.bin").write_bytes(b"state of the trainer")
    return folder


@pytest.fixture
def scores(tmp_path):
    folder = tmp_path / "scores"
    (folder / "a4a").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(folder / "a4a" / "grid.png")
    (folder / "table.md").write_text("| | identity |\n|---|---|\n| A4A | 0.757 [0.730, 0.783] |\n")
    methods = {"A4A": {"folder": "a4a"}, "text only": {"folder": "text-only"}}
    (folder / "results.json").write_text(json.dumps({"methods": methods, "description": "Held-out photos."}))
    return folder


def test_the_hub_gets_the_adapter_with_a_card_of_pictures_and_scores(hub, adapter, scores, tmp_path):
    words = ["push", str(adapter), "--scores", str(scores), "--method", "A4A", "--repo", "me/mine"]
    assert main(words) == 0
    weights = "diffusion_pytorch_model.safetensors"
    assert set(hub.files) == {"config.json", weights, "README.md", "pictures.png"}
    assert hub.files[weights] == (adapter / weights).read_bytes()
    assert hub.files["pictures.png"] == (scores / "a4a" / "grid.png").read_bytes()
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.library_name == "a4a"
    assert "0.757 [0.730, 0.783]" in card.text and "(pictures.png)" in card.text and "Held-out photos." in card.text
    assert "pictures.png" not in (adapter / "README.md").read_text()

    again = tmp_path / "downloaded"
    again.mkdir()
    for name, content in hub.files.items():
        (again / name).write_bytes(content)
    assert A4A.from_pretrained(again).config.sites == A4A.from_pretrained(adapter).config.sites


def test_what_would_be_uploaded_can_be_looked_at_first(hub, adapter, tmp_path):
    assert main(["push", "--adapter", str(adapter), "--output", str(tmp_path / "look")]) == 0
    assert sorted(p.name for p in (tmp_path / "look").iterdir()) == [
        "README.md",
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert not hub.files


def test_bad_input_is_one_sentence_and_uploads_nothing(hub, adapter, scores, tmp_path, capsys, monkeypatch):
    given = ["push", str(adapter), "--repo", "me/mine"]
    for words, message in (
        (["push", str(adapter)], "nowhere to put the adapter"),
        (["push", str(tmp_path), "--repo", "me/mine"], "no folder of an adapter that a4a saved"),
        ([*given, "--scores", str(tmp_path)], "no finished output of a4a evaluate"),
        ([*given, "--scores", str(scores)], "has the methods A4A, text only; give --method"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert not hub.files
    monkeypatch.setattr(hub, "refused", True)
    assert main(given) == 2
    assert "The hub did not take me/mine (" in (said := capsys.readouterr().err) and "hf auth login" in said
