"""The transport of a connection that is secret: TLS between the loop's own transport and a protocol.

To the protocol it is a transport as any other, with the same turns: what comes in one read is given to it at once, what
it writes at once goes out in one write.

    loop ─▶ data_received ─▶ Records.open ─▶ protocol.data_received
    loop ◀─ raw.write     ◀─ Records.seal ◀─ write
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from tailrace.server.tls.records import RECORD_BYTES, Records

PIECE_BYTES: Final = 65_536
"""Of what comes in or goes out at once: the buffers between grow to the longest piece, and never shrink."""


class TlsTransport(asyncio.Transport):
    """A transport over the loop's. records: of a connection whose handshake is done.

    is_paused: whether the protocol receives nothing for now. when_resumed: is called once it does again.
    """

    def __init__(self, raw: asyncio.Transport, records: Records) -> None:
        super().__init__()
        self.records = records
        self._raw = raw
        self._send = raw.write
        self._seal, self._take = records.seal, records.take
        self._has_said_goodbye = False
        self.is_paused = False
        self.when_resumed: Callable[[], None] | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes from now on to another protocol."""
        cast(TlsReceiver, self._raw.get_protocol()).set_protocol(cast(asyncio.Protocol, protocol))

    def begin(self, protocol: asyncio.Protocol) -> None:
        """Give the connection to a protocol, with what has come behind the handshake."""
        receiver = TlsReceiver(self, self.records, protocol)
        self._raw.set_protocol(receiver)
        protocol.connection_made(self)
        receiver.data_received(b"")

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send data."""
        if self._has_said_goodbye or not data:
            return
        if len(data) <= PIECE_BYTES:
            self._seal(data)
            self._send(self._take())
            return
        view = memoryview(data)
        for at in range(0, len(view), PIECE_BYTES):
            self._seal(view[at : at + PIECE_BYTES])
            self._send(self._take())

    def write_eof(self) -> None:
        """Say that nothing follows, and go on reading."""
        self.say_goodbye()
        if not self._raw.is_closing():
            self._raw.write_eof()

    def can_write_eof(self) -> bool:
        """Say that one side may end alone (RFC 8446 §6.1)."""
        return True

    def close(self) -> None:
        """Send what is to be sent, say goodbye, and close; the other side's goodbye is not waited for."""
        self.say_goodbye()
        self._raw.close()

    def abort(self) -> None:
        """Close at once."""
        self._has_said_goodbye = True
        self._raw.abort()

    def is_closing(self) -> bool:
        """Say whether it is closed, or about to be."""
        return self._raw.is_closing()

    def pause_reading(self) -> None:
        """Receive no more for now."""
        self.is_paused = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Receive again."""
        self.is_paused = False
        self._raw.resume_reading()
        if self.when_resumed is not None:
            asyncio.get_running_loop().call_soon(self.when_resumed)
            self.when_resumed = None

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait to be sent."""
        return self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection; see asyncio."""
        return self.records.tls if name == "ssl_object" else self._raw.get_extra_info(name, default)

    def say_goodbye(self) -> None:
        """Tell the other side that nothing follows, once."""
        if not self._has_said_goodbye:
            self._has_said_goodbye = True
            if not self._raw.is_closing():
                self._raw.write(self.records.goodbye())

    def send_owed(self) -> None:
        """Send what TLS itself has to say, if anything."""
        if (owed := self.records.take()) and not self._raw.is_closing():
            self._raw.write(owed)

    def fail(self) -> None:
        """Leave what cannot be read any further, and say why."""
        self._has_said_goodbye = True
        self.send_owed()
        self._raw.close()


class TlsReceiver(asyncio.Protocol):
    """The protocol of the loop's transport: gives what comes to the protocol of a `TlsTransport`."""

    def __init__(self, transport: TlsTransport, records: Records, protocol: asyncio.Protocol) -> None:
        self._transport = transport
        self._records = records
        self._put, self._get, self._incoming = records.put, records.get, records.incoming
        self._protocol = protocol

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        """Give what comes from now on to another protocol."""
        self._protocol = protocol

    def data_received(self, data: bytes) -> None:
        """Give the protocol what was sent. One record, whole, is what usually comes."""
        records = self._records
        if records.has_ended:
            return
        size = len(data)
        try:
            if records.is_partial or not 0 < size <= RECORD_BYTES:
                plain = self._open(data)
            else:
                self._put(data)
                plain = self._get(size)
                if not plain:
                    records.has_ended = True
                elif self._incoming.pending:
                    plain += records.open()
        except ssl.SSLWantReadError:
            records.is_partial, plain = True, b""
        except ssl.SSLError:  # altered on its way, or no TLS
            records.has_ended = True
            self._transport.fail()
            return
        if plain:
            self._protocol.data_received(plain)
        if not plain or records.has_ended:
            self._see_to_tls()

    def _open(self, data: bytes) -> bytes:
        """Return what was sent in records of any size and number."""
        parts = []
        for at in range(0, len(data) or 1, PIECE_BYTES):
            self._put(data[at : at + PIECE_BYTES])
            parts.append(self._records.open())
        return b"".join(parts)

    def _see_to_tls(self) -> None:
        """Answer what was said to TLS itself; where nothing follows, say so to the protocol."""
        self._transport.send_owed()
        if self._records.has_ended:
            self._tell_end()

    def _tell_end(self) -> None:
        """Say to the protocol that nothing follows, once it has taken all that came before."""
        transport = self._transport
        if transport.is_closing():
            return
        if transport.is_paused:
            transport.when_resumed = self._tell_end
        elif not self._protocol.eof_received():
            transport.close()

    def eof_received(self) -> bool:
        """Say so to the protocol. A request that was cut short is found by its framing, not by a missing goodbye."""
        if self._protocol.eof_received():
            return True
        self._transport.say_goodbye()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so to the protocol, and let go of it: serving collects no cycles."""
        self._transport.when_resumed = None
        protocol, self._protocol = self._protocol, asyncio.Protocol()
        protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Say to the protocol that the other side does not read."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Say to the protocol that it does again."""
        self._protocol.resume_writing()
