//! `steadfast run`: one session, from exec to exit.

use std::ffi::OsStr;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::measure::{Measured, Usage, with_peak};
use crate::program::steadfast;
use crate::server::Server;
use crate::work::{Job, Work};

/// One session with a state directory of its own.
pub(crate) fn run(work: &Work, server: &Server, job: &Job) -> anyhow::Result<Measured> {
    let (state, errors) = (job.dir.join("state"), job.dir.join("errors"));
    let mut command = steadfast(work, server, &state, &errors)?;
    command.args([OsStr::new("run"), job.file.as_os_str(), OsStr::new("--repo"), job.repo.as_os_str()]);
    let (before, start) = (Usage::now()?, Instant::now());
    let mut process = command.spawn().context("cannot start steadfast")?;
    let ((status, wall), peak_mib) = with_peak(process.id(), || (process.wait(), start.elapsed()));
    let cpu = Usage::now()?.since(before).children;
    let status = status?;
    if !status.success() {
        bail!("steadfast run ended with {status}: {}", fs::read_to_string(&errors).unwrap_or_default());
    }
    Ok(Measured { peak_mib, ..Measured::new(1, wall, cpu, Duration::ZERO) })
}
