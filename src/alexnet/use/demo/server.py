"""The server of the page: where it listens, what it keeps for how long, and how it ends."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn

    from alexnet.use.demo.network import Network

__all__ = ["PORT", "Server", "end_on_sigterm", "need_gradio", "serve"]

PORT = 7860
NEEDS_GRADIO = "the demo needs Gradio: pip install 'alexnet-2012[demo]'"
STARTS_WITHIN = 60  # seconds
_TAKEN = (errno.EADDRINUSE, errno.EACCES)


class Server:
    """A page that is being served. ``url`` is where."""

    def __init__(self, url: str, server: uvicorn.Server, thread: threading.Thread, network: Network, folder: Path):
        self.url, self._server, self._thread, self._network, self._folder = url, server, thread, network, folder

    def wait(self) -> None:
        """Serve until SIGINT or SIGTERM ends the program; what was uploaded is deleted before that."""
        end_on_sigterm()
        try:
            while self._thread.is_alive():
                self._thread.join(1)
        finally:
            self.close()

    def close(self) -> None:
        """Stop, and delete what was uploaded."""
        self._network.stop()
        self._server.should_exit = True
        self._thread.join(10)
        shutil.rmtree(self._folder, ignore_errors=True)


def end_on_sigterm() -> None:
    """Let SIGTERM end the program as Ctrl-C does, with what is uploaded deleted first."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def need_gradio() -> None:
    """ValueError, which says what to install, where Gradio is not."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(NEEDS_GRADIO)


def serve(network: Network, host: str = "127.0.0.1", port: int | None = None) -> Server:
    """Serve the page of a network from a thread, until ``close`` or the end of the program.

    Args:
        host: an address of this machine; the default can be reached from this machine alone.
        port: by default the first free one from 7860 on; 0: any free one.

    Raises:
        ValueError: Gradio is not installed; the address cannot be had.
    """
    need_gradio()
    taken = _listen(host, port)
    folder = Path(tempfile.mkdtemp(prefix="alexnet-demo-"))  # which only this user can read
    try:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)  # read where a component is made
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        import fastapi
        import gradio as gr
        import uvicorn

        from alexnet.use.demo.gate import Gate
        from alexnet.use.demo.page import MAX_BYTES, build, look

        app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        gr.mount_gradio_app(
            app,
            build(network),
            path="/",
            allowed_paths=[],
            max_file_size=MAX_BYTES,
            show_error=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            **look(),
        )
        network.start()
        config = uvicorn.Config(
            Gate(app, folder, MAX_BYTES), log_level="error", access_log=False, ws="none", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, name="demo", daemon=True)
        thread.start()
        until = time.monotonic() + STARTS_WITHIN
        while not server.started:
            if not thread.is_alive() or time.monotonic() > until:
                raise ValueError("the page's server did not start")
            time.sleep(0.02)
    except BaseException:
        network.stop()
        taken.close()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    name = f"[{host}]" if ":" in host else host
    shown = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(name, name)
    return Server(f"http://{shown}:{taken.getsockname()[1]}/", server, thread, network, folder)


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket bound to the address. ValueError, in one line, where it cannot be had."""
    if port is not None and port > 65535:
        raise ValueError(f"--port {port}: allowed is 0 to 65535")
    ports = range(PORT, PORT + 100) if port is None else [port]
    reason = ""
    for each in ports:
        try:
            family, *_, address = socket.getaddrinfo(host, each, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise ValueError(f"--host {host}: no such address ({error.strerror})") from error
        taken = socket.socket(family)
        if os.name != "nt":  # there it would share the port with another demo
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(address)
            taken.listen(128)
        except OSError as error:
            taken.close()
            reason = error.strerror or str(error)
            if error.errno not in _TAKEN:
                raise ValueError(f"--host {host}, --port {each}: {reason}") from error
            continue
        return taken
    where = f"--port {port}" if port is not None else f"ports {PORT} to {PORT + 99}"
    raise ValueError(f"{where}: {reason}; --port 0 takes any that is free")
