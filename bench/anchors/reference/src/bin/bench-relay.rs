//! The Rust relay, the published crate in release mode, on a DHT of the bench's choice.
//!
//! The crate's own binary knows the public DHT and a private one on a fixed port. This one joins
//! the network it is told to and may switch the rate limiter on; nothing is logged, as no
//! subscriber is installed. Prints its URL as a line of JSON and ends when stdin closes.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use pkarr::dht::ReportPolicy;
use pkarr_relay::{RateLimiterConfig, Relay, RequestCountQuota};
use tokio::io::AsyncReadExt;

#[derive(Parser)]
struct Args {
    /// DHT bootstrap node, as IP:PORT (repeatable).
    #[arg(long, required = true)]
    bootstrap: Vec<SocketAddrV4>,
    /// Timeout of one DHT request, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    dht_timeout_ms: u64,
    /// UDP port of the DHT node.
    #[arg(long)]
    dht_port: Option<u16>,
    /// Folder of the cache.
    #[arg(long)]
    storage: PathBuf,
    /// Limit every address to so many requests a second, and as many at once.
    #[arg(long)]
    limit: Option<NonZeroU32>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let mut builder = Relay::builder();
    builder
        .http_port(0)
        .storage(args.storage)
        .report_policy(ReportPolicy::testnet())
        .dht(|dht| {
            dht.bootstrap = Some(args.bootstrap);
            dht.bind_address = Some(Ipv4Addr::LOCALHOST);
            dht.port = args.dht_port;
            dht.request_timeout = Duration::from_millis(args.dht_timeout_ms);
            dht.server_mode = true;
            dht
        });
    match args.limit {
        None => builder.disable_rate_limiter(),
        Some(rate) => {
            let quota = || format!("{rate}r/s").parse::<RequestCountQuota>();
            builder.rate_limiter_config(RateLimiterConfig {
                behind_proxy: false,
                quota: quota()?,
                burst: Some(rate),
                dht_quota: quota()?,
                dht_burst: Some(rate),
                user_dht_quota: quota()?,
                user_dht_burst: Some(rate),
            })
        }
    };
    // Safety: LMDB is sound as long as no other process opens the same folder; each run has its own.
    let relay = unsafe { builder.run() }.await?;
    let port = relay.relay_address().port();
    println!("{{\"event\": \"ready\", \"url\": \"http://127.0.0.1:{port}/\"}}");
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    relay.shutdown();
    Ok(())
}
