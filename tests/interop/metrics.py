"""Names of the series that the suite reads from `/metrics`; all but the last are told apart by `shard`."""

# Now.
LINKS = "quelea_links"
SESSIONS_CONNECTED = "quelea_sessions_connected"
RETAINED = "quelea_retained"
MEMORY = "quelea_memory_bytes"
PARKED = "quelea_parked"
TICKETS = "quelea_tickets"

# Since the start.
CONNECTS = "quelea_connects_total"
CONNECT_TIMEOUTS = "quelea_connect_timeouts_total"
KEEP_ALIVE_TIMEOUTS = "quelea_keep_alive_timeouts_total"
TAKEOVERS = "quelea_takeovers_total"
MALFORMED = "quelea_malformed_total"
PROTOCOL_ERRORS = "quelea_protocol_errors_total"
WILLS_PUBLISHED = "quelea_wills_published_total"
SLOW_DISCONNECTS = "quelea_slow_disconnects_total"
DROPPED_QOS0_FULL = "quelea_dropped_qos0_full_total"
DROPPED_QOS0_GROUP = "quelea_dropped_qos0_group_total"
DROPPED_SESSION_END = "quelea_dropped_session_end_total"
DROPPED_OFFLINE_FULL = "quelea_dropped_offline_full_total"
ENVELOPES_SENT = "quelea_envelopes_sent_total"
DATAGRAMS_FORWARDED = "quelea_datagrams_forwarded_total"

# The node as a whole.
MEMORY_CEILING = "quelea_memory_ceiling_bytes"
