"""Every table, in pipeline order: each column with its unit and meaning.

Steps exchange data only through these tables. If the meaning of a column changes, so does the table's ``version``.
"""

from iotid.schemas.table import Column, Table

SPLITS = Table(  # version 3: stop, which was end, a reserved word of SQL
    "splits",
    3,
    (
        Column("site", "string", "site that the capture comes from"),
        Column("capture_date", "date", "capture date: the day (UTC) that the capture is filed under"),
        Column("file_index", "int32", "rank of the file among the partition's sorted paths; breaks ties of time"),
        Column("path", "string", "path or URI of the capture"),
        Column("file_bytes", "int64", "bytes: size of the file as stored"),
        Column("fingerprint", "string", "hash of the first and last bytes: detects a file that was overwritten"),
        Column("first_packet", "string", "time:wire:captured:CRC-32 of the file's first packet; empty: not known"),
        Column("container", "string", "pcap or pcapng"),
        Column("compression", "string", "none, gzip, zstd, bz2 or xz"),
        Column("split", "int32", "number of this split within its file, from 0"),
        Column("start", "int64", "bytes: where the split's first record starts, in the uncompressed stream"),
        Column("stop", "int64", "bytes: where the next split starts; -1: to the end of the stream"),
        Column(
            "warm_up", "int64", "bytes: record from which reading starts so that duplicates and fragments are known"
        ),
        Column(
            "context", "string", "JSON: byte order, resolution, link type or interfaces known at `warm_up` and `start`"
        ),
        Column(
            "records", "int64", "records that the planner found in the split; -1: not scanned (small or compressed)"
        ),
        Column("task", "int32", "worker task that reads this split"),
    ),
    ("site", "capture_date"),
)

PACKETS = Table(  # version 2: one record may hold several packets
    "packets",
    2,
    (
        Column("capture_file", "string", "path of the capture"),
        Column(
            "offset",
            "int64",
            "bytes: where the record starts in the uncompressed stream; of a later packet of the same record (802.11 "
            "A-MSDU) so many bytes further as it starts in the frame",
        ),
        Column("timestamp", "timestamp", "capture time; finer parts of a microsecond are cut off"),
        Column("link_type", "int32", "LINKTYPE_ number of the interface"),
        Column(
            "frame_length", "int32", "bytes: length of the frame on the wire; of an A-MSDU, the packet's part of it"
        ),
        Column("captured_length", "int32", "bytes: how much of that is in the capture"),
        Column("vlan", "int32", "innermost VLAN identifier", nullable=True),
        Column("source_mac", "string", "sender's MAC where the link layer shows it", nullable=True),
        Column("destination_mac", "string", "receiver's MAC where the link layer shows it", nullable=True),
        Column("source_ip", "string", "sender's address"),
        Column("destination_ip", "string", "receiver's address"),
        Column("protocol", "int32", "IANA protocol number: 6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6 …"),
        Column("source_port", "int32", "0 where the protocol has no ports"),
        Column("destination_port", "int32", "0 where the protocol has no ports"),
        Column("packet_length", "int32", "bytes on the wire from the IP header on"),
        Column(
            "payload_length", "int32", "bytes on the wire above the TCP or UDP header; of other protocols, above IP"
        ),
        Column("tcp_flags", "int32", "CWR…FIN as in the header's 14th byte; 0 for packets that are not TCP"),
        Column("tcp_window", "int32", "raw 16-bit field, unscaled; 0 for packets that are not TCP"),
    ),
)

COUNTERS = Table(
    "counters",
    2,
    (
        Column("site", "string", "site"),
        Column("capture_date", "date", "capture date"),
        Column("capture_file", "string", "path of the capture"),
        Column("reason", "string", "`flow`: packets that are in flows; else why they, or the bytes, are not"),
        Column("packets", "int64", "packets counted"),
        Column(
            "bytes", "int64", "bytes of those packets on the wire; of skipped_bytes and truncated_record, of the file"
        ),
        Column("first_offset", "int64", "bytes: where the first of them starts in the capture's uncompressed stream"),
    ),
    ("site", "capture_date"),
)

QUARANTINE = Table(  # stored with the flows of a partition: captures that could not be read completely
    "quarantine",
    1,
    (
        Column("capture_file", "string", "path of the capture"),
        Column("why", "string", "why it could not be read"),
    ),
)

