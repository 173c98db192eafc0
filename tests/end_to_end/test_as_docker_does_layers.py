"""Three steps leave what they leave on plain overlays, in every way in which files get into views."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal, remove

# What a directory holds, as any process sees it: types, owners, modes, sizes, times, attributes, bytes, and which names
# are one file. Times are told where a step set them (all before 2015), and otherwise only by their order.
SURVEY = r"""
import hashlib, json, os, stat
def survey(top):
    found, names = {}, {}
    for directory, directories, files in os.walk(os.fsencode(top)):
        for name in sorted(directories + files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            shown = os.path.relpath(path, os.fsencode(top)).decode("latin-1")
            entry = {"mode": oct(status.st_mode), "owner": [status.st_uid, status.st_gid]}
            if not stat.S_ISDIR(status.st_mode):
                entry["links"] = status.st_nlink
                names.setdefault((status.st_dev, status.st_ino), []).append(shown)
            if status.st_mtime < 1420070400:
                entry["time"] = status.st_mtime_ns
            if stat.S_ISREG(status.st_mode):
                entry["size"] = status.st_size
                entry["bytes"] = hashlib.sha256(open(path, "rb").read()).hexdigest()[:16]
            if stat.S_ISLNK(status.st_mode):
                entry["target"] = os.fsdecode(os.readlink(path))
            else:
                kept = [n for n in os.listxattr(path) if n.startswith(("user.", "security.cap", "system.posix"))]
                entry["attributes"] = {n: os.getxattr(path, n).hex() for n in kept}
            found[shown] = entry
    found["one file"] = sorted(sorted(group) for group in names.values() if len(group) > 1)
    return found
"""

SET = """python3 -c 'import os, sys
for name, value in zip(sys.argv[2::2], sys.argv[3::2]): os.setxattr(sys.argv[1], name, bytes.fromhex(value))'"""
CAPABILITY = "security.capability 0100000200040000000000000000000000000000"

# Three steps, each a list of commands that run in one directory.
STEPS = [
    [
        # Equal files.
        "mkdir s c && echo same > s/a && echo same > s/b && echo same > c/a && echo same > c/b",
        "mkdir many && for i in 1 2 3 4 5 6 7 8 9; do echo many > many/$i; done",
        "mkdir linked && echo l > linked/one && ln linked/one linked/two && ln linked/one linked/three",
        "mkdir pair && echo p > pair/one && ln pair/one pair/two",
        # Times.
        "mkdir times && touch -d '2001-02-03 04:05:06.789 UTC' times/old && touch -d '2010-01-01 UTC' times/newer",
        "touch -d '2003-01-01 UTC' times && ln -s old times/link && touch -hd '2004-01-01 UTC' times/link",
        "echo 1 > times/source; touch -d '2005-01-01 UTC' times/source; echo made > times/program",
        "mkdir archived && echo t > archived/t && touch -d '1999-12-31 23:59:59.5 UTC' archived/t archived",
        "touch -d '1965-01-01 UTC' times/early; touch -d '2003-01-01 UTC' times",
        # What later steps delete and replace.
        "mkdir -p opaque/deep && echo o > opaque/file && echo o > opaque/deep/file",
        "mkdir -p gone/deep && echo g > gone/deep/file && echo g > gone/file",
        "echo f > file-to-directory; echo f > file-to-link; mkdir d-to-file d-to-link; echo x > d-to-file/x",
        "echo x > d-to-link/x; ln -s d-to-link link-to-directory; mkfifo pipe pipe-to-file; echo f > file-to-pipe",
        "mkdir -p again/deep && echo a > again/deep/file && echo a > again/other",
        # Owners, modes, attributes.
        "mkdir bits && for m in 4755 2755 6711 1644 0 7777; do echo $m > bits/$m; chmod $m bits/$m; done",
        "echo owned > bits/owned && chown 1:8 bits/owned && chmod 2750 bits/owned",
        "mkdir -m 2775 bits/shared && chown 0:8 bits/shared && mkdir -m 1777 bits/sticky",
        "mkdir attributes && cd attributes && echo a > user && echo a > plain && echo a > escaped && echo a > capable",
        f"cd attributes; {SET} user user.one 01 user.two 0000; {SET} escaped user.overlay.opaque 79 user.overlay.x 01",
        "mkdir attributes/marked attributes/deleted; echo m > attributes/marked/file; echo d > attributes/deleted/file",
        f"{SET} attributes/marked user.overlay.opaque 79 user.overlay.redirect 2f78 user.overlay.overlay.y 02",
        f"{SET} attributes/deleted/file user.overlay.whiteout '' ; {SET} attributes/deleted user.overlay.opaque 78",
        f"cp attributes/plain attributes/like && {SET} attributes/capable {CAPABILITY}",
        f": > attributes/empty; {SET} attributes/empty user.overlay.metacopy '' user.overlay.redirect 2f61 user.e 01",
        # Names.
        r"mkdir names && cd names && for n in '\377\376' 'new\nline' '.wh.x' 'a b' '-' 'k\303\244se'; do"
        r' printf "$n" > "$(printf "$n")"; done; mkdir -p "$(printf "d\377")/deep"; echo x > "$(printf "d\377/deep/x")"',
        # Large and sparse.
        "head -c 300000 /dev/zero | tr '\\0' x > large; truncate -s 3M sparse; truncate -s 0 empty",
    ],
    [
        "cp -a s t && echo changed > t/a && cat t/b > seen",
        "cp s/a s/b && echo 'cp works' >> seen",
        "(cd c && tar cf - .) | (mkdir u && cd u && tar xf -) && echo changed > u/a && cat u/b >> seen",
        'python3 -c \'import os; print(os.path.samefile("s/a", "s/b"), os.path.samefile("pair/one", "pair/two"))\' >> seen',
        "cp -a many more && echo x > more/1 && cat more/2 >> seen; cp -a linked copied && echo x > copied/one",
        "cp -a pair pairs; stat -c %h s/a many/1 linked/one pair/two > counts",
        "[ times/old -ot times/newer ] && echo older >> seen; find times -newer times/old | sort >> seen",
        "echo 2 > times/source; [ times/source -nt times/program ] && echo outdated >> seen",
        "tar cf archived.tar archived && tar tvf archived.tar --full-time --utc | tr -s ' ' | cut -d' ' -f3- >> seen; rm archived.tar",
        "mkdir unpacked && tar cf - archived | tar xf - -C unpacked",
        "touch -d '2002-02-02 UTC' times/newer; chmod 600 times/old",
        "rm -rf opaque && mkdir opaque && echo new > opaque/new; rm -r gone/deep; rm gone/file",
        "rm -rf again && mkdir -p again/deep && echo second > again/deep/second",
        "rm file-to-directory && mkdir file-to-directory && echo x > file-to-directory/x",
        "rm file-to-link && ln -s seen file-to-link; rm -r d-to-file && echo file > d-to-file",
        "rm -r d-to-link && ln -s many d-to-link; rm link-to-directory && mkdir link-to-directory",
        "rm pipe-to-file && echo f > pipe-to-file; rm file-to-pipe && mkfifo file-to-pipe",
        "chmod 4700 bits/2755; chown 2:8 bits/owned; chown 2 bits/4755",
        f"{SET} attributes/plain user.later 03 user.overlay.z 04; {SET} attributes user.directory 05",
        'python3 -c \'import os; os.removexattr("attributes/user", "user.two")\'',
        "echo more >> attributes/escaped; mv attributes/marked attributes/moved; rm -f attributes/like",
        r'cd names && rm "$(printf "\377\376")" && echo changed > "$(printf "d\377/deep/x")"; rm "$(printf "new\nline")"',
        "mkdir -p 'made/\\303' && : > made/one && ln made/one made/two; mv large larger",
    ],
    [
        "rm -rf opaque && mkdir -p opaque/deep; rm again/deep/second && echo third > again/deep/file",
        "rm -r file-to-directory && echo again > file-to-directory; rm d-to-link && mkdir d-to-link && touch d-to-link/y",
        "mkdir gone/deep && echo back > gone/deep/file; rm t/a; rm -rf u",
        "echo x >> linked/two; rm pair/one; ln made/two made/three; mv many/1 many/renamed",
        "cp -a --reflink=auto attributes/escaped attributes/copy; chmod 755 attributes/empty; touch attributes/deleted/new",
        "chmod u-s bits/6711; chown 3:3 bits/7777; rm -r attributes/moved && mkdir attributes/moved && echo n > attributes/moved/n",
        "rm -r 'names' && mkdir names && echo n > names/n; printf x | dd of=sparse bs=1 seek=1000000 conv=notrunc status=none",
        ": > several; find . -type f -links +1 | sort >> counts; find . -xdev -type f | wc -l >> several",
        "find . -newer times/newer -name program >> several; stat -c %D . s/a bits/owned t/b names/n several | sort -u | wc -l >> several",
        ": > listed; tar cf ../whole.tar --one-file-system --exclude=seen --exclude=several . && tar tf ../whole.tar | sort > listed; rm ../whole.tar",
    ],
]

WAYS = {
    "best": {},
    "redirects": {"MODAL_STORE_WITHOUT": "copies"},
    "links": {"MODAL_STORE_WITHOUT": "redirects,clones"},
    "options": {"MODAL_SANDBOX_WITHOUT": "lowerdir"},
}


@pytest.fixture(scope="module")
def other_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Stores of their own for ways of making views that the shared one does not use."""
    kept = os.environ.get("MODAL_TEST_STORE")
    names = [name for name, variables in WAYS.items() if "MODAL_STORE_WITHOUT" in variables]
    stores = {name: Path(f"{kept}-{name}") if kept else tmp_path_factory.mktemp(name) / "store" for name in names}
    yield stores
    if not kept:
        for store in stores.values():
            remove(store)


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest, shared_store: Path, other_stores: dict[str, Path], tmp_path: Path) -> Modal:
    """``modal`` with one way of making and mounting views forced."""
    modal = Modal(other_stores.get(request.param, shared_store), tmp_path)
    modal.environment.update(WAYS[request.param])
    modal.name = request.param
    return modal


def run_steps(top: Path) -> dict:
    """What the steps leave on plain overlays, one over the other, as Docker has them."""
    layers = [top / "base"]
    (layers[0] / "w").mkdir(parents=True)
    place, work = top / "mounted", top / "work"
    place.mkdir()
    names: dict = {}
    exec(SURVEY, names)
    for number, commands in enumerate(STEPS):
        (layer := top / str(number)).mkdir()
        (work / str(number)).mkdir(parents=True)
        options = f"lowerdir={':'.join(map(str, layers))},upperdir={layer},workdir={work / str(number)}"
        features = "index=off,redirect_dir=off,metacopy=off"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"{options},{features}", place], check=True)
        try:
            for command in commands:
                subprocess.run(["sh", "-c", command], cwd=place / "w", check=True)
            found = names["survey"](str(place / "w"))
        finally:
            subprocess.run(["umount", place], check=True)
        layers.insert(0, layer)
    return json.loads(json.dumps(found))


def forgive_second_names(expected: dict, found: dict) -> None:
    """A file of an image may say that it has two names where files are linked: the other one is the store's."""
    for counts in (expected, found):
        del counts["counts"]
    for name, entry in found.items():
        if name in expected and name != "one file" and (expected[name].get("links"), entry.get("links")) == (1, 2):
            entry["links"] = 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_three_steps_leave_what_they_leave_in_a_directory(way: Modal, tmp_path_factory: pytest.TempPathFactory) -> None:
    expected = run_steps(tmp_path_factory.mktemp("plain"))
    shells = [" && ".join(f"(cd /w && {{ {command}\n}})" for command in commands) for commands in STEPS]
    way.write(
        "app.py",
        f"""
import json, modal
image = modal.Image.debian_slim(python_version="3.11").run_commands("mkdir /w # {way.name}")
for commands in {shells!r}:
    image = image.run_commands(commands)
app = modal.App("steps", image=image)
SURVEY = {SURVEY!r}

@app.function()
def main():
    names = dict()
    exec(SURVEY, names)
    print(json.dumps(names["survey"]("/w")))
""",
    )
    found = json.loads(way("run", "-q", "app.py").stdout)
    if way.name == "links":
        forgive_second_names(expected, found)
    different = {
        name: (expected.get(name), found.get(name))
        for name in expected.keys() | found.keys()
        if expected.get(name) != found.get(name)
    }
    assert not different, "\n".join(f"{name}: {there} here {here}" for name, (there, here) in sorted(different.items()))
