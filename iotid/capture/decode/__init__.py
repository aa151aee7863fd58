"""Records to packets: link layer, IP, transport, tunnels."""
