"""The block in which an app runs."""

from __future__ import annotations

from modal._shared.errors import trim_traceback
from modal.exception import ImageBuildError, InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from modal._client.engine import Engine
    from modal.app import App


class RunningApp:
    """The context manager of `App.run`.

    Where this process `ends_with` the app, its end and that of the containers do not wait for each other: whoever has
    started this process waits for both.
    """

    def __init__(
        self,
        app: App,
        output: bool | None = None,
        interactive: bool = False,
        *,
        name: str | None = None,
        environment: str | None = None,
        ends_with: bool = False,
    ) -> None:
        self._app = app
        self._output = output
        self._interactive = interactive
        self._name = name
        self._environment = environment
        self._ends_with = ends_with
        self._engine: Engine | None = None

    def __enter__(self) -> App:
        from modal import _in_container
        from modal._client.engine import connect
        from modal._client.source import alias_main
        from modal.output import is_output_enabled

        app = self._app
        if _in_container():
            raise InvalidError(
                "`app.run()` was called inside a container",
                hint='module-level code runs there too: put it below `if __name__ == "__main__":`',
            )
        if app._engine is not None:
            raise InvalidError("the app is already running", hint="`modal run` starts it for you")
        output = is_output_enabled() if self._output is None else self._output
        engine = self._engine = connect(output, self._interactive)
        try:
            self._start(engine)
        except BaseException as error:
            engine.close()
            trim_traceback(error)
            raise
        alias_main()
        return app

    async def __aenter__(self) -> App:
        import asyncio

        starting = asyncio.get_running_loop().run_in_executor(None, self.__enter__)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Whoever does not wait for the app any more does not want it either, nor its images.
            while not starting.done():
                if self._engine is not None:
                    self._engine.give_up()
                await asyncio.wait([starting], timeout=0.05)
            if starting.exception() is None:
                self.__exit__(None, None, None)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, self.__exit__, kind, error, traceback)

    def _start(self, engine: Engine) -> None:
        from modal._client.environment import in_environment
        from modal._client.graph import app_graph

        app = self._app
        with in_environment(self._environment):
            graph, body = app_graph(app, self._name)
        try:
            started = engine.request("app.start", body)
        except ImageBuildError as error:
            graph.record_failure(error)
            raise
        graph.record_ids(started.get("images") or {})
        app._app_id = started.get("app_id")
        app._engine = engine
        for service in app._services():
            service._connect(engine)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        app = self._app
        engine, app._engine = app._engine, None
        for service in app._services():
            service._engine = None
        if engine is None:
            return
        try:
            engine.stop(wait=error is not None or not self._ends_with)
        finally:
            engine.close()
        if error is not None:
            trim_traceback(error)
