"""What processes find inside steps and functions: as in Docker, and no way to harm the machine from there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import Modal

PRIVILEGES = """
import modal
base = modal.Image.debian_slim(python_version="3.11").apt_install("sudo", "libcap2-bin", "iputils-ping")
image = base.run_commands(
    "useradd --create-home ordinary",
    "echo 'ordinary ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ordinary",
    "cp /usr/bin/chown /usr/bin/giver && setcap cap_chown+ep /usr/bin/giver",
    "su ordinary -c 'sudo id -un' > /opt/in-a-step",
)
app = modal.App("privileges", image=image)

@app.function()
def main():
    import subprocess
    def ordinary(command):
        done = subprocess.run(["su", "ordinary", "-c", command], capture_output=True, text=True)
        return (done.stdout + done.stderr).strip()
    print(open("/opt/in-a-step").read().strip())
    print(ordinary("sudo id -un"))
    print(ordinary("touch /tmp/mine && giver daemon /tmp/mine && stat -c %U /tmp/mine"))
    print("refused" if "not permitted" in ordinary("touch /tmp/own; chown daemon /tmp/own") else "given away")
    print(subprocess.run(["ping", "-V"], capture_output=True, text=True).stdout.split()[0])
    # What they gain is what root of the container has, which is nothing outside.
    print(ordinary("sudo mount -t tmpfs none /mnt; sudo unshare --mount true; sudo chmod 600 /dev/null; echo").count("\\n"))
"""

SYSTEM_CALLS = """
import modal
image = modal.Image.debian_slim(python_version="3.11").apt_install("strace")
app = modal.App("system-calls", image=image)

@app.function()
def main():
    import ctypes, errno, multiprocessing, os, subprocess
    def succeeds(command):
        return subprocess.run(["sh", "-c", command], capture_output=True).returncode == 0
    print("traced" if succeeds("strace -f -o /tmp/trace sh -c true && grep -q exited /tmp/trace") else "not traced")
    print("not randomised" if succeeds("setarch -R true") else "refused")
    with multiprocessing.Pool(2) as pool:
        print(pool.map(abs, [-1, -2]))
    libc = ctypes.CDLL(None, use_errno=True)
    for number, arguments in [(5000, ()), (272, (0x80,)), (272, (0x200,)), (135, (6,))]:
        result = libc.syscall(number, *(ctypes.c_long(argument) for argument in arguments))
        print(number, "done" if result >= 0 else errno.errorcode[ctypes.get_errno()])
"""

FILES = """
import modal
image = modal.Image.debian_slim(python_version="3.11").run_commands(
    "echo to-stdout > /dev/stdout; echo to-stderr > /dev/stderr; echo teed | tee /dev/stderr > /dev/null",
    "getent hosts $(hostname)",
    "echo 192.0.2.7 added >> /etc/hosts && getent hosts added; echo options edns0 >> /etc/resolv.conf",
    "echo 192.0.2.8 again | tee -a /etc/hosts",
    "sed -i s/a/b/ /etc/hosts || echo busy",
)
app = modal.App("files", image=image)

@app.function()
def main():
    import os, socket
    hosts = open("/etc/hosts").read()
    print("added" in hosts, "again" in hosts, "edns0" in open("/etc/resolv.conf").read())
    print(socket.gethostbyname(socket.gethostname()))
    with open("/etc/hosts", "a") as file:
        file.write("192.0.2.9 mine\\n")
    print(socket.gethostbyname("mine"))
    open("/dev/stdout", "w").write("by name\\n")
    open("/dev/stderr", "w").write("an error\\n")
"""

MANY_IDS = """
import modal
image = modal.Image.debian_slim(python_version="3.11").run_commands("touch /opt/x && chown 197609:197121 /opt/x")
app = modal.App("ids", image=image)

@app.function()
def main():
    import os
    print(os.stat("/opt/x").st_uid)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls are those of x86-64")
def test_system_calls_are_those_of_a_container(modal: Modal) -> None:
    modal.write("app.py", SYSTEM_CALLS)
    lines = modal("run", "app.py").stdout.splitlines()
    assert lines[:3] == ["traced", "not randomised", "[1, 2]"]
    # An unknown call, a time namespace, something that is no namespace, and the personality of another system.
    assert lines[3:] == ["5000 ENOSYS", "272 EPERM", "272 done", "135 EPERM"]


def test_privileged_programs_work_for_other_users(modal: Modal) -> None:
    modal.write("app.py", PRIVILEGES)
    result = modal("run", "-q", "app.py")
    assert result.stdout.splitlines() == ["root", "root", "daemon", "refused", "ping", "3"], result.stderr


def test_streams_and_settings_are_as_in_docker(modal: Modal) -> None:
    modal.write("app.py", FILES)
    result = modal("run", "--progress", "plain", "app.py", MODAL_IGNORE_CACHE="0")
    assert result.stdout.splitlines()[-4:] == ["False False False", "127.0.1.1", "192.0.2.9", "by name"]
    assert "an error" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change who owns device nodes")
def test_the_hosts_device_nodes_stay_as_they_are(modal: Modal) -> None:
    nodes = ["/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"]
    changes = "; ".join(f"touch {node}; chmod 600 {node}; chown 1 {node}" for node in [*nodes, "/dev/stdin"])
    modal.write(
        "app.py",
        f"""
        import modal
        tag = {os.urandom(4).hex()!r}
        changes = {changes!r} + "; true"
        image = modal.Image.debian_slim(python_version="3.11").run_commands(f"# {{tag}}\\n{{changes}}")
        app = modal.App("nodes", image=image)

        @app.function()
        def main():
            import os, subprocess
            subprocess.run(["sh", "-c", changes], stderr=subprocess.DEVNULL)
            for number in range(3):
                try:
                    os.utime(number)
                except OSError:
                    pass
        """,
    )

    def state() -> list:
        return [(s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns) for s in map(os.stat, set(nodes) - {"/dev/tty"})]

    before = state()
    modal("run", "-q", "app.py")
    assert state() == before
    assert "device nodes" in modal("doctor", check=False).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="the ids of root are known")
def test_an_owner_beyond_the_range_is_explained_and_a_further_range_mends_it(fresh_store: Modal) -> None:
    fresh_store.write("app.py", MANY_IDS)
    result = fresh_store("run", "app.py", check=False)
    assert result.code == 1
    command = result.stderr.split("sudo ", 1)[1].split("`")[0]
    assert command.startswith("usermod --add-subuids") and command.endswith(" root")
    subprocess.run(command.split(), check=True)
    try:
        assert fresh_store("run", "-q", "app.py").stdout == "197609\n"
    finally:
        # `usermod` refuses to take something from a user who runs processes.
        first, last = map(int, command.split()[2].split("-"))
        for path in map(Path, ("/etc/subuid", "/etc/subgid")):
            path.write_text(path.read_text().replace(f"root:{first}:{last - first + 1}\n", ""))