PARTIAL_FLOWS = Table(  # shuffled by Spark, not stored; flows/layout.py describes the binary columns
    "partial_flows",
    4,
    (
        Column("task", "int32", "worker task that read the packets"),
        Column(
            "key",
            "binary",
            "6 little-endian uint64: protocol, VLAN, both endpoints, for an unspecified address with its MAC; the file "
            "where flows stay in it",
        ),
        Column("first_us", "int64", "µs since 1970 UTC: first packet"),
        Column("first_position", "int64", "file_index << 42 | offset of the first packet: breaks ties of time"),
        Column("state", "binary", "56 int64: packets, bytes, MACs, first SYN, FIN, RST … of each side"),
        Column(
            "packets",
            "binary",
            "4 int64 for each of the first M packets: time, position, lengths, window and flags; behind them, in int64 "
            "of their own, with flow.header_fields its header fields and with flow.keep_bytes its first bytes",
        ),
    ),
)

OPEN_FLOWS = Table(  # stored with the flows of a partition: those that may continue on the next date, as partial flows
    "open_flows",
    4,
    (
        Column("capture_file", "string", "capture that holds the flow's first packet"),
        Column("last_us", "int64", "µs since 1970 UTC: last packet"),
        Column("packets_seen", "int64", "packets of the flow so far"),
        Column("key", "binary", "as of partial flows"),
        Column("first_us", "int64", "as of partial flows"),
        Column("first_position", "int64", "as of partial flows"),
        Column("state", "binary", "as of partial flows"),
        Column("packets", "binary", "as of partial flows"),
    ),
)

_HEADER_COLUMNS = (
    Column(
        "ttl",
        "list<int32>",
        "IPv4 TTL or IPv6 hop limit of the first M packets as captured; this and the columns up to timestamp_rate are "
        "empty lists without flow.header_fields",
    ),
    Column("dscp", "list<int32>", "upper 6 bits of the type of service (IPv4) or traffic class (IPv6)"),
    Column("dont_fragment", "list<int32>", "IPv4's flag; 1 for IPv6, whose packets no router fragments"),
    Column(
        "ip_id_step",
        "list<int32>",
        "difference of the IPv4 identification, modulo 2^16, to that of the sender's packet before: 0 IPv6, which has "
        "none; 1 the sender's first packet; 2 none; 3 one; 4 two to 9; 5 10 to 1,000; 6 any other",
    ),
    Column(
        "tcp_options",
        "list<int32>",
        "order of the TCP options: lower 31 bits of the 32-bit FNV-1a hash of their kinds, NOP and end of list "
        "included; 0 where not TCP, without options, not captured whole or malformed",
    ),
    Column("tcp_mss", "list<int32>", "bytes: TCP's option maximum segment size; 0 where there is none"),
    Column("tcp_window_scale", "list<int32>", "1 + shift count of TCP's option window scale; 0 where there is none"),
    Column(
        "timestamp_rate",
        "list<int32>",
        "ticks per second of TCP's timestamps since the sender's first: 0 no timestamp; 1 less than 0.1 s after the "
        "first; 2 below 50; 3 to 158, as of 100 Hz; 4 to 500, as of 250 Hz; 5 to 2,000, as of 1,000 Hz; 6 above",
    ),
)
HEADER_COLUMNS = tuple(column.name for column in _HEADER_COLUMNS)

