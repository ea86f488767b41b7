from __future__ import annotations

import select
import threading

from language_server.wake import Wake


def test_a_sleeping_loop_is_woken_from_another_thread() -> None:
    wake = Wake()
    assert not select.select([wake.fd], [], [], 0)[0]
    thread = threading.Thread(target=wake.set)
    thread.start()
    assert select.select([wake.fd], [], [], 60)[0]
    thread.join()
    wake.set()
    wake.clear()
    wake.clear()  # nothing to clear is nothing wrong
    assert not select.select([wake.fd], [], [], 0)[0]
