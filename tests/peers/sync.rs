//! What both versions of `iroh-sync` have in common: arguments, output, and the exchange of two files.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use serde_json::{json, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub const ALPN: &[u8] = b"pkarr-relay-test/sync/1";

#[derive(Parser)]
pub struct Args {
    /// Pkarr relay to publish to and to look others up at, for example http://127.0.0.1:8080/
    #[arg(long, global = true, default_value = "http://127.0.0.1:8080/")]
    pub pkarr: String,
    /// Bind to this address alone. Left out: all addresses, as applications do.
    #[arg(long, global = true)]
    pub bind: Option<SocketAddr>,
    /// Secret key, 64 hexadecimal digits. Random if left out.
    #[arg(long, global = true)]
    pub seed: Option<String>,
    /// File that the other side gets.
    #[arg(long, global = true, default_value = "/dev/null")]
    pub send: PathBuf,
    /// File to write what the other side sent.
    #[arg(long, global = true, default_value = "/dev/null")]
    pub receive: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Exchange files with whoever dials, until stdin closes.
    Listen,
    /// Find an endpoint by its key alone and exchange files with it.
    Dial {
        /// The listener's public key, in hexadecimal or z-base-32.
        key: String,
        /// Keep trying for this long, in seconds. The listener publishes in the background.
        #[arg(long, default_value_t = 15.0)]
        wait: f64,
    },
}

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Prints one line of JSON.
pub fn say(line: Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Prints the outcome and turns it into the exit status.
pub fn finish(result: Result<Value, Failure>) -> ExitCode {
    let report = result.unwrap_or_else(|error| json!({ "ok": false, "error": error.to_string() }));
    say(report.clone());
    ExitCode::from(!report["ok"].as_bool().unwrap_or(false) as u8)
}

pub async fn stdin_closed() -> Result<(), Failure> {
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// Returns the bytes of a new secret key.
#[allow(dead_code)] // iroh 1 makes its own
pub fn random_seed() -> Result<[u8; 32], Failure> {
    let mut seed = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(seed)
}

/// Sends one file while the other comes in; says how many bytes and how many seconds that were.
///
/// Each side sends a length and then as many bytes. Who dialled says with one more byte that it
/// has everything, and who listens closes then: whoever closes first would throw away what is
/// still on its way.
pub async fn exchange(
    to: &mut (impl AsyncWrite + Unpin),
    from: &mut (impl AsyncRead + Unpin),
    args: &Args,
) -> Result<Value, Failure> {
    let started = Instant::now();
    let outgoing = fs::read(&args.send)?;
    let sending = async {
        to.write_u64(outgoing.len() as u64).await?;
        to.write_all(&outgoing).await?;
        Ok::<_, Failure>(())
    };
    let receiving = async {
        let length = from.read_u64().await?;
        let mut incoming = Vec::new();
        from.take(length).read_to_end(&mut incoming).await?;
        Ok::<_, Failure>(incoming)
    };
    let ((), incoming) = tokio::try_join!(sending, receiving)?;
    let moved_s = started.elapsed().as_secs_f64();
    fs::write(&args.receive, &incoming)?;
    match args.command {
        Command::Dial { .. } => to.write_all(b".").await?,
        Command::Listen => from.read_exact(&mut [0]).await.map(|_| ())?,
    }
    Ok(json!({ "sent": outgoing.len(), "received": incoming.len(), "moved_s": moved_s }))
}
