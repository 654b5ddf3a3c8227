"""Bringing one URL into a partial file, going on where it stopped."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from spamcaf.datasets.remote.answer import RANGE_NOT_SATISFIABLE, TransferError, begin
from spamcaf.datasets.remote.sizes import HEADERS

if TYPE_CHECKING:
    from spamcaf.datasets.remote.partial import PartialFile
    from spamcaf.datasets.remote.progress import Progress
    from spamcaf.datasets.remote.spec import RemoteFile

TIMEOUT_S = (10, 60)
"""Seconds to connect, and between two pieces."""
PIECE = 1 << 17
"""Bytes written at a time; what a broken connection loses at most."""
TOO_MANY, SERVER_ERROR = 429, 500
REFUSALS = {
    401: "refused (401), it asks for a login",
    403: "refused (403), access is not open to everyone or nothing is there",
    404: "not there (404)",
    410: "no longer there (410)",
}


def transfer(file: RemoteFile, url: str, part: PartialFile, progress: Progress) -> None:
    """Bring `file` from `url`, or what `part` lacks of it, into `part`; raise TransferError.

    The rest is asked for with If-Range, so a file that changed on the server starts again, as it does with servers
    that know no ranges. Bytes that arrived before an error stay for the next try.
    """
    import pooch

    if part.is_complete(url):
        return
    headers = dict(HEADERS)
    origin = part.origin
    if part.can_go_on(url) and origin is not None:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": str(origin.mark)}
    look = partial(begin, file=file, url=url, part=part, progress=progress)
    download = pooch.HTTPDownloader(
        progressbar=progress, chunk_size=PIECE, headers=headers, timeout=TIMEOUT_S, hooks={"response": look}
    )
    try:
        _download(download, url, part)
    finally:
        progress.close()
        part.close()
    _require_whole(part)


def _download(download: Any, url: str, part: PartialFile) -> None:  # noqa: ANN401  pooch has no types
    """Run the download; say in a few words what went wrong."""
    import requests

    try:
        download(url, part, None)
    except requests.HTTPError as error:
        code = 0 if error.response is None else error.response.status_code
        reason = REFUSALS.get(code, f"the server answers {code}")
        raise TransferError(reason, again=code in {RANGE_NOT_SATISFIABLE, TOO_MANY} or code >= SERVER_ERROR) from error
    except requests.exceptions.SSLError as error:
        raise TransferError("its certificate cannot be verified") from error
    except requests.exceptions.ConnectTimeout as error:
        raise TransferError("no connection in time", again=True, unreachable=True) from error
    except requests.Timeout as error:
        raise TransferError("it stopped answering", again=True) from error
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError) as error:
        raise TransferError("the connection broke", again=True) from error
    except requests.ConnectionError as error:
        # requests reports a connection that breaks while data arrive in the same way
        timed_out = "timed out" in str(error)
        reason = "it stopped answering" if timed_out else "cannot be reached"
        raise TransferError(reason, again=True, unreachable=not timed_out) from error
    except requests.RequestException as error:
        raise TransferError(f"cannot be fetched ({type(error).__name__})") from error


def _require_whole(part: PartialFile) -> None:
    origin = part.origin
    if origin is not None and origin.total is not None and part.size != origin.total:
        if part.size > origin.total:
            part.discard()
        raise TransferError("the connection broke", again=True)
    if part.size == 0:
        raise TransferError("it is empty")
