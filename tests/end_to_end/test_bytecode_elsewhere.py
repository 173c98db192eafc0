"""A Python that comes without the bytecode of its own modules, as Docker's `python` has it, is compiled once for its base."""

from __future__ import annotations

import json

from conftest import Modal

EXPORTED = """
import modal

image = modal.Image.debian_slim(python_version="3.11")
bare = image.run_commands("find /usr/lib/python3* -name __pycache__ -prune -exec rm -rf {} +")
with modal.App("t").run():
    print(bare.build().object_id)
"""

PROGRAM = """
import json
import modal

base = modal.Image.from_registry("oci-archive:base.tar")
app = modal.App("bytecode")

def look():
    import os
    import sysconfig
    from importlib.util import cache_from_source
    library = sysconfig.get_path("stdlib")
    # Nothing imports it here.
    kept = cache_from_source(os.path.join(library, "wave.py"))
    return os.stat(kept).st_mtime_ns if os.path.exists(kept) else None

plain = app.function(image=base, name="plain")(look)
further = app.function(image=base.run_commands("true > /srv/x"), name="further")(look)
change = "echo 'A = 1' >> /usr/lib/python3.11/wave.py; chmod 711 /usr/lib/python3.11"
other = app.function(image=base.run_commands(change), name="other")(changed)

@app.local_entrypoint()
def main():
    print(json.dumps([plain.remote(), further.remote(), other.remote()]))
"""

CHANGED = """
def changed():
    import os
    import wave
    return [wave.A, os.stat("/usr/lib/python3.11").st_mode & 0o777]
"""


def test_a_library_without_bytecode_is_compiled_once_for_all_images_on_it(modal: Modal) -> None:
    modal.write("export.py", EXPORTED)
    image = modal.python("export.py").stdout.strip()
    modal("image", "export", image, "--format", "oci-archive", "--keep-times", "-o", "base.tar")
    modal.write("app.py", PROGRAM.replace("\ndef look", f"{CHANGED}\ndef look"))
    plain, further, changed = json.loads(modal("run", "app.py").stdout)
    assert plain is not None, "it was not compiled"
    assert plain == further, "it was compiled again for an image on the same base"
    assert changed == [1, 0o711], "what a step has changed is as it left it"
