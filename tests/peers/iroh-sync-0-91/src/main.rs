//! `iroh-sync` with iroh 0.91.1. Takes the same commands; see there for the idea.
//!
//! `docs/iroh.md` shows `endpoint`, word for word.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use iroh::discovery::pkarr::{PkarrPublisher, PkarrResolver};
use iroh::endpoint::{Builder, Connection};
use iroh::node_info::NodeIdExt;
use iroh::{Endpoint, NodeId, RelayMode, SecretKey};
use serde_json::{json, Value};

#[path = "../../sync.rs"]
mod sync;
use sync::{exchange, finish, random_seed, say, stdin_closed, Args, Command, Failure, ALPN};

fn endpoint(relay: &str, secret: SecretKey) -> Result<Builder, Failure> {
    Ok(Endpoint::builder()
        .secret_key(secret)
        .relay_mode(RelayMode::Disabled)
        .add_discovery(PkarrPublisher::builder(relay.parse()?))
        .add_discovery(PkarrResolver::builder(relay.parse()?))
        .alpns(vec![ALPN.to_vec()]))
}

async fn bind(args: &Args) -> Result<Endpoint, Failure> {
    let secret = match &args.seed {
        Some(text) => text.parse()?,
        None => SecretKey::from_bytes(&random_seed()?),
    };
    let mut builder = endpoint(&args.pkarr, secret)?;
    if let Some(SocketAddr::V4(address)) = args.bind {
        builder = builder
            .bind_addr_v4(address)
            .bind_addr_v6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0));
    }
    let endpoint = builder.bind().await?;
    let sockets: Vec<_> = endpoint
        .bound_sockets()
        .iter()
        .map(ToString::to_string)
        .collect();
    say(json!({
        "event": "ready",
        "impl": "iroh 0.91.1",
        "key": endpoint.node_id().to_z32(),
        "sockets": sockets,
    }));
    Ok(endpoint)
}

async fn serve(connection: Connection, args: &Args) -> Result<(), Failure> {
    let (mut to, mut from) = connection.accept_bi().await?;
    let mut moved = exchange(&mut to, &mut from, args).await?;
    connection.close(0u32.into(), b"done");
    moved["event"] = json!("synced");
    moved["from"] = json!(connection.remote_node_id()?.to_z32());
    say(moved);
    Ok(())
}

async fn listen(args: &'static Args) -> Result<Value, Failure> {
    let endpoint = bind(args).await?;
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            tokio::spawn(async move {
                let done = async { serve(incoming.await?, args).await }.await;
                if let Err(error) = done {
                    say(json!({ "event": "failed", "error": error.to_string() }));
                }
            });
        }
    });
    stdin_closed().await?;
    endpoint.close().await;
    Ok(json!({ "ok": true }))
}

async fn dial(args: &Args, key: &str, wait: f64) -> Result<Value, Failure> {
    let id = NodeId::from_z32(key).or_else(|_| key.parse())?;
    let endpoint = bind(args).await?;
    let started = Instant::now();
    let mut tries = 0;
    let connection = loop {
        tries += 1;
        match endpoint.connect(id, ALPN).await {
            Ok(connection) => break connection,
            Err(error) if started.elapsed().as_secs_f64() > wait => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    let found_s = started.elapsed().as_secs_f64();
    let (mut to, mut from) = connection.open_bi().await?;
    let mut report = exchange(&mut to, &mut from, args).await?;
    connection.closed().await;
    endpoint.close().await;
    report["ok"] = json!(true);
    report["tries"] = json!(tries);
    report["found_s"] = json!(found_s);
    Ok(report)
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: &'static Args = Box::leak(Box::new(Args::parse()));
    finish(match &args.command {
        Command::Listen => listen(args).await,
        Command::Dial { key, wait } => dial(args, key, *wait).await,
    })
}
