"""Whether the model hub can be asked, found out once per process and quickly.

In: nothing. Out: yes or no. Without this, a library asks six times for every file, a minute in all.
"""

import functools
import ssl
import threading
import urllib.error
import urllib.request

import huggingface_hub.constants as hub

WAIT_SECONDS = 4.0  # in all: a name server that does not answer is covered by no timeout of a connection


def is_reachable() -> bool:
    """Say whether the hub answers; always False where the user switched it off (``HF_HUB_OFFLINE``)."""
    return not hub.HF_HUB_OFFLINE and _answers(hub.ENDPOINT)


def why_not() -> str:
    """Say why the hub cannot be asked, and what to do."""
    cause = "HF_HUB_OFFLINE is set" if hub.HF_HUB_OFFLINE else f"{hub.ENDPOINT} does not answer from here"
    return f"The model hub cannot be asked: {cause}. Connect once, or download the model and name its folder"


@functools.lru_cache(maxsize=8)
def _answers(endpoint: str) -> bool:
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(endpoint, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=WAIT_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # any status is an answer: a mirror may refuse this address and serve the models
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ssl.SSLError):  # its certificate is the client's matter
                return
        except (OSError, ValueError):
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(WAIT_SECONDS)
    return answered.is_set()