FLOWS = Table(  # version 5: columns of header fields
    "flows",
    5,
    (
        Column("site", "string", "site"),
        Column("capture_date", "date", "capture date"),
        Column("capture_file", "string", "capture that holds the flow's first packet"),
        Column("protocol", "int32", "IANA protocol number"),
        Column("vlan", "int32", "innermost VLAN identifier", nullable=True),
        Column("client_ip", "string", "address of the side that opened the flow"),
        Column("client_port", "int32", "port"),
        Column("server_ip", "string", "address of the other side"),
        Column("server_port", "int32", "port"),
        Column("client_mac", "string", "MAC that most of the client's packets came from, where shown", nullable=True),
        Column("server_mac", "string", "MAC that most of the server's packets came from, where shown", nullable=True),
        Column("address_conflict", "bool", "one of the site's own addresses sent from several MACs in this flow"),
        Column("first_seen", "timestamp", "capture time of the first packet"),
        Column("last_seen", "timestamp", "capture time of the last packet"),
        Column("client_packets", "int64", "packets sent by the client"),
        Column("client_bytes", "int64", "bytes of frames on the wire sent by the client"),
        Column("server_packets", "int64", "packets sent by the server"),
        Column("server_bytes", "int64", "bytes of frames on the wire sent by the server"),
        Column("answered", "bool", "the server sent something other than a refusal: a packet that is no TCP RST"),
        Column(
            "end_reason",
            "string",
            "idle, active, closed (a SYN opened the next connection), moved (the address went to another device's MAC) "
            "or end (of the captures)",
        ),
        Column(
            "packet_length", "list<int32>", "bytes on the wire of the first M packets, from IP or frame (flow.length)"
        ),
        Column("tcp_window", "list<int32>", "raw windows of the first M packets; 0 where not TCP"),
        Column("direction", "list<int32>", "1 sent by the client, -1 by the server"),
        Column("inter_arrival_us", "list<int64>", "µs since the packet before; 0 for the first"),
        Column("tcp_flags", "list<int32>", "flags of the first M packets; 0 where not TCP"),
        Column("payload_length", "list<int32>", "payload bytes on the wire of the first M packets"),
        *_HEADER_COLUMNS,
        Column(
            "first_bytes",
            "binary",
            "flow.keep_packets rows of flow.keep_bytes bytes: the first packets as captured, from the IP header on, "
            "its two addresses zeroed; zeros where there is nothing; null where no bytes are kept",
            nullable=True,
        ),
    ),
    ("site", "capture_date"),
)

PREDICTIONS = Table(
    "predictions",
    1,
    (
        Column("label", "string", "most probable class; row i belongs to flow i of the table given"),
        Column("confidence", "float64", "probability of that class"),
        Column("surprise", "float64", "share of the flow's values that training never saw, 0 to 1"),
        Column("probabilities", "list<float32>", "of every class, in the order of the model's labels"),
    ),
)

