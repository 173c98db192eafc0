"""Mirrors that fail half way, and registries with certificates of their own."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from conftest import Modal
from played_registry import archive, serving
from test_registries import build, lowest, refused


def test_what_a_mirror_does_not_give_comes_from_the_next_place(modal: Modal) -> None:
    with serving() as mirror, serving() as origin:
        host = f"m{mirror.address.rpartition(':')[2]}.example"
        settings = modal.directory / "registries.conf"
        mirrored = f'[[registry.mirror]]\nlocation = "{mirror.address}/mirrored"\n'
        settings.write_text(f'[[registry]]\nprefix = "{host}"\nlocation = "{origin.address}"\n{mirrored}')
        modal.environment["CONTAINERS_REGISTRIES_CONF"] = str(settings)
        layers = [lowest(mirror), archive(("etc/two", mirror.address.encode()))]
        for each in (mirror, origin):
            each.put("v1", *layers)
        # One of them is gone, and the other is not what it is said to be.
        described = [name for name in mirror.blobs if mirror.blobs[name][:2] == b"\x1f\x8b"]
        del mirror.blobs[described[0]]
        mirror.instead[described[1]] = b"something else"
        assert build(modal, repr(f"{host}/team/app:v1")).stdout.startswith("im-")
        assert {f"/v2/team/app/blobs/{name}" for name in described} <= set(origin.requests)
        assert not any("manifests" in path for path in origin.requests)
        # What is nowhere fails as it does at the last place.
        for each in (mirror, origin):
            each.put("v2", archive(("etc/three", mirror.address.encode())))
            del each.blobs[list(each.blobs)[-2]]
        said = refused(modal, repr(f"{host}/team/app:v2"))
        assert f"`{origin.address}`" in said and "has no image" in said


@pytest.mark.parametrize("wants_client", [False, True])
def test_certificates_of_a_registry(modal: Modal, certificates: Path, wants_client: bool) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    if wants_client:
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(certificates / "ca.crt")
    with serving(tls) as registry:
        registry.put("v1", lowest(registry))
        reference = repr(f"{registry.address}/team/app:v1")
        modal.environment["XDG_CONFIG_HOME"] = str(modal.directory / "config")
        refused(modal, reference)
        place = modal.directory / "config/containers/certs.d" / registry.address
        place.mkdir(parents=True)
        (place / "authority.crt").write_bytes((certificates / "ca.crt").read_bytes())
        if wants_client:
            refused(modal, reference)
            (place / "own.cert").write_bytes((certificates / "client.crt").read_bytes())
            assert "own.key` is missing" in refused(modal, reference)
            (place / "own.key").write_bytes((certificates / "client.key").read_bytes())
        assert build(modal, reference).stdout.startswith("im-")
