"""Logins of this machine's netrc file reach installers in the sandbox, and nobody else."""

from __future__ import annotations

import pytest
from conftest import Modal
from private_index import PASSWORD, USER, private_index

LOOK = "cat /dev/lamina/netrc ~/.netrc 2>&1 | grep -v 'No such file' > /seen; test -z \\\"$NETRC\\\""


@pytest.mark.parametrize("method", ["pip_install", "uv_pip_install"])
def test_an_installer_inside_has_the_login_of_its_index(modal: Modal, method: str) -> None:
    netrc = modal.write(
        "netrc", f"machine other.invalid login a password b\nmachine 127.0.0.1 login {USER} password {PASSWORD}\n"
    )
    with private_index() as index:
        url = "http://" + index.url.split("@")[1]
        modal.write(
            "app.py",
            f"""
            import modal

            image = modal.Image.debian_slim(python_version="3.11").{method}("demo-source", index_url={url!r})
            app = modal.App("netrc", image=image.run_commands("{LOOK}; true"))

            @app.function()
            def value():
                import demo_source, os
                return demo_source.value, open("/seen").read(), os.path.exists("/dev/lamina/netrc"), os.environ.get("NETRC")

            @app.local_entrypoint()
            def main():
                print(value.remote())
            """,
        )
        result = modal("run", "--progress", "plain", "app.py", NETRC=str(netrc))
        assert result.stdout == "(2, '', False, None)\n"
        assert "/files/demo_source-1.0.tar.gz" in index.granted
        assert not index.leaks
    assert "installing inside the sandbox" in result.stderr and PASSWORD not in result.stderr


def test_an_index_of_the_step_counts_where_the_machine_has_none(modal: Modal) -> None:
    configuration = modal.write("pip.conf", "[global]\nno-index = true\n")
    with private_index() as index:
        for package in ("demo-wheel", "demo-source"):
            modal.write(
                "app.py",
                f"""
                import modal

                image = modal.Image.debian_slim(python_version="3.11").pip_install({package!r}, index_url={index.url!r})
                app = modal.App("index", image=image)

                @app.function()
                def value():
                    import {package.replace("-", "_")} as package
                    return package.value

                @app.local_entrypoint()
                def main():
                    print(value.remote())
                """,
            )
            result = modal("run", "--progress", "plain", "app.py", PIP_CONFIG_FILE=str(configuration))
            assert result.stdout == f"{1 if package == 'demo-wheel' else 2}\n"
