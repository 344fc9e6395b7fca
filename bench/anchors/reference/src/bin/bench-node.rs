//! One Rust `mainline` node in release mode, serving on loopback.
//!
//! Prints its address as a line of JSON; then, for each line on stdin, one with the number of nodes
//! in its routing table. Ends when stdin closes.

use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use clap::Parser;
use mainline::Dht;

#[derive(Parser)]
struct Args {
    /// DHT bootstrap node, as IP:PORT (repeatable).
    #[arg(long, required = true)]
    bootstrap: Vec<SocketAddrV4>,
    /// UDP port.
    #[arg(long)]
    port: u16,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let node = Dht::builder()
        .bootstrap(&args.bootstrap)
        .bind_address(Ipv4Addr::LOCALHOST)
        .port(args.port)
        .request_timeout(Duration::from_millis(2000))
        .server_mode()
        .build()?;
    println!("{{\"event\": \"ready\", \"bootstrap\": [\"{}\"]}}", node.info().local_addr());
    for line in std::io::stdin().lock().lines() {
        line?;
        println!("{{\"ok\": true, \"table\": {}}}", node.to_bootstrap().len());
    }
    Ok(())
}