# with census.pseudonyms, numbers and times are rounded medians over devices of the same kinds (census/microaggregation)
# Version 9: unlike_kind. Version 8: similar_kinds. Version 7: status `absent`, change `baseline` (was first),
# group_name (was group), device_name to list_check, and first_seen_ever to earlier_names; version 6: named_by, maker,
# mac_randomised, same_as, status `named`.
CENSUS = Table(
    "census",
    9,
    (
        Column("site", "string", "site"),
        Column("capture_date", "date", "capture date"),
        Column("device_id", "string", "MAC of the device, or its address where no MAC is shown; or its pseudonym"),
        Column(
            "status",
            "string",
            "known (one kind is there), several (kinds behind one address), several_with_unknown (one or more, and "
            "something beside them that fits nothing learned), named (fits nothing learned; a person named its group), "
            "undecided (too little evidence), unknown (fits nothing learned) or absent (no flows on the capture date; "
            "the row describes the last one that it has flows of)",
        ),
        Column(
            "label", "string", "the class, where one kind is there and its class can be distinguished", nullable=True
        ),
        Column("vendor", "string", "vendor of that kind in the device list", nullable=True),
        Column("type", "string", "type of that kind in the device list", nullable=True),
        Column(
            "confidence",
            "float64",
            "probability that what is named is there, 0 to 1; unless one kind is there, of the likeliest kind",
        ),
        Column(
            "kinds",
            "list<kind_found>",
            "the kinds found, those with most flows of their own first; label: null where it could be one of several "
            "look-alikes; confidence: probability that what is named is there; flows: distinct flows that are "
            "like those of this kind alone; units: devices of it, at least",
        ),
        Column("runners_up", "list<runner_up>", "the likeliest kinds that were not found, and their probabilities"),
        Column(
            "similar_kinds",
            "list<string>",
            "of an unknown or undecided address, at most five learned kinds with the most similar traffic, the most "
            "similar first: candidates for a person, not names; empty with pseudonyms",
        ),
        Column(
            "unlike_kind",
            "float64",
            "how unlike training's traffic of its kind the device is: conformal p-value, small if unlike, 0.05 or less "
            "for 1 of 20 devices without any cause (model/device/unlike_kind.py); null: census.unlike_kind is off, not "
            "exactly one kind is there, training had only one recording of it, or the census has pseudonyms",
            nullable=True,
        ),
        Column("unexplained", "float64", "share of the distinct flows that no kind found explains, 0 to 1"),
        Column("household", "float64", "probability that several devices are behind the address (census.behind)"),
        Column("reason", "string", "a sentence: which distinct flows speak for what; and one for each mark"),
        Column(
            "marks",
            "list<string>",
            "what hints at a forged or shared address: address_conflict (another MAC used an address of it at the same "
            "time), kinds_at_once (a MAC shows flows of several kinds at the same time, though most addresses of the "
            "partition are one host each); or at a wrong name: maker_differs (the MAC's prefix belongs to another "
            "vendor of the device list)",
        ),
        Column(
            "group_name",
            "string",
            "similar unknown devices share one, see groups; `others` beyond the most groups; null unless unknown or "
            "named",
            nullable=True,
        ),
        Column("named_by", "string", "who named the group (iotid name); null unless named", nullable=True),
        Column(
            "device_name",
            "string",
            "name of the device in the device list; of several that share the address, joined by +; null: not listed, "
            "no list was given, or the census has pseudonyms",
            nullable=True,
        ),
        Column("listed_label", "string", "model that the list gives the device; null as device_name", nullable=True),
        Column(
            "list_check",
            "string",
            "the device list against what was found: agrees (what is listed was found, and nothing else), differs "
            "(listed, but something else was found, or something beside it), not_identified (listed, but nothing was "
            "found), not_listed (found, but not listed) or unknown (neither); null: absent, no list was given, or the "
            "census has pseudonyms",
            nullable=True,
        ),
        Column(
            "maker",
            "string",
            "who registered the MAC's prefix, often the maker of the network interface only; null: no MAC is shown, it "
            "is a pseudonym, locally administered, or of no registered prefix",
            nullable=True,
        ),
        Column(
            "mac_randomised",
            "bool",
            "the MAC is locally administered, so the device may change it; null: no MAC is shown, or it is a pseudonym",
            nullable=True,
        ),
        Column(
            "flows",
            "int64",
            "flows used; 0 of an absent device",
        ),
        Column("bytes", "int64", "bytes of those flows on the wire, both directions"),
        Column("first_seen", "timestamp", "first packet on the capture date"),
        Column("last_seen", "timestamp", "last packet on the capture date"),
        Column(
            "first_seen_ever",
            "timestamp",
            "first packet in this census and those before it that this one knows of; of a device that was not "
            "remembered any more (census.remember_days), since its return; null with pseudonyms",
            nullable=True,
        ),
        Column(
            "dates_present",
            "int64",
            "number of these censuses in which it has flows; null with pseudonyms",
            nullable=True,
        ),
        Column(
            "earlier_names",
            "list<string>",
            "other names that it had in these censuses, as in previous_label, the latest first, at most 8; null with "
            "pseudonyms",
            nullable=True,
        ),
        Column("addresses", "list<string>", "addresses under which the device was seen, or their pseudonyms, sorted"),
        Column(
            "change",
            "string",
            "against the census before: new, same, changed, back (after absence), gone (there then, not "
            "on this date), away (absent then, too); baseline: no census before whose identifiers are the same",
        ),
        Column(
            "previous_label",
            "string",
            "name in the census before, where it had one; of several kinds joined by +",
            nullable=True,
        ),
        Column(
            "new_kinds",
            "list<string>",
            "where changed: names of the kinds found that the census before did not find, in the order of kinds",
        ),
        Column(
            "same_as",
            "string",
            "the earlier device_id of the same device, whose MAC has changed, where that is sure (census/same_device); "
            "null with pseudonyms",
            nullable=True,
        ),
        Column("watched", "bool", "on the watch list"),
    ),
    ("site", "capture_date"),
)

# Stored with a census: the profile of each group, by which the next date recognises it.
GROUPS = Table(  # version 3: group_name, which was group, a reserved word of SQL; 2: rhythm, tokens, devices, merged
    "groups",
    3,
    (
        Column("group_name", "string", "name of the group, for as long as the census remembers a device of it"),
        Column("services", "list<string>", "transport and server port of most of its flows, as in TCP 8883"),
        Column("flows_per_hour", "float64", "median of its devices: flows in an hour that has any", nullable=True),
        Column(
            "active_hours",
            "float64",
            "median of its devices: hours of the day (UTC) that have a flow",
            nullable=True,
        ),
        Column(
            "protocol", "list<int32>", "IANA protocol number of each payload that its devices send; -1: they do not"
        ),
        Column("payload_length", "list<int32>", "bytes of that payload"),
        Column("share", "list<float64>", "how common it is: the mean of the devices' shares, which sum to 1"),
        Column(
            "token",
            "list<int64>",
            "pairs and sequences of payloads, and roles, of its flows, each with type and protocol as one number "
            "(census/profiles.py); null: made by an earlier version",
            nullable=True,
        ),
        Column("token_share", "list<float64>", "as share, for each type of token", nullable=True),
        Column(
            "device",
            "list<int64>",
            "keyless hash of each device that is known to be in it: those with a globally administered MAC, at most "
            "4,096, the last seen ones; sorted",
            nullable=True,
        ),
        Column(
            "absent",
            "list<int32>",
            "censuses since each of them was seen; 0: in this one",
            nullable=True,
        ),
        Column("merged", "list<string>", "names of earlier groups that are now this one, at most 64", nullable=True),
    ),
)

