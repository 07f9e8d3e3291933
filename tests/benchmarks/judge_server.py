"""An OpenAI-compatible endpoint in a thread, with faults to order."""

import contextlib
import http.server
import json
import socket
import struct
import threading
import time


def completion(text):
  return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


class Server:
  """Answers requests by a script.

  Args:
    script: called with the number of the request and its body; gives
      (status, headers, body bytes), or the name of a fault: 'reset', 'half',
      'hang', 'drip', 'nothing'.
  """

  def __init__(self, script):
    self.script = script
    self.requests = []  # (headers, body) of each
    self.busy = self.most_busy = 0
    self.lock = threading.Lock()
    self.stop = threading.Event()

  def bodies(self):
    return [body for _, body in self.requests]


@contextlib.contextmanager
def nobody():
  """The address of a port that is held, and where nobody listens."""
  with socket.socket() as held:
    held.bind(("127.0.0.1", 0))
    yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


@contextlib.contextmanager
def serve(script):
  """Runs a server; gives it, and its address as `url`."""
  state = Server(script)

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      size = int(self.headers["Content-Length"])
      body = json.loads(self.rfile.read(size))
      with state.lock:
        number = len(state.requests)
        state.requests.append((dict(self.headers), body))
        state.busy += 1
        state.most_busy = max(state.most_busy, state.busy)
      try:
        state.path = self.path
        reply = state.script(number, body)
      finally:  # before the reply: who has it may send the next at once
        with state.lock:
          state.busy -= 1
      self._reply(reply)

    def _reply(self, reply):
      if isinstance(reply, str):
        return self._fail(reply)
      status, headers, data = reply
      self.send_response(status)
      for name, value in {"Content-Length": len(data), **headers}.items():
        self.send_header(name, str(value))
      self.end_headers()
      self.wfile.write(data)
      return None

    def _fail(self, fault):
      self.close_connection = True
      if fault == "hang":
        state.stop.wait(60)
      elif fault == "reset":
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
      elif fault in ("half", "drip"):
        data = completion("yes")
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault == "half":
          self.wfile.write(data[:20])
          return
        for byte in data:
          if state.stop.is_set():
            return
          with contextlib.suppress(OSError):
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
          time.sleep(0.1)

    def log_message(self, *_):
      pass

  class Threads(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):  # a client that gave up is no news
      pass

  server = Threads(("127.0.0.1", 0), Handler)
  state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
  thread = threading.Thread(target=server.serve_forever, args=(0.02,))
  thread.start()
  try:
    yield state
  finally:
    state.stop.set()
    server.shutdown()
    server.server_close()
    thread.join()
