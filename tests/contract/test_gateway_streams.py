"""Many log streams that are open at the same time."""

import asyncio
import contextlib
import pathlib
import re

import grpc
import grpc.aio
import pytest
from gateways import RunningGateway

from flower_agent.config.flower_versions import Transport
from flower_agent.flower import control_messages, wire
from flower_agent.model.address import Address

LIMIT_MIB = 100
"""For 50 streams: HAProxy has 20 MiB beside, and together they are to stay below 120."""

MANY_LIMIT_MIB = 200
"""For 1,000; the unit may have 384."""

WAIT_S = 240


class Quiet(grpc.GenericRpcHandler):
    """A Control API whose logs say one line and nothing more until the end."""

    def service(self, handler_call_details):
        async def stream(_body, _call):
            yield wire.encode((1, "begun"), (2, 1.0))
            await asyncio.sleep(3600)

        assert handler_call_details.method.endswith("/StreamLogs")
        return grpc.unary_stream_rpc_method_handler(stream)


@pytest.mark.parametrize(("count", "limit_mib"), [(50, LIMIT_MIB), (1000, MANY_LIMIT_MIB)])
def test_streams_stay_open_and_cost_little(tmp_path, count, limit_mib):
    said, resident = asyncio.run(asyncio.wait_for(open_many(tmp_path, count), WAIT_S))
    assert said == ["begun"] * count
    assert resident < limit_mib


async def open_many(directory, count):
    """Serve, log in, open the streams; return their first lines and the gateway's MiB."""
    server = grpc.aio.server(handlers=[Quiet()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    gateway = RunningGateway(directory, Transport.GRPC, Address("127.0.0.1", port))
    gateway.add_accounts()
    await asyncio.to_thread(gateway.start)
    try:
        tokens = await asyncio.to_thread(gateway.login, "viewer")
        return await first_lines(gateway, tokens, count)
    finally:
        await asyncio.to_thread(gateway.stop)
        await server.stop(None)


async def first_lines(gateway, tokens, count):
    body = control_messages.encode_stream_logs("7", 0.0)
    metadata = [
        ("flwr-oidc-access-token", tokens[0]), ("flwr-oidc-refresh-token", tokens[1]),
        ("x-forwarded-for", "192.0.2.1"),
    ]  # fmt: skip
    async with contextlib.AsyncExitStack() as channels:
        streams = []
        for number in range(count):
            if number % 50 == 0:
                target = f"unix:{gateway.sockets / 'grpc.sock'}"
                own = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
                channel = grpc.aio.insecure_channel(target, own)
                await channels.enter_async_context(channel)
            ask = channel.unary_stream("/flwr.proto.Control/StreamLogs", None, None)
            streams.append(ask(body, metadata=metadata, timeout=WAIT_S))
        frames = await asyncio.gather(*(stream.read() for stream in streams))
        resident = await asyncio.to_thread(resident_mib, gateway.process.pid)
        for stream in streams:
            stream.cancel()
    return [wire.decode(frame).text(1) for frame in frames], resident


def resident_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024
