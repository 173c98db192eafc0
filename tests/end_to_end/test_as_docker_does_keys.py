"""Settings and secrets of steps: what enters keys, what is shown, what is looked for."""

from __future__ import annotations

import os

from conftest import Modal

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
