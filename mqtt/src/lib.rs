//! The language of MQTT 3.1, 3.1.1 and 5.0: packets, properties, topics, reasons.
#![forbid(unsafe_code)]
