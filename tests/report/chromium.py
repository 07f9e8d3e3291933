"""A headless Chromium that tests drive over its debugging pipe.

Unlike a page that is only opened and printed, this one lives in real time and
takes the window's size, the colour scheme, pointer and keys from the test.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time

PATH = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    '--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run',
    '--disable-background-networking', '--disable-component-update',
    '--disable-sync', '--hide-scrollbars', '--disable-dev-shm-usage',
    '--remote-debugging-pipe',
)  # fmt: skip
_SECONDS = 300.0  # in which a busy machine does anything
_DECODED = """Promise.all([...document.images].filter(image => image.src).map(
  image => image.decode().catch(() => null)))"""


class Chromium:
  """One tab; `problems` collects what went wrong in the page."""

  def __init__(self, profile):
    commands, self._write = os.pipe()
    self._read, answers = os.pipe()
    # The browser expects its pipe at the descriptors 3 and 4; numbers from 10
    # on are in the way of neither.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
    script = f'exec "$0" "$@" 3<&{ends[0]} 4>&{ends[1]}'
    self._process = subprocess.Popen(
        ['bash', '-c', script, PATH, *_FLAGS, f'--user-data-dir={profile}',
         'about:blank'],
        pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for end in (commands, answers, *ends):
      os.close(end)
    self._number, self._buffer, self._session = 0, b"", None
    self.problems, self.requests, self._loaded = [], [], False
    self._session = self.call(
      "Target.attachToTarget", targetId=self._tab(), flatten=True
    )["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")

  def _tab(self):
    """The first tab, which a browser may answer without."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
      for target in self.call("Target.getTargets")["targetInfos"]:
        if target["type"] == "page":
          return target["targetId"]
      time.sleep(0.05)
    raise TimeoutError(f"no tab within {_SECONDS} s")

  def close(self):
    """Ends the browser."""
    try:
      self._session = None
      self.call("Browser.close")
      self._process.wait(10)
    except (OSError, subprocess.TimeoutExpired, TimeoutError):
      self._process.kill()
      self._process.wait()
    finally:
      os.close(self._write)
      os.close(self._read)

  def call(self, method, **params):
    """Sends a command of the DevTools protocol; returns its result."""
    self._number += 1
    message = {"id": self._number, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    os.write(self._write, json.dumps(message).encode() + b"\0")
    while (answer := self._receive()).get("id") != self._number:
      pass
    if "error" in answer:
      raise RuntimeError(f"{method}: {answer['error']}")
    return answer["result"]

  def open(self, path, fragment="", width=1280, height=900, dark=False):
    """Opens a file in a window of a size; returns after its load event.

    A width of a phone makes a phone: touch, and the page's viewport rule.
    """
    self.problems, self.requests, self._loaded = [], [], False
    phone = width < 600
    self.call("Page.navigate", url="about:blank")
    self.call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=2 if phone else 1,
      mobile=phone,
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else ""}
    self.call("Emulation.setEmulatedMedia", features=[scheme])
    self._until_loaded()
    self.problems, self.requests, self._loaded = [], [], False
    self.call("Page.navigate", url=f"{path.as_uri()}#{fragment}")
    self._until_loaded()

  def evaluate(self, script):
    """The value of an expression in the page; a promise is awaited."""
    result = self.call(
      "Runtime.evaluate",
      expression=script,
      returnByValue=True,
      awaitPromise=True,
    )
    if "exceptionDetails" in result:
      raise RuntimeError(json.dumps(result["exceptionDetails"])[:800])
    return result["result"].get("value")

  def painted(self):
    """Waits until two frames have been drawn."""
    self.evaluate(
      "new Promise(done => requestAnimationFrame(() => "
      "requestAnimationFrame(() => setTimeout(done))))"
    )

  def until(self, script):
    """Waits until an expression in the page is true; returns its value."""
    deadline = time.monotonic() + _SECONDS
    while not (value := self.evaluate(script)):
      if time.monotonic() > deadline:
        raise TimeoutError(f"not within {_SECONDS} s: {script}")
      self.painted()
    return value

  def screenshot(self, path, whole=False):
    """Saves what is in view, or the whole page, as PNG."""
    self.evaluate(_DECODED)
    self.painted()
    data = self.call(
      "Page.captureScreenshot", format="png", captureBeyondViewport=whole
    )["data"]
    path.write_bytes(base64.b64decode(data))

  def drag(self, start, end):
    """Presses at a point of the view, moves to another, lets go."""
    moves = [("mousePressed", start), ("mouseMoved", end)]
    for kind, (x, y) in [*moves, ("mouseReleased", end)]:
      self.call(
        "Input.dispatchMouseEvent",
        type=kind, x=x, y=y, button="left", buttons=1, clickCount=1,
      )  # fmt: skip

  def _until_loaded(self):
    while not self._loaded:
      self._receive()

  def _receive(self):
    deadline = time.monotonic() + _SECONDS
    while b"\0" not in self._buffer:
      left = deadline - time.monotonic()
      if left <= 0 or not select.select([self._read], [], [], left)[0]:
        raise TimeoutError(f"no word from the browser in {_SECONDS} s")
      if not (part := os.read(self._read, 1 << 20)):
        raise OSError("the browser has ended")
      self._buffer += part
    line, _, self._buffer = self._buffer.partition(b"\0")
    message = json.loads(line)
    self._note(message.get("method"), message.get("params", {}))
    return message

  def _note(self, method, params):
    if method == "Page.loadEventFired":
      self._loaded = True
    elif method == "Runtime.exceptionThrown":
      self.problems.append(json.dumps(params)[:400])
    elif method == "Log.entryAdded":
      self.problems.append(params["entry"]["text"])
    elif method == "Runtime.consoleAPICalled":
      self.problems.append(json.dumps(params["args"])[:400])
    elif method == "Network.requestWillBeSent":
      self.requests.append(params["request"]["url"])
