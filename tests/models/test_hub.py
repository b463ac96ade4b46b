"""A hub that does not answer is noticed once and at once."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tutelage.errors import ModelError
from tutelage.models import hub, load
from tutelage.models.source import ModelSource, resolve_model


@pytest.fixture
def nobody(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nothing listens there


@pytest.fixture
def forbidding(monkeypatch):
    """A server that answers every request with 403, and the requests that it saw."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            seen.append(self.path)
            self.send_response(403)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield seen
    server.shutdown()


def test_a_hub_that_answers_anything_is_reachable_and_asked_once(forbidding):
    assert hub.is_reachable()
    assert hub.is_reachable()
    assert len(forbidding) == 1


def test_a_hub_id_without_a_hub_is_refused_with_the_cause_and_nothing_is_tried_again(nobody, tmp_path, monkeypatch):
    asked = []
    cached = load.cached_file
    monkeypatch.setattr(
        load, "cached_file", lambda *a, **options: asked.append(options["local_files_only"]) or cached(*a, **options)
    )
    source = resolve_model("nobody/here", base_folder=tmp_path)
    load.seen.cache_clear()
    for read in (load.load_config, load.load_tokenizer):
        with pytest.raises(ModelError, match=r"http://127.0.0.1:9 does not answer from here.*name its folder"):
            read(source)
    assert asked
    assert all(asked), "only the cache was looked into"


def test_a_switched_off_hub_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        load.load_config(ModelSource("nobody/there", "nobody/there"))


def test_a_base_that_only_the_hub_has_names_the_key(nobody, tmp_path):
    source = ModelSource("a on b/c", "b/c", adapter=str(tmp_path))
    with pytest.raises(ModelError, match=r"the base of the adapter .*`base`"):
        load.load_config(source)
