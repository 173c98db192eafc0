"""Settings and secrets of steps: what enters keys, what is shown, what is looked for."""

from __future__ import annotations

import os

import pytest
from conftest import Modal
from private_index import PASSWORD, USER, private_index

HEAD = """
import modal
base = modal.Image.debian_slim(python_version="3.11")
"""


def app(modal: Modal, image: str, body: str = "pass") -> None:
    modal.write("app.py", f'{HEAD}\napp = modal.App("t", image={image})\n\n@app.function()\ndef main():\n    {body}\n')


def test_a_changed_setting_rebuilds_its_step_and_is_seen_in_its_title(modal: Modal) -> None:
    tag = os.urandom(4).hex()
    step = f'base.run_commands("echo $V-{tag} > /v", env={{{{"V": "{{}}"}}}})'
    for value in ("one", "two"):
        app(modal, step.format(value), 'print(open("/v").read())')
        result = modal.events("app.py")
        assert result.stdout == f"{value}-{tag}\n\n"
    assert [event["miss"] for event in result.of("step_started")] == [{"reason": "changed", "parts": ["environment"]}]
    assert f'env={{"V":"{value}"}}' in result.of("step_queued")[-1]["title"]
    app(modal, step.format("one"), 'print(open("/v").read())')
    result = modal.events("app.py")
    assert (result.stdout, result.of("step_started")) == (f"one-{tag}\n\n", [])


def test_two_values_in_one_app_are_two_layers(modal: Modal) -> None:
    modal.write(
        "app.py",
        HEAD
        + """
app = modal.App("t")
one, two = (base.run_commands("echo $V > /v", env={"V": value}) for value in ("one", "two"))

@app.function(image=one)
def first():
    return open("/v").read()

@app.function(image=two)
def second():
    return open("/v").read()

@app.local_entrypoint()
def main():
    print(first.remote(), second.remote())
""",
    )
    assert modal("run", "-q", "app.py").stdout == "one\n two\n\n"


def test_settings_may_be_printed_and_stay(modal: Modal) -> None:
    app(
        modal,
        'base.run_commands("echo at $PREFIX; echo $PREFIX > /opt/prefix; echo $DEBIAN_FRONTEND > /opt/frontend",'
        ' env={"PREFIX": "/usr/local", "DEBIAN_FRONTEND": "noninteractive"}, force_build=True)',
    )
    result = modal("run", "--progress", "plain", "app.py")
    assert "at /usr/local\n" in result.stderr


def secret(values: str, more: str = "") -> str:
    return f"modal.Secret.from_dict({values}){more}"


def test_settings_beside_secrets_do_not_refuse_a_step(modal: Modal) -> None:
    values = (
        '{"TOKEN": "correct-horse-battery", "AWS_REGION": "us-east-1", "BUCKET": "public-data", "PACKAGE": "humanize"}'
    )
    app(
        modal,
        f"base.uv_pip_install('humanize==4.12.3', secrets=[{secret(values)}], force_build=True)"
        f".run_commands('echo $AWS_REGION $BUCKET > /etc/settings; cat /etc/settings', secrets=[{secret(values)}], force_build=True)",
    )
    result = modal("run", "--progress", "plain", "app.py")
    assert "us-east-1 public-data" in result.stderr
    assert "installed" not in result.stdout


def test_words_in_the_data_of_debian_packages_are_no_leak(modal: Modal) -> None:
    app(
        modal,
        f"base.apt_install('hello', secrets=[{secret(repr({'DB_PASSWORD': 'GNU General Public License'}))}], force_build=True)",
    )
    modal("run", "app.py")


def test_a_word_that_the_step_wrote_is_refused_and_can_be_allowed(modal: Modal) -> None:
    step = "base.run_commands('echo $DATABASE > /etc/app.conf', secrets=[{}], force_build=True)"
    app(modal, step.format(secret('{"DATABASE": "inventory"}')))
    result = modal("run", "app.py", check=False)
    assert result.code == 1
    assert "`DATABASE`" in result.stderr and "`/etc/app.conf`" in result.stderr
    assert 'secret.allow("DATABASE")' in result.stderr
    app(modal, step.format(secret('{"DATABASE": "inventory"}', '.allow("DATABASE")')))
    modal("run", "app.py")


