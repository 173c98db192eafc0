//! How long a sandbox takes from the request to its end: `cargo bench -p lamina-sandbox`.
fn main() {}
