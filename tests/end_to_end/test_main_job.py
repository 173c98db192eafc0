"""The main job: declare an image, build it, run a function in it."""

from __future__ import annotations

from conftest import Modal

APP = """
    import modal

    image = (
        modal.Image.debian_slim(python_version="3.11")
        .apt_install("git", "curl")
        .uv_pip_install("pandas==2.2.3", "pydantic>=2")
        .run_commands("git --version > /etc/built-with")
        .env({"LOG_LEVEL": "INFO"})
        .add_local_dir("src", remote_path="/root/src")
    )
    app = modal.App("demo", image=image)

    @app.function()
    def describe(rows: list) -> dict:
        import os
        import pandas
        from src.names import COLUMN

        frame = pandas.DataFrame(rows)
        return {
            "mean": float(frame[COLUMN].mean()),
            "pandas": pandas.__version__,
            "git": open("/etc/built-with").read().split()[0],
            "level": os.environ["LOG_LEVEL"],
            "directory": os.getcwd(),
            "remote": os.environ["MODAL_IS_REMOTE"],
        }

    @app.function()
    def hello(name: str = "world"):
        print(f"hello {name} from the container")

    @app.local_entrypoint()
    def main(n: int = 3):
        print(describe.remote([{"x": index} for index in range(n)]))
"""


def prepare(modal: Modal) -> None:
    modal.write("app.py", APP)
    modal.write("src/names.py", "COLUMN = 'x'\n")


def test_modal_run_builds_the_image_and_prints_the_functions_result(modal: Modal) -> None:
    prepare(modal)
    first = modal.events("app.py", "--n", "5")
    result = eval(first.stdout)
    assert result == {
        "mean": 2.0,
        "pandas": "2.2.3",
        "git": "git",
        "level": "INFO",
        "directory": "/root",
        "remote": "1",
    }

    again = modal.events("app.py", "--n", "5")
    assert again.stdout == first.stdout
    assert len(again.of("step_cached")) == 4
    assert not again.of("step_started")
    assert [event["cached"] for event in again.of("image_built")] == [True]
    ids = {event["image"] for event in again.of("image_built")}
    assert len(ids) == 1 and ids.pop().startswith("im-")


def test_a_function_runs_by_name_and_its_output_arrives(modal: Modal) -> None:
    prepare(modal)
    assert modal("run", "app.py::hello").stdout == "hello world from the container\n"
    assert modal("run", "app.py::hello", "--name", "you").stdout == "hello you from the container\n"


def test_plain_python_drives_the_same_app(modal: Modal) -> None:
    prepare(modal)
    modal.write(
        "script.py", "from app import app, describe\nwith app.run():\n    print(describe.remote([{'x': 4}])['mean'])\n"
    )
    result = modal.python("script.py")
    assert result.stdout == "4.0\n"
    own = modal.write(
        "own.py",
        """
        import modal

        app = modal.App("own", image=modal.Image.debian_slim(python_version="3.11"))

        class Point:
            def __init__(self, x):
                self.x = x

        @app.function()
        def double(point):
            return Point(point.x * 2)

        if __name__ == "__main__":
            with app.run():
                print(double.remote(Point(21)).x)
        """,
    )
    assert modal.python(own.name).stdout == "42\n"


def test_a_cached_build_needs_no_network(modal: Modal) -> None:
    prepare(modal)
    modal("run", "app.py")
    nowhere = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    assert "'mean': 1.0" in modal("run", "app.py", **nowhere).stdout