def test_an_attribute_of_the_root_directory_is_searched(modal: Modal) -> None:
    python = "import os; os.setxattr('/', 'user.note', os.environ['TOKEN'].encode())"
    app(
        modal,
        f"base.run_commands({('python3 -c ' + chr(34) + python + chr(34))!r}, secrets=[{secret(repr({'TOKEN': 'correct-horse-battery'}))}])",
    )
    result = modal("run", "app.py", check=False)
    assert result.code == 1
    assert "`TOKEN`, in `/`" in result.stderr.replace("`TOKEN` , in", "`TOKEN`, in")


def test_no_form_of_a_long_secret_is_shown(modal: Modal) -> None:
    value = "".join(f"{index * 37 % 251:02x}" for index in range(60))
    script = (
        "import base64, os, urllib.parse as u; v = os.environ['TOKEN']; b = v.encode(); print(v, b.hex(), b.hex().upper());"
        "print(base64.encodebytes(b'x' + b).decode()); print(base64.b64encode(b'xy' + b).decode()); print('end', b.hex()[:90]);"
        "print(b.hex()[90:], 'rest')"
    )
    app(
        modal,
        f"base.run_commands({('python3 -c ' + chr(34) + script + chr(34))!r}, secrets=[{secret(repr({'TOKEN': value}))}], force_build=True)",
    )
    result = modal("run", "--progress", "plain", "app.py")
    assert "end ***" in result.stderr and "*** rest" in result.stderr
    log = modal("image", "logs", last_image(modal)).stdout
    import base64

    forms = [value, value.encode().hex(), value.encode().hex().upper()]
    forms += [base64.b64encode(b"x" * index + value.encode()).decode()[4:-4] for index in range(3)]
    for text in (result.stderr, log):
        joined = text.replace("\n", "")
        for form in forms:
            assert not any(form[at : at + 12] in joined for at in range(len(form) - 12))


def last_image(modal: Modal) -> str:
    import json

    return json.loads(modal("image", "list", "--json").stdout)[0]["id"]


CALLS = {
    "uv-wheel": ("uv_pip_install('demo-wheel', index_url={url!r})", "demo_wheel"),
    "uv-source": ("uv_pip_install('demo-source', index_url={url!r})", "demo_source"),
    "uv-token": ("uv_pip_install('demo-source', index_url={token!r})", "demo_source"),
    "uv-extra": ("uv_pip_install('demo-source', extra_index_url={odd!r})", "demo_source"),
    "uv-options": ("uv_pip_install('demo-source', extra_options='--default-index ' + {token!r})", "demo_source"),
    "uv-options-of-two-kinds": (
        "uv_pip_install('demo-source', extra_options='--no-deps --find-links ' + {token!r} + '/demo-wheel'"
        " + ' --extra-index-url=' + {url!r})",
        "demo_source",
    ),
    "uv-address": ("uv_pip_install('demo-wheel @ {files}/demo_wheel-1.0-py3-none-any.whl')", "demo_wheel"),
    "uv-address-of-source": (
        "uv_pip_install('demo-source @ {files}/demo_source-1.0.tar.gz', index_url={url!r})",
        "demo_source",
    ),
    "uv-secret": (
        "uv_pip_install('demo-source', extra_options='--index-url http://$TOKEN@{place}/simple', secrets=[{secret}])",
        "demo_source",
    ),
    "uv-git": ("uv_pip_install('demo-source @ {git}')", "demo_source"),
    "uv-git-secret": ("uv_pip_install(requirements=['private.txt'], secrets=[{secret}])", "demo_source"),
    "uv-version": ("uv_pip_install('demo-source', index_url={url!r}, uv_version='0.9.0')", "demo_source"),
    "pip-source": ("pip_install('demo-source', index_url={url!r})", "demo_source"),
    "pip-token": ("pip_install('demo-source', index_url={token!r})", "demo_source"),
    "pip-extra": ("pip_install('demo-source', extra_index_url={odd!r})", "demo_source"),
    "pip-options": ("pip_install('demo-source', extra_options='--index-url=' + {token!r})", "demo_source"),
    "pip-two-logins": (
        "pip_install('demo-source', index_url={token!r}, extra_options='--extra-index-url ' + {url!r})",
        "demo_source",
    ),
    "pip-address": (
        "pip_install('demo_source @ {files}/demo_source-1.0.tar.gz', index_url={url!r})",
        "demo_source",
    ),
    "pip-git": ("pip_install({git!r})", "demo_source"),
    "pip-git-token": ("pip_install('demo-source @ {git_token}')", "demo_source"),
    "pip-secret": (
        "pip_install('demo-source', extra_options='-i http://$TOKEN@{place}/simple', secrets=[{secret}])",
        "demo_source",
    ),
    "pip-configuration": (
        "run_commands('pip config set global.index-url {token}').pip_install('demo-source')",
        "demo_source",
    ),
}


