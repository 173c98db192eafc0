"""Images that were built: found again by id and name, built without a function, their logs."""

from __future__ import annotations

import json
import os

from conftest import Modal

HEAD = """
import modal

base = modal.Image.debian_slim(python_version="3.11")
made = base.run_commands("echo {tag} | tee /opt/made")
"""


def write(modal: Modal, tag: str, body: str) -> None:
    modal.write("app.py", HEAD.format(tag=tag) + body)


def test_an_image_is_built_published_and_used_by_its_name(modal: Modal) -> None:
    tag = os.urandom(4).hex()
    write(
        modal,
        tag,
        f"""
assert made.build() is made
assert made.build(modal.App.lookup("{tag}", create_if_missing=True)) is made
made.publish("{tag}:v1")
derived = modal.Image.from_name("{tag}:v1").run_commands("cat /opt/made /opt/made > /opt/twice")
app = modal.App(image=derived)

@app.function(serialized=True)
def read():
    return open("/opt/twice").read()

with app.run():
    print(read.remote().split(), made.object_id == modal.Image.from_name("{tag}:v1").hydrate().object_id)
""",
    )
    assert modal.python("app.py").stdout == f"['{tag}', '{tag}'] True\n"
    modal("app", "stop", tag, "--yes")
    listed = json.loads(modal("image", "names", "list", "--prefix", tag, "--json").stdout)
    assert [(each["name"], each["tag"]) for each in listed] == [(tag, "v1")]
    assert f"{tag}:v1" in modal("image", "names", "list").stdout
    for command in ("inspect", "history"):
        of_name, of_id = (modal("image", command, of, "--json").stdout for of in (f"{tag}:v1", listed[0]["image"]))
        assert json.loads(of_name) == json.loads(of_id)
        missing = modal("image", command, f"{tag}:v2", check=False)
        assert missing.code == 1 and f"no image has the name `{tag}:v2`" in missing.stderr
        elsewhere = modal("image", command, f"{tag}:v1", "--env", "other", check=False)
        assert elsewhere.code == 1 and "in the environment `other`" in elsewhere.stderr
    assert modal("image", "names", "delete", f"{tag}:v1", "--yes").code == 0
    gone = modal("image", "names", "delete", f"{tag}:v1", "--yes", check=False)
    assert gone.code == 1 and "no image has the name" in gone.stderr
    assert modal("image", "names", "delete", f"{tag}:v1", "--yes", "--allow-missing").code == 0


def test_an_image_is_used_by_its_id_and_what_is_not_there_is_not_found(modal: Modal) -> None:
    tag = os.urandom(4).hex()
    write(
        modal,
        tag,
        """
app = modal.App(image=modal.Image.from_id(made.build().object_id).env({"A": "1"}))

@app.function(serialized=True)
def read():
    import os
    return open("/opt/made").read() + os.environ["A"]

with app.run():
    print(read.remote().split())
for image in (modal.Image.from_name("nobody-has-this"), modal.Image.from_id("im-nobody")):
    try:
        image.apt_install("git").build()
    except modal.exception.NotFoundError as error:
        print(error.message)
""",
    )
    assert modal.python("app.py").stdout.splitlines() == [
        f"['{tag}', '1']",
        "there is no image of the name `nobody-has-this:latest` in the environment `main`",
        "there is no image `im-nobody`",
    ]


def test_logs_are_those_of_the_last_layers_or_of_what_failed(modal: Modal) -> None:
    tag = os.urandom(4).hex()
    write(
        modal,
        tag,
        """
made.build()
print(made.logs.fetch(), len(made.logs.fetch(layers=None)) > 20, made.logs.tail(2)[-1])
bad = made.run_commands("echo going wrong; exit 3")
try:
    bad.build()
except modal.exception.ImageBuildError as error:
    print(error.image_id == made.object_id, bad.logs.fetch()[0])
""",
    )
    assert modal.python("app.py").stdout == f"['{tag}'] True {tag}\nTrue going wrong\n"


def test_an_image_with_a_name_stays(fresh_store: Modal) -> None:
    fresh_store.write(
        "app.py",
        'import modal\nimage = modal.Image.debian_slim("3.11").build()\nimage.publish("kept")\nprint(image.object_id)\n',
    )
    image = fresh_store.python("app.py").stdout.strip()
    fresh_store("image", "prune", "--all", "--yes")
    assert image in fresh_store("image", "list").stdout
    fresh_store("image", "names", "delete", "kept", "--yes")
    fresh_store("image", "prune", "--all", "--yes")
    assert image not in fresh_store("image", "list").stdout
