//! The `quelea-load` binary: open-loop load for MQTT brokers.
fn main() {
    eprintln!("quelea-load: the load generator is not part of this version");
    std::process::exit(2);
}
