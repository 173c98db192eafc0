"""An image without compilers is lent some while something is compiled, and they are never part of it."""

from __future__ import annotations

import os

from conftest import Modal, Result
from packages import serve, source_distribution

EXTENSION = {
    "setup.py": 'from setuptools import Extension, setup; setup(name="speck", version="1.0", '
    'ext_modules=[Extension("speck", ["speck.c"])])',
    "speck.c": "#include <Python.h>\n"
    'static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "speck"};\n'
    "PyMODINIT_FUNC PyInit_speck(void) { return PyModule_Create(&definition); }\n",
}


def run(modal: Modal, steps: str, body: str = "", *, check: bool = True, **environment: str) -> Result:
    """Builds an image that nobody has built before, and runs Python code in it."""
    modal.write(
        "app.py",
        f"""
        import modal

        base = modal.Image.debian_slim(python_version="3.11").env({{"TAG": "{os.urandom(4).hex()}"}})
        app = modal.App("toolchain")

        @app.function(image=base{steps})
        def main():
            import os, shutil
            {body}
        """,
    )
    return modal("run", "--progress", "plain", "app.py", check=check, **environment)


def test_what_is_compiled_stays_and_the_compiler_does_not(modal: Modal) -> None:
    source = "int main(void) { return 42; }"
    # Directories that a step has made hide what is beneath them.
    made = ".run_commands('mkdir -p /usr/include/x86_64-linux-gnu /usr/lib/gcc')"
    steps = made + f".run_commands('echo \"{source}\" > /x.c; cc /x.c -o /x; which cc gcc make > /found')"
    body = (
        "print(os.WEXITSTATUS(os.system('/x')), open('/found').read().split(), shutil.which('gcc'), "
        "os.listdir('/usr/include'), os.listdir('/usr/lib/gcc'))"
    )
    result = run(modal, steps, body)
    assert result.stdout == "42 ['/usr/bin/cc', '/usr/bin/gcc', '/usr/bin/make'] None ['x86_64-linux-gnu'] []\n"
    assert "the image lacks gcc" in result.stderr
    result = run(modal, steps, body, check=False, MODAL_TOOLCHAIN="never")
    assert result.code == 1 and "MODAL_TOOLCHAIN=always" in result.stderr, result.stderr
    result = run(modal, ".run_commands('sh -c true')", check=False, MODAL_TOOLCHAIN="sometimes")
    assert "`MODAL_TOOLCHAIN` is `sometimes`" in result.stderr


def test_a_package_without_a_wheel_is_compiled(modal: Modal) -> None:
    directory = modal.directory / "speck"
    for name, text in EXTENSION.items():
        modal.write(f"speck/{name}", text)
    for install in (
        'pip_install("/speck", extra_options="--no-build-isolation")',
        'run_commands("pip install --no-build-isolation /speck")',
    ):
        steps = f".add_local_dir({str(directory)!r}, '/speck', copy=True).{install}"
        result = run(modal, steps, "import speck; print(speck.__file__.endswith('.so'), shutil.which('gcc'))")
        assert result.stdout == "True None\n"


def test_options_and_settings_do_not_hide_what_is_built(modal: Modal) -> None:
    """A part in C that is optional is left out without a word where there is no compiler."""
    setup = EXTENSION["setup.py"].replace('["speck.c"]', '["speck.c"], optional=True')
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: speck\nVersion: 1.0\n",
        **EXTENSION,
        "setup.py": setup,
    }
    with serve() as index:
        index.wheels["host"] = {"speck-1.0.tar.gz": source_distribution("speck-1.0", files)}
        url = index.url("host")
        no_isolation = {"PIP_NO_BUILD_ISOLATION": "0"}
        for step in (
            f'.pip_install("speck", index_url={url!r}, extra_options="--no-cache-dir", env={no_isolation!r})',
            f'.env({{"PIP_INDEX_URL": {url!r}, **{no_isolation!r}}}).pip_install("speck")',
        ):
            result = run(modal, step, "import speck; print(speck.__file__.endswith('.so'))")
            assert result.stdout == "True\n", result.stderr


def test_an_image_keeps_its_own_compiler(modal: Modal) -> None:
    own = r".run_commands('printf \"#!/bin/sh\\necho own\\n\" > /usr/local/bin/gcc; chmod +x /usr/local/bin/gcc')"
    result = run(modal, own + ".run_commands('gcc > /said; command -v g++ || true')", "print(open('/said').read())")
    assert result.stdout == "own\n\n"
    assert "lacks make, pkg-config, headers of Python 3.11:" in result.stderr
    assert "/usr/bin/g++" not in result.stderr


def test_debians_own_compiler_is_given_what_it_lacks(modal: Modal) -> None:
    own = ".run_commands('apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc')"
    source = "#include <vector>\\nint main() { std::vector<int> v(42); return v.size(); }"
    steps = f""".run_commands('printf "{source}" > /x.cc; make /x; echo "end" > /f.f90; gfortran /f.f90 -o /f')"""
    body = "print(os.WEXITSTATUS(os.system('/x')), os.system('/f'), shutil.which('gcc'), shutil.which('g++'))"
    result = run(modal, own + steps, body)
    assert result.stdout == "42 0 /usr/bin/gcc None\n"
    assert "the image lacks g++, gfortran, libc6-dev, make, pkg-config, headers of Python 3.11" in result.stderr


def test_apt_does_not_see_what_is_not_in_the_image(modal: Modal) -> None:
    steps = ".run_commands('apt-get --version; command -v gcc > /first', 'command -v gcc > /second')"
    result = run(
        modal, steps.replace("/first'", "/first; true'"), "print([os.path.getsize(p) for p in ('/first', '/second')])"
    )
    assert result.stdout == "[0, 13]\n"


def test_functions_that_compile_have_a_compiler(modal: Modal) -> None:
    body = (
        "from cffi import FFI; import sys; sys.path.insert(0, '/tmp'); ffi = FFI(); ffi.cdef('int answer(void);'); "
        "ffi.set_source('_deep', 'int answer(void) { return 42; }'); ffi.compile('/tmp'); import _deep; "
        "print(_deep.lib.answer(), shutil.which('cc'))"
    )
    steps = '.pip_install("cffi")'
    assert run(modal, steps, body).stdout == "42 /usr/bin/cc\n"
    modal.write("requirements.txt", "# compiled in functions\ncffi\n")
    files = f".pip_install_from_requirements({str(modal.directory / 'requirements.txt')!r})"
    assert run(modal, files, "print(shutil.which('cc'))").stdout == "/usr/bin/cc\n"
    cached = modal("run", "-q", "-v", "app.py")
    assert cached.stdout == "/usr/bin/cc\n"
    assert [line for line in cached.stderr.splitlines() if "compilers" in line and "gcc" in line], cached.stderr
    project = '[project]\nname = "demo"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["cffi"]\n'
    modal.write("project/pyproject.toml", project)
    assert run(modal, '.uv_sync("project")', "print(shutil.which('cc'))").stdout == "/usr/bin/cc\n"
    assert run(modal, "", "print(shutil.which('cc'))").stdout == "None\n"
    assert run(modal, steps, "print(shutil.which('cc'))", MODAL_TOOLCHAIN="never").stdout == "None\n"
    assert run(modal, "", "print(shutil.which('cc'))", MODAL_TOOLCHAIN="always").stdout == "/usr/bin/cc\n"
