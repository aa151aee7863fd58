"""Reads records from capture files: pcap and pcapng, compressed or not."""
