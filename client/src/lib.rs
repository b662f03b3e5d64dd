//! An MQTT client: a core without I/O, and a tokio front.
#![forbid(unsafe_code)]
