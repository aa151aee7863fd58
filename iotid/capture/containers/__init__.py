"""Capture files: pcap and pcapng, compressed or not, as records."""