# What persons said about groups (iotid name): a partition is one statement, its rows are devices.
GROUP_NAMES = Table(  # version 2: group_name, which was group
    "group_names",
    2,
    (
        Column("name", "string", "identifier of the statement; in order of time"),
        Column("group_name", "string", "name of the group"),
        Column(
            "action",
            "string",
            "name (its devices are of this model), reject (they get no name) or split (they are of several kinds, so "
            "the next census forms new groups of them); a later statement about a group replaces earlier ones",
        ),
        Column("model", "string", "model, as in a device list; null unless named", nullable=True),
        Column("vendor", "string", "vendor, as in a device list; null: not given", nullable=True),
        Column("type", "string", "type, as in a device list; null: not given", nullable=True),
        Column("stated_by", "string", "who said it"),
        Column("stated_at", "timestamp", "when"),
        Column("sites", "list<string>", "the sites for which it was said; empty: all"),
        Column("dates", "list<date>", "the capture dates for which it was said; empty: all, later ones, too"),
        Column("site", "string", "site of a device that was in the group then"),
        Column("capture_date", "date", "capture date on which it was"),
        Column("device_id", "string", "that device, as in the census"),
        Column(
            "key_fingerprint",
            "string",
            "fingerprint of the key of that census; null: no pseudonyms. A pseudonym labels no flows",
            nullable=True,
        ),
    ),
    ("name",),
)

LEFT_OUT = Table(  # stored with a census: flows that are in no row of it
    "left_out",
    1,
    (
        Column(
            "reason",
            "string",
            "router (sent by a router's MAC from an address outside, for others), outside (sent from an address "
            "outside, and no MAC is shown), no_host_address (from an address that no single host has, and no MAC is "
            "shown), unanswered (sent to something that did not answer) or other_protocol (no flow of the protocol was "
            "learned from; without a model: it is not in dataset.protocols)",
        ),
        Column(
            "mac",
            "string",
            "MAC that sent, or that did not answer, or its pseudonym; null: not shown, or a sum",
            nullable=True,
        ),
        Column("address", "string", "its address, where it is one alone and no pseudonym", nullable=True),
        Column("addresses", "int64", "number of its addresses"),
        Column(
            "in_census",
            "bool",
            "it has a row in the census, of other flows; null: a sum of all that are not listed",
            nullable=True,
        ),
        Column("ends", "int64", "number of MACs, or of addresses without one, that the row counts"),
        Column("flows", "int64", "flows"),
        Column("packets", "int64", "packets of those flows, both directions"),
    ),
)

TOTALS = Table(  # stored with a census: how many addresses hold each kind, type, vendor and model
    "totals",
    1,
    (
        Column(
            "level",
            "string",
            "what is counted: all (addresses), status, kind, type, vendor, model (class of the trained model), watched "
            "(names on the watch list) or group (of unknown devices)",
        ),
        Column("item", "string", "name of the kind, type … ; `addresses` for all"),
        Column("found", "int64", "addresses of the capture date whose row names it"),
        Column(
            "expected",
            "float64",
            "sum over the addresses of the probability that at least one is there; `found` where there is no "
            "probability (all, status, watched, group)",
        ),
        Column("variance", "float64", "variance of that number, sum of p(1-p)"),
        Column("third_cumulant", "float64", "third cumulant of that number, sum of p(1-p)(1-2p)"),
        Column("p_none", "float64", "probability that no address has it, product of 1-p"),
        Column("new", "int64", "found at addresses that are new"),
        Column("gone", "int64", "addresses that are gone, whose row names it"),
        Column("changed", "int64", "found at addresses that changed, and not found there before"),
        Column("back", "int64", "found at addresses that are back"),
        Column("remembered", "int64", "addresses whose row names it, of the capture date or absent"),
    ),
)