@pytest.mark.parametrize("way", CALLS)
def test_credentials_of_an_index_are_in_no_argument_list_and_are_not_kept(modal: Modal, way: str) -> None:
    call, module = CALLS[way]
    with private_index() as index:
        call = call.format(
            url=index.url,
            token=index.token_url,
            odd=index.odd_url,
            files=index.files_url,
            git=index.git_url,
            git_token=index.git_token_url,
            place=index.url.split("@")[1].removesuffix("/simple"),
            secret=secret(repr({"TOKEN": PASSWORD})),
        )
        modal.write("private.txt", index.git_url.replace(f"{USER}:{PASSWORD}", "${TOKEN}") + "\n")
        if "git" in way:
            call = f"apt_install('git').{call}"
        body = (
            "from pathlib import Path; places = Path('/usr/local/lib').glob('python3*/*-packages/*.dist-info/*'); "
            f"assert not [file for file in places if {PASSWORD!r} in file.read_text()]; "
            f"import {module}; print({module}.value)"
        )
        app(modal, f"base.{call[:-1]}, force_build=True)", body)
        result = modal("run", "--progress", "plain", "app.py")
        assert result.stdout in ("1\n", "2\n")
        assert any(path.startswith(("/files/", "/git/")) for path in index.granted)
        assert not index.leaks
    shown = [
        result.stdout + result.stderr,
        modal("image", "list", "--json").stdout,
        modal("image", "logs", last_image(modal)).stdout,
        modal("image", "history", "--json", last_image(modal), check=False).stdout,
    ]
    assert not [text for text in shown if PASSWORD in text]
    kept = [*modal.store.glob("index*"), *modal.store.glob("logs/*")]
    assert kept and not [file for file in kept if file.is_file() and PASSWORD.encode() in file.read_bytes()]


def test_credentials_that_an_index_refuses_are_not_in_the_message(modal: Modal) -> None:
    with private_index() as index:
        wrong = index.url.replace(PASSWORD, "close-sesame-0815")
        for call in (
            f"uv_pip_install('demo-wheel', index_url={wrong!r})",
            f"pip_install('demo-source', index_url={wrong!r})",
        ):
            app(modal, f"base.{call}")
            result = modal("run", "--progress", "plain", "app.py", check=False)
            assert result.code == 1 and not index.granted
            assert "close-sesame-0815" not in result.stdout + result.stderr


def test_a_build_failure_is_shown_once(modal: Modal) -> None:
    app(modal, "base.run_commands('echo so it ends; gcc --version')")
    for progress in ("plain", "quiet", "json"):
        result = modal("run", "--progress", progress, "app.py", check=False, MODAL_TOOLCHAIN="never")
        assert (result.code, result.stdout) == (1, "")
        assert result.stderr.count("so it ends\n") == (0 if progress == "json" else 1), result.stderr
        assert result.stderr.count("exit code 127\n") == (0 if progress == "json" else 1), result.stderr
        assert result.stderr.count("build-essential") == 1
        assert "error:" not in result.stderr
    modal.write("app.py", (modal.directory / "app.py").read_text() + "\nwith app.run():\n    pass\n")
    result = modal.python("app.py", check=False, MODAL_TOOLCHAIN="never")
    assert result.stderr.count("\n  so it ends\n") == 1


def test_all_missing_local_files_are_reported_before_anything_is_built(modal: Modal) -> None:
    modal.write(
        "app.py",
        HEAD
        + """
app = modal.App("t")

@app.function(image=base.run_commands("sleep 100").add_local_file("gone.txt", "/x", copy=True))
def one():
    pass

@app.function(image=base.run_commands("sleep 200").uv_pip_install(requirements=["none.txt"]).add_local_dir("no", "/y"))
def two():
    pass

@app.local_entrypoint()
def main():
    one.remote()
""",
    )
    result = modal.events("app.py", check=False)
    assert result.code == 1 and not result.of("step_queued")
    for name in ("gone.txt", "none.txt", "no"):
        assert f"{modal.directory}/{name}` does not exist" in result.stderr
