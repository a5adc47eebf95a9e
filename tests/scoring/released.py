"""Stand-ins for what the authors released, behind https: pickles of the published structure, detector, reference, labels."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sida.stores.objects import sha256_of
from sida.teachers.formats import read_network
from tests.scoring.stand_in import FEATURES, write_stand_in
from tests.teachers.test_convert import published


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def https(folder: Path, certificates: Path) -> Iterator[tuple[str, Path]]:
    """(address, certificate) of a server for the files of a folder."""
    key, certificate = certificates / "key.pem", certificates / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}", certificate
    finally:
        server.shutdown()
        server.server_close()


def write_files(folder: Path) -> str:
    """What the server has; the detector's sha256."""
    folder.mkdir()
    for tag in ("ddpmpp_uncond", "ddpmpp_cond"):
        published(folder, tag)
    detector = write_stand_in(folder / "inception.pt")
    generator = np.random.default_rng(0)
    features = generator.normal(0.1, 0.1, (500, FEATURES))
    np.savez(folder / "reference.npz", mu=features.mean(0), sigma=np.cov(features.T))
    return sha256_of(detector)[0]


def write_recipes(folder: Path, files: Path, address: str, detector: str) -> list[Path]:
    """A recipe per released file: an unconditional SiD generator, two SiD2A of one row, and one whose file is gone."""
    paths = []
    of = {"uncond": ("ddpmpp_uncond", "sid", {"sid": 100.0}), "cond": ("ddpmpp_cond", "sid2a", {"best": 0.001})}
    for kind, alpha in (("uncond", 1.0), ("cond", 1.0), ("cond", 1.2), ("gone", 1.0)):
        tag, method, best = of.get(kind, of["uncond"])
        network = _plain(read_network(files / f"{tag}.pkl", tag).network)
        classes = network["label_dim"]
        labels = [[f"{number}.png", number % classes] for number in range(60)] if classes else None
        (files / f"{tag}.json").write_text(json.dumps({"labels": labels}))
        fields: dict[str, Any] = {
            "name": f"ddpmpp-{kind}" + ("-alpha12" if alpha != 1 else ""),
            "version": 1,
            "description": "a stand-in",
            "benchmark": f"Stand-in {kind}",
            "teacher": {
                "address": f"{address}/{tag}.pkl",
                "licence": "none",
                "network": network,
                "sampler": {"steps": 2},
            },
            "dataset": {
                "source": "labels",
                "address": f"{address}/{tag}.json",
                "licence": "none",
                "resolution": network["resolution"],
                "channels": network["channels"],
                "classes": classes,
            },
            "method": {
                "name": method,
                "images": 64,
                "batch": 4,
                "loss_group": 4,
                "alpha": alpha,
                "fake_score_rate": 1e-5,
                "generator_rate": 1e-5,
            },
            "evaluation": {
                "metric": "fid",
                "detector": {"address": f"{address}/inception.pt", "sha256": detector, "features": FEATURES},
                "reference": {"address": f"{address}/reference.npz"},
                "images": 40,
                "ranges": 3,
                "selection_images": 20,
                "selection_every": 64,
            },
            "gate": {"teacher_at_most": 1.0},
            "execution": {"checkpoint_every": 64, "sampling_batch": 20},
            "targets": {"metric": "fid", "source": "a stand-in's paper", **best},
            "released": {
                "address": f"{address}/{'gone' if kind == 'gone' else tag}.pkl",
                "kimg": 7 if alpha == 1 else 8,
            },
        }
        if method == "sid2a":
            fields["generator"] = {"address": f"{address}/{tag}.pkl", "licence": "none"}
        path = folder / f"{fields['name']}.yaml"
        path.write_text(yaml.safe_dump(fields))
        paths.append(path)
    return paths


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
