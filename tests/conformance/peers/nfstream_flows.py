"""NFStream's flows of captures, for its own environment: paths on standard input, one a line; JSON lines out.

A line: [path, [[protocol, VLAN, source, its port, destination, its port, packets of the source, its bytes, packets of
the destination, its bytes, [0 (the source sent it) or 1, …], [frame length, …]], …]]. The sequences hold the first 32.
"""

import json
import sys

from nfstream import NFStreamer

_NEVER = 2**31 - 1  # seconds
_FIRST = 32


def main() -> None:
    for line in sys.stdin:
        path = line.rstrip("\n")
        streamer = NFStreamer(
            source=path,
            decode_tunnels=True,
            idle_timeout=_NEVER,
            active_timeout=_NEVER,
            accounting_mode=0,  # lengths of frames
            snapshot_length=262144,  # NFStream drops packets that are cut
            n_dissections=0,
            statistical_analysis=False,
            splt_analysis=_FIRST,
            n_meters=1,
        )
        flows = []
        for flow in streamer:
            count = min(flow.bidirectional_packets, _FIRST)
            flows.append([
                flow.protocol, flow.vlan_id, flow.src_ip, flow.src_port, flow.dst_ip, flow.dst_port,
                flow.src2dst_packets, flow.src2dst_bytes, flow.dst2src_packets, flow.dst2src_bytes,
                flow.splt_direction[:count], flow.splt_ps[:count],
            ])  # fmt: skip
        json.dump([path, flows], sys.stdout)
        print(flush=True)  # noqa: T201 # the answer


if __name__ == "__main__":  # NFStream starts processes, which import this file again
    main()
