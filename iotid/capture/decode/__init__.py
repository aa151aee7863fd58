"""Decodes records into packets: link layer, IP, transport, tunnels."""