NETWORK = Table(  # the totals of all sites on one capture date; `network/totals.py` adds them
    "network",
    1,
    (
        Column("capture_date", "date", "capture date"),
        Column("name", "string", "name of the network: which sites it has is up to who takes its census"),
        Column("site", "string", "site; null: all sites that have a census of the date", nullable=True),
        Column("level", "string", "as of totals; group: of the network, see network_groups"),
        Column("item", "string", "as of totals"),
        Column("found", "int64", "addresses whose row names it"),
        Column("expected", "float64", "expected number of addresses at which it is, from their probabilities"),
        Column("low", "int64", "lower end of the 95 % interval of that number"),
        Column("high", "int64", "upper end"),
        Column("new", "int64", "as of totals"),
        Column("gone", "int64", "as of totals"),
        Column("changed", "int64", "as of totals"),
        Column("back", "int64", "as of totals"),
        Column("remembered", "int64", "as of totals"),
        Column("sites", "int64", "sites where it was found"),
        Column("sites_expected", "float64", "expected number of sites that have it, from the same probabilities"),
        Column("sites_low", "int64", "lower end of the 95 % interval of that number"),
        Column("sites_high", "int64", "upper end"),
        Column("variance", "float64", "as of totals"),
        Column("third_cumulant", "float64", "as of totals"),
        Column("p_none", "float64", "as of totals"),
    ),
    ("capture_date", "name"),
)

NETWORK_SITES = Table(  # stored with a network's census: one row for each site that it should have
    "network_sites",
    1,
    (
        Column("site", "string", "site"),
        Column(
            "state",
            "string",
            "complete; partial (the census lacks captures or is not like the others, see reason); or missing (there is "
            "no census of the date)",
        ),
        Column("reason", "string", "why it is partial or missing; empty if complete"),
        Column("addresses", "int64", "addresses of the capture date"),
        Column("known", "int64", "addresses where kinds were found"),
        Column("undecided", "int64", "addresses with too little evidence"),
        Column("unknown", "int64", "addresses that fit nothing learned, also those that a person named"),
        Column("unexplained", "float64", "mean share of an address's distinct flows that no kind found explains"),
        Column("watched", "int64", "addresses on the watch list"),
        Column("flows", "int64", "flows of the date"),
        Column("flows_left_out", "int64", "flows without a row in the census"),
        Column("model_version", "string", "model of the census; null: none, or no census", nullable=True),
        Column("key_fingerprint", "string", "fingerprint of the key of its pseudonyms", nullable=True),
        Column(
            "identity", "string", "hash of the metadata of the census that was read; null: no census", nullable=True
        ),
        Column("written_us", "int64", "µs since 1970 UTC: when that census was written", nullable=True),
    ),
)

# Stored with a network's census: unknown groups over sites.
NETWORK_GROUPS = Table(  # version 2: group_name, which was group
    "network_groups",
    2,
    (
        Column("group_name", "string", "name, the same at every site and on every capture date"),
        Column("first_date", "date", "capture date on which it was first seen"),
        Column("first_site", "string", "a site where it was seen then: that with most addresses"),
        Column("last_date", "date", "capture date on which it was last seen"),
        Column("sites", "list<string>", "sites that have it on this date, at most 100, sorted"),
        Column("num_sites", "int64", "number of sites that have it on this date"),
        Column(
            "addresses",
            "int64",
            "addresses that have it on this date: its devices, or homes where an address is a home",
        ),
        Column("new", "int64", "new addresses among them"),
        Column("makers", "list<string>", "registrants of the MACs' prefixes, the commonest first"),
        Column("services", "list<string>", "as of groups, the commonest first"),
        Column("flows_per_hour", "float64", "median over sites, weighted by addresses", nullable=True),
        Column("active_hours", "float64", "median over sites, weighted by addresses", nullable=True),
        Column(
            "merged_into", "string", "the older group that it became part of; it is not seen any more", nullable=True
        ),
        Column("split_from", "string", "the group that it was part of before", nullable=True),
    ),
)

# Stored with a network's census: the sites' groups and the network's groups that they belong to.
MEMBERS = Table(  # version 2: group_name, which was group
    "members",
    2,
    (
        Column("site", "string", "site"),
        Column("site_group", "string", "name of the group in the census of the site"),
        Column("group_name", "string", "name of the network's group"),
    ),
)
