"""Logins of registries: where they are from, and who is told them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import urllib.parse
from pathlib import Path

import pytest
from conftest import Modal
from played_registry import BASIC, PASSWORD, TOKEN, USER, Registry
from test_registries import build, refused


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_logins(modal: Modal, registry: Registry, reference: str, kind: str) -> None:
    registry.login = kind
    if kind == "basic":
        assert "docker login" in refused(modal, repr(reference))
    secret = f'modal.Secret.from_dict({{"REGISTRY_USERNAME": "{USER}", "REGISTRY_PASSWORD": "{PASSWORD}"}})'
    assert build(modal, repr(reference), secret).stdout.startswith("im-")
    wrong = secret.replace(PASSWORD, "something-else")
    said = refused(modal, repr(reference), wrong, "force_build=True")
    assert "refuses" in said and "something-else" not in said
    assert "REGISTRY_PASSWORD" in refused(modal, repr(reference), 'modal.Secret.from_dict({"A": "b"})')
    settings = modal.directory / "docker"
    settings.mkdir()
    logins = {"auths": {f"{registry.address}/team": {"auth": BASIC.split()[1]}}}
    (settings / "config.json").write_text(json.dumps(logins))
    modal.environment["DOCKER_CONFIG"] = str(settings)
    assert build(modal, repr(reference), "force_build=True").stdout.startswith("im-")


def test_the_login_of_a_dockerfile(modal: Modal, registry: Registry, reference: str) -> None:
    registry.login = "basic"
    modal.write("Dockerfile", f"FROM {reference}\nENV B=c\n")
    program = """
    import sys
    import modal

    image = modal.Image.from_dockerfile("Dockerfile", force_build=True, registry_secret=SECRET)
    with modal.App("t").run():
        print(image.build().object_id)
    """
    modal.write("app.py", program.replace("SECRET", "None"))
    said = modal.python("app.py", check=False)
    assert said.code == 1 and "docker login" in said.stderr
    login = {"REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": PASSWORD}
    modal.write("app.py", program.replace("SECRET", f"modal.Secret.from_dict({login})"))
    built = modal.python("app.py").stdout
    assert built.startswith("im-")
    modal("secret", "create", "login", "--force", *(f"{name}={value}" for name, value in login.items()))
    command = ("image", "build", ".", "--force-build")
    assert modal(*command, check=False).code == 1
    assert modal(*command, "--registry-secret", "login").stdout == built
    assert modal(*command, "--registry-secret-from-env", ",".join(login), **login).stdout == built
    missing = modal(*command, "--registry-secret-from-env", ",".join(login), check=False)
    assert missing.code == 1 and "`REGISTRY_USERNAME`" in missing.stderr


def test_programs_keep_logins(modal: Modal, registry: Registry, reference: str) -> None:
    registry.login = "basic"
    settings, programs = modal.directory / "docker", modal.directory / "programs"
    settings.mkdir()
    programs.mkdir()
    program = programs / "docker-credential-played"
    answer = json.dumps({"ServerURL": registry.address, "Username": USER, "Secret": PASSWORD})
    program.write_text(f"#!/bin/sh\ntest \"$1 $(cat)\" = 'get {registry.address}' && echo '{answer}'\n")
    program.chmod(0o755)
    modal.environment["DOCKER_CONFIG"] = str(settings)
    modal.environment["PATH"] = f"{programs}:{modal.environment.get('PATH') or os.environ['PATH']}"
    (settings / "config.json").write_text(json.dumps({"credsStore": "none-here"}))
    errors = refused(modal, repr(reference))
    assert "`docker-credential-none-here`" in errors and "credsStore" in errors
    (settings / "config.json").write_text(
        json.dumps({"credHelpers": {registry.address: "played"}, "credsStore": "none-here"})
    )
    assert build(modal, repr(reference)).stdout.startswith("im-")
    # An identity token is for the token service alone.
    registry.login = "bearer"
    token = {"auths": {registry.address: {"identitytoken": "an-identity-token"}}}
    (settings / "config.json").write_text(json.dumps(token))
    registry.replies["refresh_token=an-identity-token"] = (200, json.dumps({"access_token": TOKEN[7:]}))
    assert build(modal, repr(reference), "force_build=True").stdout.startswith("im-")
    (path, _, sent), *_ = registry.sent
    assert path == "/token" and "grant_type=refresh_token" in sent and "service=played" in sent
    assert "scope=repository%3Ateam%2Fapp%3Apull" in sent


def from_provider(modal: Modal, method: str, reference: str, values: dict[str, str], check: bool = True):
    modal.write(
        "app.py",
        f"""
        import modal

        secret = modal.Secret.from_dict({values!r})
        with modal.App("t").run():
            print(modal.Image.{method}({reference!r}, secret, force_build=True).build().object_id)
        """,
    )
    return modal.python("app.py", check=check)


def test_logins_of_amazon(modal: Modal, registry: Registry, reference: str) -> None:
    registry.login = "basic"
    registry.accept("AWS", "for-twelve-hours")
    token = base64.b64encode(b"AWS:for-twelve-hours").decode()
    registry.replies["GetAuthorizationToken"] = (
        200,
        json.dumps({"authorizationData": [{"authorizationToken": token, "expiresAt": 1, "proxyEndpoint": "x"}]}),
    )
    keys = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "a-secret-key", "AWS_REGION": "eu-west-1"}
    modal.environment["AWS_ENDPOINT_URL"] = f"http://{registry.address}/"
    for method in ("from_aws_ecr", "from_registry"):
        assert from_provider(modal, method, reference, keys).stdout.startswith("im-")
    signed = registry.sent[0][1]["authorization"]
    assert "Credential=AKIDEXAMPLE/" in signed and "/eu-west-1/ecr/aws4_request" in signed
    # A role is taken first, by these keys or by a token.
    role = (
        "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>k"
        "</SecretAccessKey><SessionToken>session</SessionToken></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )
    registry.replies["Action=AssumeRole"] = (200, role)
    (modal.directory / "identity").write_text("who-i-am\n")
    named = {"AWS_ROLE_ARN": "arn:aws:iam::1:role/reader"}
    for values, said in [
        ({**keys, **named}, "RoleSessionName=lamina"),
        ({**named, "AWS_REGION": "us-east-1"}, "who-i-am"),
    ]:
        registry.sent.clear()
        assert from_provider(modal, "from_aws_ecr", reference, values).stdout.startswith("im-")
        assert said in registry.sent[0][2] and "arn%3Aaws%3Aiam%3A%3A1%3Arole%2Freader" in registry.sent[0][2]
        assert "Credential=ASIAROLE/" in registry.sent[1][1]["authorization"]
        assert registry.sent[1][1]["x-amz-security-token"] == "session"
        modal.environment["AWS_WEB_IDENTITY_TOKEN_FILE"] = str(modal.directory / "identity")
    registry.replies["GetAuthorizationToken"] = (400, json.dumps({"message": "The security token is invalid."}))
    errors = from_provider(modal, "from_aws_ecr", reference, keys, check=False).stderr
    assert "The security token is invalid." in errors and "a-secret-key" not in errors
    errors = from_provider(modal, "from_aws_ecr", reference, {"A": "b"}, check=False).stderr
    assert "InvalidError" in errors and "`AWS_REGION`" in errors


def test_logins_of_google(modal: Modal, registry: Registry, reference: str, tmp_path: Path) -> None:
    def openssl(*arguments: object) -> str:
        command = ["openssl", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    key = openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
    account = {
        "type": "service_account",
        "client_email": "reader@project.example",
        "private_key": key,
        "private_key_id": "first",
        "token_uri": f"http://{registry.address}/google",
    }
    registry.login = "basic"
    registry.accept("oauth2accesstoken", "for-an-hour")
    registry.replies["/google"] = (200, json.dumps({"access_token": "for-an-hour", "token_type": "Bearer"}))
    values = {"SERVICE_ACCOUNT_JSON": json.dumps(account)}
    for method in ("from_gcp_artifact_registry", "from_registry"):
        assert from_provider(modal, method, reference, values).stdout.startswith("im-")
    form = dict(urllib.parse.parse_qsl(registry.sent[0][2]))
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    signed, _, signature = form["assertion"].rpartition(".")
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in signed.split("."))
    assert header == {"alg": "RS256", "typ": "JWT", "kid": "first"}
    assert claims["iss"] == "reader@project.example" and claims["aud"] == account["token_uri"]
    assert claims["exp"] - claims["iat"] == 3600 and abs(claims["iat"] - time.time()) < 3600
    (tmp_path / "key").write_text(key)
    (tmp_path / "signed").write_text(signed)
    (tmp_path / "signature").write_bytes(base64.urlsafe_b64decode(signature + "=="))
    openssl("pkey", "-in", tmp_path / "key", "-pubout", "-out", tmp_path / "public")
    verify = ("-sha256", "-verify", tmp_path / "public", "-signature", tmp_path / "signature", tmp_path / "signed")
    assert "Verified OK" in openssl("dgst", *verify)
    registry.replies["/google"] = (400, json.dumps({"error": "invalid_grant", "error_description": "Gone."}))
    errors = from_provider(modal, "from_registry", reference, values, check=False).stderr
    assert "invalid_grant Gone." in errors and "PRIVATE KEY" not in errors


def test_a_login_does_not_follow_a_redirection(modal: Modal, registry: Registry, reference: str) -> None:
    registry.login, registry.elsewhere = "bearer", []
    assert build(modal, repr(reference)).stdout.startswith("im-")
    assert registry.elsewhere
    assert not any("authorization" in map(str.lower, headers) for headers in registry.elsewhere)
