"""Mirrors that fail half way, registries with certificates of their own, and insecure ones."""

from __future__ import annotations

import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Modal, serving_images
from played_registry import Registry, archive, lowest, serving
from test_registries import build, refused


@contextmanager
def mirrored(modal: Modal) -> Iterator[tuple[Registry, Registry, str]]:
    """A mirror, the registry that it is of, and the host's name for that."""
    with serving() as mirror, serving() as origin:
        host = f"m{mirror.address.rpartition(':')[2]}.example"
        settings = modal.directory / "registries.conf"
        place = f'[[registry.mirror]]\nlocation = "{mirror.address}/mirrored"\n'
        settings.write_text(f'[[registry]]\nprefix = "{host}"\nlocation = "{origin.address}"\n{place}')
        modal.environment["CONTAINERS_REGISTRIES_CONF"] = str(settings)
        yield mirror, origin, host


def test_what_a_mirror_does_not_give_comes_from_the_next_place(modal: Modal) -> None:
    with mirrored(modal) as (mirror, origin, host):
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
        assert (
            f"the registry `{origin.address}` has `{origin.address}/team/app:v2`, but lacks its part `sha256:" in said
        )


def test_what_a_mirror_makes_up_is_not_what_is_said_of_the_image(modal: Modal) -> None:
    """It is unpacked while it comes, and of an owner that the store does not have."""
    with mirrored(modal) as (mirror, origin, host):
        files = [("etc", None), ("etc/three", mirror.address.encode() + bytes(1 << 20))]
        right, other = archive(*files), archive(*files, uid=2_000_000_000)
        for each in (mirror, origin):
            described = each.blob(right, "application/vnd.oci.image.layer.v1.tar")
            each.put("v1", right)
            each.put_manifest("v1", {**json.loads(each.manifests["v1"]), "layers": [described]})
        name, rest = described["digest"], threading.Event()
        mirror.blobs[name] = other
        mirror.held[name] = (len(other) - 512, rest)
        threading.Timer(1, rest.set).start()
        assert build(modal, repr(f"{host}/team/app:v1")).stdout.startswith("im-")
        assert f"/v2/team/app/blobs/{name}" in origin.requests


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
        place = modal.directory / "config/containers/certs.d" / registry.address
        place.mkdir(parents=True)
        # An authority that has not signed the registry's certificate.
        (place / "authority.crt").write_bytes((certificates / "client.crt").read_bytes())
        assert "does not prove who it is" in refused(modal, reference)
        (place / "authority.crt").write_bytes((certificates / "ca.crt").read_bytes())
        if wants_client:
            refused(modal, reference)
            (place / "own.cert").write_bytes((certificates / "client.crt").read_bytes())
            assert "own.key` is missing" in refused(modal, reference)
            (place / "own.key").write_bytes((certificates / "client.key").read_bytes())
        assert build(modal, reference).stdout.startswith("im-")


def test_an_insecure_registry_need_not_prove_who_it_is(modal: Modal, certificates: Path, tmp_path: Path) -> None:
    """Those of this machine are insecure of themselves, so this one is called by an address that is not known as its own."""
    settings = tmp_path / "registries.conf"
    modal.environment["CONTAINERS_REGISTRIES_CONF"] = str(settings)
    modal.write(
        "app.py",
        """
        import modal

        with modal.App("t").run():
            print(modal.Image.debian_slim(python_version="3.11").run_commands("echo insecure > /made").build().object_id)
        """,
    )
    image = modal.python("app.py").stdout.strip()
    encrypted = {"certificate": str(certificates / "server.crt"), "key": str(certificates / "server.key")}
    for number, http in enumerate([{"tls": encrypted}, {}]):
        directory = tmp_path / str(number)
        directory.mkdir()
        with serving_images(directory, **http) as here:
            address = here.replace("127.0.0.1", "0.0.0.0")
            reference = f"{address}/team/app:{os.urandom(4).hex()}"
            settings.write_text("")
            pushed = modal("image", "push", image, reference, check=False)
            assert pushed.code == 1 and reference in pushed.stderr, pushed
            assert ("its certificate does not count" if http else "it speaks no TLS") in pushed.stderr, pushed
            assert "`insecure = true`" in pushed.stderr
            settings.write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
            modal("image", "push", image, reference)
            assert modal("image", "pull", reference).stdout.startswith("im-")
            # One that is called by its own address needs no settings.
            assert modal("image", "pull", reference.replace(address, here)).stdout.startswith("im-")
            cached = modal("cache", "upload", MODAL_CACHE=f"oci://{address}/cache")
            assert "warning" not in cached.stderr, cached
            modal.python("app.py", MODAL_CACHE=f"oci://{address}/cache")
            modal("cache", "upload", MODAL_CACHE=f"oci://{address}/cache")
            assert (directory / "data/docker/registry/v2/repositories/cache/_manifests").is_dir()
