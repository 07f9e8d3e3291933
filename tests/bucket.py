"""A bucket of Google's on this machine, for tests.

The emulator of the package gcp-storage-emulator, which knows no generations of
an object, and these, which tensorstore's read-modify-write is built on.
"""

from http import HTTPStatus
import re
import urllib.parse

from gcp_storage_emulator import server

_OBJECT = re.compile(r".*/b/([^/]+)/o(?:/(.+))?")


def _asked(handler):
  """The object that a request is about, its generation, and the query."""
  url = urllib.parse.urlsplit(handler.path)
  query = urllib.parse.parse_qs(url.query)
  found = _OBJECT.fullmatch(url.path)
  if found is None:
    return 0, query
  bucket, name = found.groups()
  name = urllib.parse.unquote(name or query.get("name", [""])[0])
  known = handler.storage.objects.get(bucket, {}).get(name)
  return int(known["generation"]) if known else 0, query


class _Response(server.Response):
  def close(self):
    generation, query = _asked(self._handler)
    if query.get("alt") == ["media"] and generation:
      self["x-goog-generation"] = str(generation)
    super().close()


class _Router(server.Router):
  def handle(self, method):
    generation, query = _asked(self._request_handler)
    refusal = None
    if int(query.get("ifGenerationMatch", [generation])[0]) != generation:
      refusal = HTTPStatus.PRECONDITION_FAILED
    if int(query.get("ifGenerationNotMatch", [-1])[0]) == generation:
      refusal = HTTPStatus.NOT_MODIFIED
    if refusal is None:
      return super().handle(method)
    self._request_handler.rfile.read(
      int(self._request_handler.headers.get("content-length") or 0)
    )
    response = server.Response(self._request_handler)
    response.status = refusal
    return response.close()


server.Router, server.Response = _Router, _Response


def serve(port, bucket="bucket"):
  """A server that is not started yet, with one empty bucket in memory."""
  return server.create_server("127.0.0.1", port, True, bucket)


def names(run, bucket="bucket"):
  """Of all objects."""
  return list(run._storage.objects[bucket])


def environment(port):
  """What a client's environment needs to find it."""
  url = f"http://127.0.0.1:{port}"
  return {
    "STORAGE_EMULATOR_HOST": url,  # gcsfs
    "TENSORSTORE_GCS_HTTP_URL": url,
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
  }
