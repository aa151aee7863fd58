"""Fields of a frame's headers: an array of int64 that the readers of the layers fill, the innermost packet last.

The array is reused for all frames, so each reader sets all of its fields.
"""

from __future__ import annotations

IP_OFFSET = 0  # byte of the window where the IP header starts
VERSION = 1  # 4 or 6
VLAN = 2  # innermost identifier; -1: none
SOURCE_MAC = 3  # low 48 bits; -1: not in the link layer
DESTINATION_MAC = 4
TRANSPORT_OFFSET = 5  # byte of the window where IP's payload starts
LENGTH = 6  # bytes on the wire from the IP header on
PROTOCOL = 7  # IANA number of IP's payload, after extension headers
IDENTIFICATION = 8  # of the packet that a fragment is a part of; 0 where IPv6 is not fragmented
FRAGMENT = 9  # offset in units of 8 bytes, and MORE_FRAGMENTS
SOURCE_PORT = 10  # 0: none
DESTINATION_PORT = 11
PAYLOAD = 12  # bytes on the wire above TCP or UDP, else above IP
FLAGS = 13  # TCP's, else 0
WINDOW = 14  # TCP's, else 0
UNREAD = 15  # the link type or EtherType that is not supported, if that is the reason
SEQUENCE = 16  # TCP's; -1: not TCP, or not captured
HEADERS_SIZE = 17

MORE_FRAGMENTS = 1 << 13

# results of the layers below IP; the last two set UNREAD
FOUND, NOT_IP, CUT_OFF, UNKNOWN_LINK, UNKNOWN_TYPE = range(5)
