//! The stores: how each is started, and an adapter that speaks to it.

pub(crate) mod etcd;
pub(crate) mod nats;
pub(crate) mod quorate;
pub(crate) mod redis;
pub(crate) mod zookeeper;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::processes::Processes;

/// How long a cluster may take until it serves.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Asks over and over, until it is so. A process that ends meanwhile is an error.
async fn wait_until(
    processes: &mut Processes,
    is_so: impl AsyncFn() -> Result<bool>,
) -> Result<()> {
    let began = Instant::now();
    loop {
        let answer = is_so().await;
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        processes.check()?;
        if began.elapsed() > START_PATIENCE {
            let why = answer.map_or_else(|error| format!("{error:#}"), |_| "not yet".to_owned());
            bail!("it does not serve after {} s: {why}", START_PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The first line that a program prints.
fn first_line(program: &Path, args: &[&str]) -> Result<String> {
    let ran = Command::new(program).args(args).output();
    let ran = ran.with_context(|| format!("running {}", program.display()))?;
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    Ok(text.lines().next().unwrap_or("unknown").trim().to_owned())
}

fn strings<const N: usize>(args: [&str; N]) -> Vec<String> {
    args.map(str::to_owned).to_vec()
}
