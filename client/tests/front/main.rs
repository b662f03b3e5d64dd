//! The front against mosquitto, and against doors of our own that break, refuse and dawdle.
//!
//! Tests that need mosquitto print a line and pass where it is not installed; CI installs it.

mod broker;
mod door;
mod faults;
mod promises;
mod quic;
