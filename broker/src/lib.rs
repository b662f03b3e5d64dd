//! An MQTT broker whose first transport is QUIC.
